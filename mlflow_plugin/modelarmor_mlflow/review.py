"""What signed statements are worth: is this version approved, and what is missing if not.

The one place where that is decided: the gate asks it before a promotion, the report for what was
promoted, and serving before a model is started. It reads no tag and no database.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelarmor.generate.evidence import SEVERITIES, Finding, Severity

from . import names, statements
from .settings import Settings
from .statements import Signed, Statement, StatementError, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """What of a finding an approval must answer for."""

    fingerprint: str
    severity: Severity
    title: str
    location: str = ""

    @classmethod
    def of(cls, finding: Finding) -> Concern:
        """What is kept of `finding`."""
        return cls(
            fingerprint=finding.fingerprint,
            severity=finding.severity,
            title=finding.title[:300],
            location=finding.location[:300],
        )

    @classmethod
    def from_json(cls, value: Any) -> Concern:
        """Read what was kept; anything unexpected raises ValueError."""
        concern = cls(**{key: str(text) for key, text in value.items()})  # type: ignore[arg-type]
        if concern.severity not in SEVERITIES:
            raise ValueError(f"{concern.severity!r} is no severity")
        return concern


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a version is approved."""

    #: the reviewers whose approvals count, in the order in which they signed
    approved_by: tuple[str, ...] = ()
    #: one sentence each; empty: it is approved
    missing: tuple[str, ...] = ()
    #: ``approved``, ``rejected``, ``revoked`` or ``unreviewed``
    state: str = "unreviewed"
    #: identifiers of the statements that count
    statements: tuple[str, ...] = ()

    @property
    def approved(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing


def evaluate(
    subject: Subject,
    signed: Sequence[Signed],
    *,
    concerns: Iterable[Concern],
    authors: frozenset[str],
    settings: Settings,
    now: float,
) -> Verdict:
    """Decide on one version.

    Args:
        subject: the version as it is now: the digests of its bytes, policy and evidence.
        signed: every verified statement about the same bytes, oldest first.
        concerns: the findings of the evidence.
        authors: what MLflow calls those who made the version.
        settings: quorum, thresholds.
        now: seconds since 1970.
    """
    severe = [concern for concern in concerns if settings.is_severe(concern.severity)]
    about = [item.statement for item in signed if _is_about(item.statement, subject)]
    if about and about[-1].decision != "approve":
        last = about[-1]
        word = "rejected" if last.decision == "reject" else "revoked"
        told = f"{word} by {last.reviewer}: {last.reason}"
        return Verdict(state=word, missing=(told,))
    counted: dict[str, Signed] = {}
    why_not: list[str] = []
    for item in _standing(signed):
        if not _covers(item.statement, subject):
            continue
        if reason := _objection(item, subject, severe, authors, now):
            why_not.append(reason)
        else:
            counted[names.fold(item.reviewer.name)] = item
    if len(counted) >= settings.quorum:
        return Verdict(
            state="approved",
            approved_by=tuple(item.reviewer.name for item in counted.values()),
            statements=tuple(item.identifier for item in counted.values()),
        )
    return Verdict(
        missing=(
            *_lacking(len(counted), settings),
            *why_not,
            *(() if counted or why_not else _unwaived(severe)),
        )
    )


def relevant(envelopes: Iterable[str], subject: Subject) -> list[str]:
    """Those of the envelopes about the same bytes that say something of this version.

    Its own, and where another version was approved under this name too, everything that was said
    of that one: it may have been taken back.

    Raises:
        StatementError: one is none of ours.
    """
    told = [(text, statements.read(text)[0]) for text in envelopes]
    versions = {
        _version(statement)
        for _, statement in told
        if _is_about(statement, subject) or subject.model in statement.names
    }
    return [text for text, statement in told if _version(statement) in versions]


def own(envelopes: Iterable[str], subject: Subject) -> list[Statement]:
    """The statements that are about this version itself."""
    told = (statements.read(text)[0] for text in envelopes)
    return [statement for statement in told if _is_about(statement, subject)]


def refusal(statement: Statement, verdict_concerns: Iterable[Concern], settings: Settings) -> str:
    """Why an approval may not even be recorded: the severe findings that it leaves unanswered."""
    waived = {waiver.finding for waiver in statement.waivers}
    left = [
        concern
        for concern in verdict_concerns
        if settings.is_severe(concern.severity) and concern.fingerprint not in waived
    ]
    return "; ".join(_unwaived(left))


def check_submission(statement: Statement, settings: Settings, now: float) -> None:
    """Refuse a statement whose times cannot be meant.

    Raises:
        StatementError: it was signed at another time than now, or holds too long.
    """
    if abs(statement.time - now) > settings.clock_skew:
        raise StatementError(
            f"it was signed {abs(statement.time - now):.0f} s"
            f" {'ago' if statement.time < now else 'in the future'}; sign it anew, and check the"
            " clock"
        )
    longest = statement.time + settings.approval_days * 86400
    for what, expires in (
        ("the approval", statement.expires),
        *((f"the waiver of {waiver.finding}", waiver.expires) for waiver in statement.waivers),
    ):
        if expires <= now:
            raise StatementError(f"{what} has expired already")
        if expires > longest:
            raise StatementError(
                f"{what} holds longer than the {settings.approval_days} days that this registry"
                f" allows; say that it ends by {_day(longest)} (--expires)"
            )


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _is_about(statement: Statement, subject: Subject) -> bool:
    told = statement.subject
    return (told.registry, told.workspace, told.model, told.version, told.created) == (
        subject.registry, subject.workspace, subject.model, subject.version, subject.created,
    )  # fmt: skip


def _version(statement: Statement) -> tuple[str, int, int]:
    about = statement.subject
    return about.model, about.version, about.created


def _standing(signed: Sequence[Signed]) -> list[Signed]:
    """The approvals after which nobody rejected or revoked what they approve."""
    standing: dict[tuple[str, int, int], list[Signed]] = {}
    for item in signed:
        place = standing.setdefault(_version(item.statement), [])
        if item.statement.decision == "approve":
            place.append(item)
        else:
            place.clear()
    return [item for place in standing.values() for item in place]


def _covers(statement: Statement, subject: Subject) -> bool:
    """Whether a statement speaks of these bytes under this name."""
    told = statement.subject
    if (told.registry, told.workspace, told.artifact) != (
        subject.registry, subject.workspace, subject.artifact,
    ):  # fmt: skip
        return False
    return _is_about(statement, subject) or subject.model in statement.names


def _objection(
    item: Signed,
    subject: Subject,
    severe: Iterable[Concern],
    authors: frozenset[str],
    now: float,
) -> str:
    """Why an approval does not count; empty where it does."""
    statement = item.statement
    who = f"the approval of {item.reviewer.name}"
    if statement.expires <= now:
        return f"{who} has expired"
    if statement.subject.policy != subject.policy:
        return f"{who} is for another policy"
    if statement.subject.evidence != subject.evidence:
        return f"{who} rests on other evidence"
    if item.reviewer.is_any_of(authors):
        return f"{who} does not count, as it is the author's own"
    waived = {waiver.finding for waiver in statement.waivers if waiver.expires > now}
    left = [concern for concern in severe if concern.fingerprint not in waived]
    return f"{who} leaves findings unanswered: {'; '.join(_unwaived(left))}" if left else ""


def _lacking(count: int, settings: Settings) -> list[str]:
    lacking = settings.quorum - count
    told = f"{lacking} more approval{'s' if lacking > 1 else ''}"
    if settings.quorum > 1:
        told += f" of {settings.quorum}"
    if not settings.reviewers:
        return [f"{told}, and nobody is trusted to give one (modelarmor keys trust)"]
    return [told]


def _unwaived(concerns: Sequence[Concern]) -> list[str]:
    told = [
        f"finding {concern.fingerprint} ({concern.severity}) needs a waiver: {concern.title}"
        for concern in concerns[:5]
    ]
    if len(concerns) > 5:
        told.append(f"{len(concerns) - 5} more findings need one")
    return told
