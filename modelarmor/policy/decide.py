"""What a policy means: one operation and a set of policies in, a verdict out.

This module is the one definition. The sandbox's helper implements the same table in C, the linter
reports where an enforcer of KubeArmor's departs from it, and the tests of both answer to it.

**Classes.** ``process`` rules answer the execution of a file; ``file`` rules answer reading,
writing, creating, deleting, changing metadata and listing. ``network`` rules by protocol answer the
making of a socket, rules by domain answer a DNS query, ``capabilities`` rules the use of a
capability. ``syscalls`` rules only audit. Paths are resolved: symbolic links are followed before a
rule is looked up. Selectors play no part here: the caller passes the policies that apply.

**Precedence.** Among Allow and Block rules the first of these levels that has a match decides:

1. the exact path, with a ``fromSource`` that matches;
2. a directory with a ``fromSource`` that matches, the deepest first;
3. the exact path, for every source;
4. ``execname``, the last component of the path (``process`` only);
5. a pattern, in which ``*`` and ``?`` stop at a slash, ``**`` does not, and ``[a-z]``, ``[!a-z]``
   are classes (see `Glob`);
6. a directory for every source, the deepest first.

A directory rule matches the directory itself too; with ``recursive: false`` it matches besides it
only what lies directly in it. On the same key (the same level, and of directories the same one)
Block wins over Allow. For network and capability rules there are two levels, with a source and
without; a longer domain precedes a shorter one.

**Conditions.** ``fromSource`` holds if it names the caller's executable or, for an execution, the
parent's: KubeArmor takes the parent's, which after a fork is the caller's own; for a program that
replaces itself in place the two differ and either will do. A rule with ``pts: false`` exists only
for a caller that has a terminal.

**Qualifiers** say what a rule that matched permits: ``ownerOnly`` only the inode's owner,
``readOnly`` only reading and listing. A Block permits nothing without a qualifier, and with one
exactly what all its qualifiers permit. An Allow permits the same; what lies outside falls to the
default posture. ``allowedArgs`` qualifies a Block (every argument must be in the set; more than 20
arguments or one over 104 characters is refused) and is ignored in an Allow. An Audit rule never
changes a verdict; of those that match what was allowed, the most specific is reported, a qualified
one only for what its qualifiers do not permit.

**Default posture.** Where no rule matched, a class that has an Allow rule follows the posture:
``block`` refuses, ``audit`` allows and reports; process follows the file posture. Each class counts
its own Allow rules. Two things are exempt, though never from a Block rule: reading what every
dynamically linked program needs to start (`baseline_allows`; AppArmor's ``abstractions/base``,
which KubeArmor's AppArmor profiles include, is the model), and executing the caller's own file.

**Across classes.** Execution opens the file, so where the file rules, asked as for a read by the
caller, come to a Block without qualifiers, the execution is blocked by that rule. Presets stand
outside the precedence: one that applies and blocks, blocks.

This is how KubeArmor's BPF-LSM enforcer decides (``KubeArmor/BPF/enforcer.bpf.c``, ``shared.h``,
v1.7.4), with these deliberate differences, which `modelarmor.policy.lint` reports: it lets the last
writer win on the same key, lets a recursive directory shadow a deeper one that is not, ignores
patterns, cuts paths at 199 and directories at 64 characters, holds 256 entries, refuses a non-owner
by an Allow with ``ownerOnly`` and writing by an Allow with ``readOnly`` even under posture
``audit``, lets an Allow with ``readOnly`` create, delete, rename and change metadata, refuses to
execute what the file posture refuses to read, looks up a socket's type before its protocol (so that
an Allow of the type undoes a Block of the protocol), takes ``sctp`` for every ``SOCK_SEQPACKET``
with protocol 0, has no baseline and no exemption for the caller's own file, counts ``argv[0]``
among the arguments, takes ``pts: false`` to say who is refused, and by ``protectProc`` refuses all
of ``/proc`` but the caller's own directory. As there, a protocol rule disregards the address
family: ``tcp`` covers every stream socket with protocol 0 or TCP, AF_UNIX included.
``tests/conformance/enforcer.py`` compares both on random policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from modelarmor.policy.model import (
    CapabilityRule,
    DnsRule,
    PathRule,
    Policy,
    Posture,
    PresetRule,
    ProtocolRule,
    Rule,
    SyscallRule,
    SyscallSource,
)

__all__ = [
    "BASELINE_DEVICES",
    "BASELINE_DEVICE_DIRECTORIES",
    "BASELINE_FILES",
    "BASELINE_LIBRARY_DIRECTORIES",
    "BASELINE_PATTERNS",
    "BASELINE_TREES",
    "DEFAULT_POSTURE",
    "MAX_ARGUMENTS",
    "MAX_ARGUMENT_LENGTH",
    "Decision",
    "Glob",
    "Operation",
    "OperationKind",
    "Table",
    "baseline_allows",
    "decide",
]

OperationKind = Literal[
    "exec", "read", "write", "create", "delete", "metadata", "list",
    "network", "capability", "syscall",
]  # fmt: skip

#: the policy name under which KubeArmor reports what the default posture decided
DEFAULT_POSTURE: Final = "DefaultPosture"
#: ``allowedArgs``: more arguments than this are refused (KubeArmor's BPF-LSM enforcer)
MAX_ARGUMENTS: Final = 20
#: ``allowedArgs``: an argument of more characters than this is refused
MAX_ARGUMENT_LENGTH: Final = 104

#: below these, at any depth, shared objects (``*.so``, ``*.so.*``) may be read
BASELINE_LIBRARY_DIRECTORIES: Final = (
    "/lib/", "/lib32/", "/lib64/", "/usr/lib/", "/usr/lib64/", "/usr/local/lib/",
)  # fmt: skip
#: single files that may be read
BASELINE_FILES: Final = ("/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime")
#: directories that may be read and listed with everything below
BASELINE_TREES: Final = ("/usr/lib/locale/", "/usr/share/locale/", "/usr/share/zoneinfo/")
#: patterns of what may be read: iconv's modules, wherever multiarch puts them
BASELINE_PATTERNS: Final = (
    "/usr/lib/gconv/**", "/usr/lib64/gconv/**", "/usr/lib/*-linux-*/gconv/**",
)  # fmt: skip
#: devices that may be read and written
BASELINE_DEVICES: Final = (
    "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty",
)  # fmt: skip
#: directories whose direct children, devices all, may be read and written
BASELINE_DEVICE_DIRECTORIES: Final = ("/dev/pts/",)

_PATH_KINDS: Final = frozenset({"exec", "read", "write", "create", "delete", "metadata", "list"})
_READING: Final = frozenset({"read", "list"})
#: kinds that KubeArmor's file_open hook sees; protectProc and protectEnv hang on it
_OPENING: Final = frozenset({"read", "write", "create", "list"})
_SHARED_MEMORY: Final = ("/dev/shm/", "/run/shm/")
_PROTOCOL_NAMES: Final = {
    "0": "", "ip": "", "1": "icmp", "6": "tcp", "17": "udp", "33": "dccp", "58": "icmpv6",
    "ipv6-icmp": "icmpv6", "132": "sctp",
    # Multipath TCP is TCP by another number, and must not be a way around a rule for TCP.
    "262": "tcp", "mptcp": "tcp",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a process asks for.

    Raises:
        ValueError: if the kind needs a path and it is not absolute (a relative one would match no
            rule and so escape every Block).
    """

    kind: OperationKind
    #: resolved absolute path; for ``syscall`` the path argument, if it has one
    path: str = ""
    #: the caller's resolved executable
    source: str = ""
    #: the executable of the caller's parent
    parent: str = ""
    #: whether the caller's user owns the inode
    owner: bool = True
    #: whether the caller has a controlling terminal
    tty: bool = False
    #: ``argv[1:]`` of an execution
    args: tuple[str, ...] = ()
    #: ``inet``, ``inet6``, ``unix``, ``netlink``, ``packet`` …
    family: str = "inet"
    #: ``stream``, ``dgram``, ``raw``, ``rdm``, ``seqpacket``, ``dccp`` or ``packet``
    socket_type: str = "stream"
    #: ``tcp``, ``udp``, ``icmp`` … or the number; ``""``, ``"0"`` and ``"ip"`` are protocol 0
    protocol: str = "tcp"
    #: the name asked for, where the operation is a DNS query
    dns: str = ""
    #: with or without ``cap_``
    capability: str = ""
    syscall: str = ""
    #: the memory executed has no file: a memfd; for the ``mmap`` syscall, anonymous and executable
    fileless: bool = False
    #: the path lies below ``/proc/<pid>`` of another process than the caller
    foreign_proc: bool = False
    #: the process came in from outside, as with ``kubectl exec``
    entered: bool = False

    def __post_init__(self) -> None:
        if self.kind in _PATH_KINDS and not self.fileless and not self.path.startswith("/"):
            raise ValueError(
                f"{self.kind} of {self.path!r}: the path must be absolute and resolved"
            )


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and what it rests on."""

    verdict: Literal["allow", "block"]
    #: the rule that decided; ``None`` where no rule did
    rule: Rule | None = None
    policy: Policy | None = None
    #: the default posture decided (or, in audit, has something to report)
    posture: bool = False
    #: the most specific Audit rule that matched; only with an ``allow``
    audit: tuple[Policy, Rule] | None = None
    #: one sentence
    why: str = ""

    @property
    def policy_name(self) -> str:
        """The name that an alert carries: the policy's, ``DefaultPosture``, or nothing."""
        if self.posture:
            return DEFAULT_POSTURE
        return self.policy.name if self.policy else ""


