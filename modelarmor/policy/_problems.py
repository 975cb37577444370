"""What is wrong with a document: collected, so that its author sees everything at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from .model import Place

#: past this a document is not a policy with mistakes, and nobody reads on
_MAX_PROBLEMS = 100
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a document.

    Attributes:
        place: file, line and column of what is wrong.
        field: dotted field, such as ``spec.file.matchPaths[2].path``; empty where YAML itself
            is broken.
        what: what is wrong.
        cure: what would be right; empty where nobody could know.
    """

    place: Place
    field: str
    what: str
    cure: str = ""

    def __str__(self) -> str:
        parts = [str(self.place), self.field, self.what]
        return ": ".join(part for part in parts if part) + (f"; {self.cure}" if self.cure else "")


class PolicyError(ValueError):
    """A document is not a policy. ``problems`` holds each mistake; ``str()`` names them all."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Log:
    """Problems as they are found, up to a number that somebody could read."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    @property
    def full(self) -> bool:
        return len(self.problems) >= _MAX_PROBLEMS

    def add(self, place: Place, field: str, what: str, cure: str = "") -> None:
        if self.full:
            return
        if len(self.problems) == _MAX_PROBLEMS - 1:
            field, what, cure = "", "further problems are not listed", "mend these first"
        self.problems.append(Problem(place, field, what, cure))


def shown(value: object) -> str:
    """A value of a document, quoted for a message: short and without control characters."""
    text = value if isinstance(value, str) else str(value)
    return repr(text[:_SHOWN]) + ("…" if len(text) > _SHOWN else "")


def closest(word: str, known: Iterable[str]) -> str:
    """``did you mean …?`` for a word that is close to a known one, else nothing."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word[:_SHOWN].lower(), by_lower, n=1)
    return f"did you mean {by_lower[close[0]]}?" if close else ""


def suggestion(word: str, known: Iterable[str], all_of_them: str = "it is one of") -> str:
    """The closest known word or, if none is close, every one."""
    names = list(known)
    return closest(word, names) or f"{all_of_them} {', '.join(names)}"
