"""Alerts put to a policy again: what a real sandbox said is what `decide` says of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modelarmor.alerts import Alert
from modelarmor.generate.replay import operation, replay
from modelarmor.policy import document
from modelarmor.policy.decide import Operation, Table
from modelarmor.policy.model import Policy, Posture
from modelarmor.sandbox import Sandbox, Workload
from modelarmor.sandbox.network import Egress

POLICY = """
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {{name: granted}}
spec:
  selector: {{matchLabels: {{app: test}}}}
  action: Allow
  process:
    matchPaths:
      - {{path: {python}}}
      - {{path: /usr/bin/env}}
  file:
    matchDirectories:
      - {{dir: /usr/, recursive: true, readOnly: true}}
      - {{dir: {prefix}/, recursive: true, readOnly: true}}
      - {{dir: {scratch}/, recursive: true, readOnly: true}}
      - {{dir: {scratch}/open/, recursive: true}}
      - {{dir: /proc/, recursive: true, readOnly: true}}
---
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {{name: refused}}
spec:
  selector: {{matchLabels: {{app: test}}}}
  action: Block
  process:
    matchPaths: [{{execname: id}}]
  file:
    matchPaths: [{{path: {scratch}/secret}}]
  network:
    matchProtocols: [{{protocol: udp}}]
  presets: [{{name: protectProc, action: Block}}]
---
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {{name: watched}}
spec:
  selector: {{matchLabels: {{app: test}}}}
  action: Audit
  process:
    matchPaths: [{{path: /usr/bin/env}}]
  file:
    matchPaths: [{{path: {scratch}/watched}}]
  network:
    matchProtocols: [{{protocol: stream}}]
"""

WORK = """
import contextlib, os, socket, subprocess, sys
scratch = sys.argv[1]
def attempt(what, *arguments):
    with contextlib.suppress(OSError):
        return what(*arguments)
attempt(open, scratch + "/secret")
attempt(open, scratch + "/watched")
attempt(open, scratch + "/watched", "r+")
attempt(open, scratch + "/made", "w")
attempt(os.unlink, scratch + "/watched")
attempt(os.rename, scratch + "/watched", scratch + "/open/taken")
attempt(os.chmod, scratch + "/watched", 0o777)
attempt(os.mkdir, scratch + "/directory")
attempt(os.truncate, scratch + "/watched", 0)
attempt(os.listdir, "/")
attempt(open, f"/proc/{os.getppid()}/environ")
attempt(open, f"/proc/{os.getpid()}/status")
attempt(subprocess.run, ["id", "-u"])
attempt(subprocess.run, ["/bin/cat", "two words"])
attempt(subprocess.run, ["/usr/bin/env", "--version"])
attempt(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
attempt(socket.socket, socket.AF_UNIX)
attempt(socket.create_connection, ("127.0.0.1", 9))
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Policy], list[Alert]]:
    """Policies, and the alerts of a program that ran into them."""
    scratch = tmp_path_factory.mktemp("replay")
    (scratch / "open").mkdir()
    for name in ("secret", "watched"):
        (scratch / name).write_text(name)
    python = Path(sys.executable).resolve()
    policies = document.load(
        POLICY.format(python=python, prefix=python.parents[1], scratch=scratch)
    )
    alerts: list[Alert] = []
    workload = Workload(
        "replayed",
        [str(python), "-I", "-S", "-c", WORK, str(scratch)],
        policies,
        network=Egress.none(),
        cwd=scratch,
    )
    with Sandbox.start(workload, alerts=alerts.append, stdout=subprocess.DEVNULL) as process:
        assert process.wait(60) == 0
    return policies, alerts


def test_what_the_sandbox_refused_is_refused_again_by_the_same_policy(
    watched: tuple[list[Policy], list[Alert]],
) -> None:
    policies, alerts = watched
    table = Table(policies)
    told = []
    for alert in alerts:
        asked = operation(alert)
        if asked is None:
            assert alert.PolicyName in ("NetworkPolicy", "SandboxBaseline")
            continue
        said = table.decide(asked)
        told.append((asked.kind, said.verdict))
        if alert.blocked:
            assert (said.verdict, said.policy_name) == ("block", alert.PolicyName), (alert, said)
        else:
            assert said.verdict == "allow"
            assert said.audit is not None and said.audit[0].name == alert.PolicyName
    assert {
        ("read", "block"), ("read", "allow"), ("write", "block"), ("create", "block"),
        ("delete", "block"), ("metadata", "block"), ("list", "block"), ("exec", "block"),
        ("exec", "allow"), ("network", "block"), ("network", "allow"),
    } <= set(told)  # fmt: skip


