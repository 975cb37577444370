"""Which addresses a workload may reach: the egress half of a Kubernetes NetworkPolicy.

A KubeArmorPolicy knows protocols but neither addresses nor ports, so a profile keeps those beside
it in the field's own kind. The same document confines a pod (by the cluster's network plugin) and
a local process (by Landlock's TCP port rules and the sandbox's helper, which both read this).

Semantics: https://kubernetes.io/docs/concepts/services-networking/network-policies/ — rules only
ever add what is permitted, and what no rule names is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, cast

from .._yaml import read, show, unknown

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Protocol = Literal["tcp", "udp"]

_API_VERSION = "networking.k8s.io/v1"
_LAST_PORT = 65535
_V4_MAPPED_BITS = 96


class NetworkError(ValueError):
    """A NetworkPolicy that cannot be read or cannot be enforced here; names file and field."""


class Ports(NamedTuple):
    """A range of ports of one protocol, both ends included."""

    protocol: Protocol
    first: int = 1
    last: int = _LAST_PORT


@dataclass(frozen=True, slots=True, init=False)
class EgressRule:
    """Destinations that may be reached: every address of ``cidr`` on every one of ``ports``."""

    #: ``None`` is any address of either family
    cidr: Network | None
    except_cidrs: tuple[Network, ...]
    #: empty is every port of every protocol
    ports: tuple[Ports, ...]

    def __init__(
        self,
        cidr: str | Network | None = None,
        except_cidrs: Iterable[str | Network] = (),
        ports: Iterable[Ports | tuple[Protocol, int]] = (),
    ) -> None:
        """Make a rule; addresses may be text, and a port may be a ``(protocol, port)`` pair.

        Raises:
            NetworkError: an address range, a protocol or a port is not one, or an exception does
                not lie within ``cidr``.
        """
        network = None if cidr is None else _network(cidr, "cidr")
        holes = tuple(_network(item, f"except[{i}]") for i, item in enumerate(except_cidrs))
        for i, hole in enumerate(holes):
            if network is None or not _within(hole, network):
                _refuse(f"except[{i}]", f"{hole} does not lie within cidr {network}")
        object.__setattr__(self, "cidr", network)
        object.__setattr__(self, "except_cidrs", holes)
        object.__setattr__(self, "ports", tuple(_ports(item) for item in ports))

    @property
    def is_everything(self) -> bool:
        return self.cidr is None and not self.ports

    def allows(self, address: Address, port: int, protocol: str) -> bool:
        """Whether a packet to this (already normalised) destination is permitted by this rule."""
        if self.cidr is not None and (
            address not in self.cidr or any(address in hole for hole in self.except_cidrs)
        ):
            return False
        return not self.ports or any(
            item.protocol == protocol and item.first <= port <= item.last for item in self.ports
        )


@dataclass(frozen=True, slots=True)
class Egress:
    """What may be reached; no rule at all is nothing."""

    rules: tuple[EgressRule, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))

    @classmethod
    def unrestricted(cls) -> Egress:
        return cls((EgressRule(),))

    @classmethod
    def none(cls) -> Egress:
        return cls()

    @classmethod
    def from_network_policy(
        cls, source: Mapping[str, Any] | str | Path, *, name: str = "<network policy>"
    ) -> Egress:
        """Read one NetworkPolicy that governs egress.

        Args:
            source: the document as plain data, or the path of a YAML file with one document.
            name: what errors call plain data; a file is called by its path.

        Raises:
            NetworkError: the document is not a NetworkPolicy, or says something that cannot be
                enforced without a cluster (selectors, named ports, ingress).
        """
        if isinstance(source, str | Path):
            name = str(source)
        try:
            if isinstance(source, str | Path):
                source = read(Path(source))
            return cls(tuple(_rules(source)))
        except ValueError as error:
            raise NetworkError(f"{name}: {error}") from None

    @property
    def is_unrestricted(self) -> bool:
        return any(rule.is_everything for rule in self.rules)

    @property
    def is_none(self) -> bool:
        return not self.rules

    def allows(self, ip: str | Address, port: int, proto: str = "tcp") -> bool:
        """Whether a connection or datagram to this destination is permitted.

        An IPv4-mapped address counts as the IPv4 address that it is, and the unspecified address
        as loopback, because that is where Linux sends it: neither may slip past an exception.

        Raises:
            ValueError: ``ip`` is not an address.
        """
        address = effective_address(ip)
        return any(rule.allows(address, port, proto.lower()) for rule in self.rules)

    def tcp_ports(self) -> frozenset[int] | None:
        """TCP ports to which at least one address may be reached; ``None`` when it is all of them.

        This is what Landlock can hold (ABI 4): ports, whatever the address.
        """
        ports: set[int] = set()
        for rule in self.rules:
            if not rule.ports:
                return None
            for item in rule.ports:
                if item.protocol == "tcp":
                    ports.update(range(item.first, item.last + 1))
        return None if len(ports) == _LAST_PORT else frozenset(ports)

    def to_json(self) -> list[dict[str, Any]]:
        """The rules as plain data: ``cidr`` (null for anywhere), ``except``, ``ports``."""
        return [
            {
                "cidr": None if rule.cidr is None else str(rule.cidr),
                "except": [str(hole) for hole in rule.except_cidrs],
                "ports": [list(item) for item in rule.ports],
            }
            for rule in self.rules
        ]


def effective_address(ip: str | Address) -> Address:
    """The address that Linux really contacts: mapped IPv4 unwrapped, unspecified as loopback."""
    address = ipaddress.ip_address(ip)
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or IPv6Address(int(address))  # int() drops a zone (%eth0)
    if address.is_unspecified:
        return IPv6Address(1) if isinstance(address, IPv6Address) else IPv4Address("127.0.0.1")
    return address


def _rules(document: Any) -> Iterable[EgressRule]:
    document = _mapping(document, "document")
    _known(document, "", "apiVersion", "kind", "metadata", "spec", "status")
    for field, right in (("apiVersion", _API_VERSION), ("kind", "NetworkPolicy")):
        if document.get(field) != right:
            _refuse(field, f"{show(document.get(field))} should be {right!r}")
    spec = _mapping(document.get("spec"), "spec")
    _known(spec, "spec", "podSelector", "policyTypes", "egress", "ingress")
    _mapping(spec.get("podSelector", {}), "spec.podSelector")
    types = _list(spec.get("policyTypes", ["Egress"] if "egress" in spec else []), "policyTypes")
    if "Ingress" in types or "ingress" in spec:
        where = "spec.ingress" if "ingress" in spec else "spec.policyTypes"
        _refuse(where, "incoming connections are not governed here; keep them in another policy")
    if types != ["Egress"]:
        _refuse("spec.policyTypes", f"{show(types)} should be ['Egress']")
    for i, rule in enumerate(_list(spec.get("egress"), "spec.egress")):
        yield from _egress_rules(rule, f"spec.egress[{i}]")


def _egress_rules(rule: Any, where: str) -> Iterable[EgressRule]:
    rule = _mapping(rule, where)
    _known(rule, where, "to", "ports")
    ports = [
        _port_entry(item, f"{where}.ports[{i}]")
        for i, item in enumerate(_list(rule.get("ports"), f"{where}.ports"))
    ]
    peers = _list(rule.get("to"), f"{where}.to")
    if not peers:  # "If this field is empty or missing, this rule matches all destinations"
        yield EgressRule(ports=ports)
    for i, peer in enumerate(peers):
        yield _peer(peer, f"{where}.to[{i}]", ports)


def _peer(peer: Any, where: str, ports: list[Ports]) -> EgressRule:
    peer = _mapping(peer, where)
    _known(peer, where, "ipBlock", "podSelector", "namespaceSelector")
    for selector in ("podSelector", "namespaceSelector"):
        if selector in peer:
            _refuse(
                f"{where}.{selector}",
                "pods and namespaces exist only on a cluster, so nothing here can tell their"
                " addresses; use ipBlock",
            )
    where = f"{where}.ipBlock"
    block = _mapping(peer.get("ipBlock"), where)
    _known(block, where, "cidr", "except")
    if "cidr" not in block:
        _refuse(f"{where}.cidr", "is missing")
    try:
        return EgressRule(block["cidr"], _list(block.get("except"), f"{where}.except"), ports)
    except NetworkError as error:
        raise NetworkError(f"{where}.{error}") from None


def _port_entry(entry: Any, where: str) -> Ports:
    entry = _mapping(entry, where)
    _known(entry, where, "protocol", "port", "endPort")
    protocol = entry.get("protocol", "TCP")
    if protocol not in ("TCP", "UDP"):
        _refuse(f"{where}.protocol", f"{show(protocol)} should be TCP or UDP")
    if "port" not in entry:
        if "endPort" in entry:
            _refuse(f"{where}.endPort", "needs a port where the range begins")
        return Ports(protocol.lower())
    first = entry["port"]
    if isinstance(first, str):
        _refuse(
            f"{where}.port", f"{show(first)} is a name, which only a pod defines; write the number"
        )
    try:
        return _ports(Ports(protocol.lower(), first, entry.get("endPort", first)))
    except NetworkError as error:
        raise NetworkError(f"{where}: {error}") from None


def _ports(item: Ports | tuple[Protocol, int]) -> Ports:
    ports = item if isinstance(item, Ports) else Ports(item[0], item[1], item[1])
    if ports.protocol not in ("tcp", "udp"):
        _refuse("protocol", f"{show(ports.protocol)} should be tcp or udp")
    for port in ports[1:]:
        if type(port) is not int or not 1 <= port <= _LAST_PORT:
            _refuse("port", f"{show(port)} should be a number from 1 to {_LAST_PORT}")
    if ports.last < ports.first:
        _refuse("endPort", f"{ports.last} lies before port {ports.first}")
    return ports


def _network(value: object, where: str) -> Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        _refuse(where, f"{show(value)} should be an address range such as 10.0.0.0/8")
    if "/" not in value:
        _refuse(where, f"{show(value)} has no prefix length; a single host is /32 (IPv4) or /128")
    try:
        network = ipaddress.ip_network(value)
    except ValueError as error:
        _refuse(where, f"{show(value)} is not an address range: {error}")
    # Destinations are compared as the IPv4 address that they are, so such a range never matches.
    mapped = isinstance(network, IPv6Network) and network.network_address.ipv4_mapped
    if mapped and network.prefixlen >= _V4_MAPPED_BITS:
        _refuse(where, f"{show(value)} is IPv4 in IPv6 notation; write the IPv4 range")
    return network


def _within(inner: Network, outer: Network) -> bool:
    # One cast serves both families: subnet_of() wants equals, which the version test ensures.
    return inner.version == outer.version and inner.subnet_of(cast(Any, outer))


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        _refuse(where, f"should be a mapping, not {type(value).__name__}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        _refuse(where, f"should be a list, not {type(value).__name__}")
    return value


def _known(mapping: Mapping[str, Any], where: str, *fields: str) -> None:
    for key in unknown(mapping, fields):
        _refuse(where or "document", f"{key} is no field here; known are {', '.join(fields)}")


def _refuse(where: str, what: str) -> NoReturn:
    raise NetworkError(f"{where}: {what}")
