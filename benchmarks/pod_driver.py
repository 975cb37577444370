"""What a Jupyter server does with its kernels: starts them, asks whether they live, ends them.

Run by `benchmarks.pods`, under the interpreter of what is measured. Between two phases it prints a
line and waits for one, so that who counts the calls knows whose they are.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from jupyter_client.ioloop.manager import AsyncIOLoopKernelManager

#: seconds between two looks of a server at each of its kernels (jupyter_client's KernelRestarter)
LOOK_SECONDS = 3.0
_READY_SECONDS = 120


def main(kind: str, count: int, looks: int, settings: str) -> None:
    asyncio.run(_run(kind, count, looks, json.loads(settings)))


async def _run(kind: str, count: int, looks: int, settings: dict[str, Any]) -> None:
    def made(number: int) -> Any:
        manager: Any
        if kind == "modelarmor":
            from traitlets.config import Config

            from tests.cluster.conftest import PodKernelManager

            manager = PodKernelManager(kernel_name="python3", config=Config(settings["config"]))
        else:
            manager = AsyncIOLoopKernelManager(kernel_name=settings["kernel"])
        manager.connection_file = str(Path(settings["directory"]) / f"{number}.json")
        return manager

    warm = await _started(made(-1))  # imports, connections and watches are the server's
    mark("warm", memory=_memory())
    began, managers = time.perf_counter(), []
    for number in range(count):
        managers.append(await _started(made(number)))
    took = (time.perf_counter() - began) / count
    mark("started", memory=_memory(), seconds=took)
    await asyncio.sleep(looks * LOOK_SECONDS)  # the managers' restarters look meanwhile
    mark("looked")
    assert all([await manager.is_alive() for manager in managers])
    mark("alive")
    for manager in managers:
        await manager.shutdown_kernel(now=True)
    mark("ended")
    await warm.shutdown_kernel(now=True)


async def _started(manager: Any) -> Any:
    await manager.start_kernel(kernel_id=str(uuid.uuid4()))
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=_READY_SECONDS)
    finally:
        client.stop_channels()
    return manager


def mark(phase: str, **values: float) -> None:
    """Say that a phase is over, and wait until that was noted."""
    print(json.dumps({"phase": phase, **values}), flush=True)
    sys.stdin.readline()


def _memory() -> int:
    """Of this process, in KiB."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
