"""The runner itself, with cases of our own: it must notice where an expectation does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import machine, runner


def _case(*steps: dict[str, Any], action: str = "Block") -> dict[str, Any]:
    source = [{"path": "/bin/cat"}]
    policy = {
        "apiVersion": "security.kubearmor.com/v1",
        "kind": "KubeArmorPolicy",
        "metadata": {"name": "secret", "namespace": "multiubuntu"},
        "spec": {
            "severity": 3,
            "selector": {"matchLabels": {"container": "ubuntu-1"}},
            "file": {"matchPaths": [{"path": "/secret.txt", "fromSource": source}]},
            "action": action,
        },
    }
    return {
        "id": "own",
        "policies": [policy],
        "policy_yaml_path": ["secret.yaml"],
        "workloads": {"ubuntu-1-deployment": {}, "ubuntu-3-deployment": {}},
        "steps": steps,
    }


def _exec(command: str, assertion: str, pod: str = "ubuntu-1") -> dict[str, Any]:
    return {
        "op": "exec",
        "pod": pod,
        "namespace": "multiubuntu",
        "tty": True,
        "argv": ["bash", "-c", command],
        "assert": assertion,
        "expected_effective": "unasserted",
    }


def _alert(*, found: bool = True, **fields: str) -> dict[str, Any]:
    watch = {"namespace": "multiubuntu", "operation": "File"}
    return {"op": "expect_alert", "fields": fields, "watch": watch, "found": found}


APPLY = {"op": "apply", "file": "secret.yaml"}
READS = 'ContainSubstring("secret file")'
DENIED = 'MatchRegexp("secret.txt.*Permission denied")'


def test_policies_apply_when_a_step_says_so_and_to_whom_they_select(
    images: machine.Images, tmp_path: Path
) -> None:
    case = _case(
        _exec("cat /secret.txt", READS),
        APPLY,
        _exec("cat /secret.txt", DENIED),
        _alert(PolicyName="secret", Severity="3", Action="Block", Resource="secret.txt"),
        _exec("head /secret.txt", READS),
        _alert(found=False, PolicyName="secret"),
        _exec("cat /secret.txt", READS, pod="ubuntu-3"),
        {"op": "delete", "file": "secret.yaml"},
        _exec("cat /secret.txt", READS),
    )
    result = runner.run_case(case, images, tmp_path / "machines")
    assert result.problems == []
    assert result.commands == 5


def test_what_does_not_happen_is_a_problem(images: machine.Images, tmp_path: Path) -> None:
    case = _case(
        APPLY,
        _exec("cat /secret.txt", READS),
        _alert(PolicyName="secret", Severity="4"),
        _alert(found=False, PolicyName="secret"),
        _exec("cat /plain.txt", DENIED),
        _alert(PolicyName="secret"),
    )
    result = runner.run_case(case, images, tmp_path / "machines")
    assert len(result.problems) == 5


def test_a_sandbox_that_does_not_start_passes_nothing(
    images: machine.Images, tmp_path: Path
) -> None:
    case = _case(_exec("true", 'Not(MatchRegexp("Permission denied"))'))
    case["policies"][0]["spec"]["action"] = "Sometimes"
    result = runner.run_case(case, images, tmp_path / "machines")
    assert not result.passed


def test_a_step_that_is_not_known_is_a_problem(images: machine.Images, tmp_path: Path) -> None:
    result = runner.run_case(_case({"op": "reboot"}), images, tmp_path / "machines")
    assert result.problems == ["the case: a step 'reboot' means nothing to this runner"]


def test_commands_share_a_container_and_containers_share_nothing(
    images: machine.Images, tmp_path: Path
) -> None:
    case = _case(
        _exec("echo mine > /tmp/mark", 'Not(ContainSubstring("mark"))'),
        _exec("cat /tmp/mark", 'ContainSubstring("mine")'),
        _exec("cat /tmp/mark", 'ContainSubstring("No such file")', pod="ubuntu-3"),
    )
    assert runner.run_case(case, images, tmp_path / "machines").problems == []
