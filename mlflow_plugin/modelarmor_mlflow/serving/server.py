"""Running a model's server confined, watching it, and starting it again when it ends.

The listening socket is ours and is given to the confined process: it needs no right to make or bind
one, requests wait in the socket's queue while it starts again, and the port stays taken.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from io import BufferedReader
from pathlib import Path
from typing import Final, Self, TypeVar

from modelarmor.alerts import Alert, Recorder
from modelarmor.policy.model import Outcome, Policy, Posture, Rule
from modelarmor.profiles import Profile
from modelarmor.sandbox import Plan, Process, Sandbox, Workload
from modelarmor.sandbox.events import RESOURCE_POLICY
from modelarmor.visible import visible
from modelarmor_mlflow.serving import confined
from modelarmor_mlflow.serving.confined import modelarmor_scoring as scoring
from modelarmor_mlflow.serving.confined.modelarmor_guard import KINDS, Limits

#: what MLflow's scoring server calls the variable with the model's address
_MODEL_VARIABLE: Final = "__pyfunc_model_path__"
_TIMEOUT_VARIABLE: Final = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"

#: waiting before a start that follows a failure, in seconds, from the first to the last
BACKOFF: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
#: a server that ran this long begins with the first of `BACKOFF` again, in seconds
STABLE_SECONDS: Final = 60.0
_READY_SECONDS: Final = 600.0
_STOP_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.02
#: between two looks at whether a server still serves, and at what it printed: each look is
#: processor time that its requests lack
_LOOK_SECONDS: Final = 0.2
_REPEAT_SECONDS: Final = 0.05
#: bytes of the pipe that are read at once, and how many lines of it a second are believed
_READ: Final = 1 << 16
_MOST_LINES: Final = 2_000
#: what of a line is believed: the model can write lines too
_STATUS: Final = re.compile("[1-5][0-9]{2}")
_MOST_REQUESTS: Final = 1_000_000
#: what it prints: bytes of a line, and lines a second, that are repeated
_LONGEST_LINE: Final = 1_000
_MOST_REPEATED: Final = 200
#: how many of the newest alerts may tell why a server ended
_LAST: Final = 200
#: what alerts of the guard are called
GUARD: Final = "InputGuard"

Say = Callable[[str], None]
R = TypeVar("R", bound=Rule)


class ServeError(RuntimeError):
    """A model that cannot be served; says what happened, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """What is to be served, and where.

    Attributes:
        name: what alerts and messages call it: ``iris/3``, a directory's name.
        model: the directory of the model, which the policy names ``${MODEL}``.
        python: the interpreter of the environment that serves it.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        workers: server processes.
        timeout: seconds for one request.
        limits: what the guard lets through.
        audit: nothing is refused, everything is reported.
    """

    name: str
    model: Path
    python: Path
    host: str = "127.0.0.1"
    port: int = 5000
    workers: int = 1
    timeout: int = 60
    limits: Limits = field(default_factory=Limits)
    audit: bool = False


@dataclass
class Traffic:
    """How many requests were answered: the server's own word."""

    by_status: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    #: what the guard refused, by kind
    refused: Counter[str] = field(default_factory=Counter)


