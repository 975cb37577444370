"""`decide` answers as KubeArmor's own code does, but where the linter says otherwise."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from modelarmor.policy.lint import entry_cost

from . import enforcer

_VARIABLE = "KUBEARMOR_CODE"
#: departures that no check of the linter is about, and `docs/kubearmor.md` is
_DOCUMENTED = {"own executable", "seqpacket is sctp"}


@pytest.fixture(scope="module")
def recorded() -> dict[int, tuple[enforcer.Case, enforcer.Answers]]:
    found = {}
    for seed, (digest, answers) in enforcer.recorded().items():
        case = enforcer.case(seed)
        assert case.digest == digest, (
            f"seed {seed} no longer draws the case that was asked:"
            " run python -m tests.conformance.enforcer DIRECTORY --write"
        )
        found[seed] = case, answers
    return found


Recorded = dict[int, tuple[enforcer.Case, enforcer.Answers]]


def test_verdicts_differ_only_where_a_check_or_the_page_says_so(recorded: Recorded) -> None:
    left = [
        (seed, difference)
        for seed, (case, answers) in recorded.items()
        for difference in enforcer.differences(case, answers)
        if not difference.reason
    ]
    assert not left


def test_entries_are_counted_as_kubearmor_fills_its_map(recorded: Recorded) -> None:
    for seed, (case, answers) in recorded.items():
        assert entry_cost(case.policies) == answers.entries, seed


def test_an_answer_that_no_rule_gives_is_not_explained(recorded: Recorded) -> None:
    case, answers = recorded[min(recorded)]
    turned = tuple(not refused for refused in answers.refused)
    found = enforcer.differences(case, replace(answers, refused=turned))
    assert any(not difference.reason for difference in found)


def test_what_the_page_documents_occurs_in_what_was_recorded(recorded: Recorded) -> None:
    reasons = {
        difference.reason
        for case, answers in recorded.values()
        for difference in enforcer.differences(case, answers)
    }
    assert reasons > _DOCUMENTED


@pytest.mark.skipif(_VARIABLE not in os.environ, reason=f"{_VARIABLE} names no directory")
def test_kubearmors_code_still_answers_as_recorded(recorded: Recorded) -> None:
    with enforcer.enforcer(Path(os.environ[_VARIABLE])) as real:
        for seed, (case, answers) in recorded.items():
            assert real.answers(case) == answers, seed
