"""Hostile models do harm where nobody holds them, and none under a clean model's policy."""

from __future__ import annotations

import pytest

from modelarmor.sandbox.probe import probe

from .carriers import CARRIERS, Carrier
from .trial import Trial, due, run_clean, run_confined, run_free, trials

pytestmark = [
    pytest.mark.timeout(300),
    # Frameworks warn about their own formats when they write a model.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        not probe().can_confine, reason="nothing can be confined here: modelarmor doctor"
    ),
]
_CLEAN = {carrier.clean: carrier for carrier in CARRIERS.values()}.values()


def _missing(carrier: Carrier) -> None:
    if missing := Trial(carrier, next(iter(trials())).action).missing:
        pytest.skip(f"{missing} is not installed")


def test_there_are_enough_trials_of_every_format() -> None:
    every = trials()
    assert len(every) >= 40
    assert {trial.carrier.name for trial in every} == set(CARRIERS)
    assert len({trial.name for trial in every}) == len(every)


@pytest.mark.parametrize("carrier", _CLEAN, ids=lambda carrier: carrier.name)
def test_a_clean_model_works_under_the_policy_that_was_made_for_it(carrier: Carrier) -> None:
    _missing(carrier)
    outcome, surprising = run_clean(carrier)
    assert outcome.status == 0, outcome.errors
    assert not [(a.Operation, a.Resource, a.PolicyName) for a in surprising]


@pytest.mark.parametrize("trial", trials(), ids=lambda trial: trial.name)
def test_a_hostile_model_is_contained_and_told_of(trial: Trial) -> None:
    _missing(trial.carrier)
    free = run_free(trial)
    assert free.effect, f"without the sandbox it should do harm: {free.errors[-2000:]}"
    confined = run_confined(trial)
    assert not confined.effect
    told = [(a.Operation, a.Resource, a.PolicyName) for a in confined.alerts]
    if trial.action.silent:
        assert "Operation not permitted" in confined.errors, trial.action.silent
    else:
        assert due(trial, confined), told
