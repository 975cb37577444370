"""The rows: what is run, under which policy, and what it may cost."""

from __future__ import annotations

import importlib.util
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import kernels
from benchmarks.runners import CONTENDERS, Confinement, Failed, Place, Running, Setting, Start
from modelarmor.policy import document
from modelarmor.sandbox import Egress, EgressRule

#: after which a program is given up, in seconds
_LIMIT = 120.0
_APPEAR_SECONDS = 30.0
_POLL_SECONDS = 0.002
_WARM_UP_REQUESTS = 50

#: seconds by the name of the figure
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Sizes:
    """How much of each a sample is made of."""

    starts: int = 20
    opens: int = 20_000
    creates: int = 5_000
    executes: int = 500
    connects: int = 5_000
    cells: int = 100
    requests: int = 1_500

    @classmethod
    def small(cls) -> Sizes:
        """Enough to see that a row works; what it shows is no result."""
        return cls(3, 1_000, 250, 25, 250, 10, 100)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        goal: what the ratio to the unconfined run may be, at most.
        figure: which of the experiment's figures it shows.
    """

    title: str
    setting: Setting
    goal: float | None = None
    figure: str = "seconds"


@dataclass(frozen=True)
class Experiment:
    """Something to run under every contender, and the rows that come of it.

    Attributes:
        run: runs it once: contender, its place and the setting.
        needs: modules without which it cannot run.
    """

    name: str
    rows: tuple[Row, ...]
    run: Callable[[str, Place, Setting], Figures]
    needs: tuple[str, ...] = ()

    @property
    def lacking(self) -> list[str]:
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


# ---- policies ----------------------------------------------------------------------------------

_POLICY = """\
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: benchmark}
spec:
  selector: {matchLabels: {app: benchmark}}
  action: Block
  process:
    matchPaths: [{path: /usr/bin/apt}, {path: /usr/bin/apt-get}, {path: /usr/bin/curl}]
  file:
    matchDirectories:
      - {dir: /usr/, recursive: true, readOnly: true}
      - {dir: /etc/, recursive: true, readOnly: true}
