"""Ways to the network. ``offline`` may reach nothing, ``limited`` one port of one address,
``online`` one port of public addresses (203.0.113.5 stands for them) but no private one.

The server outside answers every request with the token.
"""

import array
import contextlib
import os
import socket
import struct

from .calls import Range, attempt, call, libc, output

N = "Reaching the network"
S = "Sockets of other kinds"
A = "Addresses that a profile refuses"
U = "Reaching services through sockets in the file system"
NET = ("offline", "limited")
TCP_FASTOPEN_CONNECT = 30
MSG_FASTOPEN = 0x20000000
MPTCP = 262


def _talk(sock: socket.socket) -> bytes:
    with contextlib.closing(sock):
        sock.settimeout(1)
        with contextlib.suppress(BrokenPipeError):
            sock.send(b"token")
        return sock.recv(100)


def _tcp(a: Range, family: int = socket.AF_INET, to: str = "127.0.0.1", protocol: int = 0) -> bytes:
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    sock.settimeout(1)
    sock.connect((to, a.ports["forbidden"]))
    return _talk(sock)


@attempt(N, "TCP", modes=NET, alert=True)
def _(a: Range) -> object:
    return _tcp(a)


@attempt(N, "TCP over IPv6", modes=NET, alert=True)
def _(a: Range) -> object:
    return _tcp(a, socket.AF_INET6, "::1")


@attempt(N, "TCP to a mapped address (::ffff:127.0.0.1)", modes=NET, alert=True)
def _(a: Range) -> object:
    return _tcp(a, socket.AF_INET6, "::ffff:127.0.0.1")


@attempt(N, "TCP to 0.0.0.0", modes=NET, alert=True)
def _(a: Range) -> object:
    return _tcp(a, to="0.0.0.0")


@attempt(N, "TCP without waiting", modes=NET, alert=True)
def _(a: Range) -> object:
    sock = socket.socket()
    sock.setblocking(False)
    code = sock.connect_ex(("127.0.0.1", a.ports["forbidden"]))
    if code not in (0, 115):
        raise OSError(code, os.strerror(code))
    return _talk(sock)


@attempt(N, "TCP, after dissolving a connection (AF_UNSPEC)", modes=NET)
def _(a: Range) -> object:
    sock = socket.socket()
    with contextlib.suppress(OSError):
        sock.connect(("127.0.0.1", a.ports["allowed"]))
    libc.connect(sock.fileno(), struct.pack("HxxxxxxQ", 0, 0), 16)
    sock.connect(("127.0.0.1", a.ports["forbidden"]))
    return _talk(sock)


@attempt(N, "TCP from another thread's socket", modes=NET, alert=True)
def _(a: Range) -> object:
    import threading

    result: list[object] = []

    def run() -> None:
        with contextlib.suppress(OSError):
            result.append(_tcp(a))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return result[0] if result else None


@attempt(N, "TCP fast open by sendto", modes=NET)
def _(a: Range) -> object:
    sock = socket.socket()
    sock.sendto(b"token", MSG_FASTOPEN, ("127.0.0.1", a.ports["forbidden"]))
    return _talk(sock)


@attempt(N, "TCP fast open by sendmsg", modes=NET)
def _(a: Range) -> object:
    sock = socket.socket()
    sock.sendmsg([b"token"], [], MSG_FASTOPEN, ("127.0.0.1", a.ports["forbidden"]))
    return _talk(sock)


def _message(address: bytes, text: bytes = b"token") -> tuple[bytes, list[object]]:
    import ctypes

    name, body = ctypes.create_string_buffer(address), ctypes.create_string_buffer(text)
    vector = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(body), len(text)))
    header = struct.pack("QIxxxxQQQQIxxxx", ctypes.addressof(name), len(address),
                         ctypes.addressof(vector), 1, 0, 0, 0)  # fmt: skip
    return header, [name, body, vector]


def _sockaddr(to: str, port: int) -> bytes:
    return (
        struct.pack("=H", socket.AF_INET)
        + struct.pack("!H", port)
        + socket.inet_aton(to)
        + bytes(8)
    )


@attempt(N, "TCP fast open by sendmmsg", modes=NET)
def _(a: Range) -> object:
    sock = socket.socket()
    header, keep = _message(_sockaddr("127.0.0.1", a.ports["forbidden"]))
    call(307, sock.fileno(), header + bytes(8), 1, MSG_FASTOPEN)
    return _talk(sock) if keep else None


