"""A review for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

from modelarmor.generate.evidence import Finding, Severity
from modelarmor.visible import visible

from .model import Capability, Changes, Grant, Review, Verdict
from .robustness import table
from .words import number, size

_WIDTH: Final = 100
#: entries of one list that are shown; the JSON has all
_SHOWN: Final = 40
_COLOURS: Final[dict[str, str]] = {
    "critical": "\033[1;31m", "high": "\033[31m", "medium": "\033[33m", "low": "\033[36m",
    "info": "\033[2m", "clean": "\033[32m", "findings": "\033[33m", "incomplete": "\033[33m",
    "failed": "\033[31m", "absent": "\033[2m",
}  # fmt: skip
_T = TypeVar("_T")

_BOLD: Final = "\033[1m"
_RESET: Final = "\033[0m"
_TITLES: Final = {
    "exec": "run programs", "read": "read files", "write": "write files", "network": "network",
    "capabilities": "privileges", "resources": "resources",
}  # fmt: skip


def as_text(review: Review, *, colour: bool = False) -> str:
    """The review for people, about a screen or two.

    What comes from the model is made visible first, so nothing of it can command the terminal.

    Args:
        review: what to show.
        colour: whether to mark severities by terminal escapes of our own.
    """
    return "\n".join(_Text(colour).lines(review)) + "\n"


class _Text:
    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def lines(self, review: Review) -> Iterator[str]:
        yield from self._head(review)
        yield from self._points(review)
        yield from self._verdicts(review.verdicts)
        yield from self._findings(review.evidence.findings)
        for capability in review.capabilities:
            yield from self._capability(capability)
        yield from self._barriers(review)
        if review.changes is not None:
            yield from self._changes(review.changes)
        yield from self._refusals(review)
        yield from self._coverage(review)
        yield from self._robustness(review)
        yield from self._reasons(review)

    def _head(self, review: Review) -> Iterator[str]:
        evidence = review.evidence
        artifact = evidence.artifact
        yield self._paint(f"Review of {visible(artifact.source)}", _BOLD)
        loader = f", loaded by {visible(artifact.loader)}" if artifact.loader else ""
        yield (
            f"  {visible(artifact.flavour)}{loader}; {number(len(artifact.files), 'file')},"
            f" {size(artifact.size)}"
        )
        yield f"  model     {visible(artifact.digest) or 'no digest'}"
        yield f"  policy    {evidence.policy_digest}"
        yield f"  evidence  {evidence.digest}"

    def _points(self, review: Review) -> Iterator[str]:
        yield from self._title("Before you approve")
        if not review.points:
            yield "  Nothing was found that waits for a decision. That is not a proof of safety."
        for point in _some(review.points):
            yield from self._item(self._severity(point.severity), point.what)
        yield from _more(review.points)

    def _verdicts(self, verdicts: Iterable[Verdict]) -> Iterator[str]:
        yield from self._title("Who looked, and what they say")
        for verdict in verdicts:
            name = visible(" ".join(filter(None, (verdict.name, verdict.version))))
            says = self._paint(_standing(verdict), _COLOURS[verdict.standing])
            looked = number(verdict.inspected, "file") if verdict.inspected else ""
            facts = ", ".join(filter(None, (looked, visible(verdict.note))))
            yield f"  {name:<24} {says}" + (f"  ({facts})" if facts else "")

    def _findings(self, findings: Sequence[Finding]) -> Iterator[str]:
        yield from self._title(f"Findings ({len(findings)})")
        if not findings:
            yield "  None."
        for finding in _some(findings):
            facts = [finding.source, finding.rule, *finding.techniques]
            where = f"  {visible(finding.location)}" if finding.location else ""
            yield from self._item(self._severity(finding.severity), finding.title)
            yield f"           {visible(', '.join(facts))}{where}"
            if finding.detail:
                yield from _wrapped(finding.detail, 11)
        yield from _more(findings)

    def _capability(self, capability: Capability) -> Iterator[str]:
        yield from self._title(f"May: {_TITLES[capability.ability]}")
        used = [grant for grant in capability.grants if not grant.unobserved]
        used.sort(key=lambda grant: -(grant.observed or 0))
        for grant in _some(used):
            times = f" [used {number(grant.observed, 'time')}]" if grant.observed else ""
            yield from _wrapped(_grant(grant) + times, 2)
        yield from _more(used)
        if idle := [_grant(grant) for grant in capability.grants if grant.unobserved]:
            mark = self._paint("granted but never observed:", _COLOURS["medium"])
            more = [f"and {len(idle) - _SHOWN} more"] if len(idle) > _SHOWN else []
            yield f"  {mark}"
            yield from _wrapped("; ".join([*idle[:_SHOWN], *more]), 6)
        otherwise = visible(capability.otherwise)
        yield "  " + (self._paint(otherwise, _COLOURS["high"]) if capability.open else otherwise)

    def _barriers(self, review: Review) -> Iterator[str]:
        yield from self._title("Refused whatever is granted")
        if not review.barriers:
            yield "  Nothing is refused by name."
        for barrier in review.barriers:
            subjects = ", ".join(barrier.subjects[:6])
            more = len(barrier.subjects) - 6
            text = f"{barrier.message or barrier.policy}: {subjects}"
            yield from _wrapped(text + (f" and {more} more" if more > 0 else ""), 2)

    def _changes(self, changes: Changes) -> Iterator[str]:
        yield from self._title(f"Changed since {visible(changes.source)}")
        if not changes:
            yield "  Nothing: the same bytes and a policy that decides the same."
        if changes.problem:
            yield from _wrapped(f"The policies could not be compared: {changes.problem}", 2)
        for mark, lines in (("+", changes.gained), ("-", changes.lost), ("~", changes.reported)):
            for line in _some(lines):
                yield from _wrapped(f"{mark} {line}", 2)
            yield from _more(lines)
        for name, before, after in changes.facts:
            yield from _wrapped(f"* {name}: {before} -> {after}", 2)
        for file in _some(changes.files):
            yield f"  * file {file.change}: {visible(file.path)}"
        yield from _more(changes.files)
        for word, found in (("new", changes.new_findings), ("gone", changes.gone_findings)):
            for finding in _some(found):
                yield from _wrapped(f"* {word} finding: {finding.severity}: {finding.title}", 2)

    def _refusals(self, review: Review) -> Iterator[str]:
        yield from self._title("Recorded operations that the policy would refuse")
        if review.evidence.observation is None:
            yield "  Not known: the model was not run."
        elif not review.refusals:
            yield "  None."
        for expected, heading in ((False, ""), (True, "  Expected, refused on purpose:")):
            chosen = [refusal for refusal in review.refusals if refusal.expected is expected]
            if chosen and heading:
                yield heading
            for refusal in _some(chosen):
                times = f"{number(refusal.count, 'time')} during {' and '.join(refusal.phases)}"
                yield from _wrapped(f"{refusal.operation} ({times}): {refusal.why}", 2)
            yield from _more(chosen)

    def _coverage(self, review: Review) -> Iterator[str]:
        yield from self._title("What was recorded")
        observation = review.evidence.observation
        for phase in review.coverage:
            word = "completed" if phase.completed else "did not complete"
            painted = self._paint(word, _COLOURS["clean" if phase.completed else "failed"])
            yield (
                f"  {phase.phase:<6} {painted}: {number(phase.operations, 'distinct operation')},"
                f" {number(phase.events, 'event')}"
            )
        if observation is not None:
            asked = visible(observation.input) or "nothing"
            yield f"  asked with {asked}: {number(observation.predictions, 'prediction')}"
            if observation.unlisted:
                yield f"  {number(observation.unlisted, 'operation')} counted and not listed"
            if observation.error:
                yield from _wrapped(f"it failed: {observation.error}", 2)
        if unseen := review.evidence.scan.uninspected:
            yield from _wrapped(f"looked into by nobody: {', '.join(unseen)}", 2)

    def _robustness(self, review: Review) -> Iterator[str]:
        yield from self._title("Against crafted inputs")
        if review.evidence.robustness is None:
            yield "  Not measured (modelarmor redteam)."
        else:
            yield from table(review.evidence.robustness)

    def _reasons(self, review: Review) -> Iterator[str]:
        if not review.reasons:
            return
        yield from self._title(f"Rules and why they are there ({len(review.reasons)})")
        explained = [why for why in review.reasons if why.reason]
        for why in _some(explained):
            yield from _wrapped(f"{why.action} {why.says}: {why.reason}", 2)
        yield from _more(explained)
        if silent := len(review.reasons) - len(explained):
            yield f"  {number(silent, 'rule')} without a reason"

    # --- pieces

    def _title(self, text: str) -> Iterator[str]:
        yield ""
        yield self._paint(text, _BOLD)

    def _item(self, mark: str, text: str) -> Iterator[str]:
        first, *rest = list(_wrapped(text, 11)) or [""]
        yield f"  {mark}{first[11:]}"
        yield from rest

    def _severity(self, severity: Severity) -> str:
        return self._paint(severity, _COLOURS[severity]) + " " * (9 - len(severity))

    def _paint(self, text: str, code: str) -> str:
        return f"{code}{text}{_RESET}" if self._colour else text


def _some(items: Sequence[_T]) -> Sequence[_T]:
    return items[:_SHOWN]


def _more(items: Sequence[object]) -> Iterator[str]:
    if len(items) > _SHOWN:
        yield f"  … and {len(items) - _SHOWN} more (see --format json)"


def _standing(verdict: Verdict) -> str:
    counts = ", ".join(f"{count} {severity}" for severity, count in verdict.counts.items())
    if verdict.standing == "absent":
        return "did not look"
    words = {
        "clean": "nothing found", "findings": counts or "findings",
        "incomplete": "incomplete", "failed": "failed",
    }  # fmt: skip
    said = words[verdict.standing]
    return f"{said}; {counts}" if counts and verdict.standing in ("incomplete", "failed") else said


def _grant(grant: Grant) -> str:
    words = " ".join((grant.subject, *grant.limits))
    return f"{words} ({grant.meaning})" if grant.meaning else words


def _wrapped(text: str, indent: int) -> Iterator[str]:
    """Hostile `text` made visible and wrapped."""
    yield from textwrap.wrap(
        visible(text, 4000), _WIDTH, initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 4 if indent < 6 else indent), break_on_hyphens=False,
    )  # fmt: skip
