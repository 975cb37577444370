"""Kernels in pods of a real cluster: their life, as an account with deploy/'s rights alone.

The server of these tests is not on the cluster, so every kernel is reached through the API server
and the kubelet. Where no KubeArmor enforces, a stand-in denies the canary its files (`stand_in`).
"""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest

from modelarmor.cluster.client import KUBEARMOR, ClusterError
from tests.cluster.conftest import Kernel, kernel
from tests.cluster.real.places import place, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

_SECONDS = 240.0
_MADE = ("secrets", "pods", "networkpolicies", "kubearmorpolicies")


async def ended(started: Kernel) -> None:
    """Wait until the server knows that the kernel has ended."""

    async def over() -> bool:
        return await started.provisioner.poll() is not None

    await until("the kernel has ended", over)


async def again(started: Kernel) -> None:
    """Wait until the restarted kernel answers its client."""
    await started.client.wait_for_ready(timeout=_SECONDS)


def test_a_kernel_answers_restarts_in_place_and_leaves_nothing(
    tmp_path: Path, startable: None
) -> None:
    async def body() -> None:
        async with place(tmp_path) as there:
            async with kernel(there.here(), tmp_path, str(uuid.uuid4())) as started:
                assert await started.run("print(6 * 7)") == "42"
                progress = started.provisioner.progress
                assert progress[0] == "making the Secret, the policy and the pod"
                assert any("container" in line for line in progress)
                left = await there.left()
                assert sorted(left) == sorted(_MADE)
                assert all(len(names) == 1 for names in left.values())

                # a message that is larger than any buffer on the way
                assert await started.run("print('x' * 3_000_000)") == "x" * 3_000_000

                pod = await there.pod()
                await started.run("open('/workspace/kept', 'w').write('here')")
                await started.manager.restart_kernel()
                await again(started)
                assert await started.run("print(open('/workspace/kept').read())") == "here"
                same = await there.pod()
                assert same.metadata.uid == pod.metadata.uid
                assert same.status.container_statuses[0].restart_count == 1
            await there.emptied()

    asyncio.run(body())


def test_an_interrupt_reaches_a_busy_kernel(tmp_path: Path, startable: None) -> None:
    async def body() -> None:
        async with (
            place(tmp_path) as there,
            kernel(there.here(), tmp_path, str(uuid.uuid4())) as started,
        ):
            code = "print('busy', flush=True)\nwhile True: pass"
            begun = asyncio.Event()

            def hear(message: dict[str, Any]) -> None:
                if message["msg_type"] == "stream":
                    begun.set()

            running = asyncio.ensure_future(
                started.client.execute_interactive(code, timeout=_SECONDS, output_hook=hear)
            )
            await asyncio.wait_for(begun.wait(), _SECONDS)
            await started.manager.interrupt_kernel()
            reply = await running
            assert reply["content"]["ename"] == "KeyboardInterrupt"
            assert await started.run("print('still here')") == "still here"

    asyncio.run(body())


def test_a_kernel_that_ends_itself_has_ended_for_the_server_and_comes_back(
    tmp_path: Path, startable: None
) -> None:
    async def body() -> None:
        async with (
            place(tmp_path) as there,
            kernel(there.here(), tmp_path, str(uuid.uuid4())) as started,
        ):
            started.client.execute("import os; os._exit(9)")
            await ended(started)
            await started.manager.restart_kernel(now=True)
            await again(started)
            assert await started.run("print('back')") == "back"

    asyncio.run(body())


def test_under_another_profile_a_kernel_gets_a_new_pod_at_the_same_ports(
    tmp_path: Path, startable: None
) -> None:
    async def body() -> None:
        async with place(tmp_path) as there:
            async with kernel(there.here(), tmp_path, str(uuid.uuid4())) as started:
                before = await there.pod()
                started.provisioner.stage("untrusted-model", recording=False)
                await started.manager.restart_kernel(now=True)
                await again(started)
                assert await started.run("print(6 * 7)") == "42"
                after = await there.pod()
                assert after.metadata.uid != before.metadata.uid
                labels = after.metadata.labels
                assert labels["modelarmor.io/profile"] == "untrusted-model"
                left = await there.left()
                assert all(len(names) == 1 for names in left.values()), left
            await there.emptied()

    asyncio.run(body())


@pytest.mark.parametrize("how", ["deleted", "changed"])
def test_a_kernel_ends_with_the_policy_that_confined_it(
    tmp_path: Path, startable: None, how: str
) -> None:
    async def body() -> None:
        async with (
            place(tmp_path) as there,
            kernel(there.here(), tmp_path, str(uuid.uuid4())) as started,
        ):
            (name,) = (await there.left())["kubearmorpolicies"]
            group, version, plural = KUBEARMOR
            about = (group, version, there.name, plural, name)
            if how == "deleted":
                await there.admin.custom.delete_namespaced_custom_object(*about)
            else:
                await there.admin.custom.patch_namespaced_custom_object(
                    *about, {"spec": {"action": "Audit"}}
                )
            await ended(started)

            async def gone() -> bool:
                return "pods" not in await there.left()

            await until("the pod has gone", gone)

    asyncio.run(body())


def test_a_kernel_whose_pod_is_evicted_has_ended_and_gets_a_new_one(
    tmp_path: Path, startable: None
) -> None:
    async def body() -> None:
        async with place(tmp_path) as there:
            here = there.here(
                resources={"notebook": {"limits": {"ephemeral-storage": "20Mi"}}},
            )
            async with kernel(here, tmp_path, str(uuid.uuid4())) as started:
                before = (await there.pod()).metadata.uid
                await started.run(
                    "open('/workspace/much', 'wb').write(bytes(30_000_000)); print('done')"
                )
                await ended(started)
                why = await started.provisioner.ended_early()
                assert why is not None and "ephemeral" in why
                await started.manager.restart_kernel(now=True)
                await again(started)
                assert (await there.pod()).metadata.uid != before

    asyncio.run(body())


def test_the_collector_takes_everything_with_the_secret(tmp_path: Path, startable: None) -> None:
    async def body() -> None:
        async with (
            place(tmp_path) as there,
            kernel(there.here(), tmp_path, str(uuid.uuid4())) as started,
        ):
            (name,) = (await there.left())["secrets"]
            await there.admin.core.delete_namespaced_secret(name, there.name)
            await there.emptied()
            await ended(started)

    asyncio.run(body())


def test_a_kernel_ends_with_its_namespace(tmp_path: Path, startable: None) -> None:
    async def body() -> None:
        async with (
            place(tmp_path) as there,
            kernel(there.here(), tmp_path, str(uuid.uuid4())) as started,
        ):
            await there.admin.core.delete_namespace(there.name)
            await ended(started)
            with pytest.raises(ClusterError, match="namespace"):
                await started.manager.restart_kernel(now=True)

    asyncio.run(body())


def test_what_the_profile_denies_is_refused_by_kubearmor(tmp_path: Path, confined: None) -> None:
    async def body() -> None:
        async with (
            place(tmp_path) as there,
            kernel(there.here(), tmp_path, str(uuid.uuid4())) as started,
        ):
            assert await started.run("print(6 * 7)") == "42"
            for path in ("/run/modelarmor/denied/denied", "/etc/shadow"):
                assert (await started.run(f"open({path!r})")).startswith("PermissionError"), path
            said = await started.run("import subprocess; subprocess.run(['/bin/sh', '-c', 'id'])")
            assert said.startswith("PermissionError")

    asyncio.run(body())