@attempt(N, "TCP_FASTOPEN_CONNECT", modes=NET)
def _(a: Range) -> object:
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    sock.connect(("127.0.0.1", a.ports["forbidden"]))
    return _talk(sock)


@attempt(N, "multipath TCP", modes=NET)
def _(a: Range) -> object:
    return _tcp(a, protocol=MPTCP)


@attempt(N, "multipath TCP fast open", modes=NET, optional=True)
def _(a: Range) -> object:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
    sock.sendto(b"token", MSG_FASTOPEN, ("127.0.0.1", a.ports["forbidden"]))
    return _talk(sock)


def _udp(a: Range, family: int = socket.AF_INET) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(1)
    return sock


@attempt(N, "UDP by sendto", modes=NET, alert=True)
def _(a: Range) -> object:
    sock = _udp(a)
    sock.sendto(b"token", ("127.0.0.1", a.ports["forbidden"]))
    return sock.recv(100)


@attempt(N, "UDP by sendmsg", modes=NET, alert=True)
def _(a: Range) -> object:
    sock = _udp(a)
    sock.sendmsg([b"token"], [], 0, ("127.0.0.1", a.ports["forbidden"]))
    return sock.recv(100)


@attempt(N, "UDP by sendmmsg", modes=NET, alert=True)
def _(a: Range) -> object:
    sock = _udp(a)
    header, keep = _message(_sockaddr("127.0.0.1", a.ports["forbidden"]))
    call(307, sock.fileno(), header + bytes(8), 1, 0)
    return sock.recv(100) if keep else None


@attempt(N, "UDP by sendmmsg, the second of two", modes=NET)
def _(a: Range) -> object:
    sock = _udp(a)
    first, keep = _message(_sockaddr("127.0.0.1", a.ports["allowed"]))
    second, more = _message(_sockaddr("127.0.0.1", a.ports["forbidden"]))
    call(307, sock.fileno(), first + bytes(8) + second + bytes(8), 2, 0)
    sock.settimeout(0.3)
    for _ in keep[:2] + more[:1]:
        text, (_, port) = sock.recvfrom(100)
        if port == a.ports["forbidden"]:
            return text
    return None


@attempt(N, "UDP, connected", modes=NET, alert=True)
def _(a: Range) -> object:
    sock = _udp(a)
    sock.connect(("127.0.0.1", a.ports["forbidden"]))
    return _talk(sock)


@attempt(N, "UDP over IPv6", modes=NET, alert=True)
def _(a: Range) -> object:
    sock = _udp(a, socket.AF_INET6)
    sock.sendto(b"token", ("::1", a.ports["forbidden"]))
    return sock.recv(100)


@attempt(N, "UDP from an IPv6 socket to a mapped address", modes=NET)
def _(a: Range) -> object:
    sock = _udp(a, socket.AF_INET6)
    sock.sendto(b"token", ("::ffff:127.0.0.1", a.ports["forbidden"]))
    return sock.recv(100)


@attempt(N, "UDP to an IPv4 address in an IPv6 socket's sockaddr_in", modes=NET, optional=True)
def _(a: Range) -> object:
    sock = _udp(a, socket.AF_INET6)
    call("sendto", sock.fileno(), b"token", 5, 0, _sockaddr("127.0.0.1", a.ports["forbidden"]), 16)
    return sock.recv(100)


def _unspecified(port: int) -> bytes:
    """127.0.0.1 without its family, which Linux takes for AF_INET where no connection is made."""
    return bytes(2) + _sockaddr("127.0.0.1", port)[2:]


@attempt(N, "UDP to an address without a family (AF_UNSPEC)", modes=NET)
def _(a: Range) -> object:
    sock = _udp(a)
    call(44, sock.fileno(), b"token", 5, 0, _unspecified(a.ports["forbidden"]), 16)
    return sock.recv(100)


@attempt(N, "UDP to an address without a family, by sendmsg", modes=NET)
def _(a: Range) -> object:
    sock = _udp(a)
    header, keep = _message(_unspecified(a.ports["forbidden"]))
    call(46, sock.fileno(), header, 0)
    return sock.recv(100) if keep else None


@attempt(N, "UDP-Lite", modes=NET, optional=True)
def _(a: Range) -> object:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136)
    sock.sendto(b"token", ("127.0.0.1", a.ports["forbidden"]))
    return "sent"


@attempt(N, "DNS by hand", modes=NET)
def _(a: Range) -> object:
    sock = _udp(a)
    query = b"\x12\x34\1\0\0\1\0\0\0\0\0\0\6secret\7example\0\0\1\0\1"
    sock.sendto(query, ("127.0.0.53", 53))
    return sock.recv(512)[12:]


