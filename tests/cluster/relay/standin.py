"""A relay over a real socket, which does what a test tells it to: flood, stall, break, lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from modelarmor.cluster.relay import wire


def encoded(**values: Any) -> bytes:
    """An alert on the wire; texts may be bytes that are no UTF-8."""
    message = wire._ALERT()
    for name, value in values.items():
        if isinstance(value, dict) and name == "EventData":
            for key, item in value.items():
                message.EventData.add(key=_bytes(key), value=_bytes(item))
        elif isinstance(value, dict):
            for key, item in value.items():
                setattr(getattr(message, name), key, _bytes(item))
        elif isinstance(value, list):
            message.ATags.extend(map(_bytes, value))
        else:
            setattr(message, name, value if isinstance(value, int) else _bytes(value))
    return message.SerializeToString()


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


class StandIn:
    """What the relay does, for a test to change while it runs."""

    def __init__(self) -> None:
        self.port = 0
        #: calls of WatchAlerts so far, and their filters
        self.filters: list[bytes] = []
        #: aborts every call with it
        self.refusal: grpc.StatusCode | None = None
        #: HealthCheck never answers
        self.stalled = False
        self.wrong_nonce = False
        self._queues: set[asyncio.Queue[bytes | None]] = set()
        self._watched = asyncio.Condition()

    def send(self, data: bytes) -> None:
        for queue in self._queues:
            queue.put_nowait(data)

    def break_streams(self) -> None:
        """End each stream with OK, as a relay does that is shut down in good order."""
        for queue in self._queues:
            queue.put_nowait(None)

    async def until_watched(self, times: int = 1) -> None:
        """Wait for the `times`-th call of WatchAlerts."""
        async with self._watched:
            await self._watched.wait_for(lambda: len(self.filters) >= times)

    async def health(self, request: bytes, context: Any) -> bytes:
        if self.refusal is not None:
            await context.abort(self.refusal, "not for you")
        if self.stalled:
            await asyncio.Event().wait()
        number = wire._NONCE.FromString(request).nonce
        return bytes(wire._REPLY(Retval=number + self.wrong_nonce).SerializeToString())

    async def watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._queues.add(queue)
        async with self._watched:
            self.filters.append(bytes(wire._REQUEST.FromString(request).Filter))
            self._watched.notify_all()
        try:
            while (data := await queue.get()) is not None:
                yield data
        finally:
            self._queues.discard(queue)


@asynccontextmanager
async def relay(
    standin: StandIn, *, credentials: grpc.ServerCredentials | None = None, port: int = 0
) -> AsyncIterator[StandIn]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {
        "HealthCheck": grpc.unary_unary_rpc_method_handler(standin.health),
        "WatchAlerts": grpc.unary_stream_rpc_method_handler(standin.watch),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(wire.SERVICE, handlers)])
    address = f"127.0.0.1:{port}"
    if credentials is None:
        standin.port = server.add_insecure_port(address)
    else:
        standin.port = server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield standin
    finally:
        await server.stop(None)


def flood(pods: Iterable[str], namespace: str = "kernels") -> list[bytes]:
    """An alert of each pod, as large as KubeArmor's usually are."""
    return [
        encoded(
            Timestamp=1_760_000_000,
            UpdatedTime="2026-01-01T00:00:00.000000Z",
            ClusterName="default",
            HostName="node-1",
            NamespaceName=namespace,
            PodName=pod,
            ContainerID="3f" * 32,
            ContainerName="kernel",
            HostPID=4242,
            PID=42,
            PolicyName="modelarmor-notebook",
            Severity="4",
            Type="MatchedPolicy",
            Source="/usr/bin/python3.11 -m ipykernel_launcher",
            Operation="File",
            Resource="/etc/shadow",
            Data="lsm=FILE_OPEN",
            Action="Block",
            Result="Permission denied",
            Enforcer="BPFLSM",
            Labels="app=kernel,modelarmor.io/kernel=" + pod,
            EventData={"Lsm": "FILE_OPEN"},
            Owner={"Ref": "Pod", "Name": pod, "Namespace": namespace},
        )
        for pod in pods
    ]
