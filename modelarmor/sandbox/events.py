"""What the helper reports, line by line, and the alerts that it becomes."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from modelarmor.alerts import Alert, Recorder
from modelarmor.alerts.alert import DENIED, PASSED
from modelarmor.policy.decide import DEFAULT_POSTURE
from modelarmor.sandbox.plan import Plan

#: names under which alerts appear that no rule of a policy decided
SANDBOX_POLICY: Final = "SandboxBaseline"
EGRESS_POLICY: Final = "NetworkPolicy"
RESOURCE_POLICY: Final = "Resources"

_POSTURE, _SANDBOX, _RESOURCE, _EGRESS = -2, -3, -4, -5  # helper.h
_UNRULED: Final = {
    _POSTURE: (DEFAULT_POSTURE, ""),
    _SANDBOX: (SANDBOX_POLICY, "Nothing in the sandbox may do this, whatever its policy says"),
    _RESOURCE: (RESOURCE_POLICY, "A limit was reached"),
    _EGRESS: (EGRESS_POLICY, "Outside of the egress that is granted"),
}
#: device numbers of pseudo-terminals (Documentation/admin-guide/devices.txt)
_PTS_MAJORS: Final = range(136, 144)


@dataclass
class Life:
    """What the helper said of the workload's life."""

    #: set once it runs, or has failed to
    settled: threading.Event = field(default_factory=threading.Event)
    pid: int | None = None
    #: exit status with which the helper gave up
    failure: int | None = None
    #: the command's exit status; negative for the signal that ended it
    exit: int | None = None


class Reader(threading.Thread):
    """Reads the helper's pipe to its end: how the start went, then the rest on a thread of its own.

    Args:
        name: the workload's name, as ``PodName`` and ``ContainerName`` of its alerts.
        namespace: ``NamespaceName``.
        plan: to which the numbers of rules refer.
        recorder: takes the alerts.
        events: the pipe's descriptor, closed at the end.
    """

    def __init__(
        self,
        name: str,
        namespace: str,
        plan: Plan,
        *,
        recorder: Recorder,
        events: int,
    ) -> None:
        super().__init__(name=f"alerts of {name}", daemon=True)
        self.life = Life()
        self._workload = name
        self._namespace = namespace
        self._plan = plan
        self._recorder = recorder
        self._lines = open(events, "rb", buffering=1 << 16)  # noqa: SIM115  `run` closes it
        self._host = socket.gethostname()

    def begin(self, seconds: float) -> bool:
        """Start to read; whether it is known within ``seconds`` how the start of the command went.

        Its first line is read here: a start does not wait for a thread's.
        """
        deadline = time.monotonic() + seconds
        pipe = select.poll()
        pipe.register(self._lines, select.POLLIN)
        if pipe.poll(seconds * 1000):
            self._take(self._lines.readline())
        self.start()
        return self.life.settled.wait(max(0.0, deadline - time.monotonic()))

    def run(self) -> None:
        with self._lines:
            for line in self._lines:
                self._take(line)
        self.life.settled.set()

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            return  # half a line of a helper that was killed
        match event["event"]:
            case "alert":
                self._recorder.append(self._alert(event))
            case "suppressed":
                self._recorder.count(self._alert(event), int(event["count"]))
            case "started":
                self.life.pid = int(event["pid"])
                self.life.settled.set()
            case "failed":
                self.life.failure = int(event["status"])
                self.life.settled.set()
            case "exit":
                signalled = "signal" in event
                self.life.exit = -int(event["signal"]) if signalled else int(event["code"])

    def _alert(self, event: dict[str, Any]) -> Alert:
        number, operation = int(event["rule"]), str(event["operation"])
        resource, data = _text(event.get("resource")), _text(event.get("data"))
        severity = message = tags = ""
        if number >= 0:
            planned = self._plan.rules[number]
            outcome, policy = planned.rule.outcome, planned.policy.name
            severity = str(outcome.severity or "")
            message, tags = outcome.message, ",".join(outcome.tags)
        else:
            policy, message = _UNRULED[number]
        blocked = bool(event["blocked"])
        caller, parent = _text(event.get("exe")), _text(event.get("parent"))
        source, program = _text(event.get("command")) or caller, caller
        if operation == "Process":
            # KubeArmor: Source is the parent, ProcessName what is executed.
            source, program, parent = caller, resource.split(" ", 1)[0], caller
        now = float(event.get("time", time.time()))
        pid, ppid = int(event.get("pid", 0)), int(event.get("ppid", 0))
        return Alert(
            Timestamp=int(now),
            UpdatedTime=f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
            HostName=self._host,
            NamespaceName=self._namespace,
            PodName=self._workload,
            ContainerName=self._workload,
            HostPID=pid,
            HostPPID=ppid,
            PID=pid,
            PPID=ppid,
            UID=int(event.get("uid", 0)),
            PolicyName=policy,
            Severity=severity,
            Tags=tags,
            ATags=tuple(filter(None, tags.split(","))),
            Message=_text(event.get("message")) or message,
            Source=source,
            Operation=operation,
            Resource=resource,
            Data=data,
            EventData=_pairs(data),
            Action="Block" if blocked else "Audit",
            Result=DENIED if blocked else PASSED,
            ParentProcessName=parent,
            ProcessName=program,
            Cwd=_text(event.get("cwd")),
            TTY=_terminal(int(event.get("tty", 0))),
        )


def _text(value: object) -> str:
    """A string of the helper's, in which each character stands for one byte."""
    return str(value or "").encode("latin-1", "replace").decode("utf-8", "backslashreplace")


def _pairs(data: str) -> dict[str, str]:
    pairs = (word.split("=", 1) for word in data.split() if "=" in word)
    return {key[:1].upper() + key[1:]: value for key, value in pairs}


def _terminal(device: int) -> str:
    major, minor = (device >> 8) & 0xFFF, (device & 0xFF) | ((device >> 12) & 0xFFF00)
    if not device:
        return ""
    if major in _PTS_MAJORS:
        return f"pts{minor + 256 * (major - _PTS_MAJORS.start)}"
    return f"tty{minor}"