@attempt(N, "DNS over TCP", modes=NET)
def _(a: Range) -> object:
    sock = socket.socket()
    sock.settimeout(1)
    sock.connect(("127.0.0.53", 53))
    return "connected"


@attempt(N, "bind and listen", modes=NET)
def _(a: Range) -> object:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    with socket.socket() as client:
        client.setblocking(False)
        client.connect_ex(sock.getsockname())
    return f"listens on {sock.getsockname()[1]}"


@attempt(N, "bind of a well-known port on all addresses", modes=NET)
def _(a: Range) -> object:
    sock = socket.socket()
    sock.bind(("0.0.0.0", 18080))
    sock.listen()
    return "listens on 18080"


@attempt(N, "listen without bind", modes=NET)
def _(a: Range) -> object:
    sock = socket.socket()
    sock.listen()
    return f"listens on {sock.getsockname()[1]}"


@attempt(N, "bind of UDP", modes=NET)
def _(a: Range) -> object:
    sock = _udp(a)
    sock.bind(("0.0.0.0", 18081))
    return "bound"


@attempt(N, "bind of UDP without a family (AF_UNSPEC)", modes=NET)
def _(a: Range) -> object:
    sock = _udp(a)
    call(49, sock.fileno(), bytes(2) + _sockaddr("0.0.0.0", 18081)[2:], 16)
    return "bound"


@attempt(N, "socket passed between one's own processes", modes=NET)
def _(a: Range) -> object:
    left, right = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            sock = socket.socket()
            socket.send_fds(left, [b"x"], [sock.fileno()])
        os._exit(0)
    left.close()
    _, fds, _, _ = socket.recv_fds(right, 1, 1)
    os.waitpid(pid, 0)
    if not fds:
        raise OSError(13, "no socket to pass")
    sock = socket.socket(fileno=fds[0])
    sock.connect(("127.0.0.1", a.ports["forbidden"]))
    return _talk(sock)


@attempt(N, "inherited socket that is not connected", modes=NET)
def _(a: Range) -> object:
    sock = socket.socket(fileno=os.dup(a.inherited["socket"]))
    sock.connect(("127.0.0.1", a.ports["forbidden"]))
    return _talk(sock)


@attempt(N, "inherited datagram socket", modes=NET)
def _(a: Range) -> object:
    sock = socket.socket(fileno=os.dup(a.inherited["datagram"]))
    sock.settimeout(1)
    sock.sendto(b"token", ("127.0.0.1", a.ports["forbidden"]))
    return sock.recv(100)


@attempt(N, "inherited datagram socket, by sendmsg", modes=NET)
def _(a: Range) -> object:
    sock = socket.socket(fileno=os.dup(a.inherited["datagram"]))
    sock.settimeout(1)
    sock.sendmsg([b"token"], [], 0, ("127.0.0.1", a.ports["forbidden"]))
    return sock.recv(100)


@attempt(N, "race: the address of connect changes", modes=("limited", "online"))
def _(a: Range) -> object:
    return output([a.probe, "race-connect", *_pair(a)])


@attempt(N, "race: the address of sendto changes", modes=("limited", "online"))
def _(a: Range) -> object:
    return output([a.probe, "race-sendto", *_pair(a)])


@attempt(N, "race: the address of sendmsg changes", modes=("limited", "online"))
def _(a: Range) -> object:
    return output([a.probe, "race-sendmsg", *_pair(a)])


def _pair(a: Range) -> list[str]:
    """Where one may go, whose server says ``decoy``, and where not."""
    if a.mode == "online":
        return ["203.0.113.5", str(a.ports["decoy"]), "10.1.2.3", str(a.ports["decoy"])]
    return ["127.0.0.1", str(a.ports["decoy"]), "127.0.0.1", str(a.ports["forbidden"])]


def _kind(name: str, family: int, kind: int, protocol: int = 0, *, needs: str = "",
          optional: bool = False, limit: str = "") -> None:  # fmt: skip
    @attempt(S, name, modes=NET, needs=needs, optional=optional, limit=limit)
    def _(a: Range) -> object:
        sock = socket.socket(family, kind, protocol)
        sock.close()
        return "a socket"


