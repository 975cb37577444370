"""Starting a workload confined, and its life.

The helper does the confining. Its life is tied to this process: the control pipe closes with us,
however we end, and the sandbox ends with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from modelarmor.alerts import Alert, Recorder
from modelarmor.policy.capabilities import mask
from modelarmor.policy.model import Policy, Posture
from modelarmor.sandbox import cgroup
from modelarmor.sandbox.events import Reader
from modelarmor.sandbox.network import Egress
from modelarmor.sandbox.plan import Machine, Plan
from modelarmor.sandbox.planner import make_plan
from modelarmor.sandbox.resources import Resources

#: exit status of a command that could not be confined, as container runtimes have it
CANNOT_CONFINE = 125

HELPER = Path(__file__).with_name("modelarmor-helper")

_START_SECONDS = 20.0
#: how long the supervisor may take to end a workload before the guard is to
_END_SECONDS = 5.0
#: the first byte of the control pipe; signals follow
GO = b"\0"
#: before the name of a variable that the helper is not to heed itself; it takes that off again
_HELD = "MODELARMOR_HELD_"
_PIPE_BYTES = 1 << 20
_UNRESTRICTED = Egress.unrestricted()


class CannotConfine(RuntimeError):
    """A workload was not started because it cannot be confined as its policy says."""


@dataclass(frozen=True)
class Workload:
    """What is to be confined, and how.

    Attributes:
        name: what alerts call it (``PodName`` and ``ContainerName``).
        command: program and arguments; the program is looked for in ``env``'s ``PATH``.
        policies: those that apply; selectors are not consulted.
        posture: what happens to what no rule matches, where a class has Allow rules.
        network: where it may connect to; unrestricted if left out.
        resources: limits.
        capabilities: Linux capabilities to keep, by name without ``cap_``; none if left out.
        env: its environment; this process's own if left out.
        cwd: its working directory.
        namespace: what alerts call its namespace.
        alerts_per_second: so many alerts are listed a second, and twice as many at once; beyond
            that they are summed by rule and operation, so that a flood holds nobody up. ``None``
            lists every one: the workload then waits where the reader is slower.
    """

    name: str
    command: Sequence[str]
    policies: Sequence[Policy]
    posture: Posture = field(default_factory=Posture)
    network: Egress = _UNRESTRICTED
    resources: Resources = field(default_factory=Resources)
    capabilities: frozenset[str] = frozenset()
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    namespace: str = ""
    alerts_per_second: int | None = 2000


class Process:
    """A confined workload that was started. Waiting and signalling are as for `subprocess.Popen`.

    Attributes:
        plan: how each rule is enforced.
        recorder: what it was refused or audited for.
    """

    def __init__(
        self,
        workload: Workload,
        plan: Plan,
        recorder: Recorder,
        *,
        popen: subprocess.Popen[bytes],
        control: int,
        reader: Reader,
        group: cgroup.ControlGroup,
    ) -> None:
        self.workload = workload
        self.plan = plan
        self.recorder = recorder
        self._popen = popen
        self._control = control
        self._group = group
        self._reader = reader
        self._lock = threading.Lock()
        self._killed: float | None = None

    @property
    def pid(self) -> int:
        """The helper's pid: it lives exactly as long as anything of the workload does."""
        return self._popen.pid

    @property
    def stdin(self) -> IO[bytes] | None:
        return self._popen.stdin

    @property
    def stdout(self) -> IO[bytes] | None:
        return self._popen.stdout

    @property
    def stderr(self) -> IO[bytes] | None:
        return self._popen.stderr

    @property
    def returncode(self) -> int | None:
        """The command's exit status, minus the signal that ended it, or None while it runs."""
        if self._popen.returncode is None:
            return None
        said = self._reader.life.exit
        return self._popen.returncode if said is None else said

    def poll(self) -> int | None:
        """The return code, or None while the workload runs. Never blocks for long."""
        with self._lock:
            if self._popen.poll() is not None:
                self._finish()
            elif self._killed is not None and time.monotonic() - self._killed > _END_SECONDS:
                self._hang_up()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: it still runs after ``timeout`` seconds.
        """
        self._popen.wait(timeout)
        with self._lock:
            self._finish()
        code = self.returncode
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to the command; SIGKILL ends everything in the sandbox."""
        with self._lock:
            if self._control >= 0 and self._popen.poll() is None:
                with contextlib.suppress(BrokenPipeError):
                    os.write(self._control, bytes((int(number),)))
                if number == signal.SIGKILL and self._killed is None:
                    self._killed = time.monotonic()

    def _hang_up(self) -> None:
        """Let go of the sandbox: the guard sees that too, and ends what the supervisor does not."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End the workload, if it still runs, and release what it held."""
        self.kill()
        try:
            self._popen.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            with self._lock:
                self._hang_up()
            try:
                self._popen.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        with self._lock:
            self._finish()
        for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # what nobody reads any more
                    stream.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _finish(self) -> None:
        # The events pipe ends with the helper; what is still in it belongs to the record.
        if self._reader.is_alive():
            self._reader.join(5)
        self._hang_up()
        self._group.close()

    @property
    def child_pid(self) -> int | None:
        """The command's own pid, once it was started."""
        return self._reader.life.pid

    def _await_start(self) -> None:
        life = self._reader.life
        try:
            settled = self._reader.begin(_START_SECONDS)
        except BaseException:  # no thread could be had, or we were interrupted
            self.close()
            raise
        if not settled:
            problem = f"the helper did not answer within {_START_SECONDS:.0f} s"
        elif life.failure == CANNOT_CONFINE or (life.pid is None and life.failure is None):
            problem = (
                "the helper could not set the sandbox up; its message is on standard error, and"
                " `modelarmor doctor` says what this machine can do"
            )
        else:
            return
        self.close()
        raise CannotConfine(f"{self.workload.name}: {problem}")


