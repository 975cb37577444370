"""`decide` answers as KubeArmor's own code does, but where the linter says otherwise."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from modelarmor.policy.lint import entry_cost, lint

from . import drawn, enforcer

CODE_VARIABLE = "KUBEARMOR_CODE"
#: departures that no check of the linter is about, and `docs/kubearmor.md` is
_DOCUMENTED = {"own executable"}


@pytest.fixture(scope="module")
def recorded() -> dict[int, tuple[drawn.Case, enforcer.Answers]]:
    found = {}
    for seed, (digest, answers) in enforcer.recorded().items():
        case = drawn.case(seed)
        assert case.digest == digest, (
            f"seed {seed} no longer draws the case that was asked:"
            " run python -m tests.conformance.enforcer DIRECTORY --write"
        )
        found[seed] = case, answers
    return found


Recorded = dict[int, tuple[drawn.Case, enforcer.Answers]]


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


@pytest.mark.skipif(CODE_VARIABLE not in os.environ, reason=f"{CODE_VARIABLE} names no directory")
def test_kubearmors_code_still_answers_as_recorded(recorded: Recorded) -> None:
    with enforcer.enforcer(Path(os.environ[CODE_VARIABLE])) as real:
        for seed, (case, answers) in recorded.items():
            assert real.answers(case) == answers, seed


@pytest.mark.skipif(CODE_VARIABLE not in os.environ, reason=f"{CODE_VARIABLE} names no directory")
@pytest.mark.skipif(not shutil.which(enforcer.PARSER), reason=f"no {enforcer.PARSER} here")
def test_a_profile_that_apparmor_refuses_is_told(recorded: Recorded) -> None:
    refused = 0
    with enforcer.enforcer(Path(os.environ[CODE_VARIABLE])) as real:
        for seed in (*range(40), *range(500, 560)):
            case, _ = recorded[seed]
            why = enforcer.refused_by_apparmor(real.apparmor(case))
            refused += bool(why)
            told = {f.rule for f in lint(case.policies, posture=case.posture)}
            assert not why or told & {"MA113", "MA417"}, (seed, why)
    assert refused > 10
