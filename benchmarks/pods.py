"""What a kernel in a pod costs a server and an API server, beside kernels that nothing confines.

Real kernels answer real clients, through the stand-in API server, whose pods are processes of this
machine: nothing is scheduled or pulled, and what KubeArmor would do in a node is done by the
sandbox. So seconds compare what the servers themselves do. `--gateway PYTHON` names the interpreter
of an environment with gateway_provisioners, jupyter_client, kubernetes, jinja2 and ipykernel.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.pod_driver import LOOK_SECONDS
from tests.cluster.apiserver.server import ApiServer
from tests.cluster.apiserver.store import Object, Resource
from tests.cluster.conftest import NAMESPACE, cluster

_ROOT = Path(__file__).parents[1]
_POD: Resource = ("", "pods")
_SECONDS = 120.0


@dataclass(frozen=True)
class Cost:
    """Of one kernel, on average."""

    name: str
    calls_to_start: float
    calls_a_minute: float
    calls_to_end: float
    seconds: float
    #: KiB of the server's memory
    memory: float


@dataclass(frozen=True)
class Added:
    """What confining adds to a start, in seconds: mean of the kernels."""

    #: from the first object to the pod
    objects: float
    #: from before the container's process to the kernel's first instruction
    canary: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pods", description=__doc__)
    parser.add_argument("--kernels", type=int, default=5, help="that are measured")
    parser.add_argument("--looks", type=int, default=4, help="of the server at its kernels")
    parser.add_argument("--gateway", default="", metavar="PYTHON")
    arguments = parser.parse_args(argv)
    count, looks = arguments.kernels, arguments.looks
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        costs = [asyncio.run(_local(count, looks, _made(directory / "local")))]
        if arguments.gateway:
            gateway = _gateway(count, looks, _made(directory / "gateway"), arguments.gateway)
            costs.append(asyncio.run(gateway))
        ours, added = asyncio.run(_ours(count, looks, _made(directory / "ours")))
    print(_table([*costs, ours]))
    print(
        f"of the start, {added.objects * 1000:.0f} ms are for Secret, policies and namespace before"
        f" the pod, and {added.canary * 1000:.0f} ms for sandbox and canary before the kernel"
    )
    return 0


async def _local(count: int, looks: int, directory: Path) -> Cost:
    """Jupyter's own: no pod, nothing confined."""
    settings = {"kernel": "python3", "directory": str(directory)}
    return await _driven("Jupyter's own, no pod", sys.executable, "local", count, looks, settings)


async def _ours(count: int, looks: int, directory: Path) -> tuple[Cost, Added]:
    async with cluster(directory, launch_seconds=_SECONDS, canary_seconds=60.0) as here:
        first: dict[str, float] = {}
        before: list[float] = []
        held: dict[str, Path] = {}

        def look(kind: str, resource: Resource, item: Object) -> None:
            name = item["metadata"]["name"]
            if (kind, resource[1]) == ("ADDED", "secrets"):
                first[name] = time.time()
            elif (kind, resource) == ("ADDED", _POD):
                before.append(time.time() - first[name])
                held[name] = directory / "node" / item["metadata"]["uid"][:8]

        here.server.store.listeners.append(look)
        passed: list[float] = []

        def started() -> None:
            for place in list(held.values())[1:]:
                # written just before the container is started, and last by the canary
                files = (place / part / "connection.json" for part in ("connection", "tmp"))
                began, ended = (file.stat().st_mtime for file in files)
                passed.append(ended - began)

        settings = {"config": {**here.config}, "directory": str(directory)}
        cost = await _driven(
            "ModelArmor", sys.executable, "modelarmor", count, looks, settings, here.server, started
        )
    return cost, Added(sum(before[1:]) / count, sum(passed) / count)  # without the first


async def _gateway(count: int, looks: int, directory: Path, python: str) -> Cost:
    """gateway_provisioners: the pod's launcher calls back with its connection file."""
    asked = "import importlib.util as u; print(u.find_spec('gateway_provisioners').origin)"
    found = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
    scripts = Path(found.stdout.strip()).parent / "kernel-launchers"
    spec = directory / "kernels" / "in-a-pod" / "kernel.json"
    spec.parent.mkdir(parents=True)
    provisioner = {"provisioner_name": "kubernetes-provisioner", "config": {"image_name": "a/b"}}
    words = [python, str(scripts / "kubernetes" / "scripts" / "launch_kubernetes.py")]
    for name in ("kernel-id", "port-range", "response-address", "public-key"):
        words += [f"--{name}", f"{{{name.replace('-', '_')}}}"]
    spec.write_text(
        json.dumps(
            {
                "argv": words,
                "language": "python",
                "display_name": "in a pod",
                "metadata": {"kernel_provisioner": provisioner},
            }
        )
    )
    server = ApiServer()
    await server.start()
    server.namespace(NAMESPACE, {})
    node = _Node(server, python, scripts, directory)
    more = {
        "JUPYTER_PATH": str(directory),
        "KUBECONFIG": str(server.kubeconfig(directory / "kubeconfig")),
        "GP_USE_INCLUSTER_CONFIG": "False",
        "GP_NAMESPACE": NAMESPACE,
        "TMPDIR": str(directory),
        "KERNEL_USERNAME": "ada",  # it starts none for root
    }
    settings = {"kernel": "in-a-pod", "directory": str(directory)}
    try:
        return await _driven(
            "gateway_provisioners", python, "gateway", count, looks, settings, server, env=more
        )
    finally:
        node.stop()
        await server.stop()


