"""Selectors: each corner of KubeArmor's matching, and what it means for a workload."""

from __future__ import annotations

from typing import Any

import pytest

from modelarmor.policy.model import Expression, Kind, Policy, Selector
from modelarmor.policy.select import selects

POD = {"container": "ubuntu-1", "group": "group-1"}
NAME = "kubearmor.io/container.name"


def policy(
    labels: dict[str, str] | None = None,
    *expressions: tuple[str, Any, tuple[str, ...]],
    kind: Kind = "KubeArmorPolicy",
    namespace: str = "",
) -> Policy:
    return Policy(
        kind=kind,
        name="p",
        namespace=namespace,
        selector=Selector(
            tuple((labels or {}).items()), tuple(Expression(*each) for each in expressions)
        ),
    )


def test_all_labels_are_needed() -> None:
    both = policy({"container": "ubuntu-1", "group": "group-1"})
    assert selects(both, namespace="n", labels=POD)
    assert not selects(both, namespace="n", labels={"container": "ubuntu-1"})


def test_a_policy_is_for_its_own_namespace_on_a_cluster() -> None:
    mine = policy({"group": "group-1"}, namespace="multiubuntu")
    assert selects(mine, namespace="multiubuntu", labels=POD)
    assert not selects(mine, namespace="other", labels=POD)
    assert selects(mine, namespace="", labels=POD)


def test_a_policy_without_labels_is_for_the_whole_namespace() -> None:
    assert selects(policy(namespace="n"), namespace="n", labels={})


@pytest.mark.parametrize("namespace", ["kube-system", "kubearmor"])
def test_untracked_namespaces_are_never_selected(namespace: str) -> None:
    everything = policy(kind="KubeArmorClusterPolicy")
    assert not selects(everything, namespace=namespace, labels={})
    assert selects(everything, namespace="default", labels={})


def test_values_of_in_are_alternatives() -> None:
    either = policy(None, ("label", "In", ("container=ubuntu-1", "container=ubuntu-2")))
    assert selects(either, namespace="n", labels=POD)
    assert not selects(either, namespace="n", labels={"container": "ubuntu-3"})


def test_not_in_refuses_each_value() -> None:
    others = policy(None, ("label", "NotIn", ("container=ubuntu-1",)))
    assert not selects(others, namespace="n", labels=POD)
    assert selects(others, namespace="n", labels={"container": "ubuntu-3"})


def test_not_in_after_in_is_ignored() -> None:
    label_in = ("label", "In", ("group=group-1",))
    label_not_in = ("label", "NotIn", ("container=ubuntu-1",))
    assert selects(policy(None, label_in, label_not_in), namespace="n", labels=POD)
    assert not selects(policy(None, label_not_in, label_in), namespace="n", labels=POD)


def test_expressions_and_labels_are_both_needed() -> None:
    one = policy({"group": "group-1"}, ("label", "NotIn", ("container=ubuntu-1",)))
    assert not selects(one, namespace="n", labels=POD)
    assert selects(one, namespace="n", labels={"group": "group-1", "container": "ubuntu-2"})


def test_cluster_policies_select_by_namespace() -> None:
    named = policy(None, ("namespace", "In", ("a", "b")), kind="KubeArmorClusterPolicy")
    assert selects(named, namespace="b", labels={})
    assert not selects(named, namespace="c", labels={})
    rest = policy(None, ("namespace", "NotIn", ("a",)), kind="KubeArmorClusterPolicy")
    assert selects(rest, namespace="c", labels={})
    assert not selects(rest, namespace="a", labels={})


def test_a_namespace_in_makes_every_not_in_void() -> None:
    both = policy(
        None,
        ("namespace", "NotIn", ("a",)),
        ("namespace", "In", ("a",)),
        kind="KubeArmorClusterPolicy",
    )
    assert selects(both, namespace="a", labels={})
    assert not selects(both, namespace="b", labels={})


def test_cluster_policies_need_namespace_and_label() -> None:
    both = policy(
        None,
        ("namespace", "NotIn", ("nginx2",)),
        ("label", "NotIn", ("app=nginx",)),
        kind="KubeArmorClusterPolicy",
    )
    assert selects(both, namespace="nginx1", labels={"app": "debian-app"})
    assert not selects(both, namespace="nginx1", labels={"app": "nginx"})
    assert not selects(both, namespace="nginx2", labels={"app": "debian-app"})


@pytest.mark.parametrize(
    ("value", "selected"),
    [
        ("[one]", {"one"}),
        ("[one, two]", {"one", "two"}),
        ("", {"one", "two"}),
        ("[]", {"one", "two"}),
        ("[one", set()),  # the last character is taken for the bracket
        ("[onex", {"one"}),
    ],
)
def test_container_names_on_a_cluster(value: str, selected: set[str]) -> None:
    rule = policy({NAME: value})
    names = {
        name for name in ("one", "two") if selects(rule, namespace="n", labels={}, container=name)
    }
    assert names == selected


def test_container_names_outside_a_cluster() -> None:
    plain = policy({NAME: "wordpress-mysql"})
    assert selects(plain, namespace="", labels={}, container="wordpress-mysql")
    assert not selects(plain, namespace="", labels={}, container="other")
    assert selects(policy({NAME: "word.*"}), namespace="", labels={}, container="wordpress-mysql")


@pytest.mark.parametrize(
    ("labels", "hit"),
    [
        ({"kubearmor.io/hostname": "*"}, True),
        ({"kubernetes.io/hostname": "dev"}, True),
        ({"kubearmor.io/hostname": "a,dev"}, True),
        ({"kubearmor.io/hostname": "de"}, False),
        ({"kubearmor.io/hostnamereg": "d*"}, True),
        ({"kubearmor.io/hostnamereg": "e*"}, False),
        ({"kubearmor.io/hostname": "*", "zone": "x"}, False),
        ({}, False),
    ],
)
def test_host_policies_select_hosts(labels: dict[str, str], hit: bool) -> None:
    rule = policy(labels, kind="KubeArmorHostPolicy")
    assert selects(rule, namespace="", labels={}, hostname="dev") is hit


def test_host_policies_are_not_for_workloads() -> None:
    rule = policy({"kubearmor.io/hostname": "*"}, kind="KubeArmorHostPolicy")
    assert not selects(rule, namespace="n", labels={}, container="c", hostname="dev")
