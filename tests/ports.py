"""Addresses that nothing else on the machine takes meanwhile."""

from __future__ import annotations

import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Below those that Linux gives away by itself (``net.ipv4.ip_local_port_range``, 32768 at least):
#: a port that was free there is soon somebody's who asked for any.
_PORTS = range(20000, 32000)


def free_port() -> int:
    """A TCP port on which nothing listens, for a program that must be told one."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@contextmanager
def sockets_of_its_own(manager: Any) -> Iterator[None]:
    """Let an unconfined kernel listen on files; confined ones do so by themselves."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        manager.transport = "ipc"
        manager.ip = str(Path(place) / "kernel")
        yield
