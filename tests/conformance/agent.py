"""The inside of one container: mounts, a network, and commands run on request.

A program of its own, started by `machine` as the first process of new namespaces. Each line on
standard input is a request in JSON, each line on standard output its answer. Nothing here knows
about policies: a request names a command, and whether it gets a terminal.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import http.server
import json
import os
import select
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any, Final

#: the address that the cases fetch; every name resolves to it too
ADDRESS: Final = "40.114.177.156"
_PAGE: Final = b"<html><body>nothing to see</body></html>\n"
# TIOCSPTLCK and TIOCGPTN, which Python 3.11's termios lacks
_UNLOCK_TERMINAL: Final = 0x40045431
_TERMINAL_NUMBER: Final = 0x80045430
_MAX_OUTPUT: Final = 1 << 20
_DEVICES: Final = {
    "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9),
    "tty": (5, 0),
}  # fmt: skip


def main() -> None:
    configuration: dict[str, Any] = json.loads(sys.argv[1])
    root = Path(configuration["scratch"], "root")
    _mount_all(root, configuration)
    _make_network()
    socket.sethostname(configuration["hostname"])
    if os.fork() == 0:
        # The requests' pipes are not for the services.
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        _serve()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(_run(root, json.loads(line))), flush=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _mount_all(root: Path, configuration: dict[str, Any]) -> None:
    scratch = root.parent
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(scratch))
    for name in ("upper", "work", "root"):
        (scratch / name).mkdir()
    layers = f"lowerdir={configuration['image']},upperdir={scratch}/upper,workdir={scratch}/work"
    _mount("-t", "overlay", "-o", layers, "overlay", str(root))
    _mount("-t", "proc", "proc", str(root / "proc"))
    _mount("-t", "sysfs", "-o", "ro", "sysfs", str(root / "sys"))
    _make_devices(root / "dev")
    for source, target in configuration["binds"]:
        inside = root / target.lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        _mount("--bind", source, str(inside))
        _mount("-o", "remount,ro,bind", str(inside))
    (root / "run/conformance").mkdir(mode=0o700)


def _make_devices(dev: Path) -> None:
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(dev))
    old = os.umask(0)
    for name, (major, minor) in _DEVICES.items():
        os.mknod(dev / name, 0o20666, os.makedev(major, minor))
    os.umask(old)
    for name in ("pts", "shm"):
        (dev / name).mkdir()
    _mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=620", "devpts", str(dev / "pts"))
    _mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(dev / "shm"))
    (dev / "ptmx").symlink_to("pts/ptmx")
    (dev / "fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (dev / name).symlink_to(f"/proc/self/fd/{number}")


def _make_network() -> None:
    """Loopback, the address to fetch, and what ``arping 127.0.0.1`` wants.

    arping looks for an interface that is not the loopback one in the address's network, and falls
    back on one of the name ``lo0``; its last complaint is the one that it prints.
    """
    for words in (
        "link set lo up",
        f"addr add {ADDRESS}/32 dev lo",
        "link add eth0 type veth peer name lo0",
        "addr add 127.0.0.2/24 dev eth0",
        "link set lo0 up",
        "link set eth0 up",
    ):
        subprocess.run(["ip", *words.split()], check=True)


class _Names(socketserver.BaseRequestHandler):
    """A name server that knows one address for everything; no IPv6."""

    def handle(self) -> None:
        query, connection = self.request
        end = query.index(b"\0", 12) + 5  # header, name, type and class
        is_a = query[end - 4 : end - 2] == b"\0\1"
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(ADDRESS) if is_a else b""
        counts = struct.pack(">4H", 1, int(is_a), 0, 0)
        reply = query[:2] + b"\x81\x80" + counts + query[12:end] + answer
        connection.sendto(reply, self.client_address)


class _Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(_PAGE)))
        self.end_headers()
        self.wfile.write(_PAGE)

    def log_message(self, format: str, *arguments: object) -> None:
        """Standard error is the test's."""


def _serve() -> None:
    names = socketserver.ThreadingUDPServer(("127.0.0.1", 53), _Names)
    threading.Thread(target=names.serve_forever, daemon=True).start()
    http.server.ThreadingHTTPServer((ADDRESS, 80), _Pages).serve_forever()


def _run(root: Path, request: dict[str, Any]) -> dict[str, Any]:
    for name, text in request.get("files", {}).items():
        path = root / name.lstrip("/")
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
    reader, writer = _terminal(root) if request["tty"] else os.pipe()
    child = os.fork()
    if child == 0:
        _become(root, request, writer)
    os.close(writer)
    output, status = _watch(child, reader, time.monotonic() + request["timeout"])
    os.close(reader)
    return {
        "output": output.decode(errors="replace").replace("\r\n", "\n"),
        "status": status,
        "files": {
            name: path.read_text(errors="replace")
            for name in request.get("read", ())
            if (path := root / name.lstrip("/")).exists()
        },
    }


def _terminal(root: Path) -> tuple[int, int]:
    """Both ends of a terminal of the container's own devpts."""
    master = os.open(root / "dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(master, _UNLOCK_TERMINAL, struct.pack("i", 0))
    number = struct.unpack("i", fcntl.ioctl(master, _TERMINAL_NUMBER, b"\0" * 4))[0]
    return master, os.open(root / f"dev/pts/{number}", os.O_RDWR | os.O_NOCTTY)


def _become(root: Path, request: dict[str, Any], writer: int) -> None:
    """In the child: never returns."""
    try:
        os.setsid()
        if request["tty"]:
            fcntl.ioctl(writer, termios.TIOCSCTTY, 0)
            os.dup2(writer, 0)
        else:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.chroot(root)
        os.chdir("/")
        os.closerange(3, 256)
        for each in (signal.SIGPIPE, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        os.execve(request["argv"][0], request["argv"], request["environment"])
    except BaseException as error:
        os.write(2, f"agent: {error}\n".encode())
    finally:
        os._exit(127)


def _watch(child: int, reader: int, deadline: float) -> tuple[bytes, int | None]:
    """The output of `child` and its status; None when it had to be killed.

    What it leaves in the background may hold the other end: the output ends with the child.
    """
    output = bytearray()
    watched = os.pidfd_open(child)
    try:
        while True:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([reader, watched], [], [], max(left, 0))
            if reader in ready and _read_into(output, reader):
                continue
            if watched in ready:
                break
            if left <= 0:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return bytes(output), None
            if reader in ready:  # closed before the child ended
                select.select([watched], [], [], max(left, 0))
    finally:
        os.close(watched)
    return bytes(output), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _read_into(output: bytearray, reader: int) -> bool:
    chunk = b""
    with contextlib.suppress(OSError):  # EIO: the terminal's other end is closed
        chunk = os.read(reader, 65536)
    output += chunk[: max(_MAX_OUTPUT - len(output), 0)]
    return bool(chunk)


if __name__ == "__main__":
    # Not a zombie's reaper: what a command leaves is adopted and ends with the namespace. But this
    # process is the namespace's first, so it must die with its parent.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    main()
