"""Names that are known without a name server: what a confined installer may reach.

Laid as ``sitecustomize.py`` in a directory of its own on the module path, so that each Python that
the installer starts knows them too. Outside, the names were looked up once and only their addresses
can be reached; a name server would carry data out in what it is asked.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any, Final

NAMES: Final = "MODELARMOR_NAMES"


def _known(names: dict[str, list[str]]) -> Any:
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        addresses = names.get(name)
        if addresses is None:
            raise socket.gaierror(socket.EAI_NONAME, f"{name}: no index that is configured")
        found: list[Any] = []
        for address in addresses:
            found += real(address, port, *arguments, **options)
        return found

    return getaddrinfo


def _install(names: dict[str, list[str]]) -> None:
    socket.getaddrinfo = _known(names)
    if not any(":" in address for addresses in names.values() for address in addresses):
        socket.has_ipv6 = False  # else urllib3 tries it out, which is refused and told


if NAMES in os.environ:
    _install(json.loads(os.environ[NAMES]))
