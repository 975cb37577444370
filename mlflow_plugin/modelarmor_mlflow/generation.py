"""One generation, in a process of its own.

What is generated from is hostile, so the process that looks at it has none of the server's
secrets: it gets the files as a private copy, an environment of a few variables, limits, and
returns evidence, which is read as carefully as the model was. `run` is the server's side;
``python -m modelarmor_mlflow.generation`` the other, which ends itself when the server is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from modelarmor.generate.evidence import MAX_BYTES, Evidence, EvidenceError
from modelarmor.replacing import replacing
from modelarmor.visible import escaped

from .settings import RobustnessDemand, Worker

#: what the process may know of the server
_INHERITED: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "VIRTUAL_ENV")
#: seconds between two signs of life
_INTERVAL: Final = 2.0
_MAX_LINE: Final = 4_000


class GenerationError(ValueError):
    """A generation that came to nothing.

    Attributes:
        final: trying again would come to nothing as well.
    """

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


class AbandonedError(Exception):
    """The job is no longer this worker's, so the generation was ended."""


def run(
    model: Path,
    settings: Worker,
    alive: Callable[[str | None], bool],
    scratch: Path,
    demand: RobustnessDemand | None = None,
) -> Evidence:
    """Generate from a model's files.

    Args:
        model: a private copy of them.
        settings: limits, and what generates.
        alive: called every few seconds, with what is new of the progress or None; where it
            answers False, the generation is ended.
        scratch: a private directory for temporary files.
        demand: what the model has to bear of crafted inputs; it is measured too.

    Raises:
        GenerationError: it failed, took too long, or returned no evidence.
        AbandonedError: `alive` answered False.
    """
    output = scratch / "evidence.json"
    command = [
        sys.executable, "-m", __name__, settings.generator, str(model), str(output),
        str(settings.memory), json.dumps(_demanded(demand)),
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # its end tells the process that this one is gone
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(scratch),
        cwd=scratch,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    try:
        said = _follow(process, settings.timeout, alive)
    finally:
        _end(process)
    if process.returncode != 0:
        raise _failure(process.returncode, said)
    return _read(output)


def _demanded(demand: RobustnessDemand | None) -> dict[str, Any] | None:
    if demand is None:
        return None
    told = asdict(demand)
    del told["models"]
    return {**told, "data": str(demand.data)}


def _follow(
    process: subprocess.Popen[str], timeout: float, alive: Callable[[str | None], bool]
) -> list[str]:
    """Wait for the end, passing on progress; returns the last lines of output."""
    lines: queue.Queue[str | None] = queue.Queue(maxsize=1000)
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    deadline, told, said = time.monotonic() + timeout, 0.0, [""]
    progress: str | None = None
    while True:
        if time.monotonic() > deadline:
            raise GenerationError(f"gave up after {timeout:.0f} s", final=True)
        with contextlib.suppress(queue.Empty):
            line = lines.get(timeout=_INTERVAL)
            if line is None:
                process.wait(timeout=60)
                return said
            if (news := _progress(line)) is not None:
                progress = news
            else:
                said = [*said[-20:], line]
        if time.monotonic() - told >= _INTERVAL:
            if not alive(progress):
                raise AbandonedError
            told, progress = time.monotonic(), None


def _pump(stream: Any, lines: queue.Queue[str | None]) -> None:
    while line := stream.readline(_MAX_LINE):
        lines.put(escaped(line.rstrip("\n")))
    lines.put(None)


def _progress(line: str) -> str | None:
    """What a line says of the progress; None for any other output."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    found = said.get("modelarmor-progress") if isinstance(said, dict) else None
    return " ".join(found.split()) if isinstance(found, str) and found.isprintable() else None


def _end(process: subprocess.Popen[str]) -> None:
    """Nothing of it is left, whatever it started in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _failure(code: int, said: list[str]) -> GenerationError:
    told = next((line for line in reversed(said) if line.strip()), "it said nothing")
    # 2 is our own word for an error that says what is wrong with the model.
    how = f"ended by signal {-code}" if code < 0 else f"failed (status {code})"
    message = told if code == 2 else f"the generator {how}: {told}"
    return GenerationError(message, final=code == 2)


def _read(output: Path) -> Evidence:
    try:
        with output.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        evidence = Evidence.loads(data)
    except (OSError, EvidenceError) as error:
        raise GenerationError(f"the generator returned no evidence: {error}", final=True) from None
    if not evidence.policy.strip() or not evidence.artifact.digest.startswith("sha256:"):
        raise GenerationError("the generator returned evidence without a policy", final=True)
    return evidence


def _environment(scratch: Path) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # What this process can import beside the installation, the other must be able to.
    installed = (Path(sys.prefix), Path(sys.base_prefix))
    beside = [
        entry
        for entry in map(Path, filter(None, sys.path))
        if entry.is_dir() and not any(entry.is_relative_to(place) for place in installed)
    ]
    inherited["PYTHONPATH"] = os.pathsep.join(map(str, beside))
    private = scratch / "home"
    private.mkdir(exist_ok=True)
    return inherited | {"HOME": str(private), "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}


# --- the other side


def main(arguments: list[str]) -> int:
    """Generate, and write the evidence; 2 for an error that says what is wrong with the model."""
    generator, model, output, memory, demand = arguments
    _limit(int(memory))
    threading.Thread(target=_watch, daemon=True).start()
    module, _, name = generator.partition(":")
    generate = getattr(importlib.import_module(module), name)
    try:
        evidence = generate(Path(model), progress=_Progress())
        if demanded := json.loads(demand):
            evidence = _measured(evidence, Path(model), demanded)
    except ValueError as error:  # our errors are ValueErrors that say what to do
        print(" ".join(str(error).split()), flush=True)
        return 2
    with replacing(Path(output)) as unfinished:
        unfinished.write_text(evidence.dumps(), encoding="utf-8")
    return 0


def _measured(evidence: Evidence, model: Path, demanded: dict[str, Any]) -> Evidence:
    from modelarmor.redteam.demand import Demand, answered

    demand = Demand(**{**demanded, "data": Path(demanded["data"])})
    return answered(evidence, model, demand, _Progress())


def _limit(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    os.nice(10)


def _watch() -> None:
    """End with the server: what it holds of our standard input is closed when it dies."""
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


class _Progress:
    """Tells the other side how far the work is, whenever that reads differently."""

    def __init__(self) -> None:
        self._told = ""

    def __call__(self, what: str) -> None:
        said = what[: _MAX_LINE // 8]
        if said != self._told:
            self._told = said
            print(json.dumps({"modelarmor-progress": said}), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
