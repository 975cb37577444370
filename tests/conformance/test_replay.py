"""KubeArmor's own cases, on KubeArmor's own code: what a command did, and what would come of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelarmor.alerts.alert import Alert
from modelarmor.policy.decide import Operation

from . import enforcer, machine, replay, runner
from .test_enforcer import CODE_VARIABLE

_FEW = ("k8s_env/smoke#02", "k8s_env/ksp#17", "k8s_env/scenarios/github_test_03")


def _executed(path: str, pid: int, ppid: int, arguments: str = "") -> Alert:
    resource = f"{path} {arguments}".rstrip()
    return Alert(Operation="Process", ProcessName=path, Resource=resource, PID=pid, PPID=ppid)


def test_who_replaces_itself_has_its_parents_parent(tmp_path: Path) -> None:
    told = [
        _executed("/bin/bash", 30, 1, "-c cat"),
        _executed("/bin/cat", 30, 1),  # in place
        _executed("/bin/ls", 31, 30, "-l"),  # after a fork
    ]
    found = list(replay.operations(told, tmp_path))
    assert [(op.path, op.source, op.parent, op.args) for op in found] == [
        ("/bin/bash", "/usr/bin/runc", "/usr/bin/runc", ("-c", "cat")),
        ("/bin/cat", "/bin/bash", "/usr/bin/runc", ()),
        ("/bin/ls", "/bin/cat", "/bin/cat", ("-l",)),
    ]


def test_what_was_told_becomes_operations(tmp_path: Path) -> None:
    (tmp_path / "of-another").touch()
    other = (tmp_path / "of-another").stat().st_uid + 1
    told = [
        _executed("/lib/ld-linux-x86-64.so.2", 3, 1),
        Alert(Operation="File", Resource="/of-another", UID=other, EventData={"Access": "read"}),
        Alert(Operation="File", Resource="/made", UID=other, EventData={"Access": "create"}),
        Alert(Operation="Network", Resource="domain=AF_UNIX type=SOCK_STREAM protocol=0"),
        Alert(Operation="Network", Resource="www.example.com", TTY="pts0"),
        Alert(Operation="Capabilities", Resource="CAP_NET_RAW"),
    ]
    who = {"source": "/usr/bin/runc", "parent": "/usr/bin/runc"}
    assert list(replay.operations(told, tmp_path)) == [
        Operation("read", path="/lib/ld-linux-x86-64.so.2", **who),
        Operation("read", path="/of-another", owner=False, **who),
        Operation("create", path="/made", **who),
        Operation("network", family="unix", protocol="0", **who),
        Operation(
            "network", socket_type="dgram", protocol="udp", dns="www.example.com", tty=True, **who
        ),
        Operation("capability", capability="net_raw", **who),
    ]


@pytest.mark.skipif(CODE_VARIABLE not in os.environ, reason=f"{CODE_VARIABLE} is not set")
@pytest.mark.skipif(not runner.load_cases(), reason=f"no cases: {runner.data_file()}")
def test_kubearmors_code_ends_its_cases_as_they_expect_or_a_check_says_why(
    images: machine.Images, tmp_path: Path
) -> None:
    chosen = [case for case in runner.load_cases() if case["id"] in _FEW]
    with enforcer.enforcer(Path(os.environ[CODE_VARIABLE])) as real:
        commands = [
            command
            for number, case in enumerate(chosen)
            for command in replay.replay(case, images, tmp_path / str(number), real)
        ]
    assert {command.case for command in commands} == set(_FEW)
    assert {d.reason for command in commands for d in command.differences} == {"MA104"}
    for command in commands:
        assert command.as_expected or command.differences, command
