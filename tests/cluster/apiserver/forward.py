"""A pod's ``portforward``: one TCP connection behind a WebSocket, as the API server has it."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import WSMsgType, web


async def port_forward(request: web.Request, _namespace: str, _pod: str) -> web.StreamResponse:
    """Connect to the port that is asked for; the stand-in's pods listen on this machine."""
    port = int(request.query["ports"])
    socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
    await socket.prepare(request)
    for channel in (0, 1):
        await socket.send_bytes(bytes((channel,)) + port.to_bytes(2, "little"))
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        await socket.send_bytes(b"\x01" + str(error).encode())
        await socket.close()
        return socket

    async def down() -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                await socket.send_bytes(b"\x00" + data)
        await socket.close()

    task = asyncio.create_task(down())
    try:
        async for message in socket:
            if message.type == WSMsgType.BINARY and message.data[0] == 0:
                writer.write(message.data[1:])
    finally:
        task.cancel()
        writer.close()
    return socket
