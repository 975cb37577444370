"""Questions that tell two sets of policies apart: every boundary that either of them mentions.

A verdict changes only where some rule begins or ends to match, so it is enough to ask at each thing
that a rule names and beside it: a path; a directory, a child and a grandchild of it; a name
that fits a pattern, alone and in each directory; each source and one that no rule names.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from .decide import Glob, Operation, OperationKind
from .model import (
    CapabilityRule,
    DnsRule,
    PathRule,
    Policy,
    ProtocolRule,
    Section,
)

#: a program that no rule names
OTHER: Final = ""
Where = Literal["at", "in", "below", "match", "any", "query"]

_FILE_KINDS: Final[tuple[OperationKind, ...]] = (
    "read", "list", "write", "create", "delete", "metadata",
)  # fmt: skip
#: what people call a socket, and what makes it one: family, type, protocol
_SOCKETS: Final = {
    "tcp": ("inet", "stream", "tcp"),
    "udp": ("inet", "dgram", "udp"),
    "icmp (datagram)": ("inet", "dgram", "icmp"),
    "icmp (raw)": ("inet", "raw", "icmp"),
    "icmpv6 (datagram)": ("inet6", "dgram", "icmpv6"),
    "icmpv6 (raw)": ("inet6", "raw", "icmpv6"),
    "sctp (stream)": ("inet", "stream", "sctp"),
    "sctp (seqpacket)": ("inet", "seqpacket", "sctp"),
    "dccp": ("inet", "dccp", "dccp"),
    "raw": ("inet", "raw", "255"),
    "stream of another protocol": ("inet", "stream", "262"),
    "dgram of another protocol": ("inet", "dgram", "136"),
    "rdm": ("tipc", "rdm", ""),
    "seqpacket": ("unix", "seqpacket", ""),
    "packet (raw)": ("packet", "raw", ""),
    "packet (datagram)": ("packet", "dgram", "768"),
    "packet (obsolete)": ("inet", "packet", ""),
}


class Cell(NamedTuple):
    """The circumstances of a question, apart from what it is about."""

    operation: OperationKind
    source: str
    owner: bool = True
    tty: bool = False
    extra: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a question is about."""

    section: Section
    #: ``in`` and ``below`` a directory: a direct child, and anything deeper
    where: Where
    #: a path, a directory with its slash, a pattern, a protocol, a domain …
    value: str
    #: for ``match``: the directory in which the name was sought, if in a particular one
    directory: str = ""


class Sample(NamedTuple):
    """A subject, the path that stands for it (empty if it has none), and the questions."""

    subject: Subject
    path: str
    questions: Sequence[tuple[Cell, Operation]]


def samples(policies: Sequence[Policy]) -> Iterator[Sample]:
    """Every question worth asking about two sets of policies, given both together."""
    yield from _Paths(policies).samples()
    yield from _network(policies)
    yield from _capabilities(policies)
    yield from _syscalls(policies)
    yield from _presets(policies)


