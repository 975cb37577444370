"""Where packages come from: the indexes that pip is configured with, and the way to them.

They are the user's choice, not the model's. A confined pip sees none of the files that say so, as
those can hold passwords of other indexes; it is given what holds here, as variables.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from modelarmor.sandbox import Egress, EgressRule
from modelarmor_mlflow.serving.server import ServeError

#: where pip looks unless told otherwise, and where that index keeps its files
PYPI: Final = "https://pypi.org/simple"
PYPI_FILES: Final = "https://files.pythonhosted.org"
#: sections of pip's configuration that hold for ``pip install``; a later one wins
_SECTIONS: Final = ("global", "install", ":env:")
_ENTRY: Final = re.compile(r"(global|install|:env:)\.([a-z-]+)=(.+)")
_CONFIG_SECONDS: Final = 60.0
_PORTS: Final = {"https": 443, "http": 80}
_TRUE: Final = frozenset({"1", "true", "yes", "on", "y", "t"})

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Indexes:
    """Indexes, and directories with packages, as the user has configured them."""

    #: the first is pip's ``--index-url``
    urls: tuple[str, ...] = (PYPI,)
    #: directories, pages and files with packages (``--find-links``)
    links: tuple[str, ...] = ()
    #: hosts that need no certificate (``--trusted-host``)
    trusted: tuple[str, ...] = ()
    #: a file with certificates
    certificates: str = ""
    proxy: str = ""

    def variables(self) -> dict[str, str]:
        """pip's environment."""
        values = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_FIND_LINKS": " ".join(self.links),
            "PIP_TRUSTED_HOST": " ".join(self.trusted),
            "PIP_CERT": self.certificates,
            "PIP_PROXY": self.proxy,
            "PIP_INDEX_URL": self.urls[0] if self.urls else "",
            "PIP_EXTRA_INDEX_URL": " ".join(self.urls[1:]),
            "PIP_NO_INDEX": "" if self.urls else "1",
        }
        return {name: value for name, value in values.items() if value}

    def options_of_uv(self) -> list[str]:
        """The same for uv, which reads none of pip's variables."""
        if not self.urls:
            options = ["--no-index"]
        else:
            options = ["--default-index", self.urls[0]]
            # pip takes the best of all indexes, and the user has configured them for pip
            options += ["--index-strategy", "unsafe-best-match"]
        for url in self.urls[1:]:
            options += ["--index", url]
        for link in self.links:
            options += ["--find-links", link]
        for host in self.trusted:
            options += ["--allow-insecure-host", host]
        return options

    def places(self) -> list[Path]:
        """Directories and files of this machine that pip must be able to read.

        Raises:
            ServeError: one of them contains the home directory.
        """
        found = [_place(item) for item in (*self.urls, *self.links)]
        places = [place for place in found if place is not None]
        places += [Path(self.certificates)] if self.certificates else []
        # A directory laid out for an index (PEP 503) is `simple`, and its links lead beside it.
        places += [
            place.parent
            for place in places
            if place.name == "simple" and len(place.parts) > 2 and not _holds_home(place.parent)
        ]
        for place in places:
            if _holds_home(place):
                raise ServeError(
                    f"pip is configured to look for packages in {place}, which contains the home"
                    " directory, so the build would see everything in there; move the packages"
                    " into a directory of their own"
                )
        return list(dict.fromkeys(Path(os.path.realpath(place)) for place in places))

    def secrets(self) -> list[str]:
        """Hosts of what has a password in its address."""
        parsed = map(urlsplit, (*self.urls, *self.links, self.proxy))
        return [str(url.hostname) for url in parsed if url.username or url.password]

    def remote(self) -> list[str]:
        """Addresses that are reached over the network."""
        wanted = [url for url in (*self.urls, *self.links) if urlsplit(url).scheme in _PORTS]
        if wanted and self.proxy:
            return [self.proxy]
        return wanted + ([PYPI_FILES] if PYPI in (url.rstrip("/") for url in wanted) else [])


