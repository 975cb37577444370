"""A model in, everything that is known of it out, and the policy that follows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelarmor import __version__
from modelarmor.generate.artifact import Model, Progress, open_model
from modelarmor.generate.evidence import Evidence, Finding, Observation
from modelarmor.generate.observe import observe
from modelarmor.generate.scan import scan
from modelarmor.generate.synthesize import synthesize


def generate(
    source: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    run: bool = True,
    input: Any = None,
    timeout: float = 300.0,
    predictions: int = 3,
    prefix: Path | None = None,
    gpu: bool | None = None,
) -> Evidence:
    """Look at a model, watch it load and predict, and write its policy.

    Args:
        source: a file, a directory or an address of MLflow's.
        progress: told what is being done.
        run: whether the model is run; without it the policy is the template for any model.
        input: what to ask it (`modelarmor.generate.observe.observe`).
        timeout: seconds for running it.
        predictions: how often it is asked.
        prefix: the Python environment that loads it; the one that runs this program if left out.
        gpu: whether it may use an accelerator; if left out, whether it looked for one.

    Raises:
        ArtifactError: there is no such model.
        ProfileError: the model lies where its directory would grant the home directory.
    """
    with open_model(source, progress=progress) as model:
        looked = scan(model.root, model.artifact, progress=progress)
        observation = None
        if run:
            observation = _observed(
                model, input, progress, timeout=timeout, predictions=predictions, prefix=prefix
            )
        artifact = model.artifact
    draft = synthesize(artifact, looked, observation, gpu=gpu)
    if observation is not None:
        observation = _with_findings(observation, draft.findings)
    return Evidence(
        artifact=artifact,
        scan=looked,
        observation=observation,
        policy=draft.policy,
        network=draft.network,
        resources=draft.resources,
        reasons=draft.reasons,
        expected_denials=draft.expected_denials,
        generator=__version__,
    )


def _observed(model: Model, given: Any, progress: Progress | None, **options: Any) -> Observation:
    """What it did; or, where this machine cannot confine it, that nobody dared to run it."""
    from modelarmor.sandbox.process import CannotConfine

    try:
        return observe(model, input=given, progress=progress, **options)
    except CannotConfine as error:
        return Observation(
            findings=(
                Finding(
                    rule="not-observed",
                    severity="medium",
                    title="It was not run, since this machine cannot confine it",
                    detail=str(error)[:1000],
                    source="observation",
                ),
            ),
            error=str(error)[:1000],
        )


def _with_findings(observation: Observation, more: Sequence[Finding]) -> Observation:
    return replace(observation, findings=(*observation.findings, *more))
