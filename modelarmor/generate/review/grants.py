"""What a policy permits, in plain words, and how much of it was ever needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from modelarmor.generate.evidence import Event, Evidence, Reason
from modelarmor.policy.decide import Operation
from modelarmor.policy.model import (
    CapabilityRule,
    DnsRule,
    PathRule,
    Policy,
    PresetRule,
    ProtocolRule,
    Rule,
    SyscallRule,
)
from modelarmor.sandbox.network import EgressRule

from .model import Ability, Barrier, Capability, Grant
from .policies import Policies
from .words import number, path_as_written, place, size

_READING: Final = frozenset({"read", "list"})
_CHANGING: Final = frozenset({"write", "create", "delete", "metadata"})
#: where no rule of anybody's reaches
_ELSEWHERE: Final = "/a-place-that-no-rule-names/file"
_PRESETS: Final = {
    "filelessExec": "programs in memory that have no file",
    "protectProc": "other processes, as /proc shows them",
    "protectEnv": "the environment of other processes",
    "anonymousMapExec": "memory that is made executable",
    "exec": "programs started from outside, as by kubectl exec",
}
_LIMITS: Final = (
    ("cpu", "processors"),
    ("memory", "memory"),
    ("processes", "processes and threads"),
    ("open_files", "open files of one process"),
    ("disk", "written to disk"),
)

#: a rule, and whether the operation was reading, changing or something else
_Uses = Mapping[tuple[int, str], int]
_Reasons = Mapping[tuple[str, str], Reason]


def capabilities(evidence: Evidence, policies: Policies) -> tuple[Capability, ...]:
    """Everything that is permitted, by kind."""
    events = evidence.observation.events if evidence.observation else None
    uses = _uses(events or (), policies)
    view = _View(policies, uses, reasons_by_rule(evidence), observed=events is not None)
    return (
        view.capability("exec", view.paths("exec"), _anything("exec")),
        view.capability("read", view.paths("read"), _anything("read")),
        view.capability("write", view.paths("write"), _anything("write")),
        view.network(),
        view.privileges(),
        _resources(policies),
    )


def barriers(policies: Policies) -> tuple[Barrier, ...]:
    """What each document refuses by name, whatever is granted elsewhere."""
    found = []
    for policy in policies.policies:
        blocks = [rule for rule in _rules(policy) if rule.outcome.action == "Block"]
        if blocks:
            first = blocks[0].outcome
            found.append(
                Barrier(
                    policy=policy.name,
                    message=first.message,
                    severity=max(rule.outcome.severity for rule in blocks),
                    tags=tuple(dict.fromkeys(tag for rule in blocks for tag in rule.outcome.tags)),
                    subjects=tuple(dict.fromkeys(rule_in_words(rule) for rule in blocks)),
                )
            )
    return tuple(found)


def reasons_by_rule(evidence: Evidence) -> dict[tuple[str, str], Reason]:
    """The generator's reasons by policy and field; ``spec.`` in front may be left out."""
    return {
        (reason.policy, reason.rule.removeprefix("spec.")): reason for reason in evidence.reasons
    }


def reason_in_words(reason: Reason | None) -> str:
    """One sentence; empty where there is none."""
    if reason is None:
        return ""
    match reason.kind:
        case "observed":
            phases = " and ".join(reason.phases)
            return f"seen {number(reason.count, 'time')}" + (f" during {phases}" if phases else "")
        case "template":
            return f"every model of this kind: {reason.origin}" if reason.origin else "template"
        case "finding":
            return f"because of the finding {reason.origin}"


def rule_in_words(rule: Rule) -> str:
    """What a rule is about: ``run sh (any directory)``, ``${HOME}/.ssh/ and everything below``."""
    match rule:
        case PathRule():
            verb = "run " if rule.where.startswith("spec.process") else ""
            text = verb + " ".join((path_as_written(rule.value), *_limits(rule)))
        case ProtocolRule():
            text = f"{rule.protocol} sockets"
        case DnsRule():
            text = f"DNS queries for {rule.domain}"
        case CapabilityRule():
            text = f"the capability {rule.capability}"
        case SyscallRule():
            text = f"system calls {', '.join(rule.syscalls)}"
        case PresetRule():
            text = _PRESETS.get(rule.name, rule.name)
        case _:
            text = type(rule).__name__
    return text


