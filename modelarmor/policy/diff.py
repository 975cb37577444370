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

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from ._samples import OTHER, Cell, Sample, Subject, Where, samples
from .decide import Decision, Operation, OperationKind, Table
from .model import Policy, Posture

__all__ = ["Change", "Diff", "diff"]

Effect = Literal["gained", "lost", "reported", "unreported"]
#: owner, terminal, and what else was asked
_Condition = tuple[bool, bool, str]

#: about half a minute's work; thousands of rules with as many sources
MAX_QUESTIONS: Final = 1_000_000
_SAID: Final[dict[Effect, str]] = {
    "gained": "is now allowed",
    "lost": "is no longer allowed",
    "reported": "is still allowed, and now reported",
    "unreported": "is still allowed, and no longer reported",
}
_AROUND: Final = ("in", "below")
_EXTENTS: Final[dict[frozenset[Where], str]] = {
    frozenset({"at"}): "{}",
    frozenset({"in"}): "directly in {}",
    frozenset({"below"}): "deeper below {}",
    frozenset({"at", "in"}): "{} and directly in it",
    frozenset({"at", "below"}): "{} and deeper below it",
    frozenset({"in", "below"}): "below {}",
    frozenset({"at", "in", "below"}): "{} and everything below",
}
_READING: Final = frozenset({"read", "list"})
_CHANGING: Final = frozenset({"write", "create", "delete", "metadata"})
_VERBS: Final = {"metadata": "change metadata of", "capability": "use", "network": "network",
                 "syscall": "system call"}  # fmt: skip
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
        parts = [_verbs(self.operations), self.subject]
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
    comparison = _Comparison(
        Table(before, posture_before), Table(after, posture_after or posture_before)
    )
    questions = 0
    for sample in samples([*before, *after]):
        questions += len(sample.questions)
        if questions > MAX_QUESTIONS:
            raise ValueError(
                f"comparing these policies takes more than {MAX_QUESTIONS} questions: compare"
                " those of one workload at a time, or let rules name directories and fewer sources"
            )
        comparison.ask(sample)
    changes = list(comparison.changes())
    return Diff(
        tuple(change for change in changes if change.effect == "gained"),
        tuple(change for change in changes if change.effect == "lost"),
        tuple(change for change in changes if change.effect in ("reported", "unreported")),
        questions,
    )


@dataclass(slots=True, eq=False)
class _Asked:
    """A sample's subject with the answers to it that differ."""

    subject: Subject
    path: str
    #: the circumstances that were asked about
    every: tuple[Cell, ...]
    cells: dict[Cell, tuple[Effect, Operation]]
    #: the directory sample that would speak for this path too
    within: _Asked | None = None
    #: that one says everything that this one does
    implied: bool = False

    def effect(self, cell: Cell) -> Effect | None:
        found = self.cells.get(cell)
        return found[0] if found else None


class _Comparison:
    def __init__(self, before: Table, after: Table) -> None:
        self._before, self._after = before, after
        self._interned: dict[Cell, Cell] = {}
        self._asked: list[_Asked] = []

    def ask(self, sample: Sample) -> None:
        found: dict[Cell, tuple[Effect, Operation]] = {}
        for cell, operation in sample.questions:
            was, now = self._before.decide(operation), self._after.decide(operation)
            if was.verdict != now.verdict:
                found[cell] = "gained" if now.verdict == "allow" else "lost", operation
            elif now.verdict == "allow" and _reports(was) != _reports(now):
                found[cell] = "reported" if _reports(now) else "unreported", operation
        # The circumstances are few and the samples many.
        every = tuple(self._interned.setdefault(cell, cell) for cell, _ in sample.questions)
        self._asked.append(_Asked(sample.subject, sample.path, every, found))

    def changes(self) -> Iterator[Change]:
        _nest(self._asked)
        inside: dict[_Asked, list[_Asked]] = {}
        groups: dict[tuple[Subject, frozenset[tuple[Cell, Effect]]], list[_Asked]] = {}
        for one in self._asked:
            if one.implied:
                continue
            outer = one.within
            while outer is not None and outer.implied:
                outer = outer.within
            if outer is not None:
                inside.setdefault(outer, []).append(one)
            if one.cells:
                effects = frozenset((cell, effect) for cell, (effect, _) in one.cells.items())
                groups.setdefault((_whole(one.subject), effects), []).append(one)
        for members in groups.values():
            others = [other for member in members for other in inside.get(member, ())]
            yield from self._told(members, [other for other in others if other not in members])

    def _told(self, members: Sequence[_Asked], inside: Sequence[_Asked]) -> Iterator[Change]:
        """The sentences about one subject: what is alike in all but one respect becomes one."""
        first = members[0]
        conditions: dict[tuple[Effect, OperationKind, str], set[_Condition]] = {}
        for cell, (effect, _) in first.cells.items():
            key = effect, cell.operation, cell.source
            conditions.setdefault(key, set()).add(_condition(cell))
        sources: dict[tuple[Effect, OperationKind, frozenset[_Condition]], set[str]] = {}
        for (effect, kind, source), when in conditions.items():
            sources.setdefault((effect, kind, frozenset(when)), set()).add(source)
        alike: dict[tuple[Effect, frozenset[_Condition], frozenset[str]], list[OperationKind]] = {}
        for (effect, kind, circumstances), programs in sources.items():
            alike.setdefault((effect, circumstances, frozenset(programs)), []).append(kind)
        for (effect, circumstances, named), operations in alike.items():
            same = [
                cell
                for cell, (its_effect, _) in first.cells.items()
                if its_effect == effect and cell.operation in operations and cell.source in named
            ]
            example = first.cells[same[0]][1]
            yield Change(
                effect,
                first.subject.section,
                tuple(operations),
                _label(members),
                () if named == {cell.source for cell in first.every} else tuple(sorted(named)),
                _when(circumstances, {_condition(cell) for cell in first.every
                                      if cell.operation in operations}),
                tuple(_exceptions(inside, same, effect)),
                self._before.decide(example).why,
                self._after.decide(example).why,
            )  # fmt: skip


