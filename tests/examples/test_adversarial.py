"""Crafted inputs: no policy stops them, so the notebooks raise no alert, and redteam measures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from modelarmor import cli
from tests.examples.support import assert_stripped, run

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize(
    ("example", "model", "row"),
    [("adversarial-pytorch", "digits.pt", "fgsm"), ("fgsm-tensorflow", "digits.keras", "epsilon")],
)
def test_the_attack_works_under_a_policy_and_is_measured(
    example: str, model: str, row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    done = run(example, work)
    assert not done["fgsm-code"].refused
    honest = float(re.findall(r"([\d.]+)%", done["train-code"].printed)[0])
    lines = [line for line in done["fgsm-code"].printed.splitlines() if line.startswith(row)]
    shares = [float(share) for share in re.findall(r"([\d.]+)%", "\n".join(lines))]
    assert honest > 85
    assert shares[0] == honest
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 20

    command = [
        "redteam", str(work / model), "--data", str(work / "digits.npz"), "--format", "json",
        "--samples", "50", "--attacks", "noise,fgsm", "--epsilon", "0.1", "-q",
    ]  # fmt: skip
    assert cli.main([*command, "--least-accuracy", "0.9"]) == 1
    told = json.loads(capsys.readouterr().out)["robustness"]
    at = {(one["attack"], one["epsilon"]): one["recognised"] for one in told["measures"]}
    assert told["recognised"] > 40
    assert at["noise", 0.1] > 35
    assert at["fgsm", 0.1] < at["noise", 0.1] - 5
    assert at["fgsm", 0.3] < 10


@pytest.mark.parametrize("example", ["adversarial-pytorch", "fgsm-tensorflow"])
def test_the_notebook_is_committed_without_outputs(example: str) -> None:
    assert_stripped(example)
