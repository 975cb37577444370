"""What docs/redteam.md says of the guard holds: the figures' order, not the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelarmor.redteam import measure
from tests.redteam.guard import Subject, drip, inputs


@pytest.mark.timeout(300)
def test_the_guard_refuses_what_is_no_input_and_not_what_is_crafted_within(tmp_path: Path) -> None:
    subject = Subject(tmp_path)
    options = measure.Options(attacks=("noise", "fgsm"), epsilons=(0.1,))
    report = measure.measure(subject.model, subject.given, options)
    sent = {name: (rows, labels) for name, rows, labels in inputs(subject, report)}
    refused = {name: subject.refused(rows) for name, (rows, _) in sent.items()}
    assert refused["digits that the model has not seen (false alarms)"] < 0.05
    assert refused["anything: each pixel drawn by chance"] == 1
    assert refused["one pixel of 64 set to 1e6"] == 1
    crafted = "fgsm, ε 0.1, cut to the guard's ranges"
    assert refused[crafted] == 0
    assert subject.recognised(*sent[crafted]) < subject.recognised(
        *sent["digits that the model has not seen (false alarms)"]
    )


def test_a_rate_slows_an_attack_and_does_not_notice_a_patient_one() -> None:
    assert drip(1, 20, 1000) > 0.9
    assert drip(1, 0.9, 1000) == 0