class _Paths:
    """Questions about files and their execution."""

    #: a file's name is asked about both ways, for what a file rule blocks cannot be executed
    _SECTIONS: Final[dict[Section, tuple[Section, ...]]] = {
        "file": ("file", "process"),
        "process": ("process",),
    }

    def __init__(self, policies: Sequence[Policy]) -> None:
        rules = [rule for p in policies for rule in (*p.process, *p.file)]
        self._paths = _unique(rule.value for rule in rules if rule.match == "path")
        directories = (rule.value for rule in rules if rule.match == "directory")
        self.directories = _unique(["/", *(value.rstrip("/") + "/" for value in directories)])
        self._names = _unique(rule.value for rule in rules if rule.match == "execname")
        self._patterns = _unique(rule.value for rule in rules if rule.match == "pattern")
        self._sources = _sources(rules)
        self._owners = (True, False) if any(rule.owner_only for rule in rules) else (True,)
        self._ttys = _ttys(rules)
        self._arguments: dict[str, list[str]] = {}
        for rule in rules:
            if rule.allowed_args:
                self._arguments.setdefault(rule.value, []).extend(rule.allowed_args)
        self._other = _unmentioned(rule.value for rule in rules)

    def samples(self) -> Iterator[Sample]:
        seen: set[tuple[Section, str]] = set()
        for subject, path in self._places():
            for section in self._SECTIONS[subject.section]:
                if path.startswith("/") and (section, path) not in seen:
                    seen.add((section, path))
                    ask = self._file_questions if section == "file" else self._process_questions
                    yield Sample(replace(subject, section=section), path, list(ask(path)))

    def _places(self) -> Iterator[tuple[Subject, str]]:
        other = self._other
        for path in self._paths:
            yield Subject("file", "at", path), path
        for directory in self.directories:
            yield Subject("file", "at", directory), directory.rstrip("/") or "/"
            yield Subject("file", "in", directory), f"{directory}{other}"
            yield Subject("file", "below", directory), f"{directory}{other}/{other}"
        patterns = [
            (text, Glob(text), fitting)
            for text in self._patterns
            for fitting in dict.fromkeys(_fitting(text, other, member) for member in (0, -1))
        ]
        # Where two rules overlap, neither one's own sample need show it: each name is sought in
        # each directory, and where the other patterns point.
        spots = [(directory, directory) for directory in self.directories]
        spots += [(text, fitting[: fitting.rfind("/") + 1]) for text, _, fitting in patterns]
        for name in self._names:
            yield Subject("process", "match", name), f"/{other}/{name}"
            for spot, directory in spots:
                for path in (f"{directory}{name}", f"{directory}{other}/{name}"):
                    yield Subject("process", "match", name, spot), path
        for text, glob, fitting in patterns:
            name = fitting[fitting.rfind("/") + 1 :]
            if glob.matches(fitting):
                yield Subject("file", "match", text), fitting
            for spot, directory in spots:
                for path in (f"{directory}{name}", f"{directory}{other}/{name}"):
                    if glob.matches(path):
                        yield Subject("file", "match", text, spot), path

    def _file_questions(self, path: str) -> Iterator[tuple[Cell, Operation]]:
        for cell in itertools.product(_FILE_KINDS, self._sources, self._owners, self._ttys):
            kind, source, owner, tty = cell
            yield Cell(*cell), Operation(kind, path, source, owner=owner, tty=tty)

    def _process_questions(self, path: str) -> Iterator[tuple[Cell, Operation]]:
        for source, owner, tty in itertools.product(self._sources, self._owners, self._ttys):
            for extra, args in self._argument_lists(path):
                cell = Cell("exec", source, owner, tty, extra)
                yield cell, Operation("exec", path, source, owner=owner, tty=tty, args=args)

    def _argument_lists(self, path: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        yield "", ()
        listed = self._arguments.get(path) or self._arguments.get(path.rpartition("/")[2])
        if listed:
            for argument in _unique(listed):
                yield f"with the argument {argument!r}", (argument,)
            yield "with other arguments", (_unmentioned(listed),)


def _network(policies: Sequence[Policy]) -> Iterator[Sample]:
    rules = [rule for policy in policies for rule in policy.network]
    protocols = [rule for rule in rules if isinstance(rule, ProtocolRule)]
    if protocols:
        sources, ttys = _sources(protocols), _ttys(protocols)
        for name, (family, kind, protocol) in _SOCKETS.items():
            yield Sample(
                Subject("network", "any", name),
                "",
                [
                    (
                        Cell("network", source, tty=tty),
                        Operation("network", source=source, tty=tty, family=family,
                                  socket_type=kind, protocol=protocol),
                    )
                    for source in sources for tty in ttys
                ],
            )  # fmt: skip
    queries = [rule for rule in rules if isinstance(rule, DnsRule)]
    if queries:
        domains = _unique(rule.domain for rule in queries)
        other = _unmentioned(domains)
        names = {domain: domain for domain in domains}
        names |= {f"names in {domain}": f"{other}.{domain}" for domain in domains}
        names["other names"] = f"{other}.invalid"
        for label, name in names.items():
            yield Sample(
                Subject("network", "query", label),
                "",
                [
                    (Cell("network", source), Operation("network", source=source, dns=name))
                    for source in _sources(queries)
                ],
            )


def _capabilities(policies: Sequence[Policy]) -> Iterator[Sample]:
    rules = [rule for policy in policies for rule in policy.capabilities]
    names = _unique(rule.capability for rule in rules)
    if rules:
        for label, name in [*zip(names, names, strict=True), ("any other", _unmentioned(names))]:
            yield Sample(
                Subject("capabilities", "any", label),
                "",
                [
                    (
                        Cell("capability", source),
                        Operation("capability", source=source, capability=name),
                    )
                    for source in _sources(rules)
                ],
            )


def _syscalls(policies: Sequence[Policy]) -> Iterator[Sample]:
    rules = [rule for policy in policies for rule in policy.syscalls]
    other = _unmentioned(rule.path for rule in rules)
    places = [""]
    sources = [OTHER]
    for rule in rules:
        places += _around(rule.path, other)
        for source in rule.from_source:
            sources += [source.path] if source.path else _around(source.dir, other)
    for name in _unique(call for rule in rules for call in rule.syscalls):
        for path in _unique(places):
            yield Sample(
                Subject("syscalls", "any", f"{name} {path}".strip()),
                "",
                [
                    (Cell("syscall", source), Operation("syscall", path, source, syscall=name))
                    for source in _unique(sources)
                ],
            )


def _presets(policies: Sequence[Policy]) -> Iterator[Sample]:
    if not any(policy.presets for policy in policies):
        return
    other = _unmentioned(r.value for p in policies for r in (*p.process, *p.file))
    questions = {
        "a program without a file": Operation("exec", fileless=True),
        "a program in shared memory": Operation("exec", f"/dev/shm/{other}"),
        "a program entered from outside with a terminal": Operation(
            "exec", f"/{other}", tty=True, entered=True
        ),
        "another process's files in /proc": Operation(
            "read", f"/proc/1/{other}", foreign_proc=True
        ),
        "another process's environment": Operation("read", "/proc/1/environ", foreign_proc=True),
        "anonymous executable memory": Operation("syscall", syscall="mmap", fileless=True),
    }
    for label, operation in questions.items():
        cell = Cell(operation.kind, OTHER, tty=operation.tty)
        yield Sample(Subject("presets", "any", label), "", [(cell, operation)])


def _around(place: str, other: str) -> list[str]:
    """A path, or of a directory itself, a child and a grandchild."""
    if place.endswith("/"):
        return [place.rstrip("/") or "/", f"{place}{other}", f"{place}{other}/{other}"]
    return [place]


def _sources(rules: Iterable[PathRule | ProtocolRule | DnsRule | CapabilityRule]) -> list[str]:
    return [OTHER, *_unique(source for rule in rules for source in rule.from_source)]


def _ttys(rules: Iterable[PathRule | ProtocolRule]) -> tuple[bool, ...]:
    return (False, True) if any(not rule.pts for rule in rules) else (False,)


def _unique(values: Iterable[str]) -> list[str]:
    return sorted(set(values))


def _unmentioned(values: Iterable[str]) -> str:
    """A name that no value holds."""
    name, text = "other", "\n".join(values)
    while name in text:
        name += "-other"
    return name


def _fitting(pattern: str, other: str, member: int) -> str:
    """A path that ought to match: stars become a name, classes their first or last member."""
    found, at = "", 0
    while at < len(pattern):
        character = pattern[at]
        if character == "*":
            double = pattern.startswith("**", at)
            found += f"{other}/{other}" if double else other
            at += 2 if double else 1
            continue
        end = pattern.find("]", at + 2) if character == "[" else -1
        if end > 0:
            body = pattern[at + 1 : end]
            negated = len(body) > 1 and body[0] in "!^"
            found += next((c for c in "~%qzx" if c not in body), "~") if negated else body[member]
            at = end + 1
        else:
            found += "x" if character == "?" else character
            at += 1
    return found
