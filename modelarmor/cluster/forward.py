"""Ports of a pod on this machine, for a server outside of the cluster.

A TCP connection to a local port becomes a WebSocket to the API server, which passes it on to the
pod (``pods/portforward``, protocol ``v4.channel.k8s.io``): each message begins with its channel, 0
for data and 1 for errors, and the first message of each names the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Sequence
from typing import Any, Final

import aiohttp

from modelarmor.cluster.client import CALL_SECONDS, Cluster, ClusterError

_log = logging.getLogger(__name__)
_PROTOCOL: Final = "v4.channel.k8s.io"
_DATA: Final = 0
_CHUNK: Final = 1 << 16
_PORT_BYTES: Final = 2
#: keeps proxies on the way from taking a quiet kernel for a dead one
_HEARTBEAT_SECONDS: Final = 20.0
#: a client that is refused connects again at once; so long each of its attempts takes
_REFUSED_SECONDS: Final = 0.5


class Forward:
    """Listens on a local port for each port of a pod."""

    def __init__(self, cluster: Cluster, namespace: str, pod: str) -> None:
        self._cluster, self._namespace, self._pod = cluster, namespace, pod
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        #: why the last connection came to nothing; None where it did not
        self.refused: ClusterError | None = None

    async def start(self, ports: Sequence[int]) -> dict[int, int]:
        """Listen on 127.0.0.1; the local port of each of the pod's."""
        local = {}
        for port in ports:
            server = await asyncio.start_server(self._handler(port), "127.0.0.1", 0)
            self._servers.append(server)
            local[port] = int(server.sockets[0].getsockname()[1])
        return local

    def move(self, namespace: str) -> None:
        """Reach the pod of this name in another namespace, at the same local ports."""
        self._namespace = namespace

    async def stop(self) -> None:
        """Listen no more, and cut what is connected."""
        for server in self._servers:
            server.close()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._servers.clear()

    def _handler(self, port: int) -> Any:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._pass_on(port, reader, writer)
            except aiohttp.WSServerHandshakeError as error:
                await self._refuse(port, error)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                _log.warning("forwarding port %d of %s: %s", port, self._pod, error)
            finally:
                self._tasks.discard(task)
                writer.close()

        return handle

    async def _refuse(self, port: int, handshake: aiohttp.WSServerHandshakeError) -> None:
        """Find out why the API server does not forward, which the handshake's error leaves out."""
        try:
            await self._cluster.call(
                "forward the kernel's ports",
                self._cluster.core.connect_get_namespaced_pod_portforward,
                self._pod,
                self._namespace,
                ports=str(port),
                seconds=_REFUSED_SECONDS,
            )
            error = ClusterError(f"cannot forward the kernel's ports: {handshake.message}")
        except ClusterError as found:
            error = found
        if handshake.status != error.status:  # it was another matter, or is none any more
            error = ClusterError(
                f"cannot forward the kernel's ports: the API server answered {handshake.status}",
                status=handshake.status,
            )
        if self.refused is None or str(self.refused) != str(error):
            _log.warning("%s: %s", self._pod, error)
        self.refused = error
        await asyncio.sleep(_REFUSED_SECONDS)

    async def _pass_on(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        configuration = self._cluster.configuration
        headers: dict[str, str] = {}
        await self._cluster.api.update_params_for_auth(
            headers, [], ["BearerToken"], "", "GET", None
        )
        url = (
            f"{configuration.host}/api/v1/namespaces/{self._namespace}/pods/{self._pod}"
            f"/portforward?ports={port}"
        )
        async with (
            aiohttp.ClientSession(trust_env=True) as session,
            session.ws_connect(
                url,
                protocols=(_PROTOCOL,),
                headers=headers,
                ssl=_trust(self._cluster),
                heartbeat=_HEARTBEAT_SECONDS,
                timeout=aiohttp.ClientWSTimeout(ws_close=CALL_SECONDS),
                max_msg_size=0,
            ) as socket,
        ):
            self.refused = None
            ways = [
                asyncio.create_task(_up(reader, socket)),
                asyncio.create_task(_down(socket, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)


def _trust(cluster: Cluster) -> ssl.SSLContext:
    context: ssl.SSLContext = cluster.api.rest_client.ssl_context
    return context


async def _up(reader: asyncio.StreamReader, socket: aiohttp.ClientWebSocketResponse) -> None:
    while data := await reader.read(_CHUNK):
        await socket.send_bytes(bytes((_DATA,)) + data)


async def _down(socket: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
    greeted: set[int] = set()
    async for message in socket:
        if message.type != aiohttp.WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel not in greeted:
            greeted.add(channel)
            data = data[_PORT_BYTES:]
        if channel != _DATA and data:
            _log.warning("the pod's port does not answer: %s", data[:200].decode(errors="replace"))
            return
        if data:
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                await writer.drain()