class Sandbox:
    """The embedded enforcer."""

    @staticmethod
    def start(
        workload: Workload,
        *,
        recorder: Recorder | None = None,
        alerts: Callable[[Alert], None] | None = None,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        pass_fds: Sequence[int] = (),
        start_new_session: bool = False,
    ) -> Process:
        """Start a workload confined.

        Args:
            workload: what, and how.
            recorder: takes its alerts; one is made if left out.
            alerts: called with each entry of the record, on a thread of its own.
            stdin, stdout, stderr, pass_fds, start_new_session: as for `subprocess.Popen`.

        Raises:
            CannotConfine: this machine cannot confine it as its policy says; the message tells what
                is missing and what would help. Nothing was started.
        """
        from modelarmor.sandbox.probe import probe

        report = probe()
        if not report.can_confine:
            raise CannotConfine(f"{workload.name}: " + "; ".join(report.reasons))
        env = dict(os.environ if workload.env is None else workload.env)
        if not workload.command:
            raise ValueError(f"{workload.name}: there is no command to run")
        if workload.alerts_per_second is not None and workload.alerts_per_second < 1:
            raise ValueError(
                f"{workload.name}: alerts_per_second is {workload.alerts_per_second}; at least 1"
                " must be listed, or None for every one"
            )
        program = shutil.which(workload.command[0], path=env.get("PATH", os.defpath))
        # A name that is not found goes to the helper as it is, which reports it as a shell does.
        command = [program or workload.command[0], *workload.command[1:]]
        # The helper gets ready while the plan that it waits for is made.
        popen, control, events, table = _launch(
            command,
            machine=report.machine,
            capabilities=workload.capabilities,
            cwd=workload.cwd,
            env={_held(name): value for name, value in env.items()},
            pass_fds=pass_fds,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=start_new_session,
        )
        group = cgroup.ControlGroup()
        try:
            with open(table, "wb") as file:  # noqa: PTH123  a descriptor
                plan = _plan(workload, command, report.machine)
                group = cgroup.make(workload.resources)
                file.write(plan.text([*_limits(workload, group), *group.records()]))
            with contextlib.suppress(BrokenPipeError):  # it ended, which `_await_start` tells
                os.write(control, GO)
        except BaseException:
            os.close(control)  # which ends it
            os.close(events)
            with popen:  # waits, and closes what it has of pipes
                group.close()
            raise
        record = recorder or Recorder(workload.name)
        if alerts is not None:
            record.subscribe(lambda _, alert: alerts(alert))
        reader = Reader(workload.name, workload.namespace, plan, recorder=record, events=events)
        process = Process(
            workload, plan, record, popen=popen, control=control, reader=reader, group=group
        )
        process._await_start()
        return process