_kind("SCTP", 2, 1, 132, optional=True)
_kind("SCTP, one to many", 2, 5, 132, optional=True)
_kind("DCCP", 2, 6, 33, optional=True)
_kind("raw IP", 2, 3, 255, needs="root")
_kind("raw ICMP", 2, 3, 1, needs="root")
_kind("raw TCP", 2, 3, 6, needs="root")
_kind("raw IPv6", 10, 3, 58, needs="root")
_kind("ICMP datagrams (ping)", 2, 2, 1, optional=True)
_kind("packet, all protocols", 17, 3, 0x0300, needs="root")
_kind("packet, datagrams", 17, 2, 0x0300, needs="root")
_kind("SOCK_PACKET", 2, 10, 0x0300, needs="root")
_kind("VSOCK, to the hypervisor", 40, 1, optional=True)
_kind("VSOCK datagrams", 40, 2, optional=True)
_kind("Bluetooth", 31, 3, 0, optional=True)
_kind("kernel crypto (AF_ALG)", 38, 5, 0, optional=True)
_kind("XDP", 44, 3, 0, needs="root", optional=True)
_kind("SMC, which falls back to TCP", 43, 1, 0, optional=True)
_kind("TIPC", 30, 1, 0, optional=True)
_kind("RDS", 21, 5, 0, optional=True)
_kind("CAN", 29, 3, 1, optional=True)
_kind("KCM", 41, 2, 0, optional=True)
_kind("NFC", 39, 3, 0, optional=True)
_kind("AppleTalk", 5, 2, 0, optional=True)
_kind("PPP over Ethernet", 24, 1, 0, optional=True)
_kind("netlink: firewall", 16, 3, 12, optional=True)
_kind("netlink: audit", 16, 3, 9, optional=True)
_kind("netlink: device events", 16, 3, 15, optional=True)
_kind("netlink: generic", 16, 3, 16, optional=True)
_kind("netlink: socket diagnosis", 16, 3, 4, optional=True)
_kind("netlink: cryptography", 16, 3, 21, optional=True)
_kind("netlink: IPsec", 16, 3, 6, optional=True)
_kind("netlink: SELinux", 16, 3, 7, optional=True)
_kind(
    "netlink: routes, to look at",
    16,
    3,
    0,
    limit="libc and ZeroMQ list interfaces by it; changing them needs a capability that is gone",
)


@attempt(S, "netlink: routes, to change", modes=NET, needs="root")
def _(a: Range) -> object:
    sock = socket.socket(16, 3, 0)
    sock.sendto(struct.pack("=IHHIIBBHiII", 32, 16, 5, 1, 0, 0, 0, 0, 1, 0, 0), (0, 0))
    code = struct.unpack_from("i", sock.recv(4096), 16)[0]
    if code:
        raise OSError(-code, os.strerror(-code))
    return "changed an interface (to what it was)"


@attempt(S, "ioctl: change an interface", modes=NET, needs="root")
def _(a: Range) -> object:
    import fcntl

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        flags = fcntl.ioctl(sock, 0x8913, b"lo".ljust(16, b"\0") + bytes(24))
        fcntl.ioctl(sock, 0x8914, flags)
    return "changed (to what it was)"


@attempt(S, "SO_MARK: around the routing rules", modes=("deny",), needs="root")
def _(a: Range) -> object:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 36, 1)
    return "set"


def _refused(to: str, what: str, family: int = socket.AF_INET) -> None:
    @attempt(A, f"TCP to {to}: {what}", modes=("online",), alert=True, optional=True)
    def _(a: Range) -> object:
        return _tcp(a, family, to)

    @attempt(A, f"UDP to {to}: {what}", modes=("online",), alert=True, optional=True)
    def _(a: Range) -> object:
        sock = _udp(a, family)
        sock.sendto(b"token", (to, a.ports["forbidden"]))
        return sock.recv(100)


_refused("169.254.169.254", "the cloud's metadata")
_refused("::ffff:169.254.169.254", "the cloud's metadata, mapped", socket.AF_INET6)
_refused("fd00:ec2::254", "the cloud's metadata, IPv6", socket.AF_INET6)
_refused("10.1.2.3", "a private address")
_refused("172.16.1.1", "a private address")
_refused("192.168.7.7", "a private address")
_refused("100.64.1.1", "a carrier's address")
_refused("127.0.0.1", "this machine")
_refused("127.1.2.3", "this machine")
_refused("0.0.0.0", "this machine")
_refused("::1", "this machine", socket.AF_INET6)
_refused("::", "this machine", socket.AF_INET6)
_refused("::ffff:10.1.2.3", "a private address, mapped", socket.AF_INET6)


