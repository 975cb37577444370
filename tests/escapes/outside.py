"""What lives outside the sandbox: a process that somebody might reach, and services.

``python outside.py victim SECRET FRIEND-FD`` and ``python outside.py server JSON``; each says in
one JSON line where it is, and stays until it is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import selectors
import socket
import sys

_libc = ctypes.CDLL(None, use_errno=True)
_IPC_CREAT_EXCL = 0o3000


def _victim(secret: str, friend_fd: int) -> None:
    """Holds a secret in memory, environment, an open file, a mapping and SysV memory."""
    token = os.environ["TOKEN"].encode()
    held = ctypes.create_string_buffer(token)
    file = os.open(secret, os.O_RDONLY)
    mapping = mmap.mmap(file, 0, prot=mmap.PROT_READ)
    os.chdir(os.path.dirname(secret))
    key = 0x4D410000 | os.getpid() & 0xFFFF
    segment = _libc.shmget(key, 4096, _IPC_CREAT_EXCL | 0o600)
    _libc.shmat.restype = ctypes.c_void_p
    ctypes.memmove(_libc.shmat(segment, None, 0), token, len(token))
    _libc.syscall(240, f"modelarmor-{os.getpid()}".encode(), 0o102, 0o600, None)  # mq_open
    print(
        json.dumps(
            {
                "pid": os.getpid(),
                "fd": file,
                "address": ctypes.addressof(held),
                "key": key,
                "segment": segment,
                "size": len(mapping),
            }
        ),
        flush=True,
    )
    friend = socket.socket(fileno=friend_fd)
    while friend.recv(10):
        socket.send_fds(friend, [b"x"], [os.open(secret, os.O_RDONLY)])


class _Server:
    """Answers every request: with the token, except where going is permitted."""

    def __init__(self, token: str, sockets: dict[str, str], dns: bool) -> None:
        self._token = token.encode()
        self._selector = selectors.DefaultSelector()
        self.ports: dict[str, int] = {}
        for name in ("forbidden", "allowed", "decoy", "other"):
            self._port(name)
        for name, kind in (("stream", 1), ("dgram", 2), ("seqpacket", 5)):
            with contextlib.suppress(OSError):
                os.unlink(sockets[name])
            self._watch(socket.socket(socket.AF_UNIX, kind), sockets[name], kind != 2)
            os.chmod(sockets[name], 0o777)
        self._watch(socket.socket(socket.AF_UNIX), "\0" + sockets["abstract"], True)
        if dns:
            self._watch(socket.socket(socket.AF_INET, 1), ("127.0.0.53", 53), True)
            self._watch(socket.socket(socket.AF_INET, 2), ("127.0.0.53", 53), False)

    def _port(self, name: str) -> None:
        """The same number for TCP and UDP."""
        while name not in self.ports:
            tcp, udp = (socket.socket(socket.AF_INET6, kind) for kind in (1, 2))
            tcp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            tcp.bind(("::", 0))
            with contextlib.suppress(OSError):
                udp.bind(("::", tcp.getsockname()[1]))
                self.ports[name] = tcp.getsockname()[1]
                self._watch(tcp, None, True)
                self._watch(udp, None, False)

    def _watch(self, sock: socket.socket, address: object, listens: bool) -> None:
        if address is not None:
            sock.bind(address)  # type: ignore[arg-type]
        if listens:
            sock.listen(512)
        sock.setblocking(False)
        self._selector.register(
            sock, selectors.EVENT_READ, self._accept if listens else self._datagram
        )

    def _word(self, port: int, ip: str) -> bytes:
        permitted = {self.ports["allowed"], self.ports["decoy"]}
        if port in permitted and ip.rpartition(":")[2] in ("127.0.0.1", "203.0.113.5"):
            return b"decoy"
        return self._token

    def _accept(self, sock: socket.socket) -> None:
        connection, _ = sock.accept()
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, self._stream)

    def _stream(self, sock: socket.socket) -> None:
        data = sock.recv(100)
        if data:
            name = sock.getsockname()
            inet = sock.family == socket.AF_INET6
            sock.send(self._word(name[1], name[0]) if inet else self._token)
            return
        self._selector.unregister(sock)
        sock.close()

    def _datagram(self, sock: socket.socket) -> None:
        data, extra, _, sender = sock.recvmsg(512, 256)
        word = self._token
        for _, _, value in extra:
            address = socket.inet_ntop(socket.AF_INET6, value[:16])
            word = self._word(sock.getsockname()[1], address)
        if sender:
            sock.sendto(data[:12] + word if len(data) > 12 else word, sender)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                with contextlib.suppress(OSError):
                    key.data(key.fileobj)


def main() -> None:
    _libc.prctl(1, 9)  # die with the battery
    if sys.argv[1] == "victim":
        _victim(sys.argv[2], int(sys.argv[3]))
    else:
        server = _Server(**json.loads(sys.argv[2]))
        print(json.dumps(server.ports), flush=True)
        server.run()


if __name__ == "__main__":
    main()
