"""The smallest change of a policy that permits what it refused.

From operations that were refused, or that were recorded where nothing was, to Allow rules beside
the policies that there are: an exact path where there are few, their directory where there are
many, read only where nothing was changed. Nothing is ever taken away. What comes out was decided
again with the change in place, and compared with what was before: it permits each operation that
it says it does, refuses nothing that was permitted, and gains nothing but what its rules name.

A Block rule wins over an Allow rule on the same key. It is overruled only where a more specific
Allow rule wins by KubeArmor's precedence, and only when that was asked for. What a KubeArmorPolicy
has no word for, and what it names so closely that no rule is closer, is refused with the reason.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from modelarmor.alerts import Alert
from modelarmor.generate._dangers import Caution, Severity, dangers
from modelarmor.policy import document, lint
from modelarmor.policy.decide import Decision, Operation, Table
from modelarmor.policy.diff import Change, diff
from modelarmor.policy.model import (
    CapabilityRule,
    DnsRule,
    Outcome,
    PathRule,
    Policy,
    Posture,
    PresetRule,
    ProtocolRule,
    Rule,
    Selector,
)
from modelarmor.sandbox.events import EGRESS_POLICY, RESOURCE_POLICY, SANDBOX_POLICY

__all__ = ["MAX_OPERATIONS", "MAX_RULES", "Caution", "Proposal", "Refusal", "propose", "why_not"]

#: so many different operations are looked at
MAX_OPERATIONS: Final = 20_000
#: so many rules are proposed; KubeArmor's BPF-LSM enforcer holds 256, of all policies together
MAX_RULES: Final = 200
#: so many files directly in a directory are one rule for the directory
SIBLINGS: Final = 6
#: so many directories in one are one rule for that, once they hold `SPREAD` files
BRANCHES: Final = 3
SPREAD: Final = 12

_MAX_PATH: Final = 1_000
#: never granted as a whole because of what lies in it, though each is fine as an exact path's home
_BROAD: Final = frozenset(
    ("/", "/home", "/root", "/etc", "/usr", "/var", "/opt", "/srv", "/mnt", "/media", "/proc",
     "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/lib", "/var/run", "/usr/local", "/usr/lib",
     "/usr/share", "/boot", "/lib", "/bin", "/sbin", "/data")
)  # fmt: skip
_PROTOCOLS: Final = ("tcp", "udp", "icmp", "icmpv6", "sctp", "dccp", "packet", "seqpacket", "rdm",
                     "raw", "stream", "dgram")  # fmt: skip
_LOCAL_PROTOCOLS: Final = ("stream", "dgram", "seqpacket", *_PROTOCOLS)
_OUTCOME: Final = Outcome(
    "Allow", 4, (), "Granted beside what the profile grants, from the record of a workload"
)
_DOING: Final = {
    "read": "reading", "list": "listing", "write": "writing", "create": "creating",
    "delete": "deleting", "metadata": "changing the metadata of", "exec": "running",
}  # fmt: skip
_EFFECTS: Final = {
    "gained": "permits", "lost": "refuses", "reported": "reports", "unreported": "reports no more",
}  # fmt: skip
_SECTIONS: Final = ("process", "file", "network", "capabilities")
#: so many programs are named as sources; comparing policies takes time for each
_MAX_SOURCES: Final = 20
_LINT_SHOWN: Final = 5
_REFUSED_SHOWN: Final = 100
_NOTHING: Final = "Nothing to permit"

_R = TypeVar("_R", bound=Rule)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that is not proposed, and why."""

    what: str
    why: str

    def to_json(self) -> dict[str, str]:
        """The refusal as a JSON object."""
        return {"what": self.what, "why": self.why}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change, which `bool()` is False for if it is none.

    Attributes:
        summary: one line.
        policies: what to add, one policy; or nothing.
        changes: what it permits and, were there any, refuses, in words.
        warnings: what a person should know first, the gravest first.
        refused: what it does not permit although it was asked for.
        operations: how many different operations it permits.
    """

    summary: str
    policies: tuple[Policy, ...] = ()
    changes: tuple[Change, ...] = ()
    warnings: tuple[Caution, ...] = ()
    refused: tuple[Refusal, ...] = ()
    operations: int = 0

    def __bool__(self) -> bool:
        return bool(self.policies)

    @property
    def document(self) -> str:
        """The policy that is added, as YAML; empty if there is none."""
        return document.dump(self.policies) if self.policies else ""

    def to_json(self) -> dict[str, Any]:
        """The proposal as a JSON object, without what it refuses."""
        return {
            "summary": self.summary,
            "document": self.document,
            "changes": [
                {"effect": _EFFECTS[change.effect], "text": str(change)} for change in self.changes
            ],
            "warnings": [warning.to_json() for warning in self.warnings],
        }


def propose(
    operations: Iterable[Operation],
    policies: Sequence[Policy],
    posture: Posture | None = None,
    *,
    name: str,
    home: Path | None = None,
    overrule: bool = True,
    local: bool = True,
) -> Proposal:
    """Find the smallest addition to `policies` that permits `operations`.

    Args:
        operations: in any order and any number; what is permitted already is passed over.
        policies: those that apply now, with their templates filled.
        posture: the default posture; ``block`` for every class if left out.
        name: what to call the policy that is added.
        home: the user's home directory, for warnings; never granted as a whole for its files' sake.
        overrule: whether a Block rule may be overruled by a more specific Allow rule.
        local: whether the sandbox of this package enforces it, which grants no capability.
    """
    posture = posture or Posture()
    real_home = os.path.realpath(home) if home is not None else ""
    asked = _Asked(policies, posture, home=real_home, overrule=overrule, local=local)
    for operation in operations:
        asked.add(operation)
    policy = _solve(asked, name)
    refused = tuple(asked.refusals())
    if policy is None:
        return Proposal(_NOTHING, refused=refused)
    both = [*policies, policy]
    compared = diff(policies, both, posture)
    if compared.lost:
        why = f"permitting it would change something else: {compared.lost[0]}"
        return Proposal(_NOTHING, refused=(*refused, Refusal("all of it", why)))
    return Proposal(
        _summary(policy),
        (policy,),
        (*compared.gained, *compared.changed_report),
        tuple(_warnings(asked, policy, Table(both, posture))),
        refused,
        len(asked.wishes),
    )


def why_not(alert: Alert) -> str:
    """Why no rule of a policy would change what an alert is about; empty where one might."""
    if alert.PolicyName == EGRESS_POLICY:
        return (
            "A KubeArmorPolicy knows no addresses. Where a workload may connect to is said in the"
            " profile's network.yaml, a Kubernetes NetworkPolicy: add an egress rule for this"
            " address and port there, or take a profile that has one, such as notebook-online."
        )
    if alert.PolicyName == RESOURCE_POLICY:
        return (
            "A limit was reached, and a KubeArmorPolicy has none. They are in the profile's"
            " profile.yaml, under resources.limits: raise the one that the alert names there."
        )
    if alert.PolicyName == SANDBOX_POLICY:
        return "The sandbox refuses this to everything in it, since it leads out; no policy can."
    if alert.Operation == "AlertThreshold":
        return (
            "So many alerts came at once that these were only counted, and what they were about"
            " is not known. Run what caused them again by itself."
        )
    if alert.Operation == "Syscall":
        return "Rules on system calls only report; nothing was refused."
    return ""


# --- what is asked for


@dataclass(frozen=True, slots=True)
class _Remedy:
    """Rules that may permit an operation."""

    rules: tuple[tuple[str, Rule], ...]
    #: a rule for the directory would do as well
    groupable: bool = False


@dataclass(slots=True)
class _Wish:
    """An operation that is refused, with its remedies; those before `at` did not help."""

    operation: Operation
    refused_by: Decision
    remedies: Sequence[_Remedy]
    at: int = 0

    @property
    def remedy(self) -> _Remedy:
        return self.remedies[self.at]


class _Asked:
    """The operations, each once, and what became of them."""

    def __init__(
        self,
        policies: Sequence[Policy],
        posture: Posture,
        *,
        home: str,
        overrule: bool,
        local: bool,
    ) -> None:
        self.policies = policies
        self.posture = posture
        self.home = home
        self.before = Table(policies, posture)
        self.wishes: dict[Operation, _Wish] = {}
        self._overrule = overrule
        self._local = local
        self._seen: set[Operation] = set()
        self._refused: dict[Refusal, None] = {}
        self._left_out = 0

    def add(self, operation: Operation) -> None:
        """Wish for an operation, unless it is permitted already or cannot be."""
        if operation in self._seen:
            return
        if len(self._seen) >= MAX_OPERATIONS:
            self._left_out += 1
            return
        self._seen.add(operation)
        decision = self.before.decide(operation)
        if decision.verdict == "allow":
            return
        remedies = list(_remedies(operation))
        if reason := self._impossible(operation, decision, remedies):
            self.refuse(operation, reason)
        else:
            self.wishes[operation] = _Wish(operation, decision, remedies)

    def refuse(self, operation: Operation, why: str) -> None:
        """Give up a wish."""
        self.wishes.pop(operation, None)
        self._refused[Refusal(_described(operation), why)] = None

    def refusals(self) -> Iterator[Refusal]:
        """What was given up, or not looked at."""
        yield from islice(self._refused, _REFUSED_SHOWN)
        if (more := len(self._refused) - _REFUSED_SHOWN) > 0:
            yield Refusal(f"{more} more", "for reasons like those of the others; choose fewer")
        if self._left_out:
            why = f"only {MAX_OPERATIONS} different operations are looked at; choose fewer"
            yield Refusal(f"{self._left_out} more", why)

    def _impossible(
        self, operation: Operation, decision: Decision, remedies: Sequence[_Remedy]
    ) -> str:
        path = operation.path
        if isinstance(decision.rule, PresetRule):
            return f"{decision.why}, and no rule outweighs a preset: its policy would have to go"
        if operation.kind == "capability" and self._local:
            return "the sandbox gives no capability to anything in it, whatever a policy says"
        if len(path) > _MAX_PATH or not path.isprintable() or "${" in path:
            return "its name cannot be written in a policy safely"
        if not remedies:
            return f"{decision.why}, and a KubeArmorPolicy has no rule that permits it"
        if decision.rule is None or decision.rule.outcome.action != "Block":
            return ""
        if not self._overrule:
            return f"{decision.why}; ask for this one alone if it is meant"
        for section, _ in remedies[-1].rules:
            if self._without_allow_list(section):
                return (
                    f"{decision.why}, and nothing limits {section} otherwise: an Allow rule would"
                    " refuse everything else there. The Block rule would have to be narrowed"
                )
        return ""

    def _without_allow_list(self, section: str) -> bool:
        posture = "network" if section == "network" else "file"
        if section == "capabilities":
            posture = "capabilities"
        rules = [rule for policy in self.policies for rule in getattr(policy, section)]
        listed = any(rule.outcome.action == "Allow" for rule in rules)
        return getattr(self.posture, posture) == "block" and not listed


def _remedies(operation: Operation) -> Iterator[_Remedy]:
    """Rules that may permit an operation, from the plain to the most specific one."""
    section, plain = _plain(operation)
    if plain is None:
        return
    if isinstance(plain, PathRule):
        yield _Remedy(((section, plain),), groupable=True)
    sources = [(), (operation.source,)] if operation.source.startswith("/") else [()]
    rules = [replace(plain, from_source=by) for by in sources]
    for rule in rules:
        yield _Remedy(((section, rule),))
    if operation.kind == "exec":  # a file that may not be opened is not executed either
        for rule in rules:
            if isinstance(rule, PathRule):
                yield _Remedy(((section, rule), ("file", replace(rule, read_only=True))))


_Sourced = PathRule | ProtocolRule | DnsRule | CapabilityRule


def _plain(operation: Operation) -> tuple[str, _Sourced | None]:
    """The section and the plainest rule that an operation falls under, if there is one."""
    path, kind = operation.path, operation.kind
    match kind:
        case "syscall":
            return "", None
        case "network" if operation.dns:
            return "network", DnsRule(_OUTCOME, domain=operation.dns.lower().strip("."))
        case "network":
            protocol = _protocol(operation)
            return "network", ProtocolRule(_OUTCOME, protocol=protocol) if protocol else None
        case "capability":
            name = operation.capability.lower().removeprefix("cap_")
            return "capabilities", CapabilityRule(_OUTCOME, capability=name)
        case "exec":
            rule = PathRule(_OUTCOME, match="path", value=path)
            return "process", None if operation.fileless else rule
        case "list":  # by the directory's rule, which is about what lies in it too
            value = path.rstrip("/") + "/"
            return "file", PathRule(_OUTCOME, match="directory", value=value, read_only=True)
        case _:
            return "file", PathRule(_OUTCOME, match="path", value=path, read_only=kind == "read")


def _protocol(operation: Operation) -> str:
    """The narrowest protocol of a policy that covers a socket; empty if there is none."""
    for name in _LOCAL_PROTOCOLS if operation.family == "unix" else _PROTOCOLS:
        rule = ProtocolRule(_OUTCOME, protocol=name)
        if Table([Policy("KubeArmorPolicy", "x", network=(rule,))]).matches(operation):
            return name
    return ""


# --- the rules that permit it


def _solve(asked: _Asked, name: str) -> Policy | None:
    """The policy that permits every wish that can be; the others are refused.

    Each wish starts with its plainest rules. One that is still refused gets its next remedy, until
    all are permitted.
    """
    while asked.wishes:
        policy = _policy(asked, name)
        if surplus := _surplus(asked, policy):
            for wish in surplus:
                asked.refuse(wish.operation, "it is too much for one policy; choose fewer")
            continue
        after = Table([*asked.policies, policy], asked.posture)
        decided = [(wish, after.decide(wish.operation)) for wish in asked.wishes.values()]
        failed = [(wish, said) for wish, said in decided if said.verdict == "block"]
        if not failed:
            return policy
        for wish, decision in failed:
            wish.at += 1
            if wish.at == len(wish.remedies):
                asked.refuse(wish.operation, _too_close(decision))
    return None


def _too_close(decision: Decision) -> str:
    rule, policy = decision.rule, decision.policy
    if rule is None or policy is None:
        return f"{decision.why}, and no rule of a KubeArmorPolicy changes that"
    return (
        f"the {rule.outcome.action} rule {rule.where} of policy {policy.name} ({rule.place}) names"
        " just this, and no Allow rule is more specific: it would have to be changed there"
    )


def _surplus(asked: _Asked, policy: Policy) -> list[_Wish]:
    """The newest wishes, as many as the policy has rules too many."""
    rules = [getattr(policy, section) for section in _SECTIONS]
    sources = {source for section in rules for rule in section for source in rule.from_source}
    surplus = max(sum(map(len, rules)) - MAX_RULES, 0)
    wishes = list(asked.wishes.values())
    if len(sources) > _MAX_SOURCES:
        wishes = [wish for wish in wishes if any(
            rule.from_source for _, rule in wish.remedy.rules  # type: ignore[attr-defined]
        )]  # fmt: skip
        surplus = max(surplus, len(sources) - _MAX_SOURCES)
    return wishes[-surplus:] if surplus else []


def _policy(asked: _Asked, name: str) -> Policy:
    rules: dict[str, list[Rule]] = {section: [] for section in _SECTIONS}
    groupable: dict[str, list[PathRule]] = {"process": [], "file": []}
    for wish in asked.wishes.values():
        for section, rule in wish.remedy.rules:
            if wish.remedy.groupable and isinstance(rule, PathRule):
                groupable[section].append(rule)
            else:
                rules[section].append(rule)
    for section, paths in groupable.items():
        rules[section] += _grouped(section, _merged(paths), asked)
    written: dict[str, Any] = {section: tuple(_merged(found)) for section, found in rules.items()}
    selector = asked.policies[0].selector if asked.policies else Selector()
    return Policy("KubeArmorPolicy", name, selector=selector, outcome=_OUTCOME, **written)


def _merged(rules: Iterable[_R]) -> list[_R]:
    """Each rule once: reading goes with changing, and the sources of one place go together."""
    sources: dict[_R, dict[str, None]] = {}
    for rule in dict.fromkeys(rules):
        named = getattr(rule, "from_source", ())
        key = replace(rule, from_source=()) if named else rule  # type: ignore[call-arg]
        sources.setdefault(key, {}).update(dict.fromkeys(named))
    found = [
        replace(rule, from_source=tuple(sorted(named))) if named else rule  # type: ignore[call-arg]
        for rule, named in sources.items()
    ]
    changing = {rule for rule in found if isinstance(rule, PathRule) and not rule.read_only}
    return [
        rule
        for rule in found
        if not (
            isinstance(rule, PathRule)
            and rule.read_only
            and replace(rule, read_only=False) in changing
        )
    ]


# --- many files of one directory


@dataclass(slots=True)
class _Directory:
    """What is wanted in a directory: files by name, and directories."""

    files: list[PathRule] = field(default_factory=list)
    below: dict[str, _Directory] = field(default_factory=dict)
    #: how many files, at any depth
    total: int = 0


def _grouped(section: str, rules: Sequence[PathRule], asked: _Asked) -> list[PathRule]:
    """The rules, with one for the directory where there are many in one."""
    found = [rule for rule in rules if rule.match != "path"]
    for read_only in (True, False):
        top = _Directory()
        for rule in rules:
            if rule.match == "path" and rule.read_only is read_only:
                _place(top, rule)
        found += _visit("", top, section, read_only, asked)
    return found


def _place(top: _Directory, rule: PathRule) -> None:
    directory = top
    directory.total += 1
    for name in rule.value.split("/")[1:-1]:
        directory = directory.below.setdefault(name, _Directory())
        directory.total += 1
    directory.files.append(rule)


def _visit(
    at: str, directory: _Directory, section: str, read_only: bool, asked: _Asked
) -> list[PathRule]:
    whole = PathRule(
        _OUTCOME, match="directory", value=f"{at}/", recursive=True, read_only=read_only
    )
    if section == "process":
        whole = replace(whole, read_only=False)
    spread = len(directory.below) >= BRANCHES and directory.total >= SPREAD
    if spread and _may_be_whole(section, whole, asked):
        return [whole]
    flat = replace(whole, recursive=False)
    if len(directory.files) >= SIBLINGS and _may_be_whole(section, flat, asked):
        found = [flat]
    else:
        found = list(directory.files)
    for name, inner in directory.below.items():
        found += _visit(f"{at}/{name}", inner, section, read_only, asked)
    return found


def _may_be_whole(section: str, rule: PathRule, asked: _Asked) -> bool:
    """Whether a directory is about one thing, and has nothing in it that is dangerous to grant."""
    at = rule.value.rstrip("/")
    if at in _BROAD or at.count("/") < 2 or f"{asked.home}/".startswith(rule.value):
        return False
    after = Table([*asked.policies, _alone(section, rule)], asked.posture)
    return all(one.severity != "high" for one in dangers(section, rule, after, asked.home))


def _alone(section: str, rule: Rule) -> Policy:
    written: dict[str, Any] = {section: (rule,)}
    return Policy("KubeArmorPolicy", "x", outcome=_OUTCOME, **written)


# --- what is said of it


def _warnings(asked: _Asked, policy: Policy, after: Table) -> Iterator[Caution]:
    found: dict[Caution, None] = {}
    for wish in asked.wishes.values():
        rule, by = wish.refused_by.rule, wish.refused_by.policy
        if rule is not None and by is not None and rule.outcome.action == "Block":
            meant = f": {rule.outcome.message}" if rule.outcome.message else ""
            text = (
                f"{_described(wish.operation)} overrules the Block rule {rule.where} of {by.name}"
                f"{meant}"
            )
            found[Caution("high", text)] = None
    for section in _SECTIONS:
        for granted in getattr(policy, section):
            found |= dict.fromkeys(dangers(section, granted, after, asked.home))
    found |= dict.fromkeys(_mistakes(asked, policy))
    yield from sorted(found, key=lambda warning: ("high", "medium", "low").index(warning.severity))


def _mistakes(asked: _Asked, policy: Policy) -> Iterator[Caution]:
    """What the linter calls an error of the policy with the addition, and not without it."""
    known = Counter(_errors(asked.policies, asked.posture))
    new = Counter(_errors([*asked.policies, policy], asked.posture)) - known
    for (check, enforcers, message), _ in list(new.items())[:_LINT_SHOWN]:
        severity: Severity = "medium" if "sandbox" in enforcers else "low"
        yield Caution(severity, f"{check} on {', '.join(enforcers)}: {message}")


def _errors(
    policies: Sequence[Policy], posture: Posture
) -> Iterator[tuple[str, tuple[str, ...], str]]:
    for finding in lint.lint(policies, posture=posture):
        if finding.severity == "error":
            yield f"{finding.rule} {finding.name}", finding.enforcers, finding.message


def _described(operation: Operation) -> str:
    match operation.kind:
        case "network" if operation.dns:
            return f"resolving {operation.dns}"
        case "network":
            protocol = operation.protocol or operation.socket_type
            return f"using {operation.family} {protocol} sockets"
        case "capability":
            return f"using the capability {operation.capability}"
        case "syscall":
            return f"calling {operation.syscall}"
        case kind:
            return f"{_DOING[kind]} {operation.path or 'a program in memory'}"


def _summary(policy: Policy) -> str:
    parts = []
    for verb, rules in (
        ("reading", [rule for rule in policy.file if rule.read_only]),
        ("reading and changing", [rule for rule in policy.file if not rule.read_only]),
        ("running", policy.process),
    ):
        if rules:
            named = rules[0].value if len(rules) == 1 else f"{len(rules)} files or directories"
            parts.append(f"{verb} {named}")
    if policy.network:
        parts.append("the network by " + ", ".join(sorted({
            rule.domain if isinstance(rule, DnsRule) else rule.protocol for rule in policy.network
        })))  # fmt: skip
    if policy.capabilities:
        parts.append("the capabilities " + ", ".join(r.capability for r in policy.capabilities))
    return "Allow " + "; ".join(parts)
