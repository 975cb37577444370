"""A server that is killed (SIGKILL) in the middle of a launch, and the next of its name."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.cluster import launcher
from tests.cluster.apiserver.store import Object, Resource
from tests.cluster.conftest import Here, cluster

_SECONDS = 120.0
#: what a launch makes, in this order
_MADE = ("secrets", "kubearmorpolicies", "networkpolicies", "pods")


class Launcher:
    """Processes that launch kernels."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = 0

    async def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{uuid.uuid4()}\n".encode())
        self.pid = int((await self._said()).removeprefix("begun"))

    async def gone(self) -> None:
        assert (await self._said()).startswith("gone")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    async def _said(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(_SECONDS):
            return (await self._process.stdout.readline()).decode().strip()


@asynccontextmanager
async def launching(kubeconfig: Path) -> AsyncIterator[Launcher]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.cluster.launcher", str(kubeconfig),
        cwd=Path(__file__).parents[2], stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Launcher(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(_SECONDS):
        while not true():
            await asyncio.sleep(0.05)


async def swept(here: Here, kubeconfig: Path) -> None:
    """The next server of the name is there; it ends what is left, and nothing remains."""
    later = await launcher.kernels(str(kubeconfig))
    try:
        await later.sweep()
        await until(lambda: here.left() == {})
    finally:
        await later.close()
    await until(lambda: here.kubelet.running == 0)


def confined_at_every_moment(here: Here) -> list[str]:
    """A list that is filled with what was there without its policy, as it comes to that."""
    wrong: list[str] = []

    def look(kind: str, resource: Resource, item: Object) -> None:
        pods = here.server.store.objects["", "pods"]
        for plural in _MADE[1:3]:
            group = "security.kubearmor.com" if plural.startswith("kube") else "networking.k8s.io"
            there = here.server.store.objects[group, plural]
            wrong.extend(
                f"{name} has no {plural} after {kind} {resource[1]} {item['metadata']['name']}"
                for name in pods
                if name not in there
            )

    here.server.store.listeners.append(look)
    return wrong


def test_killed_after_any_change_it_leaves_no_orphan_and_nothing_unconfined(tmp_path: Path) -> None:
    async def body() -> None:
        async with cluster(tmp_path) as here:
            kubeconfig = here.server.kubeconfig(tmp_path / "launcher")
            wrong = confined_at_every_moment(here)
            made: list[str] = []
            async with launching(kubeconfig) as server:
                for changes in range(1, 100):
                    if await _killed_after(changes, here, server):
                        break
                    left = sorted(here.left(), key=_MADE.index)
                    assert left == list(_MADE[: len(left)])
                    made += left[-1:]
                    await swept(here, kubeconfig)
                # the launch went all the way; it is killed while its kernel runs
                await until(lambda: here.kubelet.running == 1)
                server.kill()
                await server.gone()
                await swept(here, kubeconfig)
            assert {*made} == {*_MADE}
            assert wrong == []

    asyncio.run(body())


async def _killed_after(changes: int, here: Here, server: Launcher) -> bool:
    """Have a launch begun and killed after so many changes; whether it made fewer, and runs."""
    left = changes
    killed = asyncio.Event()

    def count(method: str, _path: str) -> None:
        nonlocal left
        left -= method != "GET"  # what only reads leaves nothing
        if not left and not killed.is_set():
            server.kill()
            killed.set()

    pods = here.server.store.objects["", "pods"]

    def runs() -> bool:
        return any((pod.get("status") or {}).get("phase") == "Running" for pod in pods.values())

    here.server.carried_out = count
    try:
        await server.begin()
        await until(lambda: killed.is_set() or runs())
    finally:
        here.server.carried_out = lambda _method, _path: None
    if killed.is_set():
        await server.gone()
    return not killed.is_set()
