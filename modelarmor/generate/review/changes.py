"""What differs between two versions of a model: bytes, policy and findings."""

from __future__ import annotations

from collections.abc import Iterator

from modelarmor.generate.evidence import Evidence
from modelarmor.policy.diff import diff

from .model import Changes, FileChange
from .policies import Policies
from .words import path_as_written


def changes(before: Evidence, after: Evidence, was: Policies, now: Policies) -> Changes:
    """Compare what was approved with what is asked for.

    Args:
        before: the evidence of the version that was approved.
        after: that of the version under review.
        was: the former's policy.
        now: the latter's.
    """
    gained: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    reported: tuple[str, ...] = ()
    problem = "; ".join(was.problems)
    try:
        found = diff(was.policies, now.policies, was.posture, now.posture)
    except ValueError as error:
        problem = "; ".join(filter(None, (problem, str(error))))
    else:
        gained, lost, reported = (
            tuple(_readable(str(change)) for change in side)
            for side in (found.gained, found.lost, found.changed_report)
        )
    known_before = {finding.fingerprint for finding in before.findings}
    known_after = {finding.fingerprint for finding in after.findings}
    return Changes(
        source=before.artifact.source,
        artifact_digest=before.artifact.digest,
        evidence_digest=before.digest,
        same_bytes=bool(after.artifact.digest) and before.artifact.digest == after.artifact.digest,
        same_policy=before.policy_digest == after.policy_digest,
        files=tuple(_files(before, after)),
        gained=gained,
        lost=lost,
        reported=reported,
        facts=tuple(_facts(before, after, was, now)),
        new_findings=tuple(f for f in after.findings if f.fingerprint not in known_before),
        gone_findings=tuple(f for f in before.findings if f.fingerprint not in known_after),
        problem=problem,
    )


def _readable(change: str) -> str:
    return path_as_written(change.replace(" /${", " ${"))


def _files(before: Evidence, after: Evidence) -> Iterator[FileChange]:
    old = {file.path: file for file in before.artifact.files}
    new = {file.path: file for file in after.artifact.files}
    for path in sorted(old.keys() | new.keys()):
        was, now = old.get(path), new.get(path)
        if was is None:
            yield FileChange(path=path, change="added", after=now)
        elif now is None:
            yield FileChange(path=path, change="removed", before=was)
        elif was.sha256 != now.sha256:
            yield FileChange(path=path, change="changed", before=was, after=now)


def _facts(
    before: Evidence, after: Evidence, was: Policies, now: Policies
) -> Iterator[tuple[str, str, str]]:
    pairs = [
        ("flavour", before.artifact.flavour, after.artifact.flavour),
        ("loader", before.artifact.loader, after.artifact.loader),
        ("network", _egress(was), _egress(now)),
        *(
            (
                f"limit of {name}",
                before.resources.get(name, ""),
                after.resources.get(name, ""),
            )
            for name in sorted({*before.resources, *after.resources})
        ),
        *_requirements(before.artifact.requirements, after.artifact.requirements),
    ]
    for name, old, new in pairs:
        if old != new:
            yield name, old or "none", new or "none"


def _egress(policies: Policies) -> str:
    if not policies.has_network:
        return "not limited"
    if policies.egress.is_none:
        return "no egress"
    return "; ".join(
        " ".join(
            (
                rule["cidr"] or "any address",
                *(f"not {hole}" for hole in rule["except"]),
                *(f"{protocol} {first}-{last}" for protocol, first, last in rule["ports"]),
            )
        )
        for rule in policies.egress.to_json()
    )


def _requirements(old: tuple[str, ...], new: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    for line in sorted({*old, *new} - ({*old} & {*new})):
        yield "requirement", line if line in old else "none", line if line in new else "none"
