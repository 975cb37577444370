"""Real kernels need a place of their own: a home with secrets in it, a workspace, a scratch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.ioloop.manager import AsyncIOLoopKernelManager
from modelarmor_jupyter.provisioner import ModelArmorProvisioner
from traitlets.config import Config

READY_SECONDS = 30


@dataclass(frozen=True)
class Place:
    """Where a test's kernels live."""

    home: Path
    workspace: Path
    scratch: Path

    @property
    def config(self) -> Config:
        return Config({"ModelArmor": {"scratch_directory": str(self.scratch)}})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    # sockets want a short path
    place = Place(tmp_path / "home", tmp_path / "work", tmp_path / "s")
    (place.home / ".ssh").mkdir(parents=True)
    (place.home / ".ssh" / "id_ed25519").write_text("a private key\n")
    (place.home / ".bashrc").write_text("# as it was\n")
    place.workspace.mkdir()
    monkeypatch.setenv("HOME", str(place.home))
    monkeypatch.setenv("SECRET_TOKEN", "the server's")
    return place


@dataclass
class Kernel:
    """A running kernel with its client."""

    manager: AsyncIOLoopKernelManager
    client: AsyncKernelClient

    @property
    def provisioner(self) -> ModelArmorProvisioner:
        assert isinstance(self.manager.provisioner, ModelArmorProvisioner)
        return self.manager.provisioner

    async def run(self, code: str, *, heard: asyncio.Event | None = None) -> str:
        """Execute `code`; what it printed, or the name and text of its error.

        `heard` is set as soon as it has printed something.
        """
        said: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            content = message["content"]
            if heard is not None and message["msg_type"] == "stream":
                heard.set()
            if message["msg_type"] == "stream":
                said.append(content["text"])
            elif message["msg_type"] == "error":
                said.append(f"{content['ename']}: {content['evalue']}")

        await self.client.execute_interactive(code, timeout=60, output_hook=hear)
        return "".join(said).strip()

    async def reconnect(self) -> None:
        self.client.stop_channels()
        self.client = self.manager.client()
        self.client.start_channels()
        await self.client.wait_for_ready(timeout=READY_SECONDS)


StartKernel = Callable[..., AbstractAsyncContextManager[Kernel]]


@pytest.fixture
def kernel(place: Place) -> StartKernel:
    """Start a confined kernel in the workspace: ``async with kernel("notebook") as k``."""

    @asynccontextmanager
    async def start(
        profile: str = "notebook", *, cwd: Path | None = None, config: Config | None = None
    ) -> AsyncIterator[Kernel]:
        settings = place.config
        settings.merge(config or Config())
        manager = AsyncIOLoopKernelManager(kernel_name=f"modelarmor-{profile}", config=settings)
        await manager.start_kernel(cwd=str(cwd or place.workspace))
        running = Kernel(manager, manager.client())
        running.client.start_channels()
        try:
            await running.client.wait_for_ready(timeout=READY_SECONDS)
            yield running
        finally:
            running.client.stop_channels()
            await manager.shutdown_kernel(now=True)

    return start