@dataclass(frozen=True, slots=True)
class Route:
    """The way to the indexes: what may be reached, under which names."""

    egress: Egress = field(default_factory=Egress.none)
    #: host -> addresses
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def with_name_servers(self) -> Egress:
        """What may be reached by a program that asks name servers itself, where names are used."""
        if self.egress.is_none:
            return self.egress
        servers = [
            EgressRule(f"{ip}/{ip.max_prefixlen}", ports=[("udp", 53), ("tcp", 53)])
            for ip in _name_servers()
        ]
        return Egress((*self.egress.rules, *servers))


def configured(python: Path) -> Indexes:
    """What pip is configured with, by its files and its variables.

    Args:
        python: an interpreter that has pip.

    Raises:
        ServeError: pip does not tell.
    """
    try:
        asked = subprocess.run(
            [str(python), "-I", "-m", "pip", "config", "list"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CONFIG_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ServeError(f"pip does not tell its configuration: {error}") from None
    return _indexes(asked.stdout.splitlines())


def _indexes(lines: Iterable[str]) -> Indexes:
    sections: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in lines:
        if match := _ENTRY.fullmatch(line):
            try:
                sections[match[1]][match[2]] = str(ast.literal_eval(match[3]))
            except (ValueError, SyntaxError):
                raise ServeError(f"pip's configuration cannot be read: {line!r}") from None
    options: dict[str, str] = {}
    for section in _SECTIONS:
        options |= sections[section]
    urls: list[str] = []
    if options.get("no-index", "").lower() not in _TRUE:
        urls = [options.get("index-url", PYPI), *options.get("extra-index-url", "").split()]
    return Indexes(
        urls=tuple(urls),
        links=tuple(options.get("find-links", "").split()),
        trusted=tuple(options.get("trusted-host", "").split()),
        certificates=options.get("cert", ""),
        proxy=options.get("proxy", "") or os.environ.get("HTTPS_PROXY", "")
        or os.environ.get("https_proxy", ""),
    )  # fmt: skip


def reachable(indexes: Indexes, progress: Progress) -> tuple[Indexes, Route]:
    """What of the indexes can be reached from here, and how.

    Names are looked up here, once: the build can ask no name server, which would carry data out.
    An index whose name is not known here is left out, and that is told.
    """
    names: dict[str, tuple[str, ...]] = {}
    rules: list[EgressRule] = []
    for address in indexes.remote():
        url = urlsplit(address if "://" in address else f"http://{address}")
        host, port = url.hostname or "", _port(url)
        found = names.get(host) or _addresses(host, port)
        if not found:
            progress(f"{host} is not known here; going on without it")
            indexes = _without(indexes, host)
            continue
        names[host] = found
        rules += [
            EgressRule(f"{ip}/{128 if ':' in ip else 32}", ports=[("tcp", port)]) for ip in found
        ]
    return indexes, Route(Egress(tuple(dict.fromkeys(rules))), names)


def _without(indexes: Indexes, host: str) -> Indexes:
    """The indexes without those on this host; without all of the network's if it is the proxy."""
    proxied = bool(indexes.proxy) and indexes.remote() == [indexes.proxy]

    def kept(addresses: Sequence[str]) -> tuple[str, ...]:
        return tuple(
            item
            for item in addresses
            if _place(item) is not None or not (proxied or urlsplit(item).hostname == host)
        )

    return replace(indexes, urls=kept(indexes.urls), links=kept(indexes.links))


def _port(url: SplitResult) -> int:
    return url.port or _PORTS.get(url.scheme, 443)


def _addresses(host: str, port: int) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


def _name_servers() -> list[IPv4Address | IPv6Address]:
    """``nameserver`` lines (``resolv.conf(5)``)."""
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/etc/resolv.conf").read_text(errors="replace").splitlines():
            word, _, rest = line.strip().partition(" ")
            if word == "nameserver":
                with contextlib.suppress(ValueError):
                    found.append(ip_address(rest.strip()))
    return found


def _place(text: str) -> Path | None:
    """The directory or file of this machine that an index is; None for one of the network."""
    url = urlsplit(text)
    if url.scheme in _PORTS:
        return None
    return Path(unquote(url.path) if url.scheme == "file" else text).expanduser().absolute()


def _holds_home(place: Path) -> bool:
    return Path(os.path.realpath(Path.home())).is_relative_to(os.path.realpath(place))
