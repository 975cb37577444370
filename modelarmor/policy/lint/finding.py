"""The words of the linter: a check, what it found, and what it looks at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from modelarmor.policy.model import PathRule, Place, Policy, Posture, Rule

Severity = Literal["error", "warning", "note"]
Enforcer = Literal["BPF-LSM", "AppArmor", "sandbox"]

BPF_LSM: Final[Enforcer] = "BPF-LSM"
APPARMOR: Final[Enforcer] = "AppArmor"
SANDBOX: Final[Enforcer] = "sandbox"
KUBEARMOR: Final[tuple[Enforcer, ...]] = (BPF_LSM, APPARMOR)
EVERYWHERE: Final[tuple[Enforcer, ...]] = (BPF_LSM, APPARMOR, SANDBOX)


@dataclass(frozen=True, slots=True)
class Check:
    """One kind of mistake that the linter knows."""

    #: stable, such as ``MA101``
    id: str
    #: kebab-case, such as ``too-many-entries``
    name: str
    #: of its findings, unless one says otherwise
    severity: Severity
    #: on which enforcers it matters
    enforcers: tuple[Enforcer, ...]
    #: what the enforcer does and why that surprises
    help: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake: what, where, on which enforcer, and the cure."""

    check: Check
    severity: Severity
    place: Place
    #: name of the policy, ``""`` where the document has not got so far
    policy: str
    #: dotted field, such as ``spec.file.matchPaths[2]``
    where: str
    message: str
    cure: str

    @property
    def rule(self) -> str:
        """The check's identifier, such as ``MA101``."""
        return self.check.id

    @property
    def name(self) -> str:
        """The check's name, such as ``too-many-entries``."""
        return self.check.name

    @property
    def enforcers(self) -> tuple[Enforcer, ...]:
        """The enforcers on which it matters."""
        return self.check.enforcers


def found(
    check: Check,
    policy: Policy,
    rule: Rule | None,
    message: str,
    cure: str,
    severity: Severity | None = None,
) -> Finding:
    """A finding on a rule, or on the policy as a whole where ``rule`` is ``None``."""
    place = rule.place if rule and rule.place.line else policy.place
    where = rule.where if rule else "spec"
    return Finding(check, severity or check.severity, place, policy.name, where, message, cure)


@dataclass(frozen=True, slots=True)
class Located:
    """A path rule with the policy and the section that it stands in."""

    policy: Policy
    section: Literal["process", "file"]
    rule: PathRule


@dataclass(frozen=True, slots=True)
class Subject:
    """Policies that select the same workloads, and so end in the same table of an enforcer."""

    policies: Sequence[Policy]
    #: ``None`` where it is not known: KubeArmor's own default then is ``audit``
    posture: Posture | None

    def path_rules(self, section: Literal["process", "file"] | None = None) -> Iterator[Located]:
        """The rules of ``process`` and ``file``, policy by policy."""
        for policy in self.policies:
            if section != "file":
                yield from (Located(policy, "process", rule) for rule in policy.process)
            if section != "process":
                yield from (Located(policy, "file", rule) for rule in policy.file)

    def has_allow(self, rules: Iterable[Rule]) -> bool:
        """Whether one of ``rules`` is an Allow rule."""
        return any(rule.outcome.action == "Allow" for rule in rules)


def ancestors(path: str) -> list[str]:
    """The directories above ``path``, with their slashes, from the root down.

    ``/a/b/c`` and ``/a/b/c/`` both have ``/``, ``/a/`` and ``/a/b/``.
    """
    parts = [part for part in path.split("/") if part][:-1]
    return ["/" + "".join(f"{part}/" for part in parts[:n]) for n in range(len(parts) + 1)]