@attempt(A, "a permitted address on another port", modes=("online",), alert=True, optional=True)
def _(a: Range) -> object:
    with socket.create_connection(("203.0.113.5", a.ports["decoy"] + 0), 1) as sock:
        sock.close()
    with socket.create_connection(("203.0.113.5", a.ports["other"]), 1) as sock:
        sock.send(b"token")
        return sock.recv(100)


def _unix(
    name: str, kind: int, where: str, *, via: str = "", alert: bool = True, needs: str = ""
) -> None:
    @attempt(U, name, modes=NET, alert=alert, needs=needs)
    def _(a: Range) -> object:
        path = a.sockets[where]
        if via == "link":
            os.symlink(path, link := a.own("s"))
            path = link
        elif via == "proc":
            path = "/proc/self/root" + path
        elif via == "relative":
            os.chdir(os.path.dirname(path))
            path = os.path.basename(path)
        elif via == "fd":
            folder, name = os.path.split(path)
            path = f"/proc/self/fd/{os.open(folder, os.O_PATH)}/{name}"
        elif via == "o_path":
            path = f"/proc/self/fd/{os.open(path, os.O_PATH)}"
        elif via == "hardlink":
            os.link(path, link := a.own("s"))
            path = link
        elif via == "rename":
            os.rename(path, link := a.own("s"))
            path = link
        with socket.socket(socket.AF_UNIX, kind) as sock:
            sock.settimeout(1)
            if kind == socket.SOCK_DGRAM:
                sock.bind("")
                sock.sendto(b"token", path)
                return sock.recv(100)
            sock.connect(path)
            sock.send(b"token")
            return sock.recv(100)


STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
_unix("a service's socket (as Docker's)", STREAM, "stream")
_unix("… by a symbolic link", STREAM, "stream", via="link")
_unix("… by /proc/self/root", STREAM, "stream", via="proc")
_unix("… by a relative path", STREAM, "stream", via="relative")
_unix("… by its directory's descriptor", STREAM, "stream", via="fd")
_unix("… by O_PATH", STREAM, "stream", via="o_path")
_unix("… by a hard link", STREAM, "stream", via="hardlink", alert=False, needs="root")
_unix("… after moving it into the workspace", STREAM, "stream", via="rename", alert=False)
_unix("datagrams to a service's socket", DGRAM, "dgram")
_unix("packets to a service's socket", socket.SOCK_SEQPACKET, "seqpacket")


@attempt(U, "datagrams to a service's socket by sendmsg", modes=NET)
def _(a: Range) -> object:
    with socket.socket(socket.AF_UNIX, DGRAM) as sock:
        sock.settimeout(1)
        sock.bind("")
        sock.sendmsg([b"token"], [], 0, a.sockets["dgram"])
        return sock.recv(100)


@attempt(U, "datagrams to a service's socket by sendmmsg", modes=NET)
def _(a: Range) -> object:
    with socket.socket(socket.AF_UNIX, DGRAM) as sock:
        sock.settimeout(1)
        sock.bind("")
        header, keep = _message(struct.pack("=H", 1) + os.fsencode(a.sockets["dgram"]) + b"\0")
        call(307, sock.fileno(), header + bytes(8), 1, 0)
        return sock.recv(100) if keep else None


@attempt(U, "datagrams from a socket pair's end by sendto", modes=NET, optional=True)
def _(a: Range) -> object:
    left, _ = socket.socketpair(socket.AF_UNIX, DGRAM)
    left.settimeout(1)
    left.bind("")
    left.sendto(b"token", a.sockets["dgram"])
    return "sent"


@attempt(U, "datagrams from a socket pair's end by sendmsg", modes=NET, alert=True)
def _(a: Range) -> object:
    left, _ = socket.socketpair(socket.AF_UNIX, DGRAM)
    left.sendmsg([b"token"], [], 0, a.sockets["dgram"])
    return "sent"


@attempt(U, "datagrams from a socket of type SOCK_RAW", modes=NET, alert=True)
def _(a: Range) -> object:
    with socket.socket(socket.AF_UNIX, socket.SOCK_RAW) as sock:
        sock.sendmsg([b"token"], [], 0, a.sockets["dgram"])
        return "sent"


@attempt(U, "abstract socket of a service", modes=NET)
def _(a: Range) -> object:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1)
        sock.connect("\0" + a.sockets["abstract"])
        sock.send(b"token")
        return sock.recv(100)


@attempt(U, "descriptor sent to a service by SCM_RIGHTS", modes=("offline",))
def _(a: Range) -> object:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(a.sockets["stream"])
        sock.sendmsg([b"token"], [(socket.SOL_SOCKET, 1, array.array("i", [0]))])
        return sock.recv(100)