class Glob:
    """A pattern of ``matchPatterns``, matched in time linear in the path.

    ``*`` is any run without a slash, ``**`` any run, ``?`` one character but a slash, ``[abc]``,
    ``[a-z]`` and ``[!a-z]`` (or ``[^a-z]``) one character but a slash; a bracket that is not closed
    and everything else stands for itself. The whole path must match.

    A bit-parallel automaton instead of a regular expression: paths come from the workload, and a
    pattern with several stars must not let one of them take long.
    """

    __slots__ = ("_accept", "_any", "_flat", "_masks", "_sets", "prefix", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        #: what every match starts with
        self.prefix = ""
        # State i is "the first i tokens have matched"; a bit for each.
        self._any = 0  # states that stay on every character: after "**"
        self._flat = 0  # states that stay on every character but a slash: after "*"
        self._masks: dict[str, int] = {}  # literal character -> states it leads into
        self._sets: list[tuple[int, bool, tuple[tuple[str, str], ...]]] = []
        self._accept = 1
        self._parse(text)

    def _parse(self, text: str) -> None:
        at, state = 0, 1
        literal = True
        while at < len(text):
            character = text[at]
            if character == "*":
                literal = False
                if text.startswith("**", at):
                    self._any |= state
                    at += 2
                else:
                    self._flat |= state
                    at += 1
                continue
            state <<= 1
            end = text.find("]", at + 2) if character == "[" else -1
            if character == "?":
                literal = False
                self._sets.append((state, True, ()))
            elif end > 0:
                literal = False
                body = text[at + 1 : end]
                negated = body[0] in "!^" and len(body) > 1
                self._sets.append((state, negated, _ranges(body[1:] if negated else body)))
                at = end
            else:
                self._masks[character] = self._masks.get(character, 0) | state
                if literal:
                    self.prefix += character
            at += 1
        self._accept = state

    def _mask(self, character: str) -> int:
        mask = self._masks.get(character, 0)
        if character != "/":
            for state, negated, ranges in self._sets:
                if any(low <= character <= high for low, high in ranges) is not negated:
                    mask |= state
        return mask

    def matches(self, path: str) -> bool:
        """Whether the whole of ``path`` matches."""
        if not path.startswith(self.prefix):
            return False
        states = 1
        for character in path:
            stay = self._any if character == "/" else self._any | self._flat
            states = ((states << 1) & self._mask(character)) | (states & stay)
            if not states:
                return False
        return bool(states & self._accept)


def _ranges(body: str) -> tuple[tuple[str, str], ...]:
    ranges: list[tuple[str, str]] = []
    at = 0
    while at < len(body):
        if body[at + 1 : at + 2] == "-" and at + 2 < len(body):
            ranges.append((body[at], body[at + 2]))
            at += 3
        else:
            ranges.append((body[at], body[at]))
            at += 1
    return tuple(ranges)


_BASELINE_GLOBS: Final = tuple(Glob(pattern) for pattern in BASELINE_PATTERNS)


def baseline_allows(op: Operation) -> bool:
    """Whether the default posture leaves ``op`` alone because programs cannot start without it.

    Reading shared objects in the system's library directories, the loader's cache, locales, time
    zones and character sets; reading and writing the harmless devices. Nothing below ``/proc``.
    """
    path = op.path
    if op.kind in ("read", "write"):
        if path in BASELINE_DEVICES:
            return True
        parent, _, name = path.rpartition("/")
        if name and parent + "/" in BASELINE_DEVICE_DIRECTORIES:
            return True
    if op.kind not in _READING:
        return False
    if path in BASELINE_FILES or (path + "/").startswith(BASELINE_TREES):
        return True
    if path.startswith(BASELINE_LIBRARY_DIRECTORIES):
        name = path[path.rfind("/") + 1 :]
        if name.endswith(".so") or ".so." in name:
            return True
    return any(glob.matches(path) for glob in _BASELINE_GLOBS)


RuleT_co = TypeVar("RuleT_co", bound=Rule, covariant=True)


@dataclass(frozen=True, slots=True)
class _Entry(Generic[RuleT_co]):
    policy: Policy
    rule: RuleT_co

    @property
    def action(self) -> str:
        return self.rule.outcome.action


_Entries = Sequence[_Entry[Rule]]


class _Paths:
    """The rules of ``process`` or of ``file``, found by what they name."""

    def __init__(self, rules: Iterable[tuple[Policy, PathRule]]) -> None:
        self._paths: dict[str, list[_Entry[PathRule]]] = {}
        self._directories: dict[str, list[_Entry[PathRule]]] = {}
        self._names: dict[str, list[_Entry[PathRule]]] = {}
        self._globs: list[tuple[Glob, _Entry[PathRule]]] = []
        self.has_allow = self.has_audit = False
        for policy, rule in rules:
            entry = _Entry(policy, rule)
            self.has_allow |= rule.outcome.action == "Allow"
            self.has_audit |= rule.outcome.action == "Audit"
            if rule.match == "pattern":
                self._globs.append((Glob(rule.value), entry))
            elif rule.match == "directory":
                self._directories.setdefault(rule.value.rstrip("/") + "/", []).append(entry)
            else:
                table = self._paths if rule.match == "path" else self._names
                table.setdefault(rule.value, []).append(entry)
        self._longest = max(map(len, self._directories), default=0)

    def levels(self, path: str, sources: tuple[str, ...], tty: bool) -> Iterator[_Entries]:
        """What matches, a level at a time, the strongest first."""

        def fit(
            entries: Iterable[_Entry[PathRule]], *, sourced: bool | None
        ) -> list[_Entry[PathRule]]:
            return [
                entry
                for entry in entries
                if (sourced is None or bool(entry.rule.from_source) is sourced)
                and (tty or entry.rule.pts)
                and (
                    not entry.rule.from_source
                    or any(source in entry.rule.from_source for source in sources)
                )
            ]

        exact = self._paths.get(path, ())
        directories = self._containing(path)
        yield fit(exact, sourced=True)
        for entries in directories:
            yield fit(entries, sourced=True)
        yield fit(exact, sourced=False)
        yield fit(self._names.get(path[path.rfind("/") + 1 :], ()), sourced=None)
        if self._globs:
            yield fit((entry for glob, entry in self._globs if glob.matches(path)), sourced=None)
        for entries in directories:
            yield fit(entries, sourced=False)

    def _containing(self, path: str) -> list[list[_Entry[PathRule]]]:
        """Rules of the directories that hold ``path``, itself included, the deepest first."""
        found = []
        whole = path if path.endswith("/") else path + "/"
        end, distance = len(whole), 0
        while end > 0:
            if end <= self._longest and (entries := self._directories.get(whole[:end])):
                near = distance <= 1
                found.append([entry for entry in entries if near or entry.rule.recursive])
            end = whole.rfind("/", 0, end - 1) + 1
            distance += 1
        return found


class _Flat(Generic[RuleT_co]):
    """Rules that are few and have no hierarchy: network, DNS, capabilities."""

    def __init__(self, rules: Iterable[tuple[Policy, RuleT_co]]) -> None:
        self.entries = [_Entry(policy, rule) for policy, rule in rules]
        self.has_allow = any(entry.action == "Allow" for entry in self.entries)
        self.has_audit = any(entry.action == "Audit" for entry in self.entries)


def _by_source(
    entries: Iterable[_Entry[ProtocolRule] | _Entry[CapabilityRule] | _Entry[DnsRule]], source: str
) -> Iterator[_Entries]:
    matching = list(entries)
    yield [entry for entry in matching if source and source in entry.rule.from_source]
    yield [entry for entry in matching if not entry.rule.from_source]


class Table:
    """Policies compiled once, to decide many operations.

    An operation costs a few dictionary look-ups for each component of its path, and a match of
    each pattern, however many rules there are.

    Args:
        policies: those that apply to the workload, in any order; selectors are not consulted.
        posture: what happens to what no rule matches, where a class has Allow rules.
    """

    def __init__(self, policies: Sequence[Policy], posture: Posture | None = None) -> None:
        self._posture = posture or Posture()
        self._process = _Paths((p, rule) for p in policies for rule in p.process)
        self._file = _Paths((p, rule) for p in policies for rule in p.file)
        self._protocols = _Flat(
            (p, rule) for p in policies for rule in p.network if isinstance(rule, ProtocolRule)
        )
        self._dns = _Flat(
            (p, rule) for p in policies for rule in p.network if isinstance(rule, DnsRule)
        )
        self._capabilities = _Flat((p, rule) for p in policies for rule in p.capabilities)
        self._syscalls = _Flat((p, rule) for p in policies for rule in p.syscalls)
        self._presets = _Flat((p, rule) for p in policies for rule in p.presets)

    def decide(self, op: Operation) -> Decision:
        """The verdict on ``op``, the rule that it rests on, and why."""
        presets = [entry for entry in self._presets.entries if _preset_applies(entry.rule, op)]
        for entry in presets:
            if entry.action != "Audit":
                return Decision(
                    "block", entry.rule, entry.policy,
                    why=f"preset {entry.rule.name} of policy {entry.policy.name} refuses it",
                )  # fmt: skip
        decision = self._decide(op)
        if op.kind == "exec" and decision.verdict == "allow":
            decision = self._blocked_by_file(op) or decision
        if decision.verdict == "allow" and (audit := self._audit(op, presets)):
            return Decision(
                decision.verdict, decision.rule, decision.policy, decision.posture,
                (audit.policy, audit.rule), decision.why,
            )  # fmt: skip
        return decision

    def matches(self, op: Operation) -> list[tuple[Policy, Rule]]:
        """Every rule that matches ``op``, the strongest first; for explanation, not decision."""
        found: list[_Entry[Rule]] = [
            entry for entry in self._presets.entries if _preset_applies(entry.rule, op)
        ]
        for level in self._levels(op):
            found.extend(level)
        if op.kind == "exec":
            for level in self._file.levels(op.path, (op.source,), op.tty):
                found.extend(entry for entry in level if _forbids_opening(entry.rule))
        return [(entry.policy, entry.rule) for entry in found]

    def _decide(self, op: Operation) -> Decision:
        for level in self._levels(op):
            blocks = [entry for entry in level if entry.action == "Block"]
            allows = [entry for entry in level if entry.action == "Allow"]
            for entry in blocks:
                if not _block_permits(entry.rule, op):
                    return Decision("block", entry.rule, entry.policy, why=_why(entry, "blocks it"))
            for entry in blocks:
                reason = _why(entry, "blocks only what its qualifiers do not permit")
                return Decision("allow", entry.rule, entry.policy, why=reason)
            for entry in allows:
                if _qualifiers_hold(entry.rule, op):
                    return Decision("allow", entry.rule, entry.policy, why=_why(entry, "allows it"))
            if allows:
                return self._by_posture(op, _why(allows[0], "allows it only " + _limits(allows[0])))
        return self._by_posture(op, "no rule matches")

    def _by_posture(self, op: Operation, because: str) -> Decision:
        label, has_allow, posture = self._class_of(op)
        if not has_allow:
            return Decision("allow", why=f"{because}, and no Allow rule limits {label}")
        if baseline_allows(op):
            return Decision("allow", why=f"{because}, but programs cannot start without it")
        if op.kind == "exec" and op.path == op.source:
            return Decision("allow", why=f"{because}, but it is the caller's own executable")
        reason = f"{because}, and {label} has Allow rules: the default posture is {posture}"
        return Decision("block" if posture == "block" else "allow", posture=True, why=reason)

    def _class_of(self, op: Operation) -> tuple[str, bool, str]:
        match op.kind:
            case "exec":
                return "process", self._process.has_allow, self._posture.file
            case "network" if op.dns:
                return "DNS", self._dns.has_allow, self._posture.network
            case "network":
                return "network", self._protocols.has_allow, self._posture.network
            case "capability":
                return "capabilities", self._capabilities.has_allow, self._posture.capabilities
            case "syscall":
                return "syscalls", False, "audit"
            case _:
                return "file", self._file.has_allow, self._posture.file

    def _levels(self, op: Operation) -> Iterator[_Entries]:
        match op.kind:
            case "exec":
                return self._process.levels(op.path, (op.source, op.parent), op.tty)
            case "network" if op.dns:
                return self._dns_levels(op)
            case "network":
                return _by_source(
                    (
                        entry
                        for entry in self._protocols.entries
                        if (op.tty or entry.rule.pts) and _protocol_matches(entry.rule.protocol, op)
                    ),
                    op.source,
                )
            case "capability":
                name = op.capability.lower().removeprefix("cap_")
                return _by_source(
                    (e for e in self._capabilities.entries if e.rule.capability == name), op.source
                )
            case "syscall":
                return iter([[e for e in self._syscalls.entries if _syscall_matches(e.rule, op)]])
            case _:
                return self._file.levels(op.path, (op.source,), op.tty)

    def _dns_levels(self, op: Operation) -> Iterator[_Entries]:
        labels = op.dns.lower().rstrip(".").split(".")
        suffixes = [".".join(labels[start:]) for start in range(len(labels))]
        by_domain: dict[str, list[_Entry[DnsRule]]] = {}
        for entry in self._dns.entries:
            by_domain.setdefault(entry.rule.domain.lower().strip("."), []).append(entry)
        found = [by_domain[suffix] for suffix in suffixes if suffix in by_domain]
        for entries in found:
            yield [entry for entry in entries if op.source and op.source in entry.rule.from_source]
        for entries in found:
            yield [entry for entry in entries if not entry.rule.from_source]

    def _blocked_by_file(self, op: Operation) -> Decision | None:
        for level in self._file.levels(op.path, (op.source,), op.tty):
            if deciding := [entry for entry in level if entry.action != "Audit"]:
                for entry in deciding:
                    if _forbids_opening(entry.rule):
                        reason = _why(entry, "blocks opening the file, which execution does")
                        return Decision("block", entry.rule, entry.policy, why=reason)
                return None
        return None

    def _audit(self, op: Operation, presets: Sequence[_Entry[PresetRule]]) -> _Entry[Rule] | None:
        if self._has_audit(op):
            for level in self._levels(op):
                for entry in level:
                    if entry.action == "Audit" and not _block_permits(entry.rule, op):
                        return entry
        return presets[0] if presets else None

    def _has_audit(self, op: Operation) -> bool:
        match op.kind:
            case "exec":
                return self._process.has_audit
            case "network":
                return self._dns.has_audit if op.dns else self._protocols.has_audit
            case "capability":
                return self._capabilities.has_audit
            case "syscall":
                return self._syscalls.has_audit
            case _:
                return self._file.has_audit


def decide(
    operation: Operation, policies: Sequence[Policy], posture: Posture | None = None
) -> Decision:
    """Decide one operation. For many, compile a `Table` once.

    Args:
        operation: what is asked for.
        policies: those that apply to the workload, in any order.
        posture: the default posture; ``block`` for every class if left out.
    """
    return Table(policies, posture).decide(operation)


def _why(entry: _Entry[Rule], verb: str) -> str:
    rule = entry.rule
    what = f"{rule.outcome.action} rule"
    if rule.where:
        what += f" {rule.where}"
    at = f" ({rule.place})" if rule.place.line else ""
    return f"{what} of policy {entry.policy.name}{at} {verb}"


def _limits(entry: _Entry[Rule]) -> str:
    rule = entry.rule
    if isinstance(rule, PathRule) and rule.owner_only:
        return "to read by the owner" if rule.read_only else "for the owner"
    return "to read"


def _qualifiers_hold(rule: Rule, op: Operation) -> bool:
    """Whether ``op`` lies in what ``ownerOnly`` and ``readOnly`` permit."""
    if not isinstance(rule, PathRule):
        return True
    if rule.owner_only and not op.owner:
        return False
    return not (rule.read_only and op.kind not in _READING and op.kind != "exec")


def _block_permits(rule: Rule, op: Operation) -> bool:
    """Whether a Block (or an Audit, which reports what a Block would refuse) leaves ``op`` be."""
    if not isinstance(rule, PathRule):
        return False
    # readOnly is a field of file rules; a process rule that carries one is no milder for it.
    qualified = rule.owner_only or (rule.read_only and op.kind != "exec")
    if rule.allowed_args and op.kind == "exec":
        return _arguments_allowed(rule, op) and _qualifiers_hold(rule, op)
    return qualified and _qualifiers_hold(rule, op)


def _arguments_allowed(rule: PathRule, op: Operation) -> bool:
    return len(op.args) <= MAX_ARGUMENTS and all(
        len(argument) <= MAX_ARGUMENT_LENGTH and argument in rule.allowed_args
        for argument in op.args
    )


def _forbids_opening(rule: Rule) -> bool:
    return (
        isinstance(rule, PathRule)
        and rule.outcome.action == "Block"
        and not rule.owner_only
        and not rule.read_only
    )


def _protocol_matches(name: str, op: Operation) -> bool:
    protocol = op.protocol.lower()
    protocol = _PROTOCOL_NAMES.get(protocol, protocol)
    match name.lower():
        case "all":
            return True
        case "tcp":
            return op.socket_type == "stream" and protocol in ("", "tcp")
        case "udp":
            return op.socket_type == "dgram" and protocol in ("", "udp")
        case "packet":
            return op.socket_type == "packet" or op.family == "packet"
        case "icmp" | "icmpv6" | "sctp" as number:
            return protocol == number
        case "dccp":
            return op.socket_type == "dccp" or protocol == "dccp"
        case socket_type:
            return op.socket_type == socket_type


def _syscall_matches(rule: SyscallRule, op: Operation) -> bool:
    if op.syscall not in rule.syscalls:
        return False
    if rule.path and not _lies_at(op.path, rule.path, rule.recursive):
        return False
    return not rule.from_source or any(_source_fits(s, op.source) for s in rule.from_source)


def _source_fits(source: SyscallSource, executable: str) -> bool:
    if source.path:
        return executable == source.path
    return bool(source.dir) and _lies_at(executable, source.dir, source.recursive)


def _lies_at(path: str, place: str, recursive: bool) -> bool:
    """Whether ``path`` is ``place`` or, where that is a directory, in it (``recursive``: below)."""
    if path == place or path + "/" == place:
        return True
    if not place.endswith("/") or not path.startswith(place):
        return False
    return recursive or "/" not in path[len(place) :]


def _preset_applies(rule: PresetRule, op: Operation) -> bool:
    match rule.name:
        case "filelessExec":
            return op.kind == "exec" and (op.fileless or op.path.startswith(_SHARED_MEMORY))
        case "exec":
            return op.kind == "exec" and op.entered and op.tty
        case "protectProc":
            return op.kind in _OPENING and op.foreign_proc
        case "protectEnv":
            return op.kind in _OPENING and op.foreign_proc and op.path.endswith("/environ")
        case "anonymousMapExec":
            return op.kind == "syscall" and op.syscall == "mmap" and op.fileless
        case _:
            return False
