"""A scanner's own sandbox: it sees the model and its Python environment, and can reach nothing.

What a scanner reads is hostile, and scanners have bugs of their own; so has ours. Each runs under
the profile ``untrusted-model``: the model read-only, no network, no programs but the interpreter, a
private scratch directory, and an end that it does not choose.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import modelarmor
from modelarmor import profiles
from modelarmor.policy.model import Outcome, PathRule, Policy
from modelarmor.sandbox import CannotConfine, Process, Resources, Sandbox, Workload

PROFILE: Final = "untrusted-model"
_LIMITS: Final = Resources(memory=4 << 30, processes=128, open_files=1024, disk=6 << 30)
#: output of a scanner that is kept, in bytes
MAX_OUTPUT: Final = 64 << 20
_KEPT_ERRORS: Final = 4096


@dataclass(frozen=True, slots=True)
class Ended:
    """How a confined program ended."""

    #: its exit status; minus a signal's number
    status: int
    #: standard output, up to `MAX_OUTPUT` bytes
    output: bytes
    #: the end of its standard error
    errors: str
    #: it was ended because its time was over
    late: bool = False
    #: it wrote more than is kept
    cut: bool = False


class NotConfined(RuntimeError):
    """The program was not started, because this machine cannot confine it."""


def run(
    command: Sequence[str],
    *,
    model: Path,
    prefix: Path,
    timeout: float,
    line: Callable[[bytes], None] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Ended:
    """Run a program confined, to its end or until its time is over.

    Args:
        command: program and arguments; ``{tmp}`` in an argument is its scratch directory.
        model: what it may read.
        prefix: the Python environment that it is of.
        timeout: seconds.
        line: called with each line of its output as it comes.
        variables: added to its environment.

    Raises:
        NotConfined: it cannot be confined here; nothing was started.
    """
    with tempfile.TemporaryDirectory(prefix="modelarmor-scan-") as scratch:
        tmp = Path(scratch) / "tmp"
        workspace = Path(scratch) / "empty"
        for directory in (tmp, workspace):
            directory.mkdir()
        workload = _workload(
            [part.replace("{tmp}", str(tmp)) for part in command],
            model=model, prefix=prefix, tmp=tmp, workspace=workspace, variables=variables or {},
        )  # fmt: skip
        try:
            process = Sandbox.start(
                workload,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except CannotConfine as error:
            raise NotConfined(str(error)) from None
        with process:
            return _attend(process, timeout, line)


def _workload(
    command: Sequence[str],
    *,
    model: Path,
    prefix: Path,
    tmp: Path,
    workspace: Path,
    variables: Mapping[str, str],
) -> Workload:
    try:
        profile = profiles.load(
            PROFILE, workspace=workspace, home=Path.home(), tmp=tmp, prefix=prefix, model=model
        )
    except profiles.ProfileError as error:
        raise NotConfined(str(error)) from None
    env = profile.environ({"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"})
    env |= {
        "HOME": str(tmp),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    return Workload(
        "scan",
        command,
        (*profile.policies, _ours()),
        profile.posture,
        profile.network,
        replace(_LIMITS, cpu=profile.resources.cpu),
        env=env,
        cwd=tmp,
    )


def _package() -> Path:
    return Path(os.path.realpath(modelarmor.__file__)).parent


def _ours() -> Policy:
    """This package, which need not lie within the environment that a scanner is of."""
    outcome = Outcome("Allow")
    rule = PathRule(
        outcome, match="directory", value=f"{_package()}/", recursive=True, read_only=True
    )
    return Policy("KubeArmorPolicy", "modelarmor-scan-package", file=(rule,), outcome=outcome)


def _attend(process: Process, timeout: float, line: Callable[[bytes], None] | None) -> Ended:
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(timeout, give_up)
    timer.start()
    try:
        output, errors, cut = _read(process, line)
        if cut:
            process.kill()
        status = process.wait()
    finally:
        timer.cancel()
    return Ended(status, output, errors.decode("utf-8", "replace"), late.is_set(), cut)


def _read(process: Process, line: Callable[[bytes], None] | None) -> tuple[bytes, bytes, bool]:
    assert process.stdout is not None and process.stderr is not None
    output, errors, told = bytearray(), b"", 0
    with selectors.DefaultSelector() as selector:
        for stream in (process.stdout, process.stderr):
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                block = os.read(key.fd, 1 << 16)
                if not block:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    errors = (errors + block)[-_KEPT_ERRORS:]
                else:
                    output += block
                    if len(output) > MAX_OUTPUT:
                        return bytes(output[:MAX_OUTPUT]), errors, True
                    while line is not None and (end := output.find(b"\n", told)) >= 0:
                        line(bytes(output[told:end]))
                        told = end + 1
    return bytes(output), errors, False