class _View:
    """A policy with what of it was used and why it is there."""

    def __init__(
        self, policies: Policies, uses: _Uses, reasons: _Reasons, *, observed: bool
    ) -> None:
        self._policies, self._uses, self._reasons = policies, uses, reasons
        self._observed = observed

    def capability(self, ability: Ability, grants: Iterable[Grant], asked: Operation) -> Capability:
        decision = self._policies.decide(asked)
        refused = decision.verdict == "block"
        said = "Everything else is refused." if refused else f"Everything else: {decision.why}."
        return Capability(ability=ability, otherwise=said, open=not refused, grants=tuple(grants))

    def paths(self, ability: Ability) -> Iterator[Grant]:
        for policy in self._policies.policies:
            for rule in policy.process if ability == "exec" else policy.file:
                allows = rule.outcome.action == "Allow"
                if allows and not (ability == "write" and rule.read_only):
                    yield self._grant(policy, rule, path_as_written(rule.value), ability)

    def network(self) -> Capability:
        grants = []
        for policy in self._policies.policies:
            for rule in policy.network:
                if rule.outcome.action == "Allow":
                    subject = rule.domain if isinstance(rule, DnsRule) else rule.protocol
                    grants.append(self._grant(policy, rule, subject, "network"))
        egress = self._policies.egress
        if not self._policies.has_network:
            said, is_open = "No network policy is there: nothing limits addresses and ports.", True
        elif egress.is_none:
            said, is_open = "No address can be reached: the network policy grants no egress.", False
        elif egress.is_unrestricted:
            said, is_open = "The network policy grants every address and port.", True
        else:
            said, is_open = "Every other address and port is refused.", False
            grants += [_destination(rule) for rule in egress.rules]
        return Capability(ability="network", otherwise=said, open=is_open, grants=tuple(grants))

    def privileges(self) -> Capability:
        grants = [
            self._grant(policy, rule, rule.capability, "capabilities")
            for policy in self._policies.policies
            for rule in policy.capabilities
            if rule.outcome.action == "Allow"
        ]
        said = "The sandbox drops every Linux capability; on a cluster the pod must drop them."
        return Capability(ability="capabilities", otherwise=said, open=False, grants=tuple(grants))

    def _grant(self, policy: Policy, rule: Rule, subject: str, ability: Ability) -> Grant:
        reason = self._reasons.get((policy.name, rule.where.removeprefix("spec.")))
        limits = _limits(rule) if isinstance(rule, PathRule) else ()
        meaning = place(rule.value) if isinstance(rule, PathRule) else ""
        return Grant(
            subject=subject,
            meaning=meaning or (reason.what.partition(": ")[0] if reason else ""),
            limits=limits,
            observed=self._uses.get((id(rule), ability), 0) if self._observed else None,
            reason=reason_in_words(reason),
            policy=policy.name,
            rule=rule.where,
        )


def _uses(events: Iterable[Event], policies: Policies) -> _Uses:
    """How many recorded operations each rule permits, by what they do."""
    uses: Counter[tuple[int, str]] = Counter()
    for event in events:
        rule = policies.table.decide(event.operation).rule
        if rule is not None:
            uses[id(rule), _ability(event.operation)] += event.count
    return uses


def _ability(op: Operation) -> str:
    if op.kind in _READING:
        return "read"
    if op.kind in _CHANGING:
        return "write"
    return {"capability": "capabilities"}.get(op.kind, op.kind)


def _anything(kind: str) -> Operation:
    # The caller is another program: executing one's own file is exempt from the posture.
    return Operation(kind, _ELSEWHERE, source="/a-program-that-no-rule-names")  # type: ignore[arg-type]


def _rules(policy: Policy) -> Iterator[Rule]:
    for section in (
        policy.process, policy.file, policy.network, policy.capabilities, policy.syscalls,
        policy.presets,
    ):  # fmt: skip
        yield from section


def _limits(rule: PathRule) -> tuple[str, ...]:
    words = []
    if rule.match == "directory":
        words.append("and everything below" if rule.recursive else "directly in it")
    elif rule.match == "execname":
        words.append("in any directory")
    elif rule.match == "pattern":
        words.append("(pattern)")
    if rule.read_only:
        words.append("read only")
    if rule.owner_only:
        words.append("for the file's owner")
    if not rule.pts:
        words.append("with a terminal")
    if rule.allowed_args:
        words.append("with the arguments " + " ".join(rule.allowed_args))
    if rule.from_source:
        words.append("from " + ", ".join(path_as_written(source) for source in rule.from_source))
    return tuple(words)


def _destination(rule: EgressRule) -> Grant:
    ports = ", ".join(
        f"{item.protocol} {item.first}" + (f"-{item.last}" if item.last != item.first else "")
        for item in rule.ports
    )
    limits = [f"on {ports}" if ports else "on every port"]
    if rule.except_cidrs:
        limits.append("but not " + ", ".join(map(str, rule.except_cidrs)))
    subject = "any address" if rule.cidr is None else str(rule.cidr)
    return Grant(subject=subject, limits=tuple(limits), policy="NetworkPolicy")


def _resources(policies: Policies) -> Capability:
    grants = []
    missing = []
    for field, what in _LIMITS:
        value = getattr(policies.resources, field)
        if value is None:
            missing.append(what)
        else:
            shown = size(value) if field in ("memory", "disk") else f"{value:g}"
            grants.append(Grant(subject=shown, meaning=f"{what}, at most"))
    said = f"No limit is set for {', '.join(missing)}." if missing else "Each has a limit."
    return Capability(ability="resources", otherwise=said, open=bool(missing), grants=tuple(grants))
