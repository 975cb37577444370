"""A server that is there to be killed: for each line of its input, a process that starts a kernel.

A line is a kernel's identifier. The processes are forks, so that one import does for all; a line of
output says that one has begun, and its process's number, another that it has gone.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from modelarmor import profiles
from modelarmor.cluster import objects
from modelarmor.cluster.client import Cluster
from modelarmor.cluster.launch import Kernels, Order

_SECONDS = 60.0


def order(kernel_id: str) -> Order:
    """A kernel that does nothing for an hour."""
    profile = profiles.load(
        "notebook", workspace=Path("/mnt/workspace"), home=Path("/home/jovyan"),
        tmp=Path("/mnt/scratch"), prefix=Path(sys.prefix),
    )  # fmt: skip
    ports = {name: 20_000 + n for n, name in enumerate(objects.PORT_NAMES)}
    settings = objects.PodSettings(
        namespace="kernels", server="server-1", image="a/notebook",
        workspace="/mnt/workspace", tmp="/mnt/scratch", canary_seconds=5.0,
    )  # fmt: skip
    return Order(
        kernel_id,
        profile,
        ["python3", "-I", "-c", "import time; time.sleep(3600)"],
        {**profile.environ({}), "HOME": "/mnt/scratch/home"},
        {**ports, "key": "k" * 64},
        settings,
    )


async def kernels(kubeconfig: str) -> Kernels:
    """The kernels of the server of that name, whoever runs it."""
    made = Kernels(await Cluster.connect(kubeconfig), "kernels", "server-1")
    await made.open(_SECONDS)
    return made


async def answers(_address: str) -> bool:
    """The kernel is taken to answer once its container runs."""
    return True


async def _launch(kubeconfig: str, kernel_id: str) -> None:
    made = await kernels(kubeconfig)
    await made.launch(order(kernel_id), _SECONDS, answers, lambda _: None)
    await asyncio.Event().wait()


def main(kubeconfig: str) -> None:
    warm = order("00000000-0000-0000-0000-000000000007")
    objects.policy(warm.kernel_id, warm.profile, "kernels")  # what it caches is for all
    for line in sys.stdin:
        if not (child := os.fork()):
            print("begun", os.getpid(), flush=True)
            asyncio.run(_launch(kubeconfig, line.strip()))
        os.waitpid(child, 0)
        print("gone", child, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
