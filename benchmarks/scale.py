"""What thousands of kernels on hundreds of nodes ask of a cluster, and what breaks first.

Two things are measured on this machine. Kernels are launched and ended through the stand-in API
server, without containers: that counts the calls of each, and weighs its objects as every watch of
them is sent. And alerts that are of somebody else's pods are read as the server reads them, which
says how many a second one core can bear. The rest is arithmetic with these figures, line by line:
the cluster itself is not simulated.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.relay import measure
from modelarmor import profiles
from modelarmor.cluster import objects
from modelarmor.cluster.client import Cluster
from modelarmor.cluster.fitting import fitted, for_image
from modelarmor.cluster.launch import Kernels, Order
from modelarmor.policy.lint.limits import MAX_ENTRIES, entry_cost
from modelarmor.profiles import Profile
from tests.cluster.apiserver.server import ApiServer
from tests.cluster.apiserver.store import Object, Resource

_NAMESPACE = "kernels"
_SECONDS = 60.0
#: alerts a second at which it is measured what one costs
_RATE = 1_000
#: containers that KubeArmor's BPF-LSM enforcer has room for on a node
_CONTAINERS = 256
_INTERPRETER = "/opt/conda/bin/python3.12"


@dataclass(frozen=True)
class Kernel:
    """What one kernel costs the API server, on average of those that were launched."""

    calls_to_start: float
    calls_to_end: float
    #: events that a watch of its objects is sent from first to last, and their bytes
    pod_events: float
    pod_bytes: float
    policy_events: float
    policy_bytes: float


@dataclass(frozen=True)
class Scale:
    """The cluster that is asked about."""

    kernels: int
    nodes: int
    servers: int
    #: launches a second when everybody comes at once
    burst: float
    #: alerts of a kernel a second
    alerts: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 when a kernel took more calls than it should."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--kernels", type=int, default=5_000)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--servers", default="1,50,5000", help="Jupyter servers, each in turn")
    parser.add_argument("--burst", type=float, default=50.0, help="launches a second")
    parser.add_argument("--alerts", type=float, default=0.2, help="of a kernel a second")
    parser.add_argument("--launched", type=int, default=200, help="kernels that are measured")
    parser.add_argument("--seconds", type=float, default=10.0, help="for which alerts are sent")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        kernel = asyncio.run(_measured(arguments.launched, Path(directory)))
    foreign = _foreign_alerts(arguments.seconds)
    print(_of_one(kernel, foreign, arguments.launched))
    for servers in map(int, arguments.servers.split(",")):
        scale = Scale(
            arguments.kernels, arguments.nodes, servers, arguments.burst, arguments.alerts
        )
        print(_table(scale, kernel, foreign))
    print(_entries(math.ceil(arguments.kernels / arguments.nodes)))
    return int(kernel.calls_to_start > 6)


# --- what is measured


async def _measured(count: int, directory: Path) -> Kernel:
    server = ApiServer()
    await server.start()
    server.namespace(_NAMESPACE, {})
    events: Counter[str] = Counter()
    weight: Counter[str] = Counter()

    def weigh(kind: str, resource: Resource, item: Object) -> None:
        events[resource[1]] += 1
        weight[resource[1]] += len(json.dumps({"type": kind, "object": item})) + 1
        if resource[1] == "pods":
            _play_kubelet(server, kind, item)

    server.store.listeners.append(weigh)
    kernels = Kernels(
        await Cluster.connect(str(server.kubeconfig(directory / "kubeconfig"))),
        _NAMESPACE,
        "server-1",
    )
    try:
        await kernels.open(_SECONDS)
        profile = _profile("notebook")
        warm = str(uuid.uuid4())
        await _launch(kernels, warm, profile)  # its calls are the server's, such as the sweep
        server.requests.clear()
        events.clear()
        weight.clear()
        names = [str(uuid.uuid4()) for _ in range(count)]
        for name in names:
            await _launch(kernels, name, profile)
        started = len(server.requests)
        for name in names:
            await kernels.end(name)
        ended = len(server.requests) - started
        return Kernel(
            started / count,
            ended / count,
            events["pods"] / count,
            weight["pods"] / count,
            events["kubearmorpolicies"] / count,
            weight["kubearmorpolicies"] / count,
        )
    finally:
        await kernels.close()
        await server.stop()


def _play_kubelet(server: ApiServer, kind: str, pod: Object) -> None:
    """As many changes as a pod has that starts, runs and ends."""
    meta, resource = pod["metadata"], ("", "pods")
    loop = asyncio.get_running_loop()

    def status(value: dict[str, Any]) -> None:
        with contextlib.suppress(KeyError):
            server.store.patch(resource, meta["namespace"], meta["name"], {"status": value})

    if kind == "ADDED":
        named = {"name": objects.CONTAINER, "image": "a/notebook", "imageID": "", "restartCount": 0}
        waiting = {"state": {"waiting": {"reason": "ContainerCreating"}}, "ready": False}
        running = {"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "ready": True}
        scheduled = [{"type": "PodScheduled", "status": "True"}]
        for value in (
            {"phase": "Pending", "conditions": scheduled},
            {"phase": "Pending", "containerStatuses": [named | waiting]},
            {"phase": "Running", "podIP": "127.0.0.1", "containerStatuses": [named | running]},
        ):
            loop.call_soon(status, value)
    elif kind == "MODIFIED" and "deletionTimestamp" in meta:
        key = (meta["namespace"], meta["name"])
        if key in server.store.objects[resource]:
            loop.call_soon(server.store.remove, resource, *key)


async def _launch(kernels: Kernels, kernel_id: str, profile: Profile) -> None:
    ports = {name: 20_000 + n for n, name in enumerate(objects.PORT_NAMES)}
    order = Order(
        kernel_id,
        profile,
        ["python3", "-m", "ipykernel_launcher", "-f", objects.connection_file("/tmp")],
        {**profile.environ({}), "HOME": "/tmp/home"},
        {**ports, "key": "k" * 64, "curve_publickey": "k" * 40, "curve_secretkey": "k" * 40},
        objects.PodSettings(namespace=_NAMESPACE, server="server-1", image="a/notebook"),
    )

    async def answers(_address: str) -> bool:
        return True

    await kernels.launch(order, _SECONDS, answers, lambda _: None)


def _profile(name: str) -> Profile:
    profile = profiles.load(
        name,
        workspace=Path("/workspace"),
        home=Path("/home/jovyan"),
        tmp=Path("/tmp"),
        prefix=Path("/opt/conda"),
    )
    chosen = for_image(profile, "/opt/conda", _INTERPRETER)
    return fitted(chosen, objects.rules_beside(chosen.policies))


def _foreign_alerts(seconds: float) -> float:
    """Alerts of others' pods a second that one core can take in, through a socket, to drop them."""
    result = measure(_RATE, seconds, ours=0.0)
    return result.sent / result.cpu


