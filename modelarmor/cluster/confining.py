"""The one policy that confines a pod, whatever runs in it: a kernel, a model or NVIDIA NIM.

One document, since KubeArmor takes a document as a whole: a canary that is denied by it
(`modelarmor.cluster.canary`) says that the rest of it is there too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from posixpath import dirname
from typing import Final

from modelarmor.cluster import canary
from modelarmor.policy.baseline import baseline_rules
from modelarmor.policy.decide import Operation, Table
from modelarmor.policy.lint import lint
from modelarmor.policy.model import Outcome, PathRule, Policy, Posture, Selector

#: what a Block rule denies to the canary, and what no rule names
DENIED: Final = f"{canary.FILES}/denied"
UNNAMED: Final = f"{canary.FILES}/unnamed"
#: presets that a pod's PID namespace stands for: KubeArmor's ``protectProc`` refuses every name in
#: ``/proc`` that is not the caller's own number, ``meminfo`` among them (docs/kubearmor.md)
_BY_THE_POD: Final = frozenset({"protectProc"})


def rules_beside(parts: Sequence[Policy], opened: str) -> tuple[PathRule, ...]:
    """What a pod's policy has beside its parts: what every program needs, and the canary's rules.

    Args:
        parts: the policies.
        opened: a file that the canary may open, so that its denials say something; nothing else of
            value to others is in its directory.
    """
    return (
        *baseline_rules(parts),
        PathRule(
            Outcome("Allow"),
            match="directory",
            value=f"{dirname(opened)}/",
            recursive=True,
            read_only=True,
        ),
        PathRule(
            Outcome("Block", 1, (), "The canary: denied before any code of a user or model runs"),
            match="directory",
            value=f"{DENIED}/",
            recursive=True,
        ),
    )


def confining(
    parts: Sequence[Policy], name: str, namespace: str, labels: Mapping[str, str], opened: str
) -> Policy:
    """Policies as one document for the pods that have these labels, with `rules_beside` them."""
    return Policy(
        "KubeArmorPolicy",
        name,
        namespace=namespace,
        selector=Selector(match_labels=tuple(labels.items())),
        process=tuple(dict.fromkeys(rule for part in parts for rule in part.process)),
        file=(
            *dict.fromkeys(rule for part in parts for rule in part.file),
            *rules_beside(parts, opened),
        ),
        network=tuple(dict.fromkeys(rule for part in parts for rule in part.network)),
        capabilities=tuple(dict.fromkeys(rule for part in parts for rule in part.capabilities)),
        syscalls=tuple(dict.fromkeys(rule for part in parts for rule in part.syscalls)),
        # alerts of a preset have the document's own severity, whatever the preset says
        presets=tuple(
            dict.fromkeys(
                replace(rule, outcome=Outcome(rule.outcome.action))
                for part in parts
                for rule in part.presets
                if rule.name not in _BY_THE_POD
            )
        ),
    )


def faults(policy: Policy, posture: Posture, opened: str) -> list[str]:
    """Why a policy would not confine a pod: KubeArmor's enforcer, or the canary. Empty: it does."""
    found = [
        f"{item.rule} {item.message}; {item.cure}"
        for item in lint([policy], posture=posture, enforcer="BPF-LSM")
        if item.severity == "error"
    ]
    if not _reads(policy, posture, opened):
        found.append(f"it denies {opened}, so that what else it denies would prove nothing")
    if _reads(policy, posture, f"{DENIED}/denied"):
        found.append("a rule of it opens the canary's file, so nothing would prove enforcement")
    return found


def denied_files(policy: Policy, posture: Posture) -> dict[str, str]:
    """What the canary must not open: by a Block rule, and by the posture where that denies it."""
    found = {"rule": f"{DENIED}/denied"}
    unnamed = f"{UNNAMED}/unnamed"
    return found if _reads(policy, posture, unnamed) else {**found, "posture": unnamed}


def _reads(policy: Policy, posture: Posture, path: str) -> bool:
    return Table([policy], posture).decide(Operation("read", path)).verdict == "allow"
