"""Start a command confined by policy text, and give back what came of it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelarmor.alerts import Alert
from modelarmor.policy import document
from modelarmor.policy.model import Policy
from modelarmor.sandbox import Sandbox, Workload

HEAD = """
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: test-policy}
spec:
  selector: {matchLabels: {app: test}}
  severity: 7
  tags: [TAG]
  message: a test's rule
"""


def policy(spec: str) -> list[Policy]:
    """A KubeArmorPolicy from the rest of its spec, indented by two spaces."""
    return document.load(HEAD + spec, name="<test>")


@dataclass
class Outcome:
    status: int
    output: str
    alerts: list[Alert]

    def resources(self, operation: str) -> list[str]:
        return [alert.Resource for alert in self.alerts if alert.Operation == operation]


def confined(
    command: Sequence[str],
    policies: Sequence[Policy] = (),
    *,
    timeout: float = 60,
    pass_fds: Sequence[int] = (),
    **workload: Any,
) -> Outcome:
    """Run a command to its end; its standard output and error come together."""
    alerts: list[Alert] = []
    workload.setdefault("cwd", Path("/"))
    process = Sandbox.start(
        Workload("test", command, list(policies), **workload),
        alerts=alerts.append,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=pass_fds,
    )
    with process:
        assert process.stdout is not None
        output = process.stdout.read().decode(errors="replace")
        status = process.wait(timeout)
    return Outcome(status, output, alerts)
