"""A cluster to test against: an API server, a node, a namespace with the posture block."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.ioloop.manager import AsyncIOLoopKernelManager
from modelarmor_jupyter.enforcers import provisioner
from modelarmor_jupyter.pods import PodProvisioner
from traitlets.config import Config

from tests.cluster.apiserver.forward import port_forward
from tests.cluster.apiserver.kubelet import Kubelet
from tests.cluster.apiserver.server import ApiServer

NAMESPACE = "kernels"
RECORDINGS = "recordings"
BLOCK = {
    "kubearmor-file-posture": "block",
    "kubearmor-network-posture": "block",
    "kubearmor-capabilities-posture": "block",
    "kubearmor-visibility": "process,file,network,capabilities",
}


@dataclass
class Here:
    """The stand-in cluster."""

    server: ApiServer
    kubelet: Kubelet
    config: Config

    def left(self) -> dict[str, list[str]]:
        """What is there beside namespaces and nodes."""
        return {
            plural: [name for _, name in found]
            for (_, plural), found in self.server.store.objects.items()
            if found and plural not in ("namespaces", "nodes")
        }

    def only(self, plural: str) -> dict[str, Any]:
        """The one object of a kind."""
        (found,) = (
            list(items.values())
            for (_, name), items in self.server.store.objects.items()
            if name == plural
        )
        assert len(found) == 1
        item: dict[str, Any] = found[0]
        return item


@asynccontextmanager
async def cluster(
    directory: Path, node: type[Kubelet] = Kubelet, **pods: Any
) -> AsyncIterator[Here]:
    server = ApiServer()
    await server.start()
    server.namespace(NAMESPACE, BLOCK)
    kubelet = node(server, directory / "node")
    server.subresources["portforward"] = port_forward
    settings = {
        "image": "a/notebook",
        "namespace": NAMESPACE,
        "server_name": "server-1",
        "kubeconfig": str(server.kubeconfig(directory / "kubeconfig")),
        "python": "python3",
        "prefix": sys.prefix,
        "workspace": "/mnt/workspace",
        "tmp": "/mnt/scratch",
        "home": "/home/jovyan",
        "launch_seconds": 30.0,
        "canary_seconds": 2.0,
        "port_forward": "never",
    }
    config = Config({"KernelPods": settings | pods})
    try:
        yield Here(server, kubelet, config)
    finally:
        await kubelet.stop()
        await server.stop()


@dataclass
class Kernel:
    """A running kernel and its client."""

    manager: AsyncIOLoopKernelManager
    client: AsyncKernelClient

    @property
    def provisioner(self) -> PodProvisioner:
        assert isinstance(self.manager.provisioner, PodProvisioner)
        return self.manager.provisioner

    async def run(self, code: str) -> str:
        """Execute; what it printed, or its error."""
        said: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                said.append(content["text"])
            elif message["msg_type"] == "error":
                said.append(f"{content['ename']}: {content['evalue']}")

        await self.client.execute_interactive(code, timeout=60, output_hook=hear)
        return "".join(said).strip()


class PodKernelManager(AsyncIOLoopKernelManager):
    """A manager whose kernelspec is confined, whatever is installed on this machine."""

    async def _async_pre_start_kernel(self, **kw: Any) -> Any:
        if self.provisioner is None:
            self.provisioner = provisioner(
                kernel_id=self.kernel_id or kw["kernel_id"],
                kernel_spec=self.kernel_spec,
                parent=self,
                profile="notebook",
            )
        return await super()._async_pre_start_kernel(**kw)


def manager_of(here: Here, directory: Path) -> PodKernelManager:
    """A kernel manager of a server that is configured for the cluster."""
    manager = PodKernelManager(kernel_name="python3", config=here.config)
    manager.connection_file = str(directory / f"{id(manager)}.json")
    return manager


@asynccontextmanager
async def kernel(here: Here, directory: Path, kernel_id: str) -> AsyncIterator[Kernel]:
    manager = manager_of(here, directory)
    await manager.start_kernel(kernel_id=kernel_id)
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=30)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
        await manager.cleanup_resources()
