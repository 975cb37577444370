"""How KubeArmor enforces the rules of a profile, as far as that is known without the cluster.

What is proved is what the canary proves: that the policy's document and the posture are in force in
that container. How exactly each rule is enforced is the linter's word on KubeArmor's enforcer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from modelarmor.policy.lint import lint
from modelarmor.policy.model import Policy, Rule
from modelarmor.profiles import Profile
from modelarmor.sandbox.plan import describe_rule

_EGRESS: Final = (
    "by a NetworkPolicy, where the cluster's network plugin enforces those; nothing here proves it"
)


@dataclass(frozen=True, slots=True)
class Rated:
    """One rule; ``approximate`` where the linter has something to say of it."""

    policy: Policy
    rule: Rule
    note: str = ""

    def to_json(self) -> dict[str, str]:
        """The rule as a JSON object."""
        return {
            "policy": self.policy.name,
            "rule": describe_rule(self.rule),
            "action": self.rule.outcome.action,
            "place": str(self.rule.place),
            "tier": "kubearmor",
            "fidelity": "approximate" if self.note else "exact",
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """A profile's rules, and what else confines a pod."""

    rules: tuple[Rated, ...]
    profile: Profile

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON object, with the fields of the sandbox's."""
        return {
            "rules": [rule.to_json() for rule in self.rules],
            "traps": {},
            "egress": self.profile.network.to_json(),
            "egress_note": _EGRESS,
            "resources": self.profile.resources.to_json(),
        }


def plan(profile: Profile) -> ClusterPlan:
    """How the rules of a profile are enforced in a pod, by the BPF-LSM enforcer."""
    notes: dict[tuple[str, str], list[str]] = {}
    for item in lint(profile.policies, posture=profile.posture, enforcer="BPF-LSM"):
        if item.severity != "note":
            notes.setdefault((item.policy, item.where), []).append(item.message)
    return ClusterPlan(
        tuple(
            Rated(policy, rule, "; ".join(notes.get((policy.name, rule.where), ())))
            for policy in profile.policies
            for rule in _rules(policy)
        ),
        profile,
    )


def _rules(policy: Policy) -> tuple[Rule, ...]:
    return (
        *policy.process,
        *policy.file,
        *policy.network,
        *policy.capabilities,
        *policy.syscalls,
        *policy.presets,
    )
