"""A plan: what of a policy the kernel enforces, what the supervisor enforces, and how well.

It is what the helper reads (`Plan.text`) and what a person is shown (`Plan.describe`): each rule
with its tier and fidelity. `modelarmor.sandbox.planner` makes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

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
from modelarmor.sandbox.network import Egress
from modelarmor.sandbox.resources import Resources

Tier = Literal["kernel", "supervised", "none"]
Fidelity = Literal["exact", "approximate", "unenforceable"]
Mode = Literal["none", "report", "enforce"]

#: Landlock's scopes (include/uapi/linux/landlock.h)
SCOPE_ABSTRACT_UNIX, SCOPE_SIGNAL = 1 << 0, 1 << 1

#: what Docker lets root in a container keep (moby's profiles, defaults of 2026)
DOCKER_CAPABILITIES = frozenset(
    (
        "chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
        "net_bind_service", "net_raw", "sys_chroot", "mknod", "audit_write", "setfcap",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlannedRule:
    """One rule and how it is enforced here."""

    policy: Policy
    rule: Rule
    tier: Tier
    fidelity: Fidelity
    note: str = ""

    def to_json(self) -> dict[str, str]:
        return {
            "policy": self.policy.name,
            "rule": describe_rule(self.rule),
            "action": self.rule.outcome.action,
            "place": str(self.rule.place),
            "tier": self.tier,
            "fidelity": self.fidelity,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Machine:
    """What the planner must know of the machine."""

    landlock_abi: int
    uid: int
    acts_on_sockets: bool = True

    @property
    def scoped(self) -> int:
        """What Landlock keeps within a sandbox: abstract unix sockets and signals (ABI 6)."""
        return SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL if self.landlock_abi >= 6 else 0


@dataclass(frozen=True)
class Plan:
    """A policy made ready for this machine."""

    rules: tuple[PlannedRule, ...]
    modes: dict[str, Mode]
    egress: Egress
    egress_note: str
    resources: Resources
    records: tuple[tuple[str | int, ...], ...] = field(repr=False)

    def text(self, extra: Iterable[tuple[str | int, ...]] = ()) -> bytes:
        """The table that the helper reads; ``extra`` are records that only the start knows."""
        return _table((("modelarmor-plan", 1), *self.records, *extra))

    @property
    def unenforceable(self) -> list[PlannedRule]:
        return [rule for rule in self.rules if rule.fidelity == "unenforceable"]

    def to_json(self) -> dict[str, Any]:
        return {
            "rules": [rule.to_json() for rule in self.rules],
            "traps": dict(self.modes),
            "egress": self.egress.to_json(),
            "egress_note": self.egress_note,
            "resources": self.resources.to_json(),
        }

    def describe(self) -> str:
        """The plan as a table for people."""
        rows = [("TIER", "FIDELITY", "ACTION", "RULE", "")]
        for rule in self.rules:
            note = f"  # {rule.note}" if rule.note else ""
            rows.append(
                (rule.tier, rule.fidelity, rule.rule.outcome.action, describe_rule(rule.rule), note)
            )
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
            + f"  {row[3]}{row[4]}"
            for row in rows
        ]
        table.append(f"egress: {self.egress_note}")
        return "\n".join(table)


def describe_rule(rule: Rule) -> str:
    """One line that says what a rule is about."""
    match rule:
        case PathRule():
            options = [
                name
                for name, on in (
                    ("recursive", rule.recursive),
                    ("readOnly", rule.read_only),
                    ("ownerOnly", rule.owner_only),
                    ("tty only", not rule.pts),
                    ("allowedArgs", bool(rule.allowed_args)),
                )
                if on
            ]
            section = rule.where.split(".")[1] if rule.where.count(".") >= 2 else "path"
            text = f"{section} {rule.match} {rule.value}"
            if options:
                text += f" ({', '.join(options)})"
            source = rule.from_source
        case ProtocolRule():
            text, source = f"network {rule.protocol}", rule.from_source
        case DnsRule():
            text, source = f"DNS {rule.domain}", rule.from_source
        case CapabilityRule():
            text, source = f"capability {rule.capability}", rule.from_source
        case SyscallRule():
            text = f"syscall {','.join(rule.syscalls)}" + (f" on {rule.path}" if rule.path else "")
            source = tuple(s.path or s.dir for s in rule.from_source)
        case PresetRule():
            text, source = f"preset {rule.name}", ()
        case _:
            text, source = type(rule).__name__, ()
    return text + (f" from {', '.join(source)}" if source else "")


_SPECIAL = re.compile(rb"[\x00-\x20%\x7f]")
_PLAIN = re.compile(r"[^\x00-\x08\x0b-\x20%\x7f]*")


def _table(records: Sequence[tuple[str | int, ...]]) -> bytes:
    """Lines of items with tabs between them. Few need escaping; halving finds which."""
    text = "\n".join(["\t".join(map(str, record)) for record in records]) + "\n"
    separators = (sum(map(len, records)) - len(records), len(records))
    if _PLAIN.fullmatch(text) and (text.count("\t"), text.count("\n")) == separators:
        return os.fsencode(text)
    if len(records) == 1:
        return b"\t".join(map(_escape, records[0])) + b"\n"
    half = len(records) // 2
    return _table(records[:half]) + _table(records[half:])


def _escape(item: str | int) -> bytes:
    raw = os.fsencode(item) if isinstance(item, str) else b"%d" % item
    return _SPECIAL.sub(lambda match: b"%%%02x" % match[0][0], raw)
