"""What a KubeArmorPolicy document is, as values.

One dataclass a thing of KubeArmor's custom resource definitions (security.kubearmor.com/v1),
flattened in one respect: the lists of a section (``matchPaths``, ``matchDirectories``,
``matchPatterns`` …) become one tuple of rules, each of which knows its list, because everything
that reads a policy (decide, lint, diff, the sandbox's planner) wants "the rules of this section".

Inheritance (rule, then section, then spec) is *resolved* here: a rule's ``severity``, ``tags``,
``message`` and ``action`` are what KubeArmor would use (``KubeArmor/core/kubeUpdate.go``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal["Allow", "Audit", "Block"]
Kind = Literal["KubeArmorPolicy", "KubeArmorClusterPolicy", "KubeArmorHostPolicy"]
Match = Literal["path", "execname", "directory", "pattern"]
Section = Literal["process", "file", "network", "capabilities", "syscalls", "presets", "device"]

API_VERSION = "security.kubearmor.com/v1"
KINDS: tuple[Kind, ...] = ("KubeArmorPolicy", "KubeArmorClusterPolicy", "KubeArmorHostPolicy")
PRESETS = ("anonymousMapExec", "exec", "filelessExec", "protectEnv", "protectProc")
PROTOCOLS = (
    "tcp", "udp", "raw", "icmp", "icmpv6", "sctp",
    "stream", "dgram", "rdm", "seqpacket", "dccp", "packet", "all",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was written: file (or ``<string>``), 1-based line and column."""

    file: str = "<memory>"
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule does when it matches, after inheritance."""

    action: Action = "Block"
    severity: int = 0
    tags: tuple[str, ...] = ()
    message: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of a section. ``place`` and ``outcome`` are common to all kinds of rule."""

    outcome: Outcome = field(default_factory=Outcome)
    place: Place = field(default_factory=Place, compare=False)
    #: dotted field in the document, such as ``spec.file.matchPaths[2]``
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class PathRule(Rule):
    """A rule of ``process`` or ``file``: by path, execname, directory or pattern."""

    match: Match = "path"
    #: absolute path; directory with its trailing slash; bare name for execname; glob for pattern
    value: str = ""
    from_source: tuple[str, ...] = ()
    owner_only: bool = False
    recursive: bool = False
    read_only: bool = False
    #: ``False`` limits the rule to tasks that have a terminal
    pts: bool = True
    allowed_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProtocolRule(Rule):
    protocol: str = "all"
    from_source: tuple[str, ...] = ()
    pts: bool = True


@dataclass(frozen=True, slots=True)
class DnsRule(Rule):
    domain: str = ""
    from_source: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CapabilityRule(Rule):
    #: lower case without ``cap_``, as in the document: ``net_raw``
    capability: str = ""
    from_source: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SyscallSource:
    """``fromSource`` of a syscall rule; unlike elsewhere it may name a directory."""

    path: str = ""
    dir: str = ""
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class SyscallRule(Rule):
    """``matchSyscalls`` (``path`` empty) or ``matchPaths`` of the ``syscalls`` section."""

    syscalls: tuple[str, ...] = ()
    path: str = ""
    recursive: bool = False
    from_source: tuple[SyscallSource, ...] = ()


@dataclass(frozen=True, slots=True)
class PresetRule(Rule):
    name: str = ""


@dataclass(frozen=True, slots=True)
class DeviceRule(Rule):
    """``matchDevice`` of a host policy: a USB device; what is ``None`` matches any."""

    device_class: str = ""
    sub_class: int | None = None
    protocol: int | None = None
    level: int | None = None


@dataclass(frozen=True, slots=True)
class Expression:
    key: str
    operator: Literal["In", "NotIn"]
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Selector:
    """``selector`` (or ``nodeSelector``): labels ANDed with expressions."""

    match_labels: tuple[tuple[str, str], ...] = ()
    match_expressions: tuple[Expression, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """One KubeArmorPolicy, KubeArmorClusterPolicy or KubeArmorHostPolicy document."""

    kind: Kind
    name: str
    namespace: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    selector: Selector = field(default_factory=Selector)
    process: tuple[PathRule, ...] = ()
    file: tuple[PathRule, ...] = ()
    network: tuple[ProtocolRule | DnsRule, ...] = ()
    capabilities: tuple[CapabilityRule, ...] = ()
    syscalls: tuple[SyscallRule, ...] = ()
    presets: tuple[PresetRule, ...] = ()
    #: host policies only
    device: tuple[DeviceRule, ...] = ()
    #: raw AppArmor text; AppArmor enforcer only
    apparmor: str = ""
    #: spec-level outcome, before any rule overrides it
    outcome: Outcome = field(default_factory=Outcome)
    place: Place = field(default_factory=Place, compare=False)
    #: the document as plain data, for a faithful dump; never consulted for meaning
    source: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Posture:
    """What happens to an operation of a class that has Allow rules and matches none of them.

    KubeArmor ships ``audit`` (``KubeArmor/config/config.go:170``); our profiles state ``block``.
    Process follows the file posture, as in KubeArmor.
    """

    file: Literal["audit", "block"] = "block"
    network: Literal["audit", "block"] = "block"
    capabilities: Literal["audit", "block"] = "block"

    @classmethod
    def all(cls, value: Literal["audit", "block"]) -> Posture:
        return cls(value, value, value)
