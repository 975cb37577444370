"""Network, capability, syscall and preset rules that do something else than their words say.

Facts: KubeArmor v1.7.4, ``KubeArmor/BPF/enforcer.bpf.c`` (match_net_rules),
``KubeArmor/enforcer/bpflsm/hostRulesHandling.go``, ``KubeArmor/presets``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Final

from modelarmor.policy.capabilities import CAPABILITIES
from modelarmor.policy.lint.finding import (
    APPARMOR,
    BPF_LSM,
    EVERYWHERE,
    KUBEARMOR,
    Check,
    Finding,
    Subject,
    found,
)
from modelarmor.policy.lint.limits import SOCKET_TYPES
from modelarmor.policy.model import PRESETS, PROTOCOLS, DnsRule, Policy, PresetRule, ProtocolRule

_UNIX = Check(
    "MA401", "protocol-covers-unix-sockets", "error", EVERYWHERE,
    "The address family is not looked at: tcp is every stream socket with protocol 0 or TCP, "
    "AF_UNIX and socketpair() included, and loopback is not exempt. A Jupyter kernel dies of it: "
    "asyncio wakes itself through an AF_UNIX socketpair, and ZeroMQ uses stream sockets.",
)  # fmt: skip
_LACKS = Check(
    "MA402", "network-allow-list-lacks-protocol", "warning", EVERYWHERE,
    "A network Allow rule makes an allow-list of all protocols: under posture block each that is "
    "not named is refused. Without tcp no socketpair works, without udp no name is resolved.",
)  # fmt: skip
_NO_ADDRESS = Check(
    "MA403", "protocol-has-no-address", "note", EVERYWHERE,
    "A protocol rule knows neither addresses nor ports: an Allow of tcp permits every host, the "
    "cloud's metadata service among them.",
)  # fmt: skip
_ALL = Check(
    "MA404", "protocol-all-costs-eight", "note", (BPF_LSM,),
    "protocol: all is written as eight of the 256 entries for each source: the seven types of "
    "socket, and one that nothing looks up.",
)  # fmt: skip
_DNS = Check(
    "MA405", "dns-rule-is-evaded", "warning", (BPF_LSM,),
    "DNS rules look at UDP packets to port 53. DNS over HTTPS, TLS or TCP and a connection to an "
    "address are not covered. A name is compared as the program wrote it: one in capitals, of more "
    "than 63 characters or of many labels is not recognised. Each domain stands also for itself "
    "with the suffixes of a cluster (.svc.cluster.local and the like).",
)  # fmt: skip
_DNS_LENGTH = Check(
    "MA406", "domain-too-long", "error", (BPF_LSM,),
    "DNS rules compare at most 10 labels and a name of at most 63 characters.",
)  # fmt: skip
_HOST_CAPABILITY = Check(
    "MA407", "host-capabilities-not-enforced", "error", (BPF_LSM,),
    "The BPF-LSM enforcer copies process, file and network rules of a host policy, and leaves "
    "capabilities out.",
)  # fmt: skip
_HOST_SOURCE = Check(
    "MA408", "host-rule-without-source", "error", KUBEARMOR,
    "In a KubeArmorHostPolicy the schema requires fromSource for network and capability rules.",
)  # fmt: skip
_UNKNOWN_PRESET = Check(
    "MA409", "unknown-preset", "error", EVERYWHERE,
    "The schema does not restrict the name of a preset, and KubeArmor ignores one it does not "
    "know. Some of its documents say anonMapExec; the code's name is anonymousMapExec.",
)  # fmt: skip
_JIT = Check(
    "MA410", "preset-breaks-jit", "warning", (BPF_LSM, "sandbox"),
    "anonymousMapExec refuses executable anonymous memory, which numba, torch.compile, JAX and "
    "libffi's closures need. Memory that is made executable later (mprotect) it does not see.",
)  # fmt: skip
_PRESET_ACTION = Check(
    "MA411", "preset-does-not-inherit", "warning", EVERYWHERE,
    "A preset does not inherit the policy's action: without an action of its own, and with any "
    "but Audit, it blocks.",
)  # fmt: skip
_SYSCALL = Check(
    "MA412", "syscalls-never-block", "warning", EVERYWHERE,
    "Syscall rules only audit, whatever action they name.",
)  # fmt: skip
_ICMPV6 = Check(
    "MA413", "icmpv6-on-apparmor", "note", (APPARMOR,),
    "AppArmor treats icmpv6 as icmp; BPF-LSM tells them apart.",
)  # fmt: skip
_UNKNOWN_NAME = Check(
    "MA414", "unknown-name", "error", EVERYWHERE,
    "A protocol or capability that the enforcer does not know is left out without a word.",
)  # fmt: skip
_TYPE_FIRST = Check(
    "MA415", "socket-type-decides-first", "error", (BPF_LSM,),
    "BPF-LSM looks up the type of a socket before its protocol, and all is written as the seven "
    "types, of which the last one written wins: an Allow of all, stream, dgram, raw or seqpacket "
    "lets pass what a Block of tcp, udp, icmp, icmpv6, sctp or of the type itself was to refuse "
    "for the same source. In the sandbox Block wins.",
)  # fmt: skip
_SEQPACKET = Check(
    "MA416", "seqpacket-is-sctp", "warning", (BPF_LSM,),
    "BPF-LSM takes SOCK_SEQPACKET with protocol 0 for SCTP, AF_UNIX included, which is what "
    "programs use it for. In the sandbox the two are told apart.",
)  # fmt: skip
_APPARMOR = Check(
    "MA417", "protocol-unknown-to-apparmor", "warning", (APPARMOR,),
    "AppArmor has no word for sctp and dccp, nor for an Allow of all: its parser refuses the whole "
    "profile that KubeArmor writes, which KubeArmor notes in its log. Nothing of the policies for "
    "that workload is enforced.",
)  # fmt: skip
_PROC = Check(
    "MA418", "protect-proc-refuses-all", "warning", (BPF_LSM,),
    "On BPF-LSM protectProc refuses whatever lies in /proc outside the caller's own directory, "
    "/proc/cpuinfo, /proc/meminfo and /proc/sys included: it takes a name that is no number for "
    "process 0. Libraries read these to count processors and memory. In the sandbox only the "
    "directories of other processes are refused.",
)  # fmt: skip
_TASK = Check(
    "MA419", "protect-env-leaves-threads", "warning", (BPF_LSM,),
    "On BPF-LSM protectEnv refuses /proc/PID/environ only; /proc/PID/task/TID/environ has the same "
    "text and stays open. In the sandbox both are refused.",
)  # fmt: skip

CHECKS = (
    _UNIX, _LACKS, _NO_ADDRESS, _ALL, _DNS, _DNS_LENGTH, _HOST_CAPABILITY, _HOST_SOURCE,
    _UNKNOWN_PRESET, _JIT, _PRESET_ACTION, _SYSCALL, _ICMPV6, _UNKNOWN_NAME,
    _TYPE_FIRST, _SEQPACKET, _APPARMOR,
    _PROC, _TASK,
)  # fmt: skip

_STREAMS: Final = frozenset({"tcp", "stream", "all"})
_DATAGRAMS: Final = frozenset({"udp", "dgram", "all"})
#: an Allow of which undoes a Block of the key
_TYPES_OF: Final = {
    "tcp": frozenset({"all", "stream"}),
    "udp": frozenset({"all", "dgram"}),
    "icmp": frozenset({"all", "dgram", "raw"}),
    "icmpv6": frozenset({"all", "dgram", "raw"}),
    "sctp": frozenset({"all", "stream", "seqpacket"}),
    **{name: frozenset({"all", name}) for name in SOCKET_TYPES},
    "all": frozenset({"all", *SOCKET_TYPES}),
}
_NOT_IN_APPARMOR: Final = frozenset({"sctp", "dccp"})
_MAX_LABELS: Final = 10
_MAX_DOMAIN: Final = 63


def check(subject: Subject) -> Iterator[Finding]:
    """Findings on everything but paths."""
    yield from _allow_list(subject)
    yield from _types_first(subject)
    yield from _seqpacket(subject)
    for policy in subject.policies:
        for rule in policy.network:
            if isinstance(rule, ProtocolRule):
                yield from _protocol(policy, rule)
            else:
                yield from _domain(policy, rule)
        yield from _capabilities(policy)
        yield from _proc(subject, policy)
        for index, preset in enumerate(policy.presets):
            yield from _preset(policy, preset, _states_action(policy, index))
        for call in policy.syscalls:
            if call.outcome.action != "Audit":
                yield found(
                    _SYSCALL, policy, call,
                    f"{', '.join(call.syscalls)}: {call.outcome.action} has no effect on a system"
                    " call, it is audited",
                    "state action: Audit, and keep the files or capabilities behind it by rules",
                )  # fmt: skip


def _allow_list(subject: Subject) -> Iterator[Finding]:
    if subject.posture and subject.posture.network == "audit":
        return
    protocols = [
        (policy, rule)
        for policy in subject.policies
        for rule in policy.network
        if isinstance(rule, ProtocolRule) and rule.outcome.action == "Allow"
    ]
    if not protocols:
        return
    named = {rule.protocol for _, rule in protocols}
    policy, first = protocols[0]
    for any_of, name, effect in (
        (_STREAMS, "tcp", "no TCP connection and no AF_UNIX socketpair, so no Jupyter kernel"),
        (_DATAGRAMS, "udp", "no name resolution"),
    ):
        if not named & any_of:
            yield found(
                _LACKS, policy, first,
                f"the allow-list does not name {name}: under posture block there is {effect}",
                f"add protocol: {name}, or drop the allow-list and Block what must not be used",
            )  # fmt: skip


def _types_first(subject: Subject) -> Iterator[Finding]:
    # By type and source the first Allow: enough to name one for each Block that it undoes.
    allowed: dict[tuple[str, str], ProtocolRule] = {}
    blocks: list[tuple[Policy, ProtocolRule]] = []
    for policy in subject.policies:
        for rule in policy.network:
            if isinstance(rule, ProtocolRule) and rule.outcome.action == "Allow":
                for source in rule.from_source or ("",):
                    allowed.setdefault((rule.protocol, source), rule)
            elif isinstance(rule, ProtocolRule) and rule.outcome.action == "Block":
                blocks.append((policy, rule))
    for policy, rule in blocks:
        for source in rule.from_source or ("",):
            types = sorted(_TYPES_OF.get(rule.protocol, ()))
            if allow := next((allowed[key] for name in types if (key := (name, source)) in allowed),
                             None):  # fmt: skip
                yield found(
                    _TYPE_FIRST, policy, rule,
                    f"Block of {rule.protocol} does not hold beside the Allow of {allow.protocol}"
                    f" ({allow.place})",
                    "allow the protocols that are needed, by name, instead of the type",
                )  # fmt: skip
                break


def _seqpacket(subject: Subject) -> Iterator[Finding]:
    rules = [
        (policy, rule)
        for policy in subject.policies
        for rule in policy.network
        if isinstance(rule, ProtocolRule) and rule.outcome.action != "Audit"
    ]
    # The type is looked up before the protocol, so a rule of the type settles it.
    settled = {
        source
        for _, rule in rules
        if rule.protocol in ("seqpacket", "all")
        for source in rule.from_source or ("",)
    }
    for policy, rule in rules:
        if rule.protocol == "sctp" and not settled.issuperset(rule.from_source or ("",)):
            blocks = rule.outcome.action == "Block"
            does = "refuses" if blocks else "allows"
            yield found(
                _SEQPACKET, policy, rule,
                f"{rule.outcome.action} of sctp {does} AF_UNIX sockets of type SOCK_SEQPACKET too",
                "say by a rule for protocol: seqpacket what is meant for these",
                "note" if blocks else None,
            )  # fmt: skip


def _protocol(policy: Policy, rule: ProtocolRule) -> Iterator[Finding]:
    action, protocol = rule.outcome.action, rule.protocol
    if protocol not in PROTOCOLS:
        yield found(
            _UNKNOWN_NAME, policy, rule,
            f"KubeArmor knows no protocol {protocol!r}",
            _nearest(protocol, PROTOCOLS),
        )  # fmt: skip
    if action == "Block" and protocol in _STREAMS | _DATAGRAMS:
        stream = protocol in _STREAMS
        kind = "stream" if stream else "datagram"
        yield found(
            _UNIX, policy, rule,
            f"Block of {protocol} refuses AF_UNIX {kind} sockets and loopback too"
            + (": a Jupyter kernel does not start" if stream else ""),
            "limit egress by a Kubernetes NetworkPolicy (addresses and ports) instead",
            "error" if stream and _may_be_python(rule) else "warning",
        )  # fmt: skip
    if action == "Allow" and protocol in {"tcp", "udp", "all", "stream", "dgram"}:
        yield found(
            _NO_ADDRESS, policy, rule,
            f"Allow of {protocol} permits every address and port",
            "state the hosts and ports in a Kubernetes NetworkPolicy beside this policy",
        )  # fmt: skip
    if protocol == "all" and action != "Audit":
        entries = (len(SOCKET_TYPES) + 1) * max(1, len(rule.from_source))
        yield found(
            _ALL, policy, rule,
            f"protocol all takes {entries} of the 256 entries",
            "name the protocols that matter",
        )  # fmt: skip
    if protocol == "icmpv6":
        yield found(
            _ICMPV6, policy, rule, "on AppArmor this rule means icmp", "state a rule for each"
        )
    if (protocol in _NOT_IN_APPARMOR or (protocol, action) == ("all", "Allow")) and (
        action != "Audit"
    ):
        yield found(
            _APPARMOR, policy, rule,
            f"{action} of {protocol} makes AppArmor refuse the whole profile of the workload",
            "schedule the workload on nodes labelled kubearmor.io/enforcer=bpf, or leave it out",
        )  # fmt: skip
    yield from _host_source(policy, rule, rule.from_source, f"protocol {protocol}")


def _may_be_python(rule: ProtocolRule) -> bool:
    return not rule.from_source or any("python" in source for source in rule.from_source)


def _host_source(
    policy: Policy, rule: ProtocolRule | DnsRule, sources: tuple[str, ...], what: str
) -> Iterator[Finding]:
    if policy.kind == "KubeArmorHostPolicy" and not sources:
        yield found(
            _HOST_SOURCE, policy, rule,
            f"{what} in a host policy has no fromSource, so the cluster refuses the policy",
            "name the executables that it is about",
        )  # fmt: skip


def _domain(policy: Policy, rule: DnsRule) -> Iterator[Finding]:
    labels = rule.domain.strip(".").count(".") + 1
    if labels > _MAX_LABELS or len(rule.domain) > _MAX_DOMAIN:
        yield found(
            _DNS_LENGTH, policy, rule,
            f"{rule.domain} has {labels} labels and {len(rule.domain)} characters;"
            f" {_MAX_LABELS} and {_MAX_DOMAIN} are compared",
            "name a parent domain",
        )  # fmt: skip
    yield found(
        _DNS, policy, rule,
        f"{rule.domain} can still be asked for over TCP, TLS or HTTPS, or reached by its address",
        "limit egress by a NetworkPolicy that permits only your resolver and the hosts needed",
        None if rule.outcome.action == "Block" else "note",
    )  # fmt: skip
    yield from _host_source(policy, rule, rule.from_source, f"domain {rule.domain}")


def _capabilities(policy: Policy) -> Iterator[Finding]:
    for rule in policy.capabilities:
        if rule.capability not in CAPABILITIES:
            yield found(
                _UNKNOWN_NAME, policy, rule,
                f"Linux has no capability {rule.capability!r}",
                _nearest(rule.capability, CAPABILITIES),
            )  # fmt: skip
        if policy.kind != "KubeArmorHostPolicy":
            continue
        yield found(
            _HOST_CAPABILITY, policy, rule,
            f"{rule.capability} in a host policy is not enforced by BPF-LSM",
            "drop it in the unit (CapabilityBoundingSet) or the pod (securityContext)",
        )  # fmt: skip
        if not rule.from_source:
            yield found(
                _HOST_SOURCE, policy, rule,
                f"capability {rule.capability} in a host policy has no fromSource,"
                " so the cluster refuses the policy",
                "name the executables that it is about",
            )  # fmt: skip


def _nearest(name: str, known: tuple[str, ...] | frozenset[str]) -> str:
    close = difflib.get_close_matches(name.lower()[:40], sorted(known), 1)
    return f"did you mean {close[0]}?" if close else f"one of {', '.join(sorted(known))}"


def _states_action(policy: Policy, index: int) -> bool:
    """Whether the document itself gives the preset an action; unknown counts as yes."""
    spec = policy.source.get("spec")
    presets = spec.get("presets") if isinstance(spec, dict) else None
    if not isinstance(presets, list) or index >= len(presets):
        return True
    entry = presets[index]
    return not isinstance(entry, dict) or bool(entry.get("action"))


def _proc(subject: Subject, policy: Policy) -> Iterator[Finding]:
    blocking = {
        preset.name
        for each in subject.policies
        for preset in each.presets
        if preset.outcome.action != "Audit"
    }
    for preset in policy.presets:
        if preset.outcome.action == "Audit":
            continue
        if preset.name == "protectProc":
            yield found(
                _PROC, policy, preset,
                "on BPF-LSM protectProc refuses /proc/cpuinfo, /proc/meminfo and /proc/sys too",
                "use protectEnv and file rules where programs need these files",
            )  # fmt: skip
        elif preset.name == "protectEnv" and "protectProc" not in blocking:
            yield found(
                _TASK, policy, preset,
                "on BPF-LSM protectEnv leaves /proc/PID/task/TID/environ open",
                "let processes of different trust run as different users, or add protectProc",
            )  # fmt: skip


def _preset(policy: Policy, preset: PresetRule, states_action: bool) -> Iterator[Finding]:
    if preset.name not in PRESETS:
        alias = preset.name.lower().startswith("anon")
        yield found(
            _UNKNOWN_PRESET, policy, preset,
            f"there is no preset {preset.name!r}, and KubeArmor ignores it without a word",
            "did you mean anonymousMapExec?" if alias else _nearest(preset.name, PRESETS),
        )  # fmt: skip
    if preset.name == "anonymousMapExec" and preset.outcome.action != "Audit":
        yield found(
            _JIT, policy, preset,
            "anonymousMapExec stops programs that compile at run time (numba, torch.compile, JAX)",
            "set action: Audit for the preset where such programs run",
        )  # fmt: skip
    if preset.outcome.action != "Audit" and policy.outcome.action != "Block" and not states_action:
        yield found(
            _PRESET_ACTION, policy, preset,
            f"the policy's action is {policy.outcome.action}, but preset {preset.name} blocks",
            "state action: Audit (or Block) on the preset itself",
        )  # fmt: skip
