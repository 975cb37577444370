"""``modelarmor explain``: one question to a policy file, answered with rule and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelarmor.cli import main

POLICY = """\
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: guard, namespace: n}
spec:
  selector: {matchLabels: {app: a}}
  file:
    matchPaths:
    - path: /data/secret
    - path: /data/log
      readOnly: true
    - path: /data/own
      ownerOnly: true
    matchDirectories:
    - dir: /data/
      recursive: true
      action: Allow
    - dir: /data/seen/
      recursive: true
      action: Audit
  process:
    matchPaths:
    - path: /opt/tool
      fromSource: [{path: /opt/shell}]
    - path: /opt/terminal
      pts: false
  network:
    matchProtocols:
    - protocol: udp
"""


@pytest.fixture
def policy(tmp_path: Path) -> str:
    file = tmp_path / "guard.yaml"
    file.write_text(POLICY)
    return str(file)


def explained(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, Any]:
    status = main(["explain", *argv, "--format", "json"])
    return status, json.loads(capsys.readouterr().out)


def test_the_rule_its_line_and_the_weaker_ones_are_named(
    policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", policy, "--read", "/data/secret"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("blocked: read /data/secret")
    assert f"{policy}:8: Block path /data/secret" in out
    assert "weaker rules that match too:" in out
    assert f"{policy}:14: Allow directory /data/, recursive" in out


def test_what_is_allowed_exits_with_zero(policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, answer = explained(capsys, policy, "--read", "/data/x")
    assert (status, answer["verdict"], answer["rule"]["line"]) == (0, "allow", 14)


def test_the_default_posture_is_told_and_can_be_chosen(
    policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, answer = explained(capsys, policy, "--read", "/home/x")
    assert (status, answer["policy"], answer["rule"]) == (1, "DefaultPosture", None)
    status, answer = explained(capsys, policy, "--read", "/home/x", "--posture", "audit")
    assert (status, answer["posture"]) == (0, True)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (["--read", "/data/log"], 0),
        (["--write", "/data/log"], 1),
        (["--delete", "/data/log"], 1),
        (["--write", "/data/own"], 0),
        (["--write", "/data/own", "--owner"], 0),
        (["--write", "/data/own", "--not-owner"], 1),
        (["--exec", "/opt/tool"], 0),
        (["--exec", "/opt/tool", "--from", "/opt/shell"], 1),
        (["--exec", "/opt/tool", "--from", "/opt/x", "--parent", "/opt/shell"], 1),
        (["--exec", "/opt/terminal"], 0),
        (["--exec", "/opt/terminal", "--tty"], 1),
        (["--connect", "tcp"], 0),
        (["--connect", "udp"], 1),
        (["--read", "/data/../data//secret"], 1),
    ],
)
def test_each_question_reaches_the_decision(
    policy: str, question: list[str], expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", policy, *question]) == expected
    assert capsys.readouterr().out.startswith(("allowed: ", "blocked: "))


def test_an_audit_rule_is_told_beside_the_allow(
    policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, answer = explained(capsys, policy, "--read", "/data/seen/x")
    assert (status, answer["audit"]["line"]) == (0, 17)


def test_an_address_is_said_to_belong_into_a_network_policy(
    policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, answer = explained(capsys, policy, "--connect", "pypi.org:443")
    assert status == 0
    assert "NetworkPolicy" in answer["note"]


def test_a_link_on_this_machine_is_pointed_out(
    policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    _, answer = explained(capsys, policy, "--read", str(link))
    assert str(target) in answer["note"]


@pytest.mark.parametrize(
    "question",
    [
        ["--read", "relative"],
        ["--read", ""],
        ["--exec", "/x", "--from", "python"],
        ["--connect", "gopher"],
        ["--connect", "host:port"],
        ["--connect", "host:99999"],
        ["--connect", ":80"],
    ],
)
def test_a_question_that_makes_no_sense_exits_with_two(
    policy: str, question: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", policy, *question]) == 2
    assert question[-1] in capsys.readouterr().err


def test_usage_errors_and_bad_policies_exit_with_two(
    policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv in ([policy], [policy, "--read", "/x", "--write", "/x"]):
        with pytest.raises(SystemExit) as raised:
            main(["explain", *argv])
        assert raised.value.code == 2
    bad = tmp_path / "bad.yaml"
    bad.write_text(POLICY.replace("fromSource", "fromSouce"))
    assert main(["explain", str(bad), "--read", "/x"]) == 2
    assert "did you mean fromSource?" in capsys.readouterr().err
