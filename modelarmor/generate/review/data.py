"""A review as JSON; ``schema.json`` beside this file says what is in it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final

from modelarmor.generate.evidence import Finding, Robustness

from .model import Changes, FileChange, Review
from .policies import Policies

#: grows when a reader of the previous version would misread the document
FORMAT: Final = 1


def as_json(review: Review) -> str:
    """The review as one JSON document, ASCII only: the same bytes for the same facts."""
    return json.dumps(as_data(review), indent=2, ensure_ascii=True) + "\n"


def as_data(review: Review) -> dict[str, Any]:
    """The review as plain data, for ``json.dumps``."""
    evidence = review.evidence
    artifact, observation = evidence.artifact, evidence.observation
    policies = Policies.of(evidence)
    return {
        "format": FORMAT,
        "generator": evidence.generator,
        "artifact": {
            "source": artifact.source,
            "flavour": artifact.flavour,
            "flavours": list(artifact.flavours),
            "loader": artifact.loader,
            "digest": artifact.digest,
            "size": artifact.size,
            "files": [asdict(file) for file in artifact.files],
            "requirements": list(artifact.requirements),
        },
        "evidence_digest": evidence.digest,
        "policy_digest": evidence.policy_digest,
        "worst": review.worst,
        "points": [asdict(point) for point in review.points],
        "verdicts": [asdict(verdict) for verdict in review.verdicts],
        "findings": [_finding(finding) for finding in evidence.findings],
        "uninspected": list(evidence.scan.uninspected),
        "capabilities": [
            {**asdict(capability), "grants": [
                {**asdict(grant), "unobserved": grant.unobserved} for grant in capability.grants
            ]}
            for capability in review.capabilities
        ],
        "barriers": [asdict(barrier) for barrier in review.barriers],
        "egress": policies.egress.to_json(),
        "resources": dict(evidence.resources),
        "refusals": [asdict(refusal) for refusal in review.refusals],
        "coverage": {
            "phases": [asdict(phase) for phase in review.coverage],
            "input": observation.input if observation else "",
            "predictions": observation.predictions if observation else 0,
            "unlisted": observation.unlisted if observation else 0,
            "error": observation.error if observation else "",
            "usage": asdict(observation.usage) if observation else None,
        },
        "robustness": _robustness(evidence.robustness),
        "reasons": [asdict(why) for why in review.reasons],
        "changes": _changes(review.changes),
    }  # fmt: skip


def _finding(finding: Finding) -> dict[str, Any]:
    return {**asdict(finding), "fingerprint": finding.fingerprint}


def _robustness(robustness: Robustness | None) -> dict[str, Any] | None:
    if robustness is None:
        return None
    body = asdict(robustness)
    for measure, row in zip(robustness.measures, body["measures"], strict=True):
        row["accuracy"] = measure.accuracy
    return {**body, "accuracy": robustness.accuracy}


def _changes(changes: Changes | None) -> dict[str, Any] | None:
    if changes is None:
        return None
    return {
        "against": {
            "source": changes.source,
            "artifact_digest": changes.artifact_digest,
            "evidence_digest": changes.evidence_digest,
        },
        "same_bytes": changes.same_bytes,
        "same_policy": changes.same_policy,
        "files": [_file(file) for file in changes.files],
        "gained": list(changes.gained),
        "lost": list(changes.lost),
        "reported": list(changes.reported),
        "facts": [
            {"name": name, "before": before, "after": after}
            for name, before, after in changes.facts
        ],
        "new_findings": [_finding(finding) for finding in changes.new_findings],
        "gone_findings": [_finding(finding) for finding in changes.gone_findings],
        "problem": changes.problem,
    }


def _file(file: FileChange) -> dict[str, Any]:
    return {
        "path": file.path,
        "change": file.change,
        "before": file.before.sha256 if file.before else None,
        "after": file.after.sha256 if file.after else None,
    }
