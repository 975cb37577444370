"""Hostile models do harm where nobody holds them, and none under a clean model's policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
#: libraries that take long to start
_SLOW = {"keras", "tensorflow", "transformers"}


def _clean() -> Iterator[Any]:
    for carrier in _CLEAN:
        slow = _SLOW & set(carrier.modules)
        yield pytest.param(carrier, id=carrier.name, marks=pytest.mark.thorough if slow else ())


def _trials() -> Iterator[Any]:
    """Every harm in a plain pickle, and one in each other format; the rest with --thorough."""
    seen: set[str] = set()
    for trial in trials():
        carrier = trial.carrier
        first = carrier.name == "pickle, exec" or carrier.name not in seen
        usual = first and not _SLOW & set(carrier.modules)
        seen.add(carrier.name)
        yield pytest.param(trial, id=trial.name, marks=() if usual else pytest.mark.thorough)


def _missing(carrier: Carrier) -> None:
    if missing := Trial(carrier, next(iter(trials())).action).missing:
        pytest.skip(f"{missing} is not installed")


def test_there_are_enough_trials_of_every_format() -> None:
    every = trials()
    assert len(every) >= 40
    assert {trial.carrier.name for trial in every} == set(CARRIERS)
    assert len({trial.name for trial in every}) == len(every)


@pytest.mark.parametrize("carrier", [*_clean()])
def test_a_clean_model_works_under_the_policy_that_was_made_for_it(carrier: Carrier) -> None:
    _missing(carrier)
    outcome, surprising = run_clean(carrier)
    assert outcome.status == 0, outcome.errors
    assert not [(a.Operation, a.Resource, a.PolicyName) for a in surprising]


@pytest.mark.parametrize("trial", [*_trials()])
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
