"""What changes when one set of policies takes the place of another: in effect, not in text.

Reordering rules, splitting a policy or writing an inherited field out changes nothing; a rule that
another one outweighs neither. Both sides are asked the same questions (`modelarmor.policy.decide`)
at and beside everything that either of them names, and answers that differ are put together into
sentences: *write below /home/u/ws/ is now allowed*.

The questions are samples, though one at every boundary that a rule draws. Where rules overlap in a
way that no sample shows, which takes two patterns that only some paths satisfy together, a change
can stay unseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from ._samples import OTHER, Cell, Sample, Subject, samples
from .decide import Decision, Operation, Table
from .model import Policy, Posture

__all__ = ["Change", "Diff", "diff"]

Effect = Literal["gained", "lost", "reported", "unreported"]

#: about a minute's work; thousands of rules with as many sources
MAX_QUESTIONS: Final = 1_000_000
_SAID: Final[dict[Effect, str]] = {
    "gained": "is now allowed",
    "lost": "is no longer allowed",
    "reported": "is still allowed, and now reported",
    "unreported": "is still allowed, and no longer reported",
}
_SECTIONS: Final = {"exec": "process", "network": "network", "capability": "capabilities",
                    "syscall": "syscalls"}  # fmt: skip
_FILE_ORDER: Final = ("read", "list", "write", "create", "delete", "metadata")
_EXCEPTIONS_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs.

    Attributes:
        effect: ``gained`` or ``lost`` permission; or allowed on both sides, and ``reported`` as a
            violation by one.
        section: the section of a policy that is about it.
        operations: those of `Operation.kind` that differ, all in the same way.
        subject: what they are about, such as ``/etc/passwd``, ``below /data/`` or ``tcp``.
        sources: the executables of which it is true; ``""`` stands for those that no rule names;
            empty if it is true of all.
        when: a condition, such as ``by the file's owner``; empty if there is none.
        exceptions: subjects within this one of which it is not true.
        before: why the one side decides as it does, of a representative operation.
        after: why the other does.
    """

    effect: Effect
    section: str
    operations: tuple[str, ...]
    subject: str
    sources: tuple[str, ...]
    when: str
    exceptions: tuple[str, ...]
    before: str
    after: str

    def __str__(self) -> str:
        what = "/".join(self.operations)
        parts = [self.subject if self.section == "presets" else f"{what} {self.subject}"]
        if self.sources:
            named = [source for source in self.sources if source != OTHER]
            parts.append(
                "from " + ", ".join(named + ["any other program"] * (OTHER in self.sources))
            )
        parts += [self.when] if self.when else []
        if self.exceptions:
            shown = ", ".join(self.exceptions[:_EXCEPTIONS_SHOWN])
            more = len(self.exceptions) - _EXCEPTIONS_SHOWN
            parts.append(f"(but for {shown}{f' and {more} more' if more > 0 else ''})")
        return f"{' '.join(parts)} {_SAID[self.effect]}"


@dataclass(frozen=True, slots=True)
class Diff:
    """What the later policies permit and report that the earlier did not, and the reverse.

    ``bool()`` is whether there is any difference.
    """

    gained: tuple[Change, ...]
    lost: tuple[Change, ...]
    #: allowed by both, reported as a violation by one
    changed_report: tuple[Change, ...]
    #: how many operations both sides were asked about
    questions: int

    def __bool__(self) -> bool:
        return bool(self.gained or self.lost or self.changed_report)

    def __str__(self) -> str:
        lines = [
            f"{mark} {change}"
            for mark, changes in (("+", self.gained), ("-", self.lost), ("~", self.changed_report))
            for change in changes
        ]
        basis = f"(asked {self.questions} questions, at every boundary that either side mentions)"
        return "\n".join([*(lines or ["Nothing that was asked is decided differently."]), basis])

    def to_json(self) -> dict[str, Any]:
        """The same as plain data, for ``json.dumps``."""
        return asdict(self)


def diff(
    before: Sequence[Policy],
    after: Sequence[Policy],
    posture_before: Posture | None = None,
    posture_after: Posture | None = None,
) -> Diff:
    """Compare what two sets of policies permit.

    Args:
        before: the policies that apply to a workload now, in any order.
        after: those that would.
        posture_before: the default posture with the former; ``block`` if left out.
        posture_after: with the latter; the same as before if left out.

    Raises:
        ValueError: the policies name so many paths and sources that comparing them would take more
            than a million questions.
    """
    posture_before = posture_before or Posture()
    tables = Table(before, posture_before), Table(after, posture_after or posture_before)
    asked: list[_Asked] = []
    questions = 0
    for sample in samples([*before, *after]):
        questions += len(sample.questions)
        if questions > MAX_QUESTIONS:
            raise ValueError(
                f"comparing these policies takes more than {MAX_QUESTIONS} questions: compare"
                " those of one workload at a time, or let rules name directories and fewer sources"
            )
        asked.append(_Asked(sample, _compare(sample, *tables)))
    changes = list(_changes(asked))
    return Diff(
        tuple(change for change in changes if change.effect == "gained"),
        tuple(change for change in changes if change.effect == "lost"),
        tuple(change for change in changes if change.effect in ("reported", "unreported")),
        questions,
    )


