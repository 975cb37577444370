"""What keeps a kernel from starting on a real cluster is said in words, and leaves nothing."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio import client

from modelarmor.cluster.client import ClusterError
from modelarmor.cluster.launch import LaunchError
from tests.cluster.conftest import kernel
from tests.cluster.real.places import Place, place, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


async def refused(there: Place, directory: Path, **pods: Any) -> str:
    """Why no kernel starts."""
    with pytest.raises((LaunchError, ClusterError)) as found:
        async with kernel(there.here(**pods), directory, str(uuid.uuid4())):
            pass
    await there.emptied()
    return str(found.value)


async def without(there: Place, resource: str) -> None:
    """Take the server's rights to a resource."""
    rbac = client.RbacAuthorizationV1Api(there.admin.api)
    role = await rbac.read_namespaced_role("modelarmor", there.name)
    role.rules = [rule for rule in role.rules if resource not in rule.resources]
    await rbac.replace_namespaced_role("modelarmor", there.name, role)


def test_an_image_that_nobody_has_is_named(tmp_path: Path, kinds: None) -> None:
    async def body() -> None:
        async with place(tmp_path) as there:
            said = await refused(there, tmp_path, image="registry.invalid/absent:1")
            assert "the image cannot be pulled" in said and "registry.invalid/absent:1" in said

    asyncio.run(body())


def test_an_image_without_the_python_that_is_configured_is_named(
    tmp_path: Path, kinds: None
) -> None:
    async def body() -> None:
        async with place(tmp_path) as there:
            said = await refused(there, tmp_path, python="/opt/absent/python")
            assert "has the image the configured Python?" in said

    asyncio.run(body())


def test_a_pod_that_no_node_takes_says_what_the_scheduler_says(tmp_path: Path, kinds: None) -> None:
    async def body() -> None:
        async with place(tmp_path) as there:
            said = await refused(
                there, tmp_path, node_selector={"modelarmor.io/no-such": "node"},
                launch_seconds=20.0,
            )  # fmt: skip
            assert "did not answer in time" in said and "no node takes it" in said

    asyncio.run(body())


def test_a_quota_that_is_used_up_is_named(tmp_path: Path, kinds: None) -> None:
    async def body() -> None:
        async with place(tmp_path) as there:
            quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
            core = there.admin.core
            await core.create_namespaced_resource_quota(there.name, quota)

            async def counted() -> bool:
                found = await core.read_namespaced_resource_quota("none", there.name)
                return bool(found.status.hard)

            await until("the quota is known", counted)
            said = await refused(there, tmp_path)
            assert "cannot make the pod" in said and "the namespace's quota is used up" in said

    asyncio.run(body())


def test_a_limit_of_the_namespace_is_not_called_a_right_that_is_missing(
    tmp_path: Path, kinds: None
) -> None:
    async def body() -> None:
        async with place(tmp_path) as there:
            small = {"type": "Container", "max": {"memory": "64Mi"}}
            limits = {"metadata": {"name": "small"}, "spec": {"limits": [small]}}
            await there.admin.core.create_namespaced_limit_range(there.name, limits)
            said = await refused(there, tmp_path)
            assert "cannot make the pod" in said and "maximum memory usage" in said
            assert "a rule of the cluster or the namespace" in said and "may not" not in said

    asyncio.run(body())


def test_an_account_that_may_not_is_told_which_right_it_lacks(tmp_path: Path, kinds: None) -> None:
    async def body() -> None:
        async with place(tmp_path) as there:
            await without(there, "networkpolicies")
            said = await refused(there, tmp_path)
            assert "cannot apply the NetworkPolicy" in said
            assert "service account may not" in said and "docs/kubernetes.md" in said

    asyncio.run(body())


def test_without_the_right_to_forward_ports_a_server_outside_is_told_so(
    tmp_path: Path, startable: None
) -> None:
    async def body() -> None:
        async with place(tmp_path) as there:
            await without(there, "pods/portforward")
            said = await refused(there, tmp_path, launch_seconds=60.0)
            assert "cannot forward the kernel's ports" in said and "pods/portforward" in said

    asyncio.run(body())


def test_a_token_that_is_none_is_no_reason_to_wait(tmp_path: Path, kinds: None) -> None:
    async def body() -> None:
        async with place(tmp_path) as there:
            text = there.kubeconfig.read_text()
            at = text.index("token: ") + len("token: ")
            there.kubeconfig.write_text(text[:at] + "x" + text[at:])
            said = await refused(there, tmp_path)
            assert "credentials are not accepted" in said

    asyncio.run(body())


def test_a_namespace_with_the_posture_audit_starts_nothing(tmp_path: Path, kinds: None) -> None:
    async def body() -> None:
        async with place(tmp_path) as there:
            loose = {"metadata": {"annotations": {"kubearmor-file-posture": "audit"}}}
            await there.admin.core.patch_namespace(there.name, loose)
            said = await refused(there, tmp_path)
            assert f"kubectl annotate namespace {there.name} --overwrite" in said

    asyncio.run(body())
