"""What a NetworkPolicy lets a workload reach."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modelarmor.sandbox.network import Egress, EgressRule, NetworkError, Ports, effective_address

ONLINE = Path(__file__).parents[2] / "kernel_profiles" / "notebook-online" / "network.yaml"


def policy(*rules: Any, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "x"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": list(rules), **spec},
    }


def block(cidr: str, *holes: str) -> dict[str, Any]:
    return {"ipBlock": {"cidr": cidr, "except": list(holes)}}


def test_unrestricted_allows_everything_and_none_nothing() -> None:
    everything, nothing = Egress.unrestricted(), Egress.none()
    assert everything.is_unrestricted and not everything.is_none
    assert nothing.is_none and not nothing.is_unrestricted
    for ip in ("8.8.8.8", "::1", "169.254.169.254"):
        for proto in ("tcp", "udp"):
            assert everything.allows(ip, 80, proto)
            assert not nothing.allows(ip, 80, proto)
    assert everything.tcp_ports() is None
    assert nothing.tcp_ports() == frozenset()


@pytest.mark.parametrize("egress", [[], None])
def test_a_policy_without_rules_lets_nothing_out(egress: Any) -> None:
    assert Egress.from_network_policy(policy(egress=egress)).is_none


def test_an_empty_rule_lets_everything_out() -> None:
    assert Egress.from_network_policy(policy({})).is_unrestricted


def test_rules_are_united() -> None:
    egress = Egress.from_network_policy(
        policy(
            {"to": [block("192.0.2.0/24")], "ports": [{"protocol": "TCP", "port": 443}]},
            {"to": [block("198.51.100.7/32"), block("2001:db8::/32")], "ports": [{"port": 22}]},
        )
    )
    assert egress.allows("192.0.2.9", 443)
    assert not egress.allows("192.0.2.9", 22)
    assert egress.allows("198.51.100.7", 22)
    assert not egress.allows("198.51.100.8", 22)
    assert egress.allows("2001:db8::1", 22)
    assert not egress.allows("2001:db9::1", 22)
    assert egress.tcp_ports() == {22, 443}


def test_an_exception_is_cut_out_of_its_block() -> None:
    egress = Egress.from_network_policy(policy({"to": [block("10.0.0.0/8", "10.1.0.0/16")]}))
    assert egress.allows("10.2.0.1", 1)
    assert not egress.allows("10.1.0.1", 1)


def test_a_port_range_holds_both_ends() -> None:
    egress = Egress.from_network_policy(
        policy({"ports": [{"protocol": "UDP", "port": 5000, "endPort": 5002}]})
    )
    allowed = [port for port in range(4998, 5005) if egress.allows("192.0.2.1", port, "udp")]
    assert allowed == [5000, 5001, 5002]
    assert not egress.allows("192.0.2.1", 5001, "tcp")
    assert egress.tcp_ports() == frozenset()


def test_a_protocol_without_a_port_is_all_its_ports() -> None:
    egress = Egress.from_network_policy(policy({"ports": [{"protocol": "TCP"}]}))
    assert egress.tcp_ports() is None
    assert egress.allows("192.0.2.1", 65535, "tcp")
    assert not egress.allows("192.0.2.1", 53, "udp")


@pytest.mark.parametrize(
    ("spelling", "address"),
    [
        ("::ffff:169.254.169.254", "169.254.169.254"),
        ("0.0.0.0", "127.0.0.1"),
        ("::ffff:0.0.0.0", "127.0.0.1"),
        ("::", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_an_address_counts_as_what_the_kernel_contacts(spelling: str, address: str) -> None:
    assert str(effective_address(spelling)) == address


@pytest.mark.parametrize(
    "ip",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "127.0.0.1",
        "0.0.0.0",
        "::",
        "::1",
        "10.1.2.3",
        "172.31.255.255",
        "192.168.0.1",
        "fe80::1",
        "fec0::2",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
def test_the_online_profile_reaches_no_private_or_metadata_address(ip: str) -> None:
    online = Egress.from_network_policy(ONLINE)
    assert not any(online.allows(ip, port) for port in (22, 80, 443, 8888))


def test_the_online_profile_reaches_https_and_name_servers_alone() -> None:
    online = Egress.from_network_policy(ONLINE)
    assert online.tcp_ports() == {53, 443}
    assert online.allows("93.184.215.14", 443)
    assert online.allows("2606:2800:21f::1", 443)
    assert not online.allows("93.184.215.14", 80)
    assert not online.allows("93.184.215.14", 443, "udp")
    assert online.allows("127.0.0.53", 53, "udp")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "document: should be a mapping"),
        ({**policy(), "kind": "Policy"}, "kind: 'Policy' should be 'NetworkPolicy'"),
        ({**policy(), "apiVersion": "v1"}, "apiVersion: 'v1' should be"),
        ({**policy(), "spce": {}}, "'spce' is no field"),
        (policy(policyTypes=[]), "spec.policyTypes: []"),
        (policy(policyTypes=["Egress", "Ingress"]), "spec.policyTypes: incoming"),
        (policy(ingress=[{}]), "spec.ingress: incoming"),
        (policy("x"), "spec.egress[0]: should be a mapping"),
        (policy({}, {"to": [{"podSelector": {}}]}), "spec.egress[1].to[0].podSelector: pods"),
        (policy({"to": [{"namespaceSelector": {}}]}), "namespaceSelector: pods and namespaces"),
        (policy({"to": [{}]}), "to[0].ipBlock: should be a mapping"),
        (policy({"to": [{"ipBlock": {}}]}), "ipBlock.cidr: is missing"),
        (policy({"to": [block("10.0.0.1")]}), "ipBlock.cidr: '10.0.0.1' has no prefix length"),
        (policy({"to": [block("10.0.0.1/8")]}), "has host bits set"),
        (policy({"to": [block("10.0.0/8")]}), "is not an address range"),
        (policy({"to": [block(10)]}), "cidr: 10 should be an address range"),
        (policy({"to": [block("10.0.0.0/8", "11.0.0.0/9")]}), "except[0]: 11.0.0.0/9 does not lie"),
        (policy({"to": [block("10.0.0.0/8", "::/0")]}), "except[0]: ::/0 does not lie"),
        (policy({"to": [block("::ffff:10.0.0.0/104")]}), "write the IPv4 range"),
        (policy({"ports": [{"port": "https"}]}), "ports[0].port: 'https' is a name"),
        (policy({"ports": [{"port": 0}]}), "ports[0]: port: 0 should be"),
        (policy({"ports": [{"port": 65536}]}), "65536 should be"),
        (policy({"ports": [{"port": True}]}), "True should be"),
        (policy({"ports": [{"port": 9, "endPort": 8}]}), "endPort: 8 lies before port 9"),
        (policy({"ports": [{"endPort": 8}]}), "endPort: needs a port"),
        (policy({"ports": [{"port": 9, "protocol": "SCTP"}]}), "'SCTP' should be TCP or UDP"),
        (policy({"ports": [{"port": 9, "protocol": "tcp"}]}), "'tcp' should be TCP or UDP"),
        (policy({"ports": [{"port": 10**5000}]}), "this int should be a number"),
    ],
)
def test_what_cannot_be_enforced_is_refused_with_its_field(document: Any, message: str) -> None:
    with pytest.raises(NetworkError) as caught:
        Egress.from_network_policy(document, name="net")
    assert str(caught.value).startswith("net: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "line "),
        ("a: 1\na: 2", "a key occurs twice"),
        ("a: &x 1\nb: *x", "aliases are not used"),
        ("a: 1\n---\nb: 2", "another document"),
        ("[" * 5000, "nested more than"),
        ("a: \0", "is not plain YAML"),
        ("!!python/object/apply:os.system [id]", "is not plain YAML"),
        ("#" * 100_000, "is larger than"),
        ("", "document: should be a mapping"),
    ],
    ids=["open", "twice", "alias", "two", "deep", "nul", "tag", "large", "empty"],
)
def test_hostile_files_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "network.yaml"
    file.write_text(text)
    with pytest.raises(NetworkError) as caught:
        Egress.from_network_policy(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"nowhere\.yaml: cannot be read: No such file"):
        Egress.from_network_policy(tmp_path / "nowhere.yaml")


def test_a_path_may_be_text(tmp_path: Path) -> None:
    file = tmp_path / "network.yaml"
    file.write_text(yaml.safe_dump(policy({})))
    assert Egress.from_network_policy(str(file)).is_unrestricted


def test_rules_made_in_code_are_checked_too() -> None:
    egress = Egress([EgressRule("10.0.0.0/8", ["10.1.0.0/16"], [("tcp", 80), Ports("udp")])])
    assert egress.allows("10.0.0.1", 80)
    assert egress.allows("10.0.0.1", 9, "udp")
    assert egress.to_json() == [
        {
            "cidr": "10.0.0.0/8",
            "except": ["10.1.0.0/16"],
            "ports": [["tcp", 80, 80], ["udp", 1, 65535]],
        }
    ]
    with pytest.raises(NetworkError, match="does not lie within"):
        EgressRule("10.0.0.0/8", ["192.168.0.0/16"])
    with pytest.raises(NetworkError, match="should be tcp or udp"):
        EgressRule(ports=[("sctp", 80)])  # type: ignore[list-item]


@given(st.ip_addresses(), st.integers(1, 65535), st.sampled_from(["tcp", "udp"]))
def test_landlock_is_never_told_less_than_is_allowed(ip: Any, port: int, proto: str) -> None:
    """A port that some address may use is among ``tcp_ports``, or the kernel would refuse it."""
    online = Egress.from_network_policy(ONLINE)
    ports = online.tcp_ports()
    assert ports is not None
    if proto == "tcp" and online.allows(ip, port, proto):
        assert port in ports
