"""How many alerts a second a server takes from KubeArmor's relay, and what that costs it.

A stand-in for the relay runs in a process of its own, at a steady rate and with the relay's own
queue: a thousand alerts for each client, and what comes when it is full is dropped. The server
reads them as it does at work, one stream for all kernels, each alert to its record.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import resource
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import grpc
import grpc.aio

from modelarmor.alerts import Recorder
from modelarmor.cluster.relay import Feed, Relay, wire
from tests.cluster.relay.standin import flood

_QUEUE = 1000  # of the relay, for each client


@dataclass(frozen=True)
class Result:
    """What came of so many alerts a second."""

    rate: int
    seconds: float
    sent: int
    dropped: int
    recorded: int
    #: processor seconds of the server
    cpu: float
    #: KiB that its resident memory grew by at most, once half of the alerts had come
    grown: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 when alerts were lost at a rate that should be sustained."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.add_argument("--rates", default="1000,5000,10000", help="alerts a second, each in turn")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each rate")
    parser.add_argument("--kernels", type=int, default=200, help="pods that the server follows")
    parser.add_argument(
        "--ours", type=float, default=1.0, help="part of the alerts that is of its pods"
    )
    arguments = parser.parse_args(argv)
    print("alerts/s  sent     dropped  recorded  CPU of one core  memory grew by")
    lost = False
    for rate in map(int, arguments.rates.split(",")):
        result = measure(rate, arguments.seconds, arguments.kernels, arguments.ours)
        share = 100 * result.cpu / result.seconds
        print(
            f"{rate:<9} {result.sent:<8} {result.dropped:<8} {result.recorded:<9}"
            f" {share:<14.1f} %  {result.grown} KiB",
            flush=True,
        )
        lost |= rate <= 5000 and result.dropped > 0
    return int(lost)


def measure(rate: int, seconds: float, kernels: int = 200, ours: float = 1.0) -> Result:
    """Have so many alerts a second arrive for so long."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_serve, args=(there, rate, seconds, kernels, ours), daemon=True)
    child.start()
    there.close()
    try:
        return asyncio.run(_follow(here, rate, seconds, kernels))
    finally:
        child.join(30)


async def _follow(pipe: Connection, rate: int, seconds: float, kernels: int) -> Result:
    port = await asyncio.to_thread(pipe.recv)
    recorders = [Recorder(f"kernel-{n}", capacity=100) for n in range(kernels)]
    async with Feed(Relay(target=f"127.0.0.1:{port}")) as feed:
        for n, recorder in enumerate(recorders):
            feed.route("kernels", f"kernel-{n}", recorder)
        await feed.connected(30)
        before = time.process_time()
        began = time.monotonic()
        await asyncio.sleep(seconds / 2)
        half = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sent, dropped = await asyncio.to_thread(pipe.recv)
        while feed.received < sent:
            await asyncio.sleep(0.05)
        taken = time.monotonic() - began
        cpu = time.process_time() - before
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - half
        recorded = sum(recorder.counts.by_action.get("Block", 0) for recorder in recorders)
    pipe.send("done")
    return Result(rate, taken, sent, dropped, recorded, cpu, grown)


def _serve(pipe: Connection, rate: int, seconds: float, kernels: int, ours: float) -> None:
    asyncio.run(_serving(pipe, rate, seconds, kernels, ours))


async def _serving(pipe: Connection, rate: int, seconds: float, kernels: int, ours: float) -> None:
    foreign = int(kernels / ours) - kernels if ours else kernels
    pods = [f"kernel-{n}" for n in range(kernels)] if ours else []
    alerts = itertools.cycle(flood([*pods, *(f"foreign-{n}" for n in range(foreign))]))
    queue: asyncio.Queue[bytes] = asyncio.Queue(_QUEUE)
    watched = asyncio.Event()
    passed = 0

    async def watch(request: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal passed
        watched.set()
        while True:
            yield await queue.get()
            passed += 1

    async def health(request: bytes, context: Any) -> bytes:
        number = wire._NONCE.FromString(request).nonce
        return bytes(wire._REPLY(Retval=number).SerializeToString())

    server = grpc.aio.server()
    handlers = {
        "HealthCheck": grpc.unary_unary_rpc_method_handler(health),
        "WatchAlerts": grpc.unary_stream_rpc_method_handler(watch),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(wire.SERVICE, handlers)])
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await watched.wait()
    dropped = made = 0
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        for _ in range(int(elapsed * rate) - made):
            made += 1
            try:
                queue.put_nowait(next(alerts))
            except asyncio.QueueFull:
                dropped += 1
        await asyncio.sleep(0.01)
    while not queue.empty():
        await asyncio.sleep(0.01)
    pipe.send((made - dropped, dropped))
    await asyncio.to_thread(pipe.recv)
    await server.stop(None)


if __name__ == "__main__":
    sys.exit(main())
