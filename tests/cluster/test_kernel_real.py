"""A kernel on a real cluster with KubeArmor: `KUBECONFIG=… pytest -m cluster tests/cluster`."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from kubernetes.aio.client import models as k8s
from traitlets.config import Config

from modelarmor.cluster.client import Cluster
from tests.cluster.conftest import BLOCK, Here, kernel

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="KUBECONFIG names no cluster"),
]


@asynccontextmanager
async def namespace(name: str) -> AsyncIterator[Cluster]:
    cluster = await Cluster.connect(os.environ["KUBECONFIG"])
    body = k8s.V1Namespace(metadata=k8s.V1ObjectMeta(name=name, annotations=BLOCK))
    await cluster.call("make a namespace", cluster.core.create_namespace, body, seconds=30.0)
    try:
        yield cluster
    finally:
        await cluster.call(
            "delete the namespace", cluster.core.delete_namespace, name, seconds=60.0
        )
        await cluster.close()


def test_a_cell_runs_and_what_the_profile_denies_is_refused(tmp_path: Path) -> None:
    async def body() -> None:
        name = f"modelarmor-test-{uuid.uuid4().hex[:8]}"
        async with namespace(name) as cluster:
            pods = {
                "image": os.environ.get(
                    "MODELARMOR_TEST_IMAGE", "quay.io/jupyter/base-notebook:latest"
                ),
                "namespace": name,
                "server_name": "test",
                "kubeconfig": os.environ["KUBECONFIG"],
                "launch_seconds": 600.0,
            }
            here = Here(None, None, Config({"KernelPods": pods}))  # type: ignore[arg-type]
            async with kernel(here, tmp_path, str(uuid.uuid4())) as started:
                assert await started.run("print(6 * 7)") == "42"
                said = await started.run("open('/etc/ssh/ssh_config')")
                assert "Error" in said
                assert (await started.run("open('/run/modelarmor/denied/denied')")).startswith(
                    "PermissionError"
                )
            left = await cluster.call(
                "list Secrets", cluster.core.list_namespaced_secret, name, seconds=30.0
            )
            assert not [s for s in left.items if s.metadata.name.startswith("kernel-")]

    asyncio.run(body())