"""
_SECRET = "/etc/shadow"


def _writes_only(_: Place) -> Confinement:
    return Confinement(document.load(_POLICY), reads="none")


def _one_read_rule(_: Place) -> Confinement:
    source = json.dumps(str(Path(sys.executable).resolve()))
    rule = f"    matchPaths: [{{path: {_SECRET}, fromSource: [{{path: {source}}}]}}]\n"
    return Confinement(document.load(_POLICY + rule), reads="enforce")


def _notebook(place: Place) -> Confinement:
    profile = place.profile
    return Confinement(
        profile.policies, profile.posture, profile.network, profile.resources, reads="report"
    )


def _notebook_with(network: Egress) -> Callable[[Place], Confinement]:
    def make(place: Place) -> Confinement:
        profile = place.profile
        return Confinement(profile.policies, profile.posture, network, profile.resources)

    return make


# ---- running one sample ------------------------------------------------------------------------


def _start(contender: str, place: Place, setting: Setting) -> Start:
    return CONTENDERS[contender](place, setting)


def _command(place: Place, program: str, *arguments: str) -> tuple[list[str], Path]:
    report = place.work / "report.json"
    report.unlink(missing_ok=True)
    script = place.work / "programs.py"
    return [sys.executable, str(script), str(report), program, *arguments], report


def _program(*words: str | int) -> Callable[[str, Place, Setting], Figures]:
    """A sample that is one of `benchmarks.programs`, which takes its own time."""

    def run(contender: str, place: Place, setting: Setting) -> Figures:
        command, report = _command(place, *map(str, words))
        status = _end(_start(contender, place, setting)(command))
        said = _read(report)
        if "seconds" not in said:
            raise Failed(said.get("error") or f"ended with status {status} and no report")
        return {"seconds": float(said["seconds"])}

    return run


def _starts(count: int) -> Callable[[str, Place, Setting], Figures]:
    """A sample that is the median of several starts of a program that does nothing."""

    def run(contender: str, place: Place, setting: Setting) -> Figures:
        start = _start(contender, place, setting)
        taken = []
        for _ in range(count):
            begin = perf_counter()
            status = start(["/bin/true"]).wait()
            taken.append(perf_counter() - begin)
            if status:
                raise Failed(f"/bin/true ended with status {status}")
        return {"seconds": statistics.median(taken)}

    return run


def _kernel(cells: int) -> Callable[[str, Place, Setting], Figures]:
    def run(contender: str, place: Place, setting: Setting) -> Figures:
        try:
            return kernels.session(contender, place, setting, cells)
        except (OSError, RuntimeError, TimeoutError) as error:
            raise Failed(f"{type(error).__name__}: {error}") from error

    return run


def _requests(count: int) -> Callable[[str, Place, Setting], Figures]:
    """A sample that is the median of requests to a confined service, by a client outside."""

    def run(contender: str, place: Place, setting: Setting) -> Figures:
        path = place.work / "service.sock"
        path.unlink(missing_ok=True)
        command, report = _command(place, "serve", str(path))
        process = _start(contender, place, setting)(command)
        try:
            _await(path, report)
            with _connect(path) as client:
                for _ in range(_WARM_UP_REQUESTS):
                    _request(client)
                taken = []
                for _ in range(count):
                    begin = perf_counter()
                    _request(client)
                    taken.append(perf_counter() - begin)
        finally:
            process.kill()
            process.wait(10)
        return {"seconds": statistics.median(taken)}

    return run


_BODY = b'{"inputs": [1, 2, 3, 4]}'
_REQUEST = (
    b"POST /invocations HTTP/1.1\r\nHost: model\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


def _request(client: socket.socket) -> None:
    client.sendall(_REQUEST)
    answer = b""
    while not answer.endswith(b"}"):
        part = client.recv(65_536)
        if not part:
            raise Failed(f"the service hung up after {answer!r}")
        answer += part
    if not answer.startswith(b"HTTP/1.1 200"):
        raise Failed(f"the service answered {answer!r}")


def _connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(_APPEAR_SECONDS)
    until = time.monotonic() + _APPEAR_SECONDS
    while True:
        try:
            client.connect(str(path))
            return client
        except OSError as error:  # bound, and not yet listening
            if time.monotonic() > until:
                client.close()
                raise Failed(f"cannot connect to the service: {error}") from error
            time.sleep(_POLL_SECONDS)


def _end(process: Running) -> int:
    # Not by a timeout: `Popen` then polls, at intervals that grow to 50 ms.
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(_LIMIT, give_up)
    timer.start()
    try:
        status = process.wait()
    finally:
        timer.cancel()
    if late.is_set():
        raise Failed(f"still ran after {_LIMIT:.0f} s")
    return status


def _read(report: Path) -> Mapping[str, Any]:
    try:
        said: Mapping[str, Any] = json.loads(report.read_text())
    except FileNotFoundError:
        return {}
    return said


def _await(path: Path, report: Path) -> None:
    until = time.monotonic() + _APPEAR_SECONDS
    while not path.exists():
        if error := _read(report).get("error"):
            raise Failed(error)
        if time.monotonic() > until:
            raise Failed(f"{path.name} did not appear within {_APPEAR_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)


@contextmanager
def listener(place: Place) -> Iterator[int]:
    """A server outside of every sandbox that accepts connections on loopback; its port."""
    command, report = _command(place, "accept")
    with subprocess.Popen(command, cwd=place.work) as server:
        try:
            _await(report, report)
            said = _read(report)
            if "port" not in said:
                raise Failed(said.get("error") or "the server for the connections did not start")
            yield said["port"]
        finally:
            server.kill()


# ---- the rows ----------------------------------------------------------------------------------


def experiments(sizes: Sizes, port: int) -> list[Experiment]:
    """All of them.

    Args:
        sizes: how much of each a sample is made of.
        port: where `listener` listens.
    """
    notebook = Setting(_notebook)
    one_port = Egress((EgressRule("127.0.0.1/32", ports=[("tcp", port)]),))
    serving = Setting(_notebook_with(Egress.unrestricted()))
    return [
        Experiment("start", (Row("start of /bin/true", notebook),), _starts(sizes.starts)),
        Experiment(
            "imports",
            (Row("import numpy, pandas", notebook, 1.05),),
            _program("imports", "numpy", "pandas"),
            needs=("numpy", "pandas"),
        ),
        Experiment(
            "torch",
            (Row("import torch", notebook, 1.05),),
            _program("imports", "torch"),
            needs=("torch",),
        ),
        Experiment(
            "opens",
            (
                Row(f"{sizes.opens} opens: no read rule supervised", Setting(_writes_only), 1.3),
                Row(f"{sizes.opens} opens: notebook profile", notebook),
                Row(
                    f"{sizes.opens} opens: a read rule supervised",
                    Setting(_one_read_rule, denied=(_SECRET,)),
                    4.0,
                ),
            ),
            _program("opens", sizes.opens),
        ),
        Experiment(
            "creates",
            (Row(f"{sizes.creates} files created and written", notebook, 1.2),),
            _program("creates", sizes.creates),
        ),
        Experiment(
            "exec",
            (Row(f"{sizes.executes} programs run", notebook, 1.1),),
            _program("executes", sizes.executes),
        ),
        Experiment(
            "connects",
            (
                Row(
                    f"{sizes.connects} connects: one address permitted",
                    Setting(_notebook_with(one_port), port=port),
                ),
                Row(
                    f"{sizes.connects} connects: network not limited",
                    Setting(_notebook_with(Egress.unrestricted()), port=port),
                ),
            ),
            _program("connects", sizes.connects, port),
        ),
        Experiment(
            "kernel",
            (
                Row("kernel ready", notebook, 1.15, "ready"),
                Row("cell round trip", notebook, None, "cell"),
            ),
            _kernel(sizes.cells),
            needs=("ipykernel", "modelarmor_jupyter"),
        ),
        Experiment(
            "requests",
            (Row("request to uvicorn, p50", serving, 1.03),),
            _requests(sizes.requests),
            needs=("uvicorn",),
        ),
    ]
