"""Whom a policy is for: its selector against a workload's namespace, labels and name.

On a cluster KubeArmor answers this; KubeArmor's own test cases, which name workloads by labels, are
run with the answers of this module. What is confined here is confined by the policies that are
given, whomever they select.
Source of each fact: ``MatchIdentities`` and ``MatchExpIdentities`` (``KubeArmor/common/common.go``)
and ``CreateSecurityPolicy`` (``KubeArmor/core/kubeUpdate.go``) of KubeArmor 1.7.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from .decide import Glob
from .model import Expression, Policy

#: KubeArmor never enforces in these, whatever a policy says (its default ``untrackedNs``)
UNTRACKED_NAMESPACES: Final = frozenset({"kube-system", "kubearmor"})

_CONTAINER: Final = "kubearmor.io/container.name"
_HOSTNAMES: Final = ("kubearmor.io/hostname", "kubernetes.io/hostname")


def selects(
    policy: Policy,
    *,
    namespace: str,
    labels: Mapping[str, str],
    container: str = "",
    hostname: str = "",
) -> bool:
    """Whether `policy` applies to one workload.

    Parameters
    ----------
    policy
        A KubeArmorHostPolicy is for hosts, that is where neither `namespace` nor `container` is
        given; the other two kinds are for workloads.
    namespace
        The workload's namespace; empty outside a cluster, where a policy's own namespace counts
        for nothing.
    labels
        The labels of the workload, or of the host.
    container
        The container's name.
    hostname
        The host's name: its ``kubearmor.io/hostname`` and ``kubernetes.io/hostname`` labels.
    """
    if policy.kind == "KubeArmorHostPolicy":
        return not namespace and not container and _selects_host(policy, labels, hostname)
    if namespace in UNTRACKED_NAMESPACES:
        return False
    expressions = policy.selector.match_expressions
    pairs = {f"{key}={value}" for key, value in labels.items()}
    if not _labels_hold((e for e in expressions if e.key == "label"), pairs):
        return False
    if policy.kind == "KubeArmorClusterPolicy":
        return _namespace_holds((e for e in expressions if e.key == "namespace"), namespace)
    if namespace and policy.namespace and policy.namespace != namespace:
        return False
    for key, value in policy.selector.match_labels:
        if key == _CONTAINER:
            if not _names_container(value, container, on_cluster=bool(namespace)):
                return False
        elif f"{key}={value}" not in pairs:
            return False
    return True


def _labels_hold(expressions: Iterable[Expression], present: set[str]) -> bool:
    """KubeArmor's reading of the expressions on labels.

    The values of all ``In`` are alternatives. A ``NotIn`` counts only when no ``In`` came before
    it; then not being refused is enough, whatever an ``In`` after it says.
    """
    wanted: set[str] = set()
    refused: set[str] = set()
    for expression in expressions:
        if expression.operator == "In":
            wanted.update(expression.values)
        elif not wanted:
            refused.update(expression.values)
    if refused:
        return not refused & present
    return not wanted or bool(wanted & present)


def _namespace_holds(expressions: Iterable[Expression], namespace: str) -> bool:
    """An ``In`` makes every ``NotIn`` void; without either, every namespace is meant."""
    wanted: set[str] = set()
    refused: set[str] = set()
    for expression in expressions:
        (wanted if expression.operator == "In" else refused).update(expression.values)
    return namespace in wanted if wanted else namespace not in refused


def _names_container(value: str, container: str, *, on_cluster: bool) -> bool:
    if not on_cluster:
        # A regular expression, not anchored; ".*" and "*" are the ones in use.
        return Glob(f"*{value.replace('.*', '*')}*").matches(container)
    # The brackets are never looked at: "[c1" names the container "c"; "" and "[]" name none.
    names = [name.strip() for name in value[1:-1].split(",") if name]
    return not names or container in names  # none named: every container


def _selects_host(policy: Policy, labels: Mapping[str, str], hostname: str) -> bool:
    known = dict(labels)
    if hostname:
        for key in _HOSTNAMES:
            known.setdefault(key, hostname)
    selector = policy.selector.match_labels
    if not selector:  # a host policy that selects nothing applies to nothing
        return False
    return all(_host_label_matches(key, value, known) for key, value in selector)


def _host_label_matches(key: str, value: str, labels: Mapping[str, str]) -> bool:
    if key in _HOSTNAMES:
        name = labels.get(key)
        return name is not None and any(part in ("*", name) for part in value.split(","))
    if key.endswith("reg") and key.removesuffix("reg") in _HOSTNAMES:
        name = labels.get(key.removesuffix("reg"))
        # A host without such a label is taken, as KubeArmor's search for the key does.
        return name is None or Glob(f"{value}*").matches(name)
    return labels.get(key) == value
