"""A robustness that somebody demands of a model, measured when its evidence is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from modelarmor.generate.artifact import ArtifactError, Progress
from modelarmor.generate.evidence import Evidence, Robustness
from modelarmor.redteam import data
from modelarmor.redteam.measure import Options, RedTeamError, measure
from modelarmor.sandbox import CannotConfine


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a model has to bear.

    Attributes:
        data: labelled inputs (`modelarmor.redteam.data.read`).
        epsilon, least_accuracy: so much of them it has to recognise, each changed by so much.
        samples: how many inputs are drawn.
        seconds: for measuring it.
    """

    data: Path
    epsilon: float
    least_accuracy: float
    samples: int = 200
    seconds: float = 600.0


def answered(
    evidence: Evidence, model: Path, demand: Demand, progress: Progress | None = None
) -> Evidence:
    """The evidence with what was measured, or with why nothing could be: that is a finding too.

    Args:
        evidence: of the model; its policy confines the model meanwhile.
        model: its files.
        demand: what is asked for.
        progress: told what is being done.
    """
    options = Options(
        epsilon=demand.epsilon, least_accuracy=demand.least_accuracy, seconds=demand.seconds
    )
    try:
        given = data.read(demand.data, samples=demand.samples)
        report = measure(model, given, options, evidence=evidence, progress=progress)
        return replace(evidence, robustness=report.robustness)
    except (RedTeamError, data.DataError, ArtifactError, CannotConfine, OSError) as error:
        told = Robustness(
            data="",
            samples=0,
            recognised=0,
            least_accuracy=demand.least_accuracy,
            epsilon=demand.epsilon,
            error=str(error)[:1000] or type(error).__name__,
        )
        return replace(evidence, robustness=told)
