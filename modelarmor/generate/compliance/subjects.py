"""What can be assessed: evidence, or policies as files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from modelarmor import profiles
from modelarmor.generate.evidence import Evidence
from modelarmor.generate.review.policies import Policies, placed
from modelarmor.policy import document
from modelarmor.policy.model import Policy
from modelarmor.sandbox.network import Egress

from .assess import Subject, placed_at

_MAX_BYTES: Final = 4 << 20


def of_evidence(evidence: Evidence) -> Subject:
    """Evidence with its policy, network and resources.

    Raises:
        ValueError: a part of it cannot be read, so nothing could be said for certain.
    """
    policies = Policies.of(evidence)
    if policies.problems:
        raise ValueError(f"{evidence.artifact.source!r:.80}: {'; '.join(policies.problems)}")
    return Subject(
        name=evidence.artifact.source,
        policies=policies.policies,
        posture=policies.posture,
        egress=policies.egress if policies.has_network else None,
        resources=policies.resources,
        evidence=evidence,
        filled=_here(evidence.policy),
    )


def of_policies(
    paths: Sequence[Path], *, network: Path | None = None, places: Mapping[str, str] | None = None
) -> Subject:
    """Policies as they lie in files, all of one workload.

    Args:
        paths: YAML files, or directories of them.
        network: the NetworkPolicy beside them; without one nothing counts as unreachable.
        places: template name (``MODEL``) -> the directory that the policies mean by it.

    Raises:
        ValueError: a file is no policy, or a place is not absolute.
    """
    for name, place in (places or {}).items():
        if not place.startswith("/"):
            raise ValueError(f"--{name.lower()} {place}: give the absolute path")
    subject = Subject(
        name=", ".join(map(str, paths)),
        policies=_load(paths),
        egress=Egress.from_network_policy(network) if network else None,
    )
    if not subject.policies:
        raise ValueError(f"{subject.name}: there is no policy in it")
    return placed_at(subject, places or {})


def _load(paths: Sequence[Path]) -> list[Policy]:
    """Policies of files and directories, with or without templates."""
    found: list[Policy] = []
    problems: list[document.Problem] = []
    for file in document.files(paths, problems):
        with file.open("rb") as stream:
            text = stream.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ValueError(f"{file}: is larger than {_MAX_BYTES >> 20} MiB")
        found += document.load(placed(text.decode("utf-8", "replace")), name=str(file))
    if problems:
        raise document.PolicyError(problems)
    return found


def _here(text: str) -> tuple[Policy, ...]:
    """The policies as they would be on this machine, for the planner, which looks at directories.

    Scratch and model are made for each workload, so these stand for what they will be.
    """
    try:
        return profiles.fill(
            text, name="policy", workspace=Path("/workspace"), home=Path.home(),
            tmp=Path("/scratch"), prefix=Path(sys.prefix), model=Path("/model"),
        )  # fmt: skip
    except profiles.ProfileError:  # no place for it on this machine; tiers are told without one
        return ()
