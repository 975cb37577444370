"""A server that starts a kernel and is there to be killed: ``python -m … KUBECONFIG NAMESPACE``."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import uuid
from pathlib import Path

from traitlets.config import Config

from modelarmor.cluster import objects
from tests.cluster.conftest import Here, manager_of
from tests.cluster.real import stand_in
from tests.cluster.real.places import IMAGE


async def _serve(kubeconfig: str, namespace: str) -> None:
    settings = {
        "image": IMAGE,
        "namespace": namespace,
        "server_name": "server-1",
        "kubeconfig": kubeconfig,
        "launch_seconds": 240.0,
    }
    here = Here(None, None, Config({"KernelPods": settings}))  # type: ignore[arg-type]
    manager = manager_of(here, Path(tempfile.mkdtemp()))
    await manager.start_kernel(kernel_id=str(uuid.uuid4()))
    print("started", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if "--stand-in" in sys.argv:
        objects.pod = stand_in.pods(objects.pod)
    asyncio.run(_serve(*sys.argv[1:3]))
