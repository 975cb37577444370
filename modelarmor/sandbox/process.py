"""Starting a workload confined, and what is heard of it.

The helper does the confining; here it gets its plan, its alerts are put into words, and its life is
tied to this process: the control pipe closes with us, however we end, and the sandbox ends with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket as _socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from modelarmor.alerts import Alert, Recorder
from modelarmor.policy.decide import DEFAULT_POSTURE
from modelarmor.policy.model import Policy, Posture
from modelarmor.sandbox import cgroup
from modelarmor.sandbox.network import Egress
from modelarmor.sandbox.plan import Machine, Plan, make_plan
from modelarmor.sandbox.resources import Resources

#: exit status of a command that could not be confined, as container runtimes have it
CANNOT_CONFINE = 125

#: names under which alerts appear that no rule of a policy decided
SANDBOX_POLICY = "SandboxBaseline"
EGRESS_POLICY = "NetworkPolicy"
RESOURCE_POLICY = "Resources"

HELPER = Path(__file__).with_name("modelarmor-helper")

_START_SECONDS = 20.0
_UNRESTRICTED = Egress.unrestricted()


class CannotConfine(RuntimeError):  # noqa: N818  it is a refusal and reads as one
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
        listener: Callable[[Alert], None] | None,
        popen: subprocess.Popen[bytes],
        control: int,
        events: int,
        group: cgroup.ControlGroup,
    ) -> None:
        self.workload = workload
        self.plan = plan
        self.recorder = recorder
        self._popen = popen
        self._control = control
        self._group = group
        self._started = threading.Event()
        self._failure: int | None = None
        self._exit: int | None = None
        self._lock = threading.Lock()
        self.child_pid: int | None = None
        self._reader = _Reader(self, listener, events)
        self._reader.start()

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
        return self._exit if self._exit is not None else self._popen.returncode

    def poll(self) -> int | None:
        """The return code, or None while the workload runs. Never blocks for long."""
        with self._lock:
            if self._popen.poll() is not None:
                self._finish()
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
        with self._lock, contextlib.suppress(BrokenPipeError):
            if self._control >= 0 and self._popen.poll() is None:
                os.write(self._control, bytes((int(number),)))

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End the workload, if it still runs, and release what it held."""
        self.kill()
        try:
            self._popen.wait(5)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        with self._lock:
            self._finish()
        for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _finish(self) -> None:
        # The events pipe ends with the helper; what is still in it belongs to the record.
        self._reader.join(5)
        if self._control >= 0:
            os.close(self._control)
            self._control = -1
        self._group.close()

    def _await_start(self) -> None:
        if not self._started.wait(_START_SECONDS):
            self.close()
            raise CannotConfine(
                f"{self.workload.name}: the helper did not answer within {_START_SECONDS:.0f} s"
            )


class _Reader(threading.Thread):
    """Reads the helper's lines and turns them into alerts."""

    def __init__(
        self, process: Process, listener: Callable[[Alert], None] | None, events: int
    ) -> None:
        super().__init__(name=f"alerts of {process.workload.name}", daemon=True)
        self._process = process
        self._listener = listener
        self._events = events
        self._host = _socket.gethostname()

    def run(self) -> None:
        with open(self._events, "rb", buffering=1 << 16) as lines:  # noqa: PTH123  a descriptor
            for line in lines:
                try:
                    self._handle(json.loads(line))
                except (ValueError, KeyError, IndexError, TypeError):
                    continue  # half a line of a helper that was killed
        self._process._started.set()

    def _handle(self, event: dict[str, Any]) -> None:
        process = self._process
        match event["event"]:
            case "alert":
                alert = self._alert(event)
                process.recorder.append(alert)
                if self._listener is not None:
                    self._listener(alert)
            case "suppressed":
                process.recorder.count(self._alert(event), int(event["count"]))
            case "started":
                process.child_pid = int(event["pid"])
                process._started.set()
            case "failed":
                process._failure = int(event["status"])
                process._started.set()
            case "exit":
                process._exit = -int(event["signal"]) if "signal" in event else int(event["code"])

    def _alert(self, event: dict[str, Any]) -> Alert:
        number = int(event["rule"])
        operation = str(event["operation"])
        resource, data = _text(event.get("resource", "")), _text(event.get("data", ""))
        severity = message = tags = ""
        blocked = bool(event["blocked"])
        if number >= 0:
            planned = self._process.plan.rules[number]
            outcome = planned.rule.outcome
            policy = planned.policy.name
            severity = str(outcome.severity or "")
            message, tags = outcome.message, ",".join(outcome.tags)
        else:
            policy, message = _UNRULED.get(number, (DEFAULT_POSTURE, ""))
        message = _text(event.get("message", "")) or message
        caller, command = _text(event.get("exe", "")), _text(event.get("command", ""))
        program, parent = caller, _text(event.get("parent", ""))
        source = command or caller
        if operation == "Process":
            # KubeArmor: Source is the parent, ProcessName what is executed.
            program, parent, source = resource.split(" ", 1)[0], caller, caller
        now = float(event.get("time", time.time()))
        workload = self._process.workload
        return Alert(
            Timestamp=int(now),
            UpdatedTime=datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds")
            .replace("+00:00", "Z"),
            HostName=self._host,
            NamespaceName=workload.namespace,
            PodName=workload.name,
            ContainerName=workload.name,
            HostPID=int(event.get("pid", 0)),
            HostPPID=int(event.get("ppid", 0)),
            PID=int(event.get("pid", 0)),
            PPID=int(event.get("ppid", 0)),
            UID=int(event.get("uid", 0)),
            PolicyName=policy,
            Severity=severity,
            Tags=tags,
            ATags=tuple(filter(None, tags.split(","))),
            Message=message,
            Source=source,
            Operation=operation,
            Resource=resource,
            Data=data,
            EventData=_event_data(data),
            Action="Block" if blocked else "Audit",
            Result="Permission denied" if blocked else "Passed",
            ParentProcessName=parent,
            ProcessName=program,
            Cwd=_text(event.get("cwd", "")),
            TTY=_terminal(int(event.get("tty", 0))),
        )


