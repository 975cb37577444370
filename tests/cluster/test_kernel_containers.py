"""Kernels in real containers, where podman is: what a process of this machine cannot show."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from modelarmor.cluster.launch import LaunchError
from tests.cluster.apiserver.podman import IMAGE, PodmanKubelet, missing
from tests.cluster.conftest import Here, cluster, kernel, manager_of

_ABOUT_ITSELF = """\
import os
flags = os.statvfs("/").f_flag
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines())
print(os.getuid(), os.getgid(), bool(flags & os.ST_RDONLY), int(status["CapBnd"], 16))
"""


@pytest.fixture(autouse=True)
def podman() -> None:
    if reason := missing():
        pytest.skip(reason)


def in_containers(body: Callable[[Here, Path], Awaitable[None]], directory: Path) -> None:
    async def run() -> None:
        async with cluster(directory, PodmanKubelet, image=IMAGE) as here:
            await body(here, directory)

    asyncio.run(run())


def test_a_kernel_in_a_container_is_nobody_and_restarts_in_place(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        async with kernel(here, directory, str(uuid.uuid4())) as started:
            # its user and group, a root that is read only, and no capability that it could get
            assert await started.run(_ABOUT_ITSELF) == "1000 100 True 0"
            assert await started.run("open('kept', 'w').write('x'); print(1)") == "1"
            assert "PermissionError" in await started.run("open('/etc/shadow')")
            assert "PermissionError" in await started.run("open('/run/modelarmor/denied/denied')")
            pod = here.only("pods")["metadata"]["uid"]
            await started.manager.restart_kernel(now=False)
            await started.client.wait_for_ready(timeout=60)
            assert here.only("pods")["metadata"]["uid"] == pod
            assert await started.run("print(open('kept').read())") == "x"

    in_containers(body, tmp_path)


def test_a_container_that_nothing_confines_never_becomes_a_kernel(tmp_path: Path) -> None:
    async def body(here: Here, directory: Path) -> None:
        here.kubelet.enforces = False
        manager = manager_of(here, directory)
        with pytest.raises(LaunchError, match="the policy is not enforced"):
            await manager.start_kernel(kernel_id=str(uuid.uuid4()))
        assert here.kubelet.running == 0

    in_containers(body, tmp_path)
