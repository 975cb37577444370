"""What is run confined and measures itself. Needs the standard library alone.

It is copied into each contender's workspace, so that no sandbox has to open this repository:
``python programs.py REPORT PROGRAM ARGUMENTS...``. A program's seconds are those of its loop, not
of the interpreter's start; the report is JSON, ``{"seconds": S}`` or ``{"error": WHY}``.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any

_FILES = 50


def imports(*modules: str) -> float:
    """Import modules."""
    start = perf_counter()
    for module in modules:
        importlib.import_module(module)
    return perf_counter() - start


def opens(count: str) -> float:
    """Open, read and close files that are there."""
    names = [f"{Path.cwd()}/input-{number}" for number in range(_FILES)]
    for name in names:
        Path(name).write_bytes(b"0123456789" * 10)
    start = perf_counter()
    for number in range(int(count)):
        fd = os.open(names[number % _FILES], os.O_RDONLY)
        os.read(fd, 200)
        os.close(fd)
    return perf_counter() - start


def creates(count: str) -> float:
    """Create files and write to them."""
    made = Path("made").absolute()
    made.mkdir()
    names = [f"{made}/{number}" for number in range(int(count))]
    start = perf_counter()
    for name in names:
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.write(fd, b"0123456789" * 10)
        os.close(fd)
    seconds = perf_counter() - start
    for name in names:
        os.unlink(name)  # noqa: PTH108  as plain as the loop
    made.rmdir()
    return seconds


def executes(count: str) -> float:
    """Run a program that does nothing, and wait for it."""
    start = perf_counter()
    for _ in range(int(count)):
        subprocess.run(["/bin/true"], check=True)
    return perf_counter() - start


def connects(count: str, port: str) -> float:
    """Connect to a server on loopback."""
    address = ("127.0.0.1", int(port))
    reset = struct.pack("ii", 1, 0)
    start = perf_counter()
    for _ in range(int(count)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.connect(address)
            # A reset leaves no port behind in TIME_WAIT, of which there are few.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    return perf_counter() - start


def accept(report: Path) -> None:
    """Accept connections and close them, until killed; reports the port."""
    server = socket.create_server(("127.0.0.1", 0), backlog=4096)
    _write(report, {"port": server.getsockname()[1]})
    while True:
        server.accept()[0].close()


def serve(path: str) -> None:
    """Serve a small JSON service with uvicorn on a unix socket, until killed."""
    import uvicorn

    uvicorn.run(_predict, uds=path, log_level="critical", access_log=False, lifespan="off")


_Receive = Callable[[], Awaitable[dict[str, Any]]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]


async def _predict(scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
    message = await receive()
    numbers = json.loads(message["body"])["inputs"]
    body = json.dumps({"predictions": [number * 2 for number in numbers]}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _write(report: Path, content: dict[str, Any]) -> None:
    # Whoever waits for the report must not see half of it.
    draft = report.with_name(report.name + ".draft")
    draft.write_text(json.dumps(content))
    draft.replace(report)


def main(report: Path, name: str, arguments: list[str]) -> None:
    try:
        match name:
            case "accept":
                accept(report)
            case "serve":
                serve(*arguments)
            case _:
                timed = {f.__name__: f for f in (imports, opens, creates, executes, connects)}
                _write(report, {"seconds": timed[name](*arguments)})
    except Exception as error:  # whatever it is, it belongs into the report
        _write(report, {"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
