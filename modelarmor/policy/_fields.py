"""One mapping of a document, read field by field.

Every question names a field and the form of its value. What was never asked for is unknown, and is
reported when the reading ends: the schema is written once, in the code that reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

from ._nodes import Node, Number
from ._problems import Log, shown, suggestion

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_BUT_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class Form:
    """What a string must look like, how to say that it does not, and what was probably meant."""

    pattern: re.Pattern[str]
    what: str
    cure: Callable[[str], str]
    #: what to go on with when somebody inspects the document; empty: with nothing
    repair: Callable[[str], str] = lambda _: ""
    longest: int = 0


class Fields:
    """A mapping, and the way to ask for its fields; ``null`` counts as absent, as in Kubernetes.

    A field of the wrong type or form is reported to the log and then read as if it were absent,
    or repaired where it is clear what was meant.

    Args:
        node: what should be a mapping; if it is not, that is reported.
        where: its dotted field; empty for a document.
        log: takes the problems.
    """

    def __init__(self, node: Node, where: str, log: Log) -> None:
        self.node = node
        self.place = node.place
        self.where = where
        self._log = log
        self._asked: list[str] = []
        self._values: dict[str, Node] = {}
        if isinstance(node.value, dict):
            self._values = node.value
        else:
            what = f"is {_described(node)}, and should be a mapping of fields"
            log.add(node.place, where or "the document", what)

    def __enter__(self) -> Fields:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in self._values:
            if name not in self._asked:
                cure = "" if self._log.full else suggestion(name, self._asked, "known here are")
                place = self.node.keys[name]
                self._log.add(place, self.field(_short(name)), "is not a field", cure)

    def field(self, name: str) -> str:
        """The dotted name of a field of this mapping."""
        return f"{self.where}.{name}" if self.where else name

    def problem(self, name: str, what: str, cure: str = "") -> None:
        """Report ``what`` is wrong with the field, at its place if it has one."""
        if not isinstance(self.node.value, dict):
            return  # that there are no fields has been said
        node = self._values.get(name)
        self._log.add(node.place if node else self.place, self.field(name), what, cure)

    def ignore(self, *names: str) -> None:
        """Know fields that have no meaning here."""
        self._asked.extend(names)

    def has(self, name: str) -> bool:
        """Whether the field is there; one that is ``null`` is not."""
        return self._take(name) is not None

    def text(
        self, name: str, form: Form | None = None, *, required: bool = False, lines: bool = False
    ) -> str:
        """A string, ``""`` if absent. ``lines`` permits more than one."""
        node = self._take(name)
        if node is None or node.value == "":
            if required or (node is not None and form is not None):
                self.problem(name, "is missing" if node is None else "is empty", "write it")
            return ""
        return self._string(node, self.field(name), form, lines)

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean."""
        node = self._take(name)
        if node is None:
            return default
        if isinstance(node.value, bool):
            return node.value
        what = f"is {_described(node)}, and should be a boolean"
        self.problem(name, what, "write true or false without quotes")
        return default

    def integer(self, name: str, low: int, high: int) -> int | None:
        """An integer within bounds, both inclusive."""
        node = self._take(name)
        if node is None:
            return None
        if isinstance(node.value, int) and not isinstance(node.value, bool):
            if low <= node.value <= high:
                return node.value
            self.problem(name, f"is {node.value}", f"write an integer from {low} to {high}")
        else:
            what = f"is {_described(node)}, and should be an integer"
            self.problem(name, what, f"write one from {low} to {high} without quotes")
        return None

    def texts(self, name: str, form: Form | None = None, *, most: int = 0) -> tuple[str, ...]:
        """A list of strings, those that are in order."""
        nodes = list(self._items(name))
        if most and len(nodes) > most:
            self.problem(name, f"has {len(nodes)} entries", f"at most {most} are possible")
        found = []
        for where, node in nodes:
            if text := self._string(node, where, form, False):
                found.append(text)
            elif node.value == "":
                if form is None:
                    found.append("")
                else:
                    self._log.add(node.place, where, "is empty", "write it or remove it")
        return tuple(found)

    def each(self, name: str) -> Iterator[Fields]:
        """The mappings of a list, each to be read in turn."""
        for where, node in self._items(name):
            with Fields(node, where, self._log) as fields:
                yield fields

    def nodes(self, name: str) -> list[Node]:
        """The entries of a list, unread."""
        return [node for _, node in self._items(name)]

    def names(self) -> list[str]:
        """Every field that is there."""
        return list(self._values)

    def inner(self, name: str) -> Fields:
        """A mapping; an empty one if absent."""
        node = self._take(name)
        return Fields(node or Node(self.place, {}), self.field(name), self._log)

    def pairs(
        self, name: str, key_form: Form | None = None, form: Form | None = None
    ) -> tuple[tuple[str, str], ...]:
        """A mapping of strings to strings, in the order of the document."""
        inner = self.inner(name)
        found = []
        for key, node in inner._values.items():
            where = inner.field(_short(key))
            place = inner.node.keys[key]
            if self._string(Node(place, key), where, key_form, False):
                plain = form is None
                empty = node.value == ""
                value = "" if empty else self._string(node, where, form, plain)
                if value or empty:
                    found.append((key, value))
        return tuple(found)

    def _take(self, name: str) -> Node | None:
        if name not in self._asked:
            self._asked.append(name)
        node = self._values.get(name)
        return None if node is None or node.value is None else node

    def _items(self, name: str) -> Iterator[tuple[str, Node]]:
        node = self._take(name)
        if node is None:
            return
        if not isinstance(node.value, list):
            what = f"is {_described(node)}, and should be a list"
            self.problem(name, what, "put a dash before each entry")
            return
        for number, item in enumerate(node.value):
            yield f"{self.field(name)}[{number}]", item

    def _string(self, node: Node, where: str, form: Form | None, lines: bool) -> str:
        value = node.value
        if not isinstance(value, str):
            cure = "" if isinstance(value, dict | list | None) else "put it in quotes"
            what = f"is {_described(node)}, and should be a string"
            self._log.add(node.place, where, what, cure)
            return ""
        if bad := (_CONTROL_BUT_LINES if lines else _CONTROL).search(value):
            what = f"{shown(value)} holds the control character U+{ord(bad[0]):04X}"
            self._log.add(node.place, where, what, "remove it")
            return ""
        if form is None or not value:
            return value
        if form.longest and len(value) > form.longest:
            what = f"{shown(value)} has {len(value)} characters"
            self._log.add(node.place, where, what, f"at most {form.longest} are possible")
            return ""
        if not form.pattern.fullmatch(value):
            self._log.add(node.place, where, f"{shown(value)} {form.what}", form.cure(value))
            return form.repair(value)
        return value


def _described(node: Node) -> str:
    match node.value:
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case None:
            return "empty"
        case bool():
            return f"the boolean {str(node.value).lower()}"
        case int() | Number():
            return f"the number {_short(str(node.value))}"
        case text:
            return f"the string {shown(text)}"


def _short(name: str) -> str:
    """A field's name as part of a dotted one, whatever the document made of it."""
    return name if name.isprintable() and len(name) <= _LONGEST_NAME else shown(name)
