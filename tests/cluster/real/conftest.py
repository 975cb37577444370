"""What a cluster is that KUBECONFIG names, and so what can be tried on it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from modelarmor.cluster import objects
from modelarmor.cluster.client import KUBEARMOR, Cluster, ClusterError
from tests.cluster.real import stand_in

_ENFORCERS = ("bpf", "apparmor")


@dataclass(frozen=True)
class Known:
    """What is known of the cluster beforehand."""

    #: whether it has KubeArmor's kinds
    kinds: bool
    #: whether a node says that KubeArmor enforces there
    enforces: bool


@pytest.fixture(scope="session")
def known() -> Known:
    if "KUBECONFIG" not in os.environ:
        pytest.skip("KUBECONFIG names no cluster")
    return asyncio.run(_look())


async def _look() -> Known:
    cluster = await Cluster.connect(os.environ["KUBECONFIG"])
    try:
        nodes = await cluster.call("list nodes", cluster.core.list_node, seconds=30.0)
        labels = [item.metadata.labels or {} for item in nodes.items]
        enforces = any(found.get("kubearmor.io/enforcer") in _ENFORCERS for found in labels)
        try:
            await cluster.call(
                "list policies", cluster.custom.list_cluster_custom_object, *KUBEARMOR,
                seconds=30.0,
            )  # fmt: skip
        except ClusterError as error:
            if error.status != 404:
                raise
            return Known(kinds=False, enforces=False)
        return Known(kinds=True, enforces=enforces)
    finally:
        await cluster.close()


@pytest.fixture
def kinds(known: Known) -> None:
    """The cluster has KubeArmor's kinds."""
    if not known.kinds:
        pytest.skip("the cluster has no KubeArmorPolicy: apply KubeArmor's CRDs, or install it")


@pytest.fixture
def confined(known: Known, kinds: None) -> None:
    """KubeArmor enforces policies in pods."""
    if not known.enforces:
        pytest.skip("no node is labelled kubearmor.io/enforcer=bpf or apparmor: without KubeArmor"
                    " nothing shows that a pod is confined")  # fmt: skip


@pytest.fixture
def startable(known: Known, kinds: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A kernel gets past its canary: KubeArmor denies it, or the stand-in does."""
    if not known.enforces:
        monkeypatch.setattr(objects, "pod", stand_in.pods(objects.pod))
    yield
