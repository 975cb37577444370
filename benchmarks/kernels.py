"""A Jupyter kernel under each contender: until it is ready, and a cell's way there and back."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from time import perf_counter
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets.config import Config

from benchmarks.runners import (
    BUBBLEWRAP,
    OURS,
    SANDLOCK,
    Place,
    Running,
    Setting,
    bubblewrap_command,
    sandlock,
)

_READY_SECONDS = 60
_ARGV = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
_PROVISIONER = "benchmark-sandlock"


class SandlockProvisioner(LocalProvisioner):
    """Starts a kernel in sandlock by a call, as our own provisioner does in our sandbox.

    With a command around the kernel's instead, an interpreter's start would be added.
    """

    running: Running | None = None

    @property
    def has_process(self) -> bool:
        return self.running is not None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        assert isinstance(self.parent, _Manager)
        place, setting = self.parent.benchmark
        self.running = sandlock(place, setting)(cmd)
        return self.connection_info

    async def poll(self) -> int | None:
        return 0 if self.running is None else None

    async def wait(self) -> int | None:
        running, self.running = self.running, None
        return 0 if running is None else running.wait(10)

    async def send_signal(self, signum: int) -> None:
        await self.kill()

    async def kill(self, restart: bool = False) -> None:
        if self.running is not None:
            self.running.kill()

    async def terminate(self, restart: bool = False) -> None:
        await self.kill()


class _Manager(AsyncKernelManager):
    #: for `SandlockProvisioner`
    benchmark: tuple[Place, Setting]


def session(contender: str, place: Place, setting: Setting, cells: int) -> Mapping[str, float]:
    """Start a kernel and run cells in it.

    Returns:
        seconds by figure: ``ready`` from the start to the first answer, and ``cell`` (median) from
        sending a cell to having its reply and its idle status.
    """
    return asyncio.run(_session(contender, place, setting, cells))


async def _session(
    contender: str, place: Place, setting: Setting, cells: int
) -> Mapping[str, float]:
    manager = _manager(contender, place, setting)
    start = perf_counter()
    await manager.start_kernel(
        cwd=str(place.work),
        env=dict(place.env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=_READY_SECONDS)
        ready = perf_counter() - start
        trips = []
        for _ in range(cells):
            start = perf_counter()
            await client.execute_interactive(
                "1", timeout=_READY_SECONDS, store_history=False, output_hook=_ignore
            )
            trips.append(perf_counter() - start)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
    return {"ready": ready, "cell": statistics.median(trips)}


def _ignore(_: object) -> None:
    """Not to print what a cell returns."""


def _manager(contender: str, place: Place, setting: Setting) -> _Manager:
    spec: dict[str, Any] = {"argv": _ARGV, "display_name": contender, "language": "python"}
    options: dict[str, Any] = {"connection_file": str(place.work / "connection.json")}
    if contender == OURS:
        spec = json.loads((place.profile.directory / "kernel.json").read_text())
        options = {
            "config": Config({"ModelArmor": {"scratch_directory": str(place.scratch / "k")}})
        }
    elif contender == BUBBLEWRAP:
        spec["argv"] = [*bubblewrap_command(place, setting), *_ARGV]
        options["transport"] = "ipc"  # it has no network of ours
    elif contender == SANDLOCK:
        provisioners = KernelProvisionerFactory.instance().provisioners
        provisioners[_PROVISIONER] = EntryPoint(
            _PROVISIONER, f"{__name__}:SandlockProvisioner", KernelProvisionerFactory.GROUP_NAME
        )
        spec["metadata"] = {"kernel_provisioner": {"provisioner_name": _PROVISIONER}}
        options["transport"] = "ipc"
    directory = place.scratch / "kernels"
    _write_spec(directory / "benchmark", spec)
    manager = _Manager(
        kernel_name="benchmark",
        kernel_spec_manager=KernelSpecManager(
            kernel_dirs=[str(directory)], ensure_native_kernel=False
        ),
        **options,
    )
    manager.benchmark = (place, setting)
    return manager


def _write_spec(directory: Path, spec: Mapping[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "kernel.json").write_text(json.dumps(spec))
