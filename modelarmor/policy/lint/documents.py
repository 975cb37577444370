"""Whom a policy selects, and what it says about itself.

Facts: KubeArmor v1.7.4, ``KubeArmor/core/kubeUpdate.go`` and ``KubeArmor/common`` (selectors),
``KubeArmor/config/config.go`` (untrackedNs).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from modelarmor.policy._problems import Problem
from modelarmor.policy.lint.finding import (
    BPF_LSM,
    EVERYWHERE,
    KUBEARMOR,
    SANDBOX,
    Check,
    Finding,
    Subject,
    found,
)
from modelarmor.policy.model import Policy
from modelarmor.policy.select import UNTRACKED_NAMESPACES

_DOCUMENT = Check(
    "MA501", "invalid-document", "error", EVERYWHERE,
    "The document is not what the custom resource definition describes. The cluster refuses it, "
    "or drops a field that it does not know: a misspelt fromSource makes a rule one for everybody.",
)  # fmt: skip
_SELECTOR = Check(
    "MA502", "selects-everything", "warning", KUBEARMOR,
    "An empty selector selects every pod of the namespace; a cluster policy without one every "
    "namespace, and a host policy every node.",
)  # fmt: skip
_BRACKETS = Check(
    "MA503", "container-name-without-brackets", "error", KUBEARMOR,
    "KubeArmor strips the first and the last character of kubearmor.io/container.name, whatever "
    "they are, before it splits the list. Without both brackets a name is cut short.",
)  # fmt: skip
_NOT_IN = Check(
    "MA504", "not-in-ignored", "error", KUBEARMOR,
    "A NotIn is ignored if an In for the same key came before it.",
)  # fmt: skip
_UNTRACKED = Check(
    "MA505", "untracked-namespace", "error", KUBEARMOR,
    "Policies in kube-system and kubearmor are never enforced (untrackedNs); KubeArmor only writes "
    "a line to its log.",
)  # fmt: skip
_SELECTOR_KEY = Check(
    "MA506", "selector-key-not-read", "error", KUBEARMOR,
    "A cluster policy selects by matchExpressions with the keys namespace and label, a namespaced "
    "one by matchLabels and by matchExpressions with the key label. Anything else is not read.",
)  # fmt: skip
_APPARMOR_TEXT = Check(
    "MA507", "raw-apparmor", "warning", (BPF_LSM, SANDBOX),
    "The apparmor field is copied into an AppArmor profile. No other enforcer reads it.",
)  # fmt: skip
_EMPTY = Check(
    "MA508", "policy-without-rules", "warning", EVERYWHERE,
    "A policy without a rule is accepted, and does nothing.",
)  # fmt: skip
_UNLABELLED = Check(
    "MA509", "alert-without-context", "note", EVERYWHERE,
    "Alerts carry the severity, tags and message of the rule, or of the section or the policy. "
    "Without them nobody who reads an alert knows what it means.",
)  # fmt: skip

CHECKS = (
    _DOCUMENT, _SELECTOR, _BRACKETS, _NOT_IN, _UNTRACKED, _SELECTOR_KEY, _APPARMOR_TEXT, _EMPTY,
    _UNLABELLED,
)  # fmt: skip

_CONTAINER_NAME: Final = "kubearmor.io/container.name"


def from_problems(problems: Iterable[Problem]) -> Iterator[Finding]:
    """What the loader found wrong, as findings."""
    for problem in problems:
        yield Finding(
            _DOCUMENT, "error", problem.place, "", problem.field, problem.what,
            problem.cure or "see the specification of the kind",
        )  # fmt: skip


def check(subject: Subject) -> Iterator[Finding]:
    """Findings on selectors and on what describes a policy."""
    for policy in subject.policies:
        yield from _selector(policy)
        yield from _content(policy)


def _selector(policy: Policy) -> Iterator[Finding]:
    selector = policy.selector
    if not selector.match_labels and not selector.match_expressions:
        selected, cure = {
            "KubeArmorPolicy": ("pod of the namespace", "set selector.matchLabels"),
            "KubeArmorClusterPolicy": ("namespace", "set selector.matchExpressions"),
            "KubeArmorHostPolicy": ("node", "set nodeSelector.matchLabels"),
        }[policy.kind]
        yield found(_SELECTOR, policy, None, f"the policy selects every {selected}", cure)
    for key, value in selector.match_labels:
        # an empty value means all containers
        bracketed = value.startswith("[") and value.endswith("]")
        if key == _CONTAINER_NAME and value and not bracketed:
            yield found(
                _BRACKETS, policy, None,
                f"container name {value!r} is read as {value[1:-1]!r}",
                f'write "[{value.strip("[]")}]"',
            )  # fmt: skip
    if policy.kind == "KubeArmorClusterPolicy" and selector.match_labels:
        yield found(
            _SELECTOR_KEY, policy, None, "a cluster policy's matchLabels are not read",
            "use matchExpressions with key label and values such as app=notebook",
        )  # fmt: skip
    known = {"label", "namespace"} if policy.kind == "KubeArmorClusterPolicy" else {"label"}
    included: set[str] = set()
    for expression in selector.match_expressions:
        if expression.key not in known:
            yield found(
                _SELECTOR_KEY, policy, None,
                f"matchExpressions with key {expression.key!r} are not read",
                f"use the key {' or '.join(sorted(known))}; a label is a value: key=value",
            )  # fmt: skip
        if expression.operator == "NotIn" and expression.key in included:
            yield found(
                _NOT_IN, policy, None,
                f"NotIn {', '.join(expression.values)} comes after an In for {expression.key}",
                "put the NotIn first, or leave the values out of the In",
            )  # fmt: skip
        if expression.operator == "In":
            included.add(expression.key)
            if expression.key == "namespace":
                yield from _untracked(policy, expression.values)
    yield from _untracked(policy, (policy.namespace,))


def _untracked(policy: Policy, namespaces: tuple[str, ...]) -> Iterator[Finding]:
    for namespace in namespaces:
        if namespace in UNTRACKED_NAMESPACES:
            yield found(
                _UNTRACKED, policy, None, f"nothing is enforced in namespace {namespace}",
                "move the workload to a namespace of its own",
            )  # fmt: skip


def _content(policy: Policy) -> Iterator[Finding]:
    rules = (
        *policy.process, *policy.file, *policy.network, *policy.capabilities, *policy.syscalls,
        *policy.presets, *policy.device,
    )  # fmt: skip
    if not rules and not policy.apparmor:
        yield found(
            _EMPTY, policy, None, "the policy has no rules and does nothing",
            "add rules, or remove the policy",
        )  # fmt: skip
    if policy.apparmor:
        yield found(
            _APPARMOR_TEXT, policy, None,
            "the apparmor text is enforced on AppArmor only",
            "write the same as file and process rules",
        )  # fmt: skip
    lacking = [
        name
        for name in ("severity", "tags", "message")
        if rules and not any(getattr(rule.outcome, name) for rule in rules)
    ]
    if lacking:
        yield found(
            _UNLABELLED, policy, None, f"alerts of this policy carry no {', '.join(lacking)}",
            f"set {', '.join(f'spec.{name}' for name in lacking)}",
        )  # fmt: skip
