"""A cluster that does not confine starts nothing, and is told why."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from modelarmor import profiles
from modelarmor.cluster import objects
from modelarmor.cluster.client import KUBEARMOR, ClusterError
from modelarmor.cluster.launch import LaunchError
from tests.cluster.conftest import kernel
from tests.cluster.real.conftest import Known
from tests.cluster.real.places import place

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_without_kubearmors_kinds_nothing_is_made(tmp_path: Path, known: Known) -> None:
    if known.kinds:
        pytest.skip("the cluster has KubeArmorPolicy")

    async def body() -> None:
        async with place(tmp_path) as there:
            with pytest.raises(ClusterError, match="KubeArmor is not installed"):
                async with kernel(there.here(), tmp_path, str(uuid.uuid4())):
                    pass
            assert not (await there.admin.core.list_namespaced_pod(there.name)).items

    asyncio.run(body())


def test_where_nothing_enforces_the_policy_no_kernel_starts(
    tmp_path: Path, known: Known, kinds: None
) -> None:
    if known.enforces:
        pytest.skip("KubeArmor enforces policies on this cluster")

    async def body() -> None:
        async with place(tmp_path) as there:
            with pytest.raises(LaunchError, match=r"not enforced in the pod.*has no KubeArmor"):
                async with kernel(there.here(canary_seconds=2.0), tmp_path, str(uuid.uuid4())):
                    pass
            await there.emptied()

    asyncio.run(body())


@pytest.mark.parametrize("name", ["notebook", "notebook-online", "untrusted-model"])
def test_kubearmors_kind_takes_what_is_made_of_a_profile(
    tmp_path: Path, kinds: None, name: str
) -> None:
    places = {
        "workspace": Path("/workspace"), "home": Path("/home/jovyan"), "tmp": Path("/tmp"),
        "prefix": Path("/opt/conda"),
    }  # fmt: skip
    kernel_id = str(uuid.uuid4())

    async def body() -> None:
        async with place(tmp_path) as there:
            chosen = profiles.load(name, **places)
            settings = objects.PodSettings(there.name, "server-1", "an/image")
            labels = objects.labels_of(kernel_id, name, settings)
            secret = objects.secret(kernel_id, labels, {})
            secret = await there.admin.core.create_namespaced_secret(there.name, secret)
            policy = objects.policy(kernel_id, chosen, there.name)
            sent = objects.policy_document(policy, labels, objects.owned_by(secret))
            group, version, plural = KUBEARMOR
            made = await there.admin.custom.create_namespaced_custom_object(
                group, version, there.name, plural, sent
            )
            assert made["spec"] == sent["spec"]  # the schema has dropped nothing

    asyncio.run(body())
