"""What docs/redteam.md says of the guard holds: the figures' order, not the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelarmor.redteam import measure
from tests.redteam.guard import TRAINED, Subject, asked, drip, inputs, probing


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


@pytest.mark.timeout(300)
def test_an_attack_that_asks_is_noticed_as_probing_and_others_are_not(tmp_path: Path) -> None:
    pytest.importorskip("art")
    subject = Subject(tmp_path)
    queries = asked(subject, 0, steps=2)
    refused, first = probing(subject, queries)
    assert refused > 0.8
    assert 20 < first < 200
    assert probing(subject, subject.inputs[TRAINED:])[0] < 0.01
    # What the page says of who hides among others, or has many addresses.
    assert probing(subject, queries, others=5)[0] == 0
    assert probing(subject, queries, each=20)[0] == 0