# --- what follows


def _of_one(kernel: Kernel, foreign: float, count: int) -> str:
    return (
        f"one kernel, mean of {count}: {kernel.calls_to_start:.1f} calls to start,"
        f" {kernel.calls_to_end:.1f} to end; {kernel.pod_events:.1f} pod events of"
        f" {kernel.pod_bytes / 1024:.0f} KiB, {kernel.policy_events:.1f} policy events of"
        f" {kernel.policy_bytes / 1024:.0f} KiB in all\n"
        f"one core drops {foreign:,.0f} alerts of others a second"
    )


def _table(scale: Scale, kernel: Kernel, foreign: float) -> str:
    calls = scale.burst * (kernel.calls_to_start + kernel.calls_to_end)
    own = scale.burst * (kernel.pod_bytes + kernel.policy_bytes)
    to_daemons = scale.burst * kernel.policy_events * scale.nodes
    daemon_bytes = scale.burst * kernel.policy_bytes * scale.nodes
    compared = scale.burst * (kernel.pod_events + kernel.policy_events) * scale.servers
    alerts = scale.kernels * scale.alerts
    rows = [
        ("calls of kernels, a second", f"{calls:,.0f}"),
        ("watches of servers", f"{2 * scale.servers:,}"),
        ("events compared with servers' selectors, a second", f"{compared:,.0f}"),
        ("events sent to servers, MiB a second", f"{own / 2**20:,.1f}"),
        ("policy events sent to KubeArmor's daemons, a second", f"{to_daemons:,.0f}"),
        ("the same, MiB a second", f"{daemon_bytes / 2**20:,.1f}"),
        ("alerts into the relay, a second", f"{alerts:,.0f}"),
        ("alerts out of the relay, a second", f"{alerts * scale.servers:,.0f}"),
        ("of a core of each server for others' alerts", f"{alerts / foreign:.1%}"),
        ("of a core of all servers together", f"{scale.servers * alerts / foreign:.1%}"),
    ]
    width = max(len(name) for name, _ in rows)
    head = (
        f"\n{scale.kernels:,} kernels, {scale.nodes:,} nodes, {scale.servers:,} servers,"
        f" {scale.burst:g} launches and ends a second, {scale.alerts:g} alerts of a kernel a second"
    )
    return "\n".join([head, *(f"  {name:{width}}  {value:>12}" for name, value in rows)])


def _entries(kernels: int) -> str:
    lines = [f"\n{kernels} kernels on a node, which has room for {_CONTAINERS} containers"]
    for name in profiles.names():
        profile = _profile(name)
        try:
            merged = objects.policy(str(uuid.uuid4()), profile, _NAMESPACE)
        except objects.PolicyRefused:
            lines.append(
                f"  {name:20} refused: more than {MAX_ENTRIES} entries, or not enforceable"
            )
            continue
        cost = entry_cost([merged])
        lines.append(
            f"  {name:20} {cost:4} of {MAX_ENTRIES} entries, {cost * kernels:,} on the node"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