def _plan(workload: Workload, command: Sequence[str], machine: Machine) -> Plan:
    plan = make_plan(
        workload.policies,
        workload.posture,
        egress=workload.network,
        resources=workload.resources,
        capabilities=workload.capabilities,
        command=command,
        machine=machine,
    )
    if plan.unenforceable:
        rules = "; ".join(
            f"{rule.rule.place}: {rule.rule.where}: {rule.note}" for rule in plan.unenforceable
        )
        raise CannotConfine(f"{workload.name}: rules that cannot be enforced here: {rules}")
    return plan


def _launch(
    command: Sequence[str],
    *,
    machine: Machine,
    capabilities: frozenset[str],
    pass_fds: Sequence[int],
    **options: Any,
) -> tuple[subprocess.Popen[bytes], int, int, int]:
    """Start the helper, which confines itself, and starts nothing before `GO`.

    Returns it, the control pipe's end to write, the events' to read, and the file for the plan.

    Raises:
        ValueError: an unknown capability is to be kept.
    """
    itself = ["--capabilities", mask(capabilities), "--scoped", machine.scoped]
    plan = os.memfd_create("modelarmor-plan")
    control_read, control = os.pipe()
    events, events_write = os.pipe()
    try:
        with contextlib.suppress(OSError):  # more than the user's share of pipe memory
            fcntl.fcntl(events_write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        arguments = ["--plan", plan, "--control", control_read, "--events", events_write]
        popen = subprocess.Popen(
            [str(HELPER), *map(str, (*arguments, *itself)), "--", *command],
            pass_fds=(plan, control_read, events_write, *pass_fds),
            **options,
        )
    except BaseException:
        for fd in (control, events, plan):
            os.close(fd)
        raise
    finally:
        os.close(control_read)
        os.close(events_write)
    return popen, control, events, plan


def _held(name: str) -> str:
    """What the helper is given a variable as.

    Those of the dynamic loader (ld.so(8)) would have it load what the workload may have written,
    before anything is confined: an empty entry of ``LD_LIBRARY_PATH`` is the working directory.
    """
    return _HELD + name if name.startswith("LD_") or name == "GLIBC_TUNABLES" else name


def _limits(workload: Workload, group: cgroup.ControlGroup) -> list[tuple[str | int, ...]]:
    """Limits that are the helper's affair: those for which there is no control group."""
    limits: list[tuple[str | int, ...]] = []
    resources = workload.resources
    if workload.alerts_per_second is not None:
        limits.append(("limit", "alerts", workload.alerts_per_second))
    if resources.open_files is not None:
        limits.append(("limit", "open-files", resources.open_files))
    if resources.disk is not None:
        limits.append(("limit", "disk", resources.disk))
    if resources.memory is not None and "memory" not in group.limits:
        limits.append(("limit", "memory", resources.memory))
    if resources.processes is not None and "processes" not in group.limits:
        limits.append(("limit", "processes", resources.processes))
    cpus = len(os.sched_getaffinity(0))
    if resources.cpu is not None and "cpu" not in group.limits and resources.cpu < cpus:
        limits.append(("limit", "cpu", max(1, int(resources.cpu * 1000))))
    return limits