_UNRULED = {
    -3: (SANDBOX_POLICY, "No workload in the sandbox may do this, whatever its policy says"),
    -4: (RESOURCE_POLICY, "A limit was reached"),
    -5: (EGRESS_POLICY, "Outside of the egress that the profile grants"),
}


def _text(value: object) -> str:
    """A string of the helper's, in which each character stands for one byte."""
    return str(value).encode("latin-1", "replace").decode("utf-8", "backslashreplace")


def _event_data(data: str) -> dict[str, str]:
    pairs = (word.split("=", 1) for word in data.split() if "=" in word)
    return {key[:1].upper() + key[1:]: value for key, value in pairs}


def _terminal(device: int) -> str:
    major, minor = (device >> 8) & 0xFFF, (device & 0xFF) | ((device >> 12) & 0xFFF00)
    if not device:
        return ""
    return f"pts{minor + 256 * (major - 136)}" if 136 <= major <= 143 else f"tty{minor}"


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
            alerts: called with each alert, on a thread of its own.
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
        program = shutil.which(workload.command[0], path=env.get("PATH", os.defpath))
        # A name that is not found goes to the helper as it is, which reports it as a shell does.
        command = [program or workload.command[0], *workload.command[1:]]
        plan = make_plan(
            workload.policies,
            workload.posture,
            egress=workload.network,
            resources=workload.resources,
            capabilities=workload.capabilities,
            command=command,
            machine=report.machine,
        )
        if plan.unenforceable:
            rules = "; ".join(
                f"{rule.rule.place}: {rule.rule.where}: {rule.note}" for rule in plan.unenforceable
            )
            raise CannotConfine(f"{workload.name}: rules that cannot be enforced here: {rules}")
        group = cgroup.make(workload.resources)
        extra = [*_supervised_limits(workload.resources, group), *_socket_directories(workload, env)]
        process = _launch(
            plan.text(extra + group.records()),
            command,
            env,
            workload,
            group,
            dict(plan=plan, recorder=recorder or Recorder(workload.name), listener=alerts),
            dict(
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=start_new_session,
            ),
            pass_fds,
        )
        process._await_start()
        if process._failure == CANNOT_CONFINE or (
            process.child_pid is None and process._failure is None
        ):
            process.close()
            raise CannotConfine(
                f"{workload.name}: the helper could not set the sandbox up; its message is on"
                " standard error, and `modelarmor doctor` says what this machine can do"
            )
        return process


def _launch(
    table: bytes,
    command: Sequence[str],
    env: Mapping[str, str],
    workload: Workload,
    group: cgroup.ControlGroup,
    about: dict[str, Any],
    streams: dict[str, Any],
    pass_fds: Sequence[int],
) -> Process:
    plan_fd = os.memfd_create("modelarmor-plan")
    control_read, control = os.pipe()
    events, events_write = os.pipe()
    try:
        with open(os.dup(plan_fd), "wb") as file:  # noqa: PTH123  a descriptor
            file.write(table)
        os.lseek(plan_fd, 0, os.SEEK_SET)
        with contextlib.suppress(OSError):
            import fcntl

            fcntl.fcntl(events_write, fcntl.F_SETPIPE_SZ, 1 << 20)
        popen = subprocess.Popen(
            [
                str(HELPER),
                "--plan",
                str(plan_fd),
                "--control",
                str(control_read),
                "--events",
                str(events_write),
                "--",
                *command,
            ],
            env=dict(env),
            cwd=workload.cwd,
            pass_fds=(plan_fd, control_read, events_write, *pass_fds),
            **streams,
        )
    except BaseException:
        os.close(control)
        os.close(events)
        group.close()
        raise
    finally:
        for fd in (plan_fd, control_read, events_write):
            os.close(fd)
    return Process(
        workload, popen=popen, control=control, events=events, group=group, **about
    )


def _supervised_limits(
    resources: Resources, group: cgroup.ControlGroup
) -> list[tuple[str | int, ...]]:
    """Limits for which there is no control group."""
    limits: list[tuple[str | int, ...]] = []
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


def _socket_directories(workload: Workload, env: Mapping[str, str]) -> list[tuple[str | int, ...]]:
    """Where a workload whose files are not limited may still talk to sockets: its own places."""
    places = [str(workload.cwd or Path.cwd()), env.get("TMPDIR", "/tmp")]
    return [("unixdir", os.path.realpath(place)) for place in places]