class _Node:
    """Runs the pods of gateway_provisioners: its launcher, with what the pod's variables say."""

    def __init__(self, server: ApiServer, python: str, scripts: Path, directory: Path) -> None:
        self._store, self._python = server.store, python
        # put together, as its images are
        self._launcher = directory / "launch_ipykernel.py"
        for part, file in (("python", self._launcher.name), ("shared", "server_listener.py")):
            shutil.copy(scripts / part / "scripts" / file, directory)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        server.store.listeners.append(self._changed)

    def stop(self) -> None:
        for name in list(self._processes):
            self._kill(name)

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _changed(self, kind: str, resource: Resource, item: Object) -> None:
        if resource == _POD and kind == "ADDED":
            asyncio.get_running_loop().call_soon(self._start, item)
        elif resource == _POD and "deletionTimestamp" in item["metadata"] and kind == "MODIFIED":
            asyncio.get_running_loop().call_soon(self._end, item["metadata"]["name"])

    def _start(self, pod: Object) -> None:
        variables = {item["name"]: item["value"] for item in pod["spec"]["containers"][0]["env"]}
        words = [self._python, str(self._launcher)]
        for name in ("KERNEL_ID", "PORT_RANGE", "RESPONSE_ADDRESS", "PUBLIC_KEY"):
            words += [f"--{name.lower().replace('_', '-')}", variables[name]]
        name = pod["metadata"]["name"]
        self._processes[name] = subprocess.Popen(
            words,
            env={**os.environ, "TMPDIR": str(self._launcher.parent)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # its listener is a process of its own
        )
        status = {"phase": "Running", "podIP": "127.0.0.1", "hostIP": "127.0.0.1"}
        self._store.patch(_POD, NAMESPACE, name, {"status": status})

    def _end(self, name: str) -> None:
        self._kill(name)
        if (NAMESPACE, name) in self._store.objects[_POD]:
            self._store.remove(_POD, NAMESPACE, name)


async def _driven(
    name: str,
    python: str,
    kind: str,
    count: int,
    looks: int,
    settings: dict[str, Any],
    server: ApiServer | None = None,
    started: Any = lambda: None,
    env: dict[str, str] | None = None,
) -> Cost:
    process = await asyncio.create_subprocess_exec(
        python, str(Path(__file__).with_name("pod_driver.py")), kind, str(count), str(looks),
        json.dumps(settings), cwd=_ROOT, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(_ROOT), **(env or {})},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    calls: dict[str, int] = {}
    said: dict[str, dict[str, float]] = {}
    try:
        while line := await asyncio.wait_for(process.stdout.readline(), _SECONDS):
            if not line.startswith(b'{"phase"'):
                continue
            told = json.loads(line)
            calls[told["phase"]] = len(server.requests) if server is not None else 0
            said[told["phase"]] = told
            if told["phase"] == "started":
                started()
            process.stdin.write(b"\n")
        if await process.wait():
            raise RuntimeError(f"{name}: the driver failed, see above")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    minutes = looks * LOOK_SECONDS / 60
    return Cost(
        name,
        (calls["started"] - calls["warm"]) / count,
        (calls["looked"] - calls["started"]) / (count + 1) / minutes,
        (calls["ended"] - calls["alive"]) / count,
        said["started"]["seconds"],
        (said["started"]["memory"] - said["warm"]["memory"]) / count,
    )


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _table(costs: Sequence[Cost]) -> str:
    lines = [f"{'of one kernel':24}" + "".join(f"{cost.name:>24}" for cost in costs)]
    for what, form in (
        ("calls_to_start", "{:.1f}"),
        ("calls_a_minute", "{:.1f}"),
        ("calls_to_end", "{:.1f}"),
        ("seconds", "{:.2f}"),
        ("memory", "{:,.0f} KiB"),
    ):
        values = [form.format(getattr(cost, what)) for cost in costs]
        lines.append(f"{what.replace('_', ' '):24}" + "".join(f"{value:>24}" for value in values))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
