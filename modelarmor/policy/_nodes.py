"""YAML read into values that know their line, within bounds.

PyYAML's events are folded here, without recursion and without its constructors: an event knows its
line, a constructed value does not, and nothing that a document says (a tag, an alias, ten thousand
brackets) may cost more than its length. The rest is YAML 1.1 as ``kubectl`` reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import yaml

from ._problems import Log, PolicyError, Problem, shown
from .model import Place

#: etcd, and so a cluster, takes no object over 1.5 MiB; a file may hold several
MAX_BYTES = 4 << 20
_MAX_DEPTH = 64
_MAX_NODES = 200_000
_MAX_DOCUMENTS = 1_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STRING_TAGS = (None, "!", "tag:yaml.org,2002:str")
# What YAML 1.1 takes for a stream of characters; libyaml names no line for the others.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {
    spelling: value
    for value, words in ((True, ("true", "yes", "on")), (False, ("false", "no", "off")))
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(
    r"[-+]?((\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|0x[0-9a-fA-F]+)"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


@dataclass(frozen=True, slots=True)
class Number:
    """A number that is not a plain integer, as written: no field of a policy takes one."""

    text: str

    def __str__(self) -> str:
        return self.text


Scalar = str | int | bool | Number | None


@dataclass(slots=True)
class Node:
    """A value and where it starts. A mapping's keys keep their own places."""

    place: Place
    value: Scalar | list[Node] | dict[str, Node]
    keys: dict[str, Place] = field(default_factory=dict)

    def plain(self) -> Any:
        """The value as plain data; as deep as the reader's limit on nesting, so safe to recurse."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value.text if isinstance(self.value, Number) else self.value


def read(source: str | Path | bytes | TextIO, name: str) -> tuple[str, str]:
    """The text of ``source`` and the name to report it by.

    Raises:
        PolicyError: it cannot be read, is larger than 4 MiB, or is not text in UTF-8.
    """
    try:
        if isinstance(source, Path):
            name = str(source)
            with source.open("rb") as file:
                source = file.read(MAX_BYTES + 1)
        elif not isinstance(source, str | bytes):
            name = str(getattr(source, "name", name))
            source = source.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _fatal(Place(name), f"cannot be read: {reason}", "name a readable file") from None
    if len(source) > MAX_BYTES:
        raise _fatal(Place(name), f"is larger than {MAX_BYTES >> 20} MiB", "split it")
    data = source if isinstance(source, str) else _decoded(source, name)
    data = data.removeprefix("\ufeff")
    if bad := _UNPRINTABLE.search(data):
        line = data.count("\n", 0, bad.start()) + 1
        column = bad.start() - data.rfind("\n", 0, bad.start())
        raise _fatal(
            Place(name, line, column),
            f"character U+{ord(bad[0]):04X} cannot stand in YAML",
            "remove it",
        )
    return data, name


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _fatal(Place(name, line, 1), "is not UTF-8", "save it as UTF-8") from None


def documents(text: str, name: str, log: Log) -> Iterator[Node]:
    """Each document of ``text`` that is not empty.

    Keys that occur twice go to ``log``; what breaks the stream is raised, after the documents
    before it.

    Raises:
        PolicyError: the text is no YAML, uses anchors, aliases, merge keys or tags, nests too deep
            or holds too much.
    """
    stack: list[_Open] = []
    root: Node | None = None
    nodes = count = 0
    for event in _events(text, name):
        place = Place(name, event.start_mark.line + 1, event.start_mark.column + 1)
        match event:
            case yaml.DocumentStartEvent():
                root, count = None, count + 1
                if count > _MAX_DOCUMENTS:
                    raise _fatal(place, f"holds more than {_MAX_DOCUMENTS} documents", "split it")
            case yaml.DocumentEndEvent():
                if root is not None and root.value is not None:
                    yield root
            case yaml.AliasEvent() | yaml.NodeEvent(anchor=str()):
                raise _fatal(
                    place, "anchors and aliases are not read in a policy", "write the value out"
                )
            case yaml.CollectionEndEvent():
                root = stack.pop().node
                _attach(stack, root, log)
            case yaml.NodeEvent():
                nodes += 1
                if nodes > _MAX_NODES:
                    raise _fatal(place, f"holds more than {_MAX_NODES} values", "split it")
                node = _start(event, place)
                if isinstance(event, yaml.ScalarEvent):
                    root = node
                    _attach(stack, node, log, event.value)
                elif len(stack) >= _MAX_DEPTH:
                    raise _fatal(place, f"nests deeper than {_MAX_DEPTH}", "no policy does")
                else:
                    stack.append(_Open(node, isinstance(event, yaml.MappingStartEvent)))


@dataclass(slots=True)
class _Open:
    """A collection that is not complete; of a mapping also the key that awaits its value."""

    node: Node
    mapping: bool
    key: str | None = None
    key_place: Place = field(default_factory=Place)


def _events(text: str, name: str) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(name, mark.line + 1, mark.column + 1) if mark else Place(name)
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise _fatal(place, f"is not YAML: {what}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise _fatal(Place(name), f"is not YAML: {shown(error)}") from None


def _start(event: Any, place: Place) -> Node:
    if isinstance(event, yaml.ScalarEvent):
        if event.tag not in _STRING_TAGS:
            raise _tagged(place, event.tag)
        return Node(place, _resolve(event.value) if event.implicit[0] else event.value)
    mapping = isinstance(event, yaml.MappingStartEvent)
    if event.tag not in (None, "!", f"tag:yaml.org,2002:{'map' if mapping else 'seq'}"):
        raise _tagged(place, event.tag)
    return Node(place, {} if mapping else [])


def _attach(stack: list[_Open], node: Node, log: Log, text: str | None = None) -> None:
    if not stack:
        return
    top = stack[-1]
    if isinstance(top.node.value, list):
        top.node.value.append(node)
    elif top.key is None:
        if text is None:
            raise _fatal(node.place, "a list or a mapping cannot be a field's name")
        if text == "<<":
            raise _fatal(node.place, "merge keys are not read in a policy", "write the fields out")
        top.key, top.key_place = text, node.place
    else:
        key, top.key = top.key, None
        assert isinstance(top.node.value, dict)
        if key in top.node.value:
            before = top.node.keys[key].line
            what = f"{shown(key)} occurs twice, the first time in line {before}"
            log.add(top.key_place, "", what, "remove one")
        else:
            top.node.value[key] = node
            top.node.keys[key] = top.key_place


def _resolve(text: str) -> Scalar:
    """A plain scalar by YAML 1.1's core rules, timestamps and sexagesimals staying text."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return Number(text) if _NUMBER.fullmatch(text) else text


def _tagged(place: Place, tag: str) -> PolicyError:
    return _fatal(place, f"tag {shown(tag)} is not read in a policy", "write a plain value")


def _fatal(place: Place, what: str, cure: str = "") -> PolicyError:
    return PolicyError([Problem(place, "", what, cure)])
