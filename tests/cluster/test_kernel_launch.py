"""A kernel in a pod: behind its canary, with its objects, from the first to the last."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from modelarmor_jupyter.state import kernel_state

from tests.cluster.conftest import cluster, kernel


def test_a_cell_runs_behind_the_canary_and_nothing_is_left_after(tmp_path: Path) -> None:
    async def body() -> None:
        async with cluster(tmp_path) as here:
            kernel_id = str(uuid.uuid4())
            async with kernel(here, tmp_path, kernel_id) as started:
                assert await started.run("print(6 * 7)") == "42"
                said = await started.run("open('/etc/shadow').read()")
                assert said.startswith("PermissionError")
                state = kernel_state(kernel_id, started.manager)
                assert (state["confined"], state["profile"]["name"]) == (True, "notebook")
                assert {*here.left()} == {
                    "secrets", "pods", "kubearmorpolicies", "networkpolicies",
                }  # fmt: skip
            assert here.left() == {}

    asyncio.run(body())


def test_a_server_outside_of_the_cluster_reaches_its_kernel_through_the_api_server(
    tmp_path: Path,
) -> None:
    async def body() -> None:
        async with cluster(tmp_path, port_forward="always") as here:
            async with kernel(here, tmp_path, str(uuid.uuid4())) as started:
                assert await started.run("print('x' * 300_000)") == "x" * 300_000
                own = started.provisioner.connection_info["shell_port"]
                assert str(own) not in str(here.only("networkpolicies")["spec"]["ingress"])
            assert here.left() == {}

    asyncio.run(body())
