"""What becomes of a kernel's pod: refusals, faults, restarts. No rest, nothing unconfined."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from modelarmor_jupyter.config import RefusedRequest
from modelarmor_jupyter.pods import PodProvisioner

from modelarmor.cluster import launch
from modelarmor.cluster.canary import NOT_CONFINED
from modelarmor.cluster.client import ClusterError
from modelarmor.cluster.launch import LaunchError
from modelarmor.cluster.pods import state_of
from tests.cluster.conftest import (
    BLOCK,
    NAMESPACE,
    RECORDINGS,
    Here,
    Kernel,
    PodKernelManager,
    cluster,
    kernel,
    manager_of,
)

_SECONDS = 30.0
_POLICIES = ("security.kubearmor.com", "kubearmorpolicies")


async def until(true: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(_SECONDS):
        while not true():
            await asyncio.sleep(0.05)


async def refused(here: Here, directory: Path) -> str:
    """The message with which a start fails; nothing of the kernel is left then."""
    manager = manager_of(here, directory)
    with pytest.raises((LaunchError, ClusterError)) as error:
        await manager.start_kernel(kernel_id=str(uuid.uuid4()))
    await until(lambda: here.left() == {})
    assert here.kubelet.running == 0
    return str(error.value)


def in_cluster(body: Callable[[Here, Path], Awaitable[None]], directory: Path, **pods: Any) -> None:
    async def run() -> None:
        async with cluster(directory, **pods) as here:
            await body(here, directory)

    asyncio.run(run())


def name_in(here: Here) -> str:
    return str(here.only("pods")["metadata"]["name"])


# --- what is refused


def test_without_kubearmor_no_user_code_runs_and_the_node_is_named(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        here.kubelet.enforces = False
        here.server.store.create(("", "nodes"), "", {"metadata": {"name": "node-1"}})
        said = await refused(here, directory)
        assert "the policy is not enforced" in said
        assert "node-1 has no KubeArmor" in said

    in_cluster(body, tmp_path)


def test_a_posture_that_only_audits_is_told_apart(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        # KubeArmor's own default: no annotation at all
        here.server.store.patch(
            ("", "namespaces"), "", NAMESPACE, {"metadata": {"annotations": None}}
        )
        said = await refused(here, directory)
        assert "posture audit" in said
        assert "kubearmor-file-posture=block" in said

    in_cluster(body, tmp_path)


def test_a_namespace_annotated_audit_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        audit = {"metadata": {"annotations": {"kubearmor-file-posture": "audit"}}}
        here.server.store.patch(("", "namespaces"), "", NAMESPACE, audit)
        assert "kubearmor-file-posture=audit" in await refused(here, directory)
        assert ("POST", f"/api/v1/namespaces/{NAMESPACE}/pods") not in here.server.requests

    in_cluster(body, tmp_path)


def test_a_server_that_may_sets_the_annotations(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        here.server.store.patch(
            ("", "namespaces"), "", NAMESPACE, {"metadata": {"annotations": None}}
        )
        async with kernel(here, directory, str(uuid.uuid4())) as started:
            assert await started.run("print(1)") == "1"

    in_cluster(body, tmp_path, annotate_namespace=True)


def test_a_cluster_without_kubearmors_policies_is_named(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        here.server.absent.add("kubearmorpolicies")
        assert "KubeArmor is not installed" in await refused(here, directory)

    in_cluster(body, tmp_path)


def test_an_image_that_cannot_be_pulled_is_named(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        here.kubelet.images = {"another"}
        said = await refused(here, directory)
        assert "a/notebook" in said
        assert "cannot be pulled" in said

    in_cluster(body, tmp_path)


def test_a_pod_that_no_node_takes_fails_at_the_deadline_with_the_reason(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        here.kubelet.unschedulable = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"
        assert "Insufficient nvidia.com/gpu" in await refused(here, directory)

    in_cluster(body, tmp_path, launch_seconds=3.0)


@pytest.mark.parametrize("plural", ["secrets", "kubearmorpolicies", "networkpolicies", "pods"])
def test_a_launch_that_is_refused_at_any_step_leaves_nothing(tmp_path: Path, plural: str) -> None:
    async def body(here: Here, directory: Path) -> None:
        here.server.fail("POST", plural, 403, "exceeded quota: kernels, requested: 1, used: 9")
        said = await refused(here, directory)
        assert "exceeded quota" in said
        assert "quota is used up" in said

    in_cluster(body, tmp_path)


# --- what is borne


def test_an_overloaded_server_is_asked_again(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        here.server.fail("POST", "pods", 429, "too many requests")
        here.server.fail("POST", "secrets", 503)
        here.server.fail("GET", "pods", 0)  # a connection that breaks
        async with kernel(here, directory, str(uuid.uuid4())) as started:
            assert await started.run("print(1)") == "1"

    in_cluster(body, tmp_path)


@pytest.mark.parametrize("line", [b"[]", b'{"type": "ADDED", "object": {}}', b"[" * 5_000])
def test_a_watch_that_says_nonsense_is_begun_again(tmp_path: Path, line: bytes) -> None:
    async def body(here: Here, directory: Path) -> None:
        async with kernel(here, directory, str(uuid.uuid4())) as started:
            await here.server.babble(line)
            here.kubelet.evict(NAMESPACE, name_in(here))
            async with asyncio.timeout(_SECONDS):
                await started.provisioner.wait()

    in_cluster(body, tmp_path)


def test_a_kernel_outlives_an_api_server_that_is_away_and_an_expired_watch(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        async with kernel(here, directory, str(uuid.uuid4())) as started:
            with here.server.away():
                assert await started.run("print(1)") == "1"
                assert await started.provisioner.poll() is None
            here.server.store.forget()
            assert await started.provisioner.poll() is None
            here.kubelet.evict(NAMESPACE, name_in(here))
            async with asyncio.timeout(_SECONDS):
                await started.provisioner.wait()

    in_cluster(body, tmp_path)


# --- what ends a kernel


def test_a_pods_last_words_are_anybodys() -> None:
    ended = {"exitCode": NOT_CONFINED, "message": "[" * 4096}
    status = {"phase": "Failed", "containerStatuses": [{"state": {"terminated": ended}}]}
    assert state_of({"metadata": {"uid": "1"}, "status": status}).canary is None


def test_a_deleted_pod_is_noticed_without_a_call(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        async with kernel(here, directory, str(uuid.uuid4())) as started:
            here.server.store.delete(("", "pods"), NAMESPACE, name_in(here))
            before = [item for item in here.server.requests if item[1].endswith("/pods")]
            async with asyncio.timeout(_SECONDS):
                assert await started.provisioner.wait() != 0
            after = [item for item in here.server.requests if item[1].endswith("/pods")]
            assert before == after

    in_cluster(body, tmp_path)


@pytest.mark.parametrize("how", ["deleted", "changed"])
def test_a_kernel_whose_policy_is_gone_is_ended(tmp_path: Path, how: str) -> None:
    async def body(here: Here, directory: Path) -> None:
        async with kernel(here, directory, str(uuid.uuid4())) as started:
            name = name_in(here)
            if how == "deleted":
                here.server.store.delete(_POLICIES, NAMESPACE, name)
            else:
                change = {"spec": {"action": "Audit"}}
                here.server.store.patch(_POLICIES, NAMESPACE, name, change)
            await until(lambda: here.kubelet.running == 0)
            assert await started.provisioner.poll() is not None

    in_cluster(body, tmp_path)


def test_a_kernel_on_a_lost_node_has_ended_stays_confined_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_END_SECONDS", 0.5)

    async def body(here: Here, directory: Path) -> None:
        async with kernel(here, directory, str(uuid.uuid4())) as started:
            name = name_in(here)
            here.kubelet.lose(NAMESPACE, name)
            async with asyncio.timeout(_SECONDS):
                assert await started.provisioner.wait() != 0
            assert "Node node-1 is unresponsive" in str(await started.provisioner.ended_early())
        # its container runs, for all that is known: what confines it stays
        assert {name} == {item for found in here.left().values() for item in found}
        assert len(here.left()) == 4
        async with kernel(here, directory, str(uuid.uuid4())) as started:
            assert await started.run("print(1)") == "1"
            assert {name} < {item for found in here.left().values() for item in found}
        here.kubelet.find()
        await until(lambda: "pods" not in here.left())
        async with kernel(here, directory, str(uuid.uuid4())):
            await until(lambda: name not in str(here.left()))
        assert here.left() == {}

    in_cluster(body, tmp_path)


# --- restarts


async def restart(started: Kernel) -> None:
    await started.manager.restart_kernel()
    started.client.stop_channels()
    started.client = started.manager.client()
    started.client.start_channels()
    await started.client.wait_for_ready(timeout=30)


def test_a_restart_happens_in_place_behind_the_canary(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        async with kernel(here, directory, str(uuid.uuid4())) as started:
            await started.run("here = 1")
            pod = here.only("pods")["metadata"]["uid"]
            await restart(started)
            assert (await started.run("here")).startswith("NameError")
            assert here.only("pods")["metadata"]["uid"] == pod

    in_cluster(body, tmp_path)


def test_a_restart_where_kubearmor_went_away_is_refused(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        async with kernel(here, directory, str(uuid.uuid4())) as started:
            here.kubelet.enforces = False
            with pytest.raises(LaunchError, match="not enforced"):
                await started.manager.restart_kernel()
            await until(lambda: here.left() == {})

    in_cluster(body, tmp_path)


# --- servers that come and go


def test_a_later_server_finds_its_kernels_again(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        async with kernel(here, directory, str(uuid.uuid4())) as started:
            await started.run("here = 1")
            later = await found_again(started, here)
            assert await later.poll() is None
            assert await started.run("print(here)") == "1"

    in_cluster(body, tmp_path)


def test_a_later_server_finds_a_kernel_again_that_is_recorded(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        here.server.namespace(RECORDINGS, dict.fromkeys(BLOCK, "audit"))
        async with kernel(here, directory, str(uuid.uuid4())) as started:
            started.provisioner.stage(None, recording=True)
            await started.manager.restart_kernel()
            assert here.only("pods")["metadata"]["namespace"] == RECORDINGS
            later = await found_again(started, here)
            assert await later.poll() is None
            assert later.confinement is not None
            assert later.confinement.recording
        await until(lambda: here.left() == {})

    in_cluster(body, tmp_path, recording_namespace=RECORDINGS)


async def found_again(started: Kernel, here: Here) -> PodProvisioner:
    """What a server has of a kernel that was told of it and did not start it."""
    info = await started.provisioner.get_provisioner_info()
    later = PodProvisioner(
        kernel_id=started.manager.kernel_id,
        kernel_spec=started.manager.kernel_spec,
        parent=PodKernelManager(config=here.config),
    )
    await later.load_provisioner_info(info)
    return later


def test_record_mode_in_the_namespace_of_the_others_is_refused(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        manager = manager_of(here, directory)
        with pytest.raises(RefusedRequest, match="a namespace of its own"):
            await manager.start_kernel(kernel_id=str(uuid.uuid4()))
        assert here.left() == {}

    in_cluster(body, tmp_path, recording_namespace=NAMESPACE)


def test_a_server_that_was_killed_in_a_launch_leaves_what_the_next_sweeps(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        here.server.namespace(RECORDINGS, dict.fromkeys(BLOCK, "audit"))
        orphan = f"kernel-{uuid.uuid4()}"
        labels = {"modelarmor.io/server": "server-1"}
        for namespace in (NAMESPACE, RECORDINGS):
            secret = here.server.store.create(
                ("", "secrets"), namespace, {"metadata": {"name": orphan, "labels": labels}}
            )
            owner = [{"uid": secret["metadata"]["uid"]}]
            here.server.store.create(
                _POLICIES,
                namespace,
                {"metadata": {"name": orphan, "labels": labels, "ownerReferences": owner}},
            )
        async with kernel(here, directory, str(uuid.uuid4())):
            await until(lambda: orphan not in str(here.left()))
        assert here.left() == {}

    in_cluster(body, tmp_path, recording_namespace=RECORDINGS)


def test_a_launch_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        here.kubelet.unschedulable = "no room"
        manager = manager_of(here, directory)
        start = asyncio.create_task(manager.start_kernel(kernel_id=str(uuid.uuid4())))
        await until(lambda: "pods" in here.left())
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        await until(lambda: here.left() == {})

    in_cluster(body, tmp_path)


def test_names_that_are_taken_are_waited_for(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        for plural in ("secrets", "kubearmorpolicies", "networkpolicies", "pods"):
            here.server.fail("POST", plural, 409, "already exists")
        async with kernel(here, directory, str(uuid.uuid4())) as started:
            assert await started.run("print(1)") == "1"
        assert here.left() == {}

    in_cluster(body, tmp_path)


def test_a_kernel_that_is_killed_gets_a_new_pod_under_a_new_policy(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        async with kernel(here, directory, str(uuid.uuid4())) as started:
            before = [here.only(kind)["metadata"]["uid"] for kind in ("pods", "kubearmorpolicies")]
            await started.manager.restart_kernel(now=True)
            after = [here.only(kind)["metadata"]["uid"] for kind in ("pods", "kubearmorpolicies")]
            assert not {*before} & {*after}
            started.client.stop_channels()
            started.client = started.manager.client()
            started.client.start_channels()
            await started.client.wait_for_ready(timeout=30)
            assert await started.run("print(1)") == "1"
        assert here.left() == {}

    in_cluster(body, tmp_path)