def _reports(decision: Decision) -> bool:
    return decision.audit is not None or decision.posture


def _nest(asked: Sequence[_Asked]) -> None:
    """Find for each path the sample of the deepest directory around it, and whether it says all."""
    around = {
        (one.subject.section, one.subject.value, str(one.subject.where)): one
        for one in asked
        if one.subject.where in _AROUND
    }
    for one in asked:
        end, where = one.path.rfind("/") + 1, "in"
        while end > 0 and one.path != "/":
            directory = one.path[:end]
            own = one.subject.where in _AROUND and directory == one.subject.value
            if not own and (outer := around.get((one.subject.section, directory, where))):
                one.within = outer
                one.implied = all(outer.effect(cell) == one.effect(cell) for cell in one.every)
                break
            # What lies directly in a directory that is not named lies deeper in one that is.
            end, where = one.path.rfind("/", 0, end - 1) + 1, "below"


def _verbs(operations: Sequence[str]) -> str:
    """The operations as words: ``read`` for all that reads, ``write`` for all that changes."""
    words = list(operations)
    for word, kinds in (("read", _READING), ("write", _CHANGING)):
        if kinds <= set(words):
            words = [kind for kind in words if kind == word or kind not in kinds]
    return "/".join(_VERBS.get(word, word) for word in words)


def _whole(subject: Subject) -> Subject:
    """What is told together where it agrees: a directory and what it holds, all protocols …"""
    if subject.where in ("at", *_AROUND):
        return replace(subject, where="at")
    if subject.where == "match":
        return replace(subject, directory="")
    return replace(subject, value="") if subject.where in ("any", "query") else subject


def _label(members: Sequence[_Asked]) -> str:
    subject = members[0].subject
    value = subject.value
    match subject.where:
        case "any" | "query" as where:
            values = ", ".join(member.subject.value for member in members)
            return f"DNS queries for {values}" if where == "query" else values
        case "match":
            what = f"what matches {value}" if "/" in value else f"any {value}"
            places = [member.subject.directory for member in members]
            return what if "" in places else f"{what} in {', '.join(dict.fromkeys(places))}"
        case _:
            return _EXTENTS[frozenset(member.subject.where for member in members)].format(value)


def _exceptions(inside: Iterable[_Asked], cells: Iterable[Cell], effect: Effect) -> Iterator[str]:
    cells = frozenset(cells)
    groups: dict[Subject, list[_Asked]] = {}
    for one in inside:
        if any(one.effect(cell) != effect for cell in one.every if cell in cells):
            groups.setdefault(_whole(one.subject), []).append(one)
    return map(_label, groups.values())


def _condition(cell: Cell) -> _Condition:
    return cell.owner, cell.tty, cell.extra


def _when(some: frozenset[_Condition], every: set[_Condition]) -> str:
    """The conditions in words: only the respects in which they are not all."""
    if some == every:
        return ""
    owners = {owner for owner, _, _ in some}
    ttys = {tty for _, tty, _ in some}
    extras = {extra for _, _, extra in some}
    words = []
    if len(owners) == 1 and len({condition[0] for condition in every}) > 1:
        words.append("by the file's owner" if True in owners else "by others than the file's owner")
    if len(ttys) == 1 and len({condition[1] for condition in every}) > 1:
        words.append("with a terminal" if True in ttys else "without a terminal")
    if extras != {condition[2] for condition in every}:
        words.append(" or ".join(sorted(extra or "without arguments" for extra in extras)))
    if len(some) != len(owners) * len(ttys) * len(extras):
        return " or ".join(_when(frozenset({one}), every) for one in sorted(some))
    return " ".join(words)