def test_a_rename_is_two_operations(watched: tuple[list[Policy], list[Alert]]) -> None:
    renames = [alert for alert in watched[1] if "RENAME" in alert.Data]
    assert [asked.kind for alert in renames if (asked := operation(alert))] == ["delete"]


def test_another_policy_refuses_what_it_does_not_grant(
    watched: tuple[list[Policy], list[Alert]],
) -> None:
    policies, alerts = watched
    operations = [asked for alert in alerts if (asked := operation(alert))]
    refused = replay(policies, operations)
    assert 0 < len(refused) < len(operations)
    assert all(said.verdict == "block" and said.why for _, said in refused)
    assert len(replay(policies, operations, Posture.all("audit"))) < len(refused)
    assert replay([], operations) == []


@pytest.mark.parametrize(
    ("alert", "expected"),
    [
        # of KubeArmor's BPF-LSM enforcer and of its monitor
        (
            Alert(Operation="File", Resource="/etc/shadow", ProcessName="/usr/bin/cat",
                  ParentProcessName="/usr/bin/bash", Data="lsm=SECURITY_FILE_OPEN",
                  PolicyName="p"),
            Operation("read", "/etc/shadow", source="/usr/bin/cat", parent="/usr/bin/bash"),
        ),
        (
            Alert(Operation="File", Resource="/etc/x", ProcessName="/usr/bin/tee",
                  Data="syscall=SYS_OPENAT fd=-100 flags=O_WRONLY|O_CREAT|O_TRUNC"),
            Operation("create", "/etc/x", source="/usr/bin/tee"),
        ),
        (
            Alert(Operation="File", Resource="/etc/x", ProcessName="/usr/bin/tee",
                  Data="syscall=SYS_OPENAT fd=-100 flags=O_RDWR"),
            Operation("write", "/etc/x", source="/usr/bin/tee"),
        ),
        (
            Alert(Operation="File", Resource="/etc/x", Data="lsm=PATH_UNLINK"),
            Operation("delete", "/etc/x"),
        ),
        (
            Alert(Operation="Process", Resource="/usr/bin/sh -c id", ProcessName="/usr/bin/sh",
                  ParentProcessName="/usr/bin/python3.11", Data="lsm=SECURITY_BPRM_CHECK",
                  TTY="pts0"),
            Operation("exec", "/usr/bin/sh", source="/usr/bin/python3.11", tty=True,
                      args=("-c", "id")),
        ),
        (
            Alert(Operation="Network", Resource="protocol=UDP type=SOCK_DGRAM",
                  ProcessName="/usr/bin/dig", Data="lsm=SOCKET_CREATE"),
            Operation("network", source="/usr/bin/dig", socket_type="dgram", protocol="udp"),
        ),
        (
            Alert(Operation="Network", Resource="example.com", Data="lsm=SOCKET_SENDMSG"),
            Operation("network", dns="example.com"),
        ),
        (
            Alert(Operation="Capabilities", Resource="CAP_NET_RAW", ProcessName="/usr/bin/ping"),
            Operation("capability", capability="net_raw", source="/usr/bin/ping"),
        ),
        (
            Alert(Operation="Syscall", Resource="/x", Data="syscall=SYS_UNLINKAT"),
            Operation("syscall", "/x", syscall="unlinkat"),
        ),
    ],
)  # fmt: skip
def test_alerts_of_kubearmor_are_read_too(alert: Alert, expected: Operation) -> None:
    assert operation(alert) == expected


@pytest.mark.parametrize(
    "alert",
    [
        Alert(Operation="AlertThreshold", Type="SystemEvent", Resource="/x"),
        Alert(Operation="Resource", Resource="memory", PolicyName="Resources"),
        Alert(Operation="Network", Resource="remoteip=192.0.2.1 port=80",
              PolicyName="NetworkPolicy"),
        Alert(Operation="Syscall", Resource="ptrace", PolicyName="SandboxBaseline"),
        # a path that is none, which would match no rule and so count as harmless
        Alert(Operation="File", Resource="etc/shadow", Data="lsm=FILE_OPEN"),
        Alert(Operation="Process", Resource="sh"),
        Alert(Operation="Network", Resource="\x00?"),
        Alert(Operation="Syscall"),
        Alert(Operation="Device", Resource="usb"),
    ],
)  # fmt: skip
def test_what_no_rule_decides_is_no_operation(alert: Alert) -> None:
    assert operation(alert) is None
