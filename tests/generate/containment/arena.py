"""A throwaway place for one trial: a home with secrets, a model, listeners, a process beside it."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.escapes.arena import compile_kit

_PATIENCE_S = 5.0


class Listener:
    """Hears what comes to one port of the loopback, and answers an HTTP request with a program."""

    def __init__(self, kind: socket.SocketKind, answer: bytes = b"") -> None:
        self._socket = socket.socket(socket.AF_INET, kind)
        self._socket.bind(("127.0.0.1", 0))
        self._answer = answer
        self._heard: list[bytes] = []
        self.port: int = self._socket.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            self._socket.listen()
        target = self._stream if kind == socket.SOCK_STREAM else self._datagrams
        self._thread = threading.Thread(target=target, daemon=True)
        self._thread.start()

    def _stream(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(_PATIENCE_S)
                self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        received = b""
        while data := connection.recv(65536):
            self._heard.append(data)
            received += data
            head, ended, body = received.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0].strip() or b"0"
            if self._answer and ended and len(body) >= int(length):
                head = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self._answer)
                connection.sendall(head + self._answer)
                return

    def _datagrams(self) -> None:
        while data := self._socket.recv(65536):
            self._heard.append(data)

    def heard(self) -> str:
        """All that came; whoever may have sent something has ended."""
        self.close()
        return b"".join(self._heard).decode("latin-1")

    def close(self) -> None:
        """Stop listening."""
        with suppress(OSError):
            if self._socket.type == socket.SOCK_DGRAM:
                # An empty datagram comes after all others on the loopback, and ends the thread.
                self._socket.sendto(b"", self._socket.getsockname())
            else:
                self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(_PATIENCE_S)
        self._socket.close()


class Arena:
    """Where one trial happens, and what of it changed.

    Args:
        root: an empty directory; everything that a payload is aimed at lies in it.
        processes, memory, disk: limits of the policy, which bombs try to exceed by a little;
            mebibytes.
    """

    def __init__(self, root: Path, *, processes: int, memory: int, disk: int) -> None:
        self.root = root
        self.processes, self.memory, self.disk = processes, memory, disk
        self.left, self.right = secrets.token_hex(8), secrets.token_hex(8)
        self.ssh_secret, self.aws_secret = secrets.token_hex(16), secrets.token_hex(16)
        self.environment_secret = secrets.token_hex(16)
        self.model, self.home, self.tmp = root / "model", root / "home", root / "tmp"
        self.output = ""
        for name in ("home/.ssh", "home/.aws", "home/.config", "site", "tmp", "model"):
            (root / name).mkdir(parents=True)
        (self.home / ".ssh/id_rsa").write_text(self.ssh_secret + "\n")
        (self.home / ".aws/credentials").write_text(f"key = {self.aws_secret}\n")
        (self.home / ".bashrc").write_text("# mine\n")
        self._wheel = self.tmp / "evil-1.0-py3-none-any.whl"
        _write_wheel(self._wheel)
        stage2 = f"import os\nos.system(\"printf '%s%s\\n' {self.left} {self.right}\")\n"
        self._listeners = {
            "tcp": Listener(socket.SOCK_STREAM),
            "http": Listener(socket.SOCK_STREAM, stage2.encode()),
            "udp": Listener(socket.SOCK_DGRAM),
        }
        self._heard: dict[str, str] = {}
        # Its environment is what it has to lose; it does nothing but wait for its end.
        self.sibling = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE, env={"CLOUD_TOKEN": self.environment_secret},
        )  # fmt: skip
        self._before: dict[str, object] = {}

    @property
    def token(self) -> str:
        """Both halves together: nobody prints it but who ran code to join them."""
        return self.left + self.right

    @property
    def targets(self) -> dict[str, Any]:
        """What payloads know of the place, as ``T``."""
        files = (path for path in self.model.rglob("*") if path.is_file())
        victim = max(files, key=lambda path: path.stat().st_size)
        return {
            "left": self.left, "right": self.right, "home": str(self.home), "tmp": str(self.tmp),
            "site": str(self.root / "site"), "victim": str(victim), "sibling": self.sibling.pid,
            "wheel": str(self._wheel), "program": _program(self.token), "processes": self.processes,
            "memory": self.memory, "disk": self.disk,
            **{name: listener.port for name, listener in self._listeners.items()},
        }  # fmt: skip

    def begin(self) -> None:
        """Remember how everything is, before the payload runs."""
        self._before = {name: self._state(name) for name in ("model", "home/.bashrc", "sibling")}

    def changed(self, name: str) -> bool:
        """Whether something is not what it was."""
        return self._state(name) != self._before[name]

    def exists(self, name: str) -> bool:
        """Whether something is there now."""
        return (self.root / name).exists()

    def heard(self, port: str) -> str:
        """What a listener heard, after the payload ended."""
        if port not in self._heard:
            self._heard[port] = self._listeners[port].heard()
        return self._heard[port]

    def _state(self, name: str) -> object:
        if name == "sibling":
            with suppress(subprocess.TimeoutExpired):  # a signal that was sent needs a moment
                self.sibling.wait(0.05)
            return self.sibling.returncode
        top = self.root / name
        files = sorted(p for p in top.rglob("*") if p.is_file()) if top.is_dir() else [top]
        return [(str(p), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]

    def close(self) -> None:
        """End what lives beside it."""
        if self.sibling.stdin:
            self.sibling.stdin.close()
        self.sibling.kill()
        self.sibling.wait()
        for listener in self._listeners.values():
            listener.close()


@contextmanager
def arena(*, processes: int, memory: int, disk: int) -> Iterator[Arena]:
    """A fresh arena, gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="modelarmor-containment-"))
    try:
        place = Arena(Path(os.path.realpath(root)), processes=processes, memory=memory, disk=disk)
        try:
            yield place
        finally:
            place.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _program(token: str) -> str:
    """A program, in base64, that needs nothing of the machine and says `token`."""
    compiled = _compiled("@" * len(token))
    return base64.b64encode(compiled.replace(b"@" * len(token), token.encode())).decode()


@functools.cache
def _compiled(token: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        compile_kit(Path(folder), token)
        return (Path(folder) / "denied").read_bytes()


def _write_wheel(path: Path) -> None:
    """The smallest package that pip installs without asking anybody."""
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("evil.py", "")
        info = "evil-1.0.dist-info/"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
        wheel.writestr(
            info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(info + "RECORD", "evil.py,,\n")