#: the answers to a sample's questions that differ
_Cells = Mapping[Cell, Effect]


@dataclass(slots=True, eq=False)
class _Asked:
    """A sample with what differs; one that only repeats its directory's is ``implied`` by it."""

    sample: Sample
    cells: _Cells
    within: _Asked | None = None
    implied: bool = False

    @property
    def subject(self) -> Subject:
        return self.sample.subject


def _compare(sample: Sample, before: Table, after: Table) -> _Cells:
    found: dict[Cell, Effect] = {}
    for cell, operation in sample.questions:
        was, now = before.decide(operation), after.decide(operation)
        if was.verdict != now.verdict:
            found[cell] = "gained" if now.verdict == "allow" else "lost"
        elif now.verdict == "allow" and _reports(was) != _reports(now):
            found[cell] = "reported" if _reports(now) else "unreported"
    return found


def _reports(decision: Decision) -> bool:
    return decision.audit is not None or decision.posture


def _changes(asked: Sequence[_Asked]) -> Iterator[Change]:
    _nest(asked)
    exceptions: dict[int, list[_Asked]] = {}
    for one in asked:
        outer = one.within
        while outer is not None and outer.implied:
            outer = outer.within
        if outer is not None and not one.implied:
            exceptions.setdefault(id(outer), []).append(one)
    groups: dict[tuple[Subject, int], list[_Asked]] = {}
    for one in asked:
        if one.cells and not one.implied:
            # A directory, what is in it and what is below are told together where they agree.
            subject = one.subject
            alike = hash(frozenset(one.cells.items()))
            if subject.where in ("at", "in", "below"):
                subject = Subject(subject.section, "at", subject.value)
            groups.setdefault((subject, alike), []).append(one)
    for members in groups.values():
        inside = {
            id(other): other
            for member in members
            for other in exceptions.get(id(member), ())
            if other not in members
        }
        yield from _told(members, list(inside.values()))


def _nest(asked: Sequence[_Asked]) -> None:
    """Find for each path the directory sample that speaks for it, if nothing else does."""
    inner = {
        (one.subject.value, one.subject.where): one
        for one in asked
        if one.subject.where in ("in", "below")
    }
    for one in asked:
        path, own = one.sample.path, one.subject
        if not path.startswith("/") or path == "/":
            continue
        end, direct = path.rfind("/") + 1, True
        while end > 0:
            directory = path[:end]
            itself = own.where in ("in", "below") and directory == own.value
            if (directory, "below") in inner and not itself:
                one.within = inner[directory, "in" if direct else "below"]
                break
            # What lies directly in a directory that is not named lies below one that is.
            end, direct = path.rfind("/", 0, end - 1) + 1, False
        outer = one.within
        one.implied = outer is not None and all(
            outer.cells.get(cell) == one.cells.get(cell) for cell, _ in one.sample.questions
        )


def _told(members: Sequence[_Asked], inside: Sequence[_Asked]) -> Iterator[Change]:
    """The sentences about one subject: cells put together by what they have in common."""
    first = members[0]
    questions = dict(first.sample.questions)
    sources = {cell.source for cell in questions}
    conditions = {(cell.owner, cell.tty, cell.extra) for cell in questions}
    by_rest: dict[tuple[Effect, str, frozenset[tuple[bool, bool, str]], str], list[Cell]] = {}
    by_kind: dict[tuple[Effect, str, str], list[Cell]] = {}
    for cell, effect in first.cells.items():
        by_kind.setdefault((effect, cell.operation, cell.source), []).append(cell)
    for (effect, kind, source), cells in by_kind.items():
        when = frozenset((cell.owner, cell.tty, cell.extra) for cell in cells)
        by_rest.setdefault((effect, kind, when, ""), []).extend(cells)
        del source
    merged: dict[tuple[Effect, str, frozenset[Any], frozenset[str]], list[Cell]] = {}
    for (effect, kind, when, _), cells in by_rest.items():
        section = _SECTIONS.get(kind, "file")
        key = (effect, section, when, frozenset(cell.source for cell in cells))
        merged.setdefault(key, []).extend(cells)
    for (effect, section, when, from_sources), cells in merged.items():
        kinds = {cell.operation for cell in cells}
        cell = cells[0]
        exceptions = [
            _label([other])
            for other in inside
            if any(other.cells.get(c) != effect for c in cells if c in dict(other.sample.questions))
        ]
        yield Change(
            effect,
            "presets" if first.subject.section == "presets" else section,
            tuple(k for k in (*_FILE_ORDER, *_SECTIONS) if k in kinds),
            _label(members),
            () if from_sources == sources else tuple(sorted(from_sources)),
            _condition(when, conditions),
            tuple(dict.fromkeys(exceptions)),
            "",
            "",
        )
        del cell


def _label(members: Sequence[_Asked]) -> str:
    return ""


def _condition(when: Iterable[tuple[bool, bool, str]], every: Iterable[Any]) -> str:
    return ""