class Server:
    """One model's server: it listens from the start, and serves while `run` runs.

    Args:
        service: what is served.
        confine: gives the filled profile for a scratch directory; called at each start.
        say: told in one line what happens.
    """

    def __init__(self, service: Service, confine: Callable[[Path], Profile], say: Say) -> None:
        self.service = service
        self.recorder = Recorder(service.name)
        self.traffic = Traffic()
        self.restarts = 0
        self.ready = threading.Event()
        self.plan: Plan | None = None
        #: what the server writes goes below this; each start has a directory of its own in it
        self.scratch = Path(tempfile.mkdtemp(prefix="modelarmor-serve-"))
        self._confine = confine
        self._say = say
        self._stopping = threading.Event()
        self._process: Process | None = None
        try:
            self._socket = _listen(service.host, service.port)
        except BaseException:
            shutil.rmtree(self.scratch, ignore_errors=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        name = self._socket.getsockname()
        return str(name[0]), int(name[1])

    @property
    def url(self) -> str:
        """Where it is, for people."""
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self) -> None:
        """Serve until `stop`, starting again with growing pauses what ends by itself.

        Raises:
            ServeError: the server ended before it was ready for the first time.
            CannotConfine: this machine cannot confine it as its policy says.
        """
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            reason = self._serve_once()
            if self._stopping.is_set():
                return
            if not self.restarts and not self.ready.is_set():
                raise ServeError(f"{self.service.name}: the server did not start: {reason}")
            if time.monotonic() - began > STABLE_SECONDS:
                failures = 0
            pause = BACKOFF[min(failures, len(BACKOFF) - 1)]
            failures += 1
            self.restarts += 1
            self.ready.clear()
            self._say(f"the server ended: {reason}; starting again in {pause:.0f} s")
            self._stopping.wait(pause)

    def stop(self) -> None:
        """End the server; `run` returns. May be called on any thread, and from a signal handler."""
        self._stopping.set()

    def _serve_once(self) -> str:
        """Start the server and stay with it until it ends; says why it did."""
        scratch = self.scratch / f"{self.restarts}"
        shutil.copytree(Path(confined.__file__).parent, scratch / "app", ignore=_only_modules)
        pipe = scratch / "channel"
        os.mkfifo(pipe, 0o600)
        reading = os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        listener = threading.Thread(target=self._listen_to, args=(reading,), daemon=True)
        before = self.recorder.last
        try:
            process = self._started(scratch, pipe)
            for stream in (process.stdout, process.stderr):
                threading.Thread(target=self._repeat, args=(stream,), daemon=True).start()
            self._process = process
            listener.start()  # it ends where there is no process
            self.plan = process.plan
            try:
                return self._stay(process, before)
            finally:
                self._end(process)
        finally:
            with contextlib.suppress(OSError):
                os.write(reading, b"\n")  # wakes the listener, which closes the pipe
            if listener.ident is not None:
                listener.join(_STOP_SECONDS)
            else:
                os.close(reading)
            shutil.rmtree(scratch, ignore_errors=True)

    def _started(self, scratch: Path, pipe: Path) -> Process:
        service = self.service
        profile = observed(self._confine(scratch)) if service.audit else self._confine(scratch)
        env = profile.environ(os.environ) | {
            _MODEL_VARIABLE: service.model.as_uri(),
            _TIMEOUT_VARIABLE: str(service.timeout),
            scoring.LIMITS: json.dumps(service.limits.to_json()),
            scoring.CHANNEL: str(pipe),
            scoring.SOCKET: str(self._socket.fileno()),
            scoring.WORKERS: str(service.workers),
            "PATH": os.pathsep.join((str(service.python.parent), "/usr/bin", "/bin")),
        }
        workload = Workload(
            name=service.name,
            command=[str(service.python), str(scratch / "app" / f"{scoring.MODULE}.py")],
            policies=profile.policies,
            posture=profile.posture,
            network=profile.network,
            resources=profile.resources,
            env=env,
            cwd=scratch,
        )
        return Sandbox.start(
            workload,
            recorder=self.recorder,
            stdin=subprocess.DEVNULL,
            # Not ours: it could truncate the file that they may be, and with it what we said.
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(self._socket.fileno(),),
            start_new_session=True,
        )

    def _stay(self, process: Process, before: int) -> str:
        threading.Thread(target=self._await_ready, args=(process,), daemon=True).start()
        while process.poll() is None:
            if self._stopping.wait(_LOOK_SECONDS):
                return "it was stopped"
        return _reason(process, self.recorder, before)

    def _await_ready(self, process: Process) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        host, port = self.address
        if host in ("0.0.0.0", "::"):
            host = "127.0.0.1" if host == "0.0.0.0" else "::1"
        while process.returncode is None and time.monotonic() < deadline:
            # the socket takes connections before anybody answers, so a short patience for each
            connection = HTTPConnection(host, port, timeout=1.0)
            try:
                connection.request("GET", "/ping")
                if connection.getresponse().status == 200:
                    if not self.ready.is_set():
                        self.ready.set()
                        self._say(f"ready at {self.url}")
                    return
            except (OSError, HTTPException):
                self._stopping.wait(_POLL_SECONDS)
            finally:
                connection.close()

    def _end(self, process: Process) -> None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        process.close()
        self._process = None

    def close(self) -> None:
        """Let go of the port and of the scratch directory."""
        self.stop()
        self._socket.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    # --- what the confined process says

    def _repeat(self, stream: BufferedReader | None) -> None:
        """Say what it prints, so marked, line by line; leave out what would fill a disk."""
        rest, second, lines, left_out = b"", 0, 0, 0
        while stream is not None:
            try:
                data = stream.read1(_READ)
            except (OSError, ValueError):  # it was closed
                return
            *whole, rest = _lines(rest + data, ended=not data)
            if int(time.monotonic()) != second:
                self._tell_left_out(left_out)
                second, lines, left_out = int(time.monotonic()), 0, 0
            for line in whole:
                lines += 1
                if lines > _MOST_REPEATED:
                    left_out += 1
                elif text := line.decode(errors="replace").rstrip():
                    self._say(f"{self.service.name}: {visible(text, _LONGEST_LINE)}")
            if not data:
                self._tell_left_out(left_out)
                return
            if len(data) < _READ // 2:  # so that many lines wake us once, and a full pipe at once
                self._stopping.wait(_REPEAT_SECONDS)

    def _tell_left_out(self, lines: int) -> None:
        if lines:
            self._say(f"{self.service.name}: {lines} lines were left out")

    def _listen_to(self, reading: int) -> None:
        """Read the pipe until this server's process has ended."""
        os.set_blocking(reading, True)
        rest, second, lines = b"", 0, 0
        with open(reading, "rb", buffering=0) as pipe:
            while data := pipe.read(_READ):
                *whole, rest = (rest[-_READ:] + data).split(b"\n")
                if int(time.monotonic()) != second:
                    second, lines = int(time.monotonic()), 0
                for line in whole:
                    lines += 1
                    if lines <= _MOST_LINES:
                        self._hear(line)
                if self._stopping.is_set() or self._process is None:
                    return

    def _hear(self, line: bytes) -> None:
        try:
            body = json.loads(line or b"null")
        except (ValueError, RecursionError):
            return
        if not isinstance(body, dict):
            return
        requests, seconds = body.get("requests"), body.get("seconds")
        if isinstance(requests, dict) and isinstance(seconds, int | float):
            for status, count in requests.items():
                if _STATUS.fullmatch(status) and type(count) is int and 0 < count <= _MOST_REQUESTS:
                    self.traffic.by_status[status] += count
            self.traffic.seconds += max(0.0, min(float(seconds), 1e6))
        kind = body.get("violation")
        if isinstance(kind, str) and kind in KINDS:
            self.traffic.refused[kind] += 1
            self.recorder.append(self._alert(kind, body))

    def _alert(self, kind: str, body: Mapping[str, object]) -> Alert:
        now = time.time()
        action = "Block" if self.service.limits.action == "block" else "Audit"
        return Alert(
            Timestamp=int(now),
            UpdatedTime=_rfc3339(now),
            PodName=self.service.name,
            ContainerName=self.service.name,
            PolicyName=GUARD,
            Severity="3",
            Message=_text(body.get("message")),
            Source=_text(body.get("client")),
            Operation="Request",
            Resource=f"/invocations {kind}",
            Action=action,
            Result="Permission denied" if action == "Block" else "Passed",
            Enforcer=GUARD,
        )


