"""A review as values: what the renderers show, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from modelarmor.generate.evidence import ArtifactFile, Evidence, Finding, Phase, Severity

#: ``clean``: it looked at everything that it should have, and has nothing to report
Standing = Literal["clean", "findings", "incomplete", "failed", "absent"]
Ability = Literal["exec", "read", "write", "network", "capabilities", "resources"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one voice says in total: a scanner, our own look at the files, or the recording."""

    name: str
    version: str = ""
    standing: Standing
    #: how many files it looked into; None where files are not what it looks at
    inspected: int | None = None
    #: findings by severity
    counts: Mapping[Severity, int]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Something that waits for the reviewer's decision."""

    severity: Severity
    what: str
    #: the part of the page that has the facts: an identifier of `SECTIONS`
    section: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One thing that the policy permits."""

    #: as the policy writes it: ``${MODEL}/``, ``tcp``
    subject: str
    #: in plain words: *the model*; empty where the subject says it all
    meaning: str = ""
    #: such as *and everything below*, *by the file's owner*
    limits: tuple[str, ...] = ()
    #: how many recorded operations rest on it; None where that cannot be recorded
    observed: int | None = None
    #: why it is there, as the generator says
    reason: str = ""
    policy: str = ""
    #: field of the document
    rule: str = ""

    @property
    def unobserved(self) -> bool:
        """Granted, and nothing that was recorded needed it."""
        return self.observed == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """What the policy permits of one kind."""

    ability: Ability
    #: one sentence: what happens to everything that is not granted by name
    otherwise: str
    #: whether anything at all is permitted beyond the grants
    open: bool
    grants: tuple[Grant, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Barrier:
    """What one policy document refuses whatever is granted elsewhere."""

    policy: str
    message: str
    severity: int
    tags: tuple[str, ...]
    subjects: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A recorded operation that the policy would refuse."""

    operation: str
    phases: tuple[Phase, ...]
    count: int
    why: str
    #: the generator refuses it on purpose although a benign load makes it
    expected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How far one phase of the recording came."""

    phase: Phase
    completed: bool
    #: distinct operations and how often they happened in all
    operations: int
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """One rule and why it is there."""

    policy: str
    rule: str
    action: str
    #: the rule in words
    says: str
    reason: str
    #: ``observed``, ``template``, ``finding`` or empty where no reason is given
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """A file that is not what it was."""

    path: str
    change: Literal["added", "removed", "changed"]
    before: ArtifactFile | None = None
    after: ArtifactFile | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What differs from the version that was approved before."""

    #: that version's source and digests
    source: str
    artifact_digest: str
    evidence_digest: str
    same_bytes: bool
    same_policy: bool
    files: tuple[FileChange, ...]
    #: what the policy permits now and did not, the reverse, and what is reported otherwise
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    reported: tuple[str, ...]
    #: flavour, network, resources, requirements: name, before, after
    facts: tuple[tuple[str, str, str], ...]
    new_findings: tuple[Finding, ...]
    gone_findings: tuple[Finding, ...]
    #: why the policies could not be compared, if they could not
    problem: str = ""

    def __bool__(self) -> bool:
        return bool(
            self.files or self.gained or self.lost or self.reported or self.facts
            or self.new_findings or self.gone_findings or self.problem
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """Everything that a reviewer is shown."""

    evidence: Evidence
    verdicts: tuple[Verdict, ...]
    #: worst first
    points: tuple[Point, ...]
    capabilities: tuple[Capability, ...]
    barriers: tuple[Barrier, ...]
    refusals: tuple[Refusal, ...]
    coverage: tuple[Coverage, ...]
    reasons: tuple[Why, ...]
    #: None where there is no earlier version to compare with
    changes: Changes | None = None

    @property
    def worst(self) -> Severity | None:
        """The worst severity of what waits for a decision."""
        return self.points[0].severity if self.points else None