def observed(profile: Profile) -> Profile:
    """The profile with nothing refused by its policy; its network and its limits still hold."""
    return replace(
        profile,
        policies=tuple(_observed(policy) for policy in profile.policies),
        posture=Posture.all("audit"),
    )


def _observed(policy: Policy) -> Policy:
    return replace(
        policy,
        outcome=_audit(policy.outcome),
        process=_audited(policy.process),
        file=_audited(policy.file),
        network=_audited(policy.network),
        capabilities=_audited(policy.capabilities),
        presets=_audited(policy.presets),
    )


def _audited(rules: tuple[R, ...]) -> tuple[R, ...]:
    return tuple(replace(rule, outcome=_audit(rule.outcome)) for rule in rules)


def _audit(outcome: Outcome) -> Outcome:
    return replace(outcome, action="Audit") if outcome.action == "Block" else outcome


def _lines(data: bytes, *, ended: bool) -> list[bytes]:
    """Its lines, long ones in pieces, and what may not be whole yet; nothing where it has ended."""
    *whole, rest = data.split(b"\n")
    if (ended and rest) or len(rest) > _LONGEST_LINE:
        whole, rest = [*whole, rest], b""
    return [piece for line in whole for piece in _pieces(line)] + [rest]


def _pieces(line: bytes) -> list[bytes]:
    return [line[at : at + _LONGEST_LINE] for at in range(0, max(1, len(line)), _LONGEST_LINE)]


def _only_modules(directory: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("modelarmor_") or name.endswith("pyc")]


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ServeError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; another program may"
            " have it: choose one with --port, or 0 for any that is free"
        ) from None
    # What is accepted inherits this. uvicorn takes a given socket for one without TCP, and would
    # leave each answer waiting for the acknowledgement of its header.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _reason(process: Process, recorder: Recorder, before: int) -> str:
    """Why the server ended, as far as the enforcer can tell."""
    status = process.wait()
    alerts = [alert for _, alert in recorder.after(max(before, recorder.last - _LAST)).alerts]
    limits = [alert for alert in alerts if alert.PolicyName == RESOURCE_POLICY and alert.blocked]
    if limits:
        return f"it reached a limit: {limits[-1].Operation.lower()} {limits[-1].Resource}"
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    refusals = [alert for alert in alerts if alert.blocked and alert.PolicyName != GUARD]
    if refusals:
        last = refusals[-1]
        return (
            f"{how}, after {last.Operation.lower()} {visible(last.Resource)} was refused"
            f" [{last.PolicyName}]"
        )
    return how


def _text(value: object) -> str:
    return visible(value) if isinstance(value, str) else ""


def _rfc3339(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
