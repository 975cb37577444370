"""What a policy means, sentence by sentence, and by properties over generated policies."""

from __future__ import annotations

import time
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelarmor.policy.decide import (
    DEFAULT_POSTURE,
    Decision,
    Glob,
    Operation,
    OperationKind,
    Table,
    baseline_allows,
    decide,
)
from modelarmor.policy.model import (
    CapabilityRule,
    DnsRule,
    Outcome,
    PathRule,
    Policy,
    Posture,
    PresetRule,
    ProtocolRule,
    SyscallRule,
    SyscallSource,
)

PYTHON = "/usr/bin/python3.11"
BASH = "/usr/bin/bash"
BLOCK, ALLOW, AUDIT = Outcome("Block"), Outcome("Allow"), Outcome("Audit")


def path(value: str, outcome: Outcome = BLOCK, *sources: str, **fields: Any) -> PathRule:
    return PathRule(outcome=outcome, value=value, from_source=sources, **fields)


def directory(value: str, outcome: Outcome = BLOCK, *sources: str, **fields: Any) -> PathRule:
    return path(value, outcome, *sources, match="directory", **{"recursive": True, **fields})


def pattern(value: str, outcome: Outcome = BLOCK) -> PathRule:
    return path(value, outcome, match="pattern")


def execname(value: str, outcome: Outcome = BLOCK, *sources: str) -> PathRule:
    return path(value, outcome, *sources, match="execname")


def files(*rules: PathRule, name: str = "p") -> Policy:
    return Policy("KubeArmorPolicy", name, file=rules)


def processes(*rules: PathRule, name: str = "p") -> Policy:
    return Policy("KubeArmorPolicy", name, process=rules)


def network(*rules: ProtocolRule | DnsRule) -> Policy:
    return Policy("KubeArmorPolicy", "p", network=rules)


def read(where: str, **fields: Any) -> Operation:
    return Operation("read", where, **{"source": PYTHON, **fields})


def write(where: str, **fields: Any) -> Operation:
    return Operation("write", where, **{"source": PYTHON, **fields})


def execute(where: str, **fields: Any) -> Operation:
    return Operation("exec", where, **{"source": BASH, "parent": BASH, **fields})


def verdict(op: Operation, *policies: Policy, posture: Posture | None = None) -> str:
    """``allow``, ``block``, or ``posture`` where the default posture blocks."""
    decision = decide(op, policies, posture)
    return "posture" if decision.posture and decision.verdict == "block" else decision.verdict


# --- precedence -------------------------------------------------------------------------------

PRECEDENCE = [
    ("source path beats path", path("/d/f", ALLOW, PYTHON), path("/d/f", BLOCK), "allow"),
    ("source path beats path", path("/d/f", BLOCK, PYTHON), path("/d/f", ALLOW), "block"),
    ("source path beats source dir", path("/d/f", ALLOW, PYTHON), directory("/d/", BLOCK, PYTHON),
     "allow"),
    ("source dir beats path", directory("/d/", ALLOW, PYTHON), path("/d/f", BLOCK), "allow"),
    ("source dir beats path", directory("/d/", BLOCK, PYTHON), path("/d/f", ALLOW), "block"),
    ("root source dir beats path", directory("/", ALLOW, PYTHON), path("/d/f", BLOCK), "allow"),
    ("path beats pattern", path("/d/f", ALLOW), pattern("/d/*"), "allow"),
    ("path beats dir", path("/d/f", BLOCK), directory("/d/", ALLOW), "block"),
    ("path beats dir", path("/d/f", ALLOW), directory("/d/", BLOCK), "allow"),
    ("pattern beats dir", pattern("/**"), directory("/d/", ALLOW), "block"),
    ("deeper dir wins", directory("/d/", BLOCK), directory("/", ALLOW), "block"),
    ("deeper dir wins", directory("/d/", ALLOW), directory("/", BLOCK), "allow"),
    ("deeper dir wins though not recursive", directory("/d/", BLOCK, recursive=False),
     directory("/", ALLOW), "block"),
    ("Block wins on the same path", path("/d/f", BLOCK), path("/d/f", ALLOW), "block"),
    ("Block wins on the same dir", directory("/d/", BLOCK), directory("/d/", ALLOW), "block"),
    ("Block wins on the same pattern level", pattern("/d/*"), pattern("/d/f", ALLOW), "block"),
    ("another source does not match", path("/d/f", BLOCK, BASH), directory("/", ALLOW), "allow"),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "one", "other", "expected"), PRECEDENCE)
@pytest.mark.parametrize("swapped", [False, True], ids=["in order", "swapped"])
def test_the_stronger_rule_decides_in_whatever_order(
    sentence: str, one: PathRule, other: PathRule, expected: str, swapped: bool
) -> None:
    rules = (other, one) if swapped else (one, other)
    assert verdict(read("/d/f"), files(*rules)) == expected, sentence
    assert verdict(read("/d/f"), files(rules[0]), files(rules[1])) == expected, sentence


def test_execname_ranks_below_a_path_and_above_a_pattern_and_a_directory() -> None:
    op = execute("/usr/bin/curl")
    assert verdict(op, processes(execname("curl"), path("/usr/bin/curl", ALLOW))) == "allow"
    assert verdict(op, processes(execname("curl", ALLOW), pattern("/usr/bin/*"))) == "allow"
    assert verdict(op, processes(execname("curl"), directory("/usr/bin/", ALLOW))) == "block"
    assert verdict(op, processes(execname("url"), directory("/usr/bin/", ALLOW))) == "allow"


def test_a_directory_matches_itself_its_children_and_only_recursively_what_is_deeper() -> None:
    flat, deep = files(directory("/d/", recursive=False)), files(directory("/d/"))
    for policy, expected in ((flat, "allow"), (deep, "block")):
        assert verdict(Operation("list", "/d"), policy) == "block"
        assert verdict(read("/d/f"), policy) == "block"
        assert verdict(read("/d/e/f"), policy) == expected
        assert verdict(read("/dd"), policy) == "allow"
        assert verdict(Operation("list", "/"), policy) == "allow"
    assert verdict(Operation("list", "/"), files(directory("/", recursive=False))) == "block"
    assert verdict(read("/a/b"), files(directory("/", recursive=False))) == "allow"


SEGMENTS = st.sampled_from(["a", "b", "c.so"])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@st.composite
def path_rules(draw: st.DrawFn) -> PathRule:
    kind = draw(st.sampled_from(["path", "directory", "pattern"]))
    value = draw(PATHS)
    value = {"path": value, "directory": value + "/", "pattern": value + "*"}[kind]
    sources = draw(st.sampled_from([(), (PYTHON,), (BASH,)])) if kind != "pattern" else ()
    return PathRule(
        outcome=draw(st.sampled_from([BLOCK, ALLOW, AUDIT])),
        match=kind,  # type: ignore[arg-type]
        value=value,
        from_source=sources,
        recursive=draw(st.booleans()),
        owner_only=draw(st.booleans()),
        read_only=draw(st.booleans()),
        pts=draw(st.booleans()),
    )


OPERATIONS = st.builds(
    Operation,
    kind=st.sampled_from(["read", "write", "list", "delete", "metadata", "create"]),
    path=PATHS,
    source=st.sampled_from([PYTHON, BASH]),
    owner=st.booleans(),
    tty=st.booleans(),
)


def naive(op: Operation, rules: list[PathRule], posture: str) -> str:
    """The definition again, as a scan over all rules with a numeric rank, to compare with."""

    def rank(rule: PathRule) -> tuple[int, int] | None:
        if (rule.from_source and op.source not in rule.from_source) or not (rule.pts or op.tty):
            return None
        sourced = bool(rule.from_source)
        if rule.match == "path":
            return ((1 if sourced else 3), 0) if rule.value == op.path else None
        if rule.match == "pattern":
            tail = op.path.removeprefix(rule.value[:-1])
            return (5, 0) if op.path.startswith(rule.value[:-1]) and "/" not in tail else None
        inside = (op.path + "/").startswith(rule.value)
        rest = op.path[len(rule.value) :]
        if not inside or (not rule.recursive and "/" in rest):
            return None
        return (2 if sourced else 6), -rule.value.count("/")

    def permits(rule: PathRule) -> bool:
        return (op.owner or not rule.owner_only) and (
            op.kind in ("read", "list") or not rule.read_only
        )

    ranked = [(rank(rule), rule) for rule in rules if rule.outcome.action != "Audit"]
    matching = [(key, rule) for key, rule in ranked if key]
    strongest = [rule for key, rule in matching if key == min(key for key, _ in matching)]
    blocks = [rule for rule in strongest if rule.outcome.action == "Block"]
    if blocks:
        mild = all((rule.owner_only or rule.read_only) and permits(rule) for rule in blocks)
        return "allow" if mild else "block"
    if any(permits(rule) for rule in strongest):
        return "allow"
    limited = any(rule.outcome.action == "Allow" for rule in rules)
    return "posture" if limited and posture == "block" else "allow"


@settings(max_examples=400, deadline=None)
@given(OPERATIONS, st.lists(path_rules(), max_size=8), st.sampled_from(["block", "audit"]))
def test_the_table_agrees_with_a_scan_over_all_rules(
    op: Operation, rules: list[PathRule], posture: str
) -> None:
    expected = naive(op, rules, posture)
    assert verdict(op, files(*rules), posture=Posture.all(posture)) == expected  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(OPERATIONS, st.lists(path_rules(), max_size=8), st.randoms())
def test_the_order_of_rules_and_policies_does_not_matter(
    op: Operation, rules: list[PathRule], random: Any
) -> None:
    shuffled = list(rules)
    random.shuffle(shuffled)
    assert verdict(op, files(*rules)) == verdict(op, *(files(rule) for rule in shuffled))


@settings(max_examples=150, deadline=None)
@given(OPERATIONS, st.lists(path_rules(), max_size=8))
def test_audit_rules_never_change_the_verdict(op: Operation, rules: list[PathRule]) -> None:
    without = [rule for rule in rules if rule.outcome != AUDIT]
    assert verdict(op, files(*rules)) == verdict(op, files(*without))


# --- conditions and qualifiers -----------------------------------------------------------------


def test_block_with_owner_only_and_read_only_leaves_the_owner_reading() -> None:
    policy = files(path("/d/f", owner_only=True, read_only=True))
    assert verdict(read("/d/f", owner=True), policy) == "allow"
    assert verdict(write("/d/f", owner=True), policy) == "block"
    assert verdict(read("/d/f", owner=False), policy) == "block"
    assert decide(write("/d/f"), [policy]).rule is policy.file[0]


@pytest.mark.parametrize("kind", ["write", "create", "delete", "metadata"])
def test_read_only_leaves_nothing_but_reading_and_listing(kind: OperationKind) -> None:
    blocked, allowed = directory("/d/", read_only=True), directory("/d/", ALLOW, read_only=True)
    assert verdict(Operation(kind, "/d/f"), files(blocked)) == "block"
    assert verdict(Operation(kind, "/d/f"), files(allowed)) == "posture"
    for reading in ("read", "list"):
        assert verdict(Operation(reading, "/d/f"), files(blocked)) == "allow"
        assert verdict(Operation(reading, "/d/f"), files(allowed)) == "allow"


def test_outside_of_what_an_allow_permits_the_default_posture_decides() -> None:
    policy = files(path("/d/f", ALLOW, owner_only=True))
    decision = decide(read("/d/f", owner=False), [policy])
    assert (decision.verdict, decision.policy_name, decision.rule) == (
        "block", DEFAULT_POSTURE, None,
    )  # fmt: skip
    assert "for the owner" in decision.why
    assert decide(read("/d/f", owner=True), [policy]).verdict == "allow"
    assert verdict(read("/d/f", owner=False), policy, posture=Posture.all("audit")) == "allow"


def test_owner_only_qualifies_execution_too() -> None:
    policy = processes(path("/d/x", owner_only=True))
    assert verdict(execute("/d/x", owner=True), policy) == "allow"
    assert verdict(execute("/d/x", owner=False), policy) == "block"


def test_a_second_block_on_the_same_key_is_not_softened_by_a_qualified_one() -> None:
    policy = files(path("/d/f", read_only=True), path("/d/f"))
    assert verdict(read("/d/f"), policy) == "block"


def test_pts_false_exists_only_for_a_caller_with_a_terminal() -> None:
    policy = processes(path("/d/x", pts=False))
    assert verdict(execute("/d/x", tty=True), policy) == "block"
    assert verdict(execute("/d/x", tty=False), policy) == "allow"


def test_the_source_of_an_execution_is_the_caller_or_its_parent() -> None:
    policy = processes(path("/d/x", BLOCK, PYTHON))
    assert verdict(execute("/d/x", source=PYTHON), policy) == "block"
    assert verdict(execute("/d/x", parent=PYTHON), policy) == "block"
    assert verdict(execute("/d/x"), policy) == "allow"


def test_the_source_of_a_file_operation_is_the_caller_alone() -> None:
    policy = files(path("/d/f", BLOCK, PYTHON))
    assert verdict(read("/d/f", source=BASH, parent=PYTHON), policy) == "allow"
    assert verdict(read("/d/f", source=PYTHON, parent=BASH), policy) == "block"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), "allow"),
        (("-l",), "allow"),
        (("-a", "-l", "-a"), "allow"),
        (("-l", "/etc"), "block"),
        (("-l",) * 20, "allow"),
        (("-l",) * 21, "block"),
        (("x" * 104,), "allow"),
        (("x" * 105,), "block"),
    ],
)
def test_allowed_args_qualify_a_block(args: tuple[str, ...], expected: str) -> None:
    allowed = ("-l", "-a", "x" * 104, "x" * 105)
    assert verdict(execute("/d/x", args=args), processes(path("/d/x", allowed_args=allowed))) == (
        expected
    )


def test_allowed_args_of_an_allow_are_ignored() -> None:
    policy = processes(path("/d/x", ALLOW, allowed_args=("-l",)))
    assert verdict(execute("/d/x", args=("--wipe",)), policy) == "allow"


# --- posture and its exceptions ------------------------------------------------------------------


def test_without_an_allow_rule_what_no_rule_matches_is_allowed() -> None:
    assert decide(read("/d/f"), [files(path("/d/g"))]) == Decision(
        "allow", why="no rule matches, and no Allow rule limits file"
    )


def test_process_and_file_are_limited_separately() -> None:
    assert verdict(read("/d/f"), processes(path("/d/x", ALLOW))) == "allow"
    assert verdict(execute("/d/x"), files(path("/d/f", ALLOW))) == "allow"
    assert verdict(execute("/d/y"), processes(path("/d/x", ALLOW))) == "posture"


def test_posture_audit_allows_and_reports() -> None:
    decision = decide(read("/d/f"), [files(path("/d/g", ALLOW))], Posture.all("audit"))
    assert (decision.verdict, decision.posture, decision.policy_name) == (
        "allow", True, DEFAULT_POSTURE,
    )  # fmt: skip


def test_process_follows_the_file_posture() -> None:
    policy = processes(path("/d/x", ALLOW))
    assert verdict(execute("/d/y"), policy, posture=Posture(file="audit")) == "allow"
    assert verdict(execute("/d/y"), policy, posture=Posture(network="audit")) == "posture"


BASELINE = [
    ("read", "/usr/lib/x86_64-linux-gnu/libc.so.6", True),
    ("read", "/lib64/ld-linux-x86-64.so.2", True),
    ("read", "/usr/local/lib/libpython3.11.so.1.0", True),
    ("read", "/usr/lib/python3.11/lib-dynload/x.so", True),
    ("read", "/usr/lib/python3.11/os.py", False),
    ("read", "/usr/lib/notes.so/secret", False),
    ("read", "/usr/libexec/x.so", False),
    ("read", "/home/u/x.so", False),
    ("list", "/usr/lib", False),
    ("read", "/etc/ld.so.cache", True),
    ("read", "/etc/ld.so.preload", True),
    ("write", "/etc/ld.so.preload", False),
    ("read", "/etc/localtime", True),
    ("read", "/etc/passwd", False),
    ("read", "/usr/lib/locale/C.utf8/LC_CTYPE", True),
    ("list", "/usr/share/zoneinfo", True),
    ("read", "/usr/share/zoneinfo/Europe/Vienna", True),
    ("create", "/usr/share/locale/x", False),
    ("read", "/usr/lib/x86_64-linux-gnu/gconv/gconv-modules", True),
    ("read", "/usr/lib/aarch64-linux-gnu/gconv/gconv-modules.cache", True),
    ("read", "/usr/lib/a/b/gconv/x", False),
    ("read", "/dev/null", True),
    ("write", "/dev/tty", True),
    ("write", "/dev/pts/3", True),
    ("metadata", "/dev/null", False),
    ("read", "/dev/sda", False),
    ("read", "/proc/1/maps", False),
    ("exec", "/usr/lib/libc.so.6", False),
]


@pytest.mark.parametrize(("kind", "where", "expected"), BASELINE)
def test_the_loader_baseline_is_exempt_from_the_posture_and_no_more_than_that(
    kind: OperationKind, where: str, expected: bool
) -> None:
    op = Operation(kind, where, source=PYTHON)
    assert baseline_allows(op) is expected
    limited = Policy(
        "KubeArmorPolicy", "p", file=(path("/x", ALLOW),), process=(path("/x", ALLOW),)
    )
    assert verdict(op, limited) == ("allow" if expected else "posture")


def test_the_loader_baseline_yields_to_a_block() -> None:
    policy = files(directory("/usr/lib/"), path("/x", ALLOW))
    assert verdict(read("/usr/lib/libc.so.6"), policy) == "block"


def test_the_callers_own_executable_is_exempt_from_the_posture_but_not_from_a_block() -> None:
    op = execute(PYTHON, source=PYTHON)
    assert verdict(op, processes(path("/x", ALLOW))) == "allow"
    assert verdict(op, processes(path("/x", ALLOW), path(PYTHON))) == "block"
    assert verdict(execute(PYTHON, parent=PYTHON), processes(path("/x", ALLOW))) == "posture"


# --- across classes ------------------------------------------------------------------------------


def test_execution_is_blocked_by_an_unqualified_file_block() -> None:
    assert verdict(execute("/d/x"), files(directory("/d/"))) == "block"
    assert verdict(execute("/d/x"), files(directory("/d/", read_only=True))) == "allow"
    assert verdict(execute("/d/x"), files(directory("/d/", owner_only=True))) == "allow"
    assert verdict(execute("/d/x"), files(directory("/d/"), path("/d/x", ALLOW))) == "allow"
    assert verdict(execute("/d/x", parent=PYTHON), files(path("/d/x", BLOCK, PYTHON))) == "allow"
    assert verdict(execute("/d/x", source=PYTHON), files(path("/d/x", BLOCK, PYTHON))) == "block"


def test_a_process_allow_does_not_outweigh_a_file_block() -> None:
    policy = Policy(
        "KubeArmorPolicy", "p", process=(path("/d/x", ALLOW),), file=(path("/d/x"),)
    )  # fmt: skip
    decision = decide(execute("/d/x"), [policy])
    assert (decision.verdict, decision.rule) == ("block", policy.file[0])


def test_a_process_block_leaves_reading_alone() -> None:
    assert verdict(read("/etc/shadow"), processes(path("/etc/shadow"))) == "allow"


# --- audit ---------------------------------------------------------------------------------------


def test_the_most_specific_audit_rule_is_reported_beside_an_allow() -> None:
    policy = files(directory("/d/", AUDIT), path("/d/f", AUDIT), directory("/", ALLOW))
    decision = decide(read("/d/f"), [policy])
    assert decision.verdict == "allow"
    assert decision.rule is policy.file[2]
    assert decision.audit == (policy, policy.file[1])


def test_no_audit_is_reported_for_what_is_blocked() -> None:
    assert decide(read("/d/f"), [files(path("/d/f"), path("/d/f", AUDIT))]).audit is None


def test_a_qualified_audit_reports_what_its_qualifiers_do_not_permit() -> None:
    policy = files(directory("/d/", AUDIT, read_only=True))
    assert decide(read("/d/f"), [policy]).audit is None
    assert decide(write("/d/f"), [policy]).audit == (policy, policy.file[0])


# --- network, DNS, capabilities, syscalls ---------------------------------------------------------


def socket(family: str, socket_type: str, protocol: str = "", **fields: Any) -> Operation:
    return Operation(
        "network", family=family, socket_type=socket_type, protocol=protocol, source=PYTHON,
        **fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "op", "matches"),
    [
        ("tcp", socket("inet", "stream", "tcp"), True),
        ("tcp", socket("inet", "stream", "6"), True),
        ("tcp", socket("unix", "stream"), True),
        ("tcp", socket("inet", "stream", "sctp"), False),
        ("tcp", socket("inet", "dgram"), False),
        ("udp", socket("unix", "dgram", "0"), True),
        ("udp", socket("inet6", "dgram", "udp"), True),
        ("udp", socket("inet", "dgram", "icmp"), False),
        ("icmp", socket("inet", "dgram", "1"), True),
        ("icmp", socket("inet", "raw", "icmp"), True),
        ("icmpv6", socket("inet6", "raw", "58"), True),
        ("icmpv6", socket("inet", "raw", "icmp"), False),
        ("raw", socket("inet", "raw", "icmp"), True),
        ("raw", socket("inet", "stream"), False),
        ("sctp", socket("inet", "seqpacket", "132"), True),
        ("seqpacket", socket("unix", "seqpacket"), True),
        ("stream", socket("unix", "stream"), True),
        ("dgram", socket("netlink", "dgram"), True),
        ("rdm", socket("tipc", "rdm"), True),
        ("packet", socket("packet", "raw"), True),
        ("packet", socket("inet", "packet"), True),
        ("packet", socket("inet", "raw"), False),
        ("dccp", socket("inet", "dccp", "33"), True),
        ("all", socket("vsock", "stream"), True),
    ],
)
def test_protocols_match_as_kubearmor_matches_them(rule: str, op: Operation, matches: bool) -> None:
    policy = network(ProtocolRule(outcome=BLOCK, protocol=rule))
    assert verdict(op, policy) == ("block" if matches else "allow")
    policy = network(ProtocolRule(outcome=ALLOW, protocol=rule))
    assert verdict(op, policy) == ("allow" if matches else "posture")


def test_a_network_rule_with_a_source_precedes_one_without() -> None:
    op = socket("inet", "stream")
    plain, sourced = ProtocolRule(BLOCK, protocol="tcp"), (PYTHON,)
    allow = ProtocolRule(ALLOW, protocol="all", from_source=sourced)
    assert verdict(op, network(plain, allow)) == "allow"
    assert verdict(op, network(plain, ProtocolRule(ALLOW, protocol="tcp"))) == "block"


def test_domains_match_exactly_or_as_a_suffix_the_longest_first() -> None:
    policy = network(
        DnsRule(BLOCK, domain="example.com"), DnsRule(ALLOW, domain="good.example.com")
    )

    def ask(name: str) -> str:
        return verdict(Operation("network", dns=name), policy)

    assert ask("example.com") == ask("a.b.Example.com.") == "block"
    assert ask("good.example.com") == ask("x.good.example.com") == "allow"
    assert ask("notexample.com") == "posture"
    assert verdict(socket("inet", "stream"), policy) == "allow", "domains limit no sockets"


def test_capabilities_follow_source_and_their_own_posture() -> None:
    policy = Policy(
        "KubeArmorPolicy", "p",
        capabilities=(
            CapabilityRule(BLOCK, capability="net_raw"),
            CapabilityRule(ALLOW, capability="net_raw", from_source=(PYTHON,)),
        ),
    )  # fmt: skip
    assert verdict(Operation("capability", capability="CAP_NET_RAW"), policy) == "block"
    assert verdict(Operation("capability", capability="net_raw", source=PYTHON), policy) == "allow"
    chown = Operation("capability", capability="chown")
    assert verdict(chown, policy) == "posture"
    assert verdict(chown, policy, posture=Posture(capabilities="audit")) == "allow"


def test_syscall_rules_only_audit() -> None:
    rule = SyscallRule(
        BLOCK, syscalls=("unlink",), path="/d/", recursive=True,
        from_source=(SyscallSource(dir="/usr/bin/"),),
    )  # fmt: skip
    policy = Policy("KubeArmorPolicy", "p", syscalls=(SyscallRule(**_audited(rule)),))
    op = Operation("syscall", "/d/e/f", syscall="unlink", source=PYTHON)
    assert decide(op, [policy]).verdict == "allow"
    assert decide(op, [policy]).audit == (policy, policy.syscalls[0])
    for other in (
        Operation("syscall", "/d/e/f", syscall="rename", source=PYTHON),
        Operation("syscall", "/e/f", syscall="unlink", source=PYTHON),
        Operation("syscall", "/d/e/f", syscall="unlink", source="/opt/x"),
        Operation("syscall", "/d/e/f", syscall="unlink", source="/usr/bin/a/b"),
    ):
        assert decide(other, [policy]).audit is None


def _audited(rule: SyscallRule) -> dict[str, Any]:
    return {
        "outcome": AUDIT, "syscalls": rule.syscalls, "path": rule.path,
        "recursive": rule.recursive, "from_source": rule.from_source,
    }  # fmt: skip


# --- presets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "op", "applies"),
    [
        ("filelessExec", Operation("exec", "memfd:x", fileless=True), True),
        ("filelessExec", execute("/dev/shm/x"), True),
        ("filelessExec", execute("/run/shm/x"), True),
        ("filelessExec", execute("/usr/bin/ls"), False),
        ("protectProc", read("/proc/7/status", foreign_proc=True), True),
        ("protectProc", read("/proc/7/status"), False),
        ("protectEnv", read("/proc/7/environ", foreign_proc=True), True),
        ("protectEnv", read("/proc/7/status", foreign_proc=True), False),
        ("protectEnv", read("/proc/7/environ"), False),
        ("anonymousMapExec", Operation("syscall", syscall="mmap", fileless=True), True),
        ("anonymousMapExec", Operation("syscall", syscall="mmap"), False),
        ("exec", execute("/bin/sh", entered=True, tty=True), True),
        ("exec", execute("/bin/sh", tty=True), False),
        ("anonMapExec", Operation("syscall", syscall="mmap", fileless=True), False),
    ],
)
def test_presets(preset: str, op: Operation, applies: bool) -> None:
    blocking = Policy("KubeArmorPolicy", "p", presets=(PresetRule(BLOCK, name=preset),))
    auditing = Policy("KubeArmorPolicy", "p", presets=(PresetRule(AUDIT, name=preset),))
    assert verdict(op, blocking) == ("block" if applies else "allow")
    expected = (auditing, auditing.presets[0]) if applies else None
    assert decide(op, [auditing]).audit == expected


def test_a_preset_blocks_what_a_rule_allows() -> None:
    policy = Policy(
        "KubeArmorPolicy", "p", process=(path("/dev/shm/x", ALLOW),),
        presets=(PresetRule(BLOCK, name="filelessExec"),),
    )  # fmt: skip
    assert decide(execute("/dev/shm/x"), [policy]).rule is policy.presets[0]


# --- patterns ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "where", "expected"),
    [
        ("/tmp/*", "/tmp/a", True),
        ("/tmp/*", "/tmp/a/b", False),
        ("/tmp/**", "/tmp/a/b", True),
        ("/etc/*hado?", "/etc/shadow", True),
        ("/etc/*hado?", "/etc/shado/", False),
        ("/a?c", "/a/c", False),
        ("/**/*.pt", "/m/x/y.pt", True),
        ("/**/*.pt", "/y.pt", False),
        ("/**.pt", "/y.pt", True),
        ("*.pt", "/y.pt", False),
        ("/a*b*c", "/aXbYbZc", True),
        ("/a*b*c", "/aXbYbZ", False),
        ("/lib[0-9].so", "/lib7.so", True),
        ("/lib[!0-9].so", "/lib7.so", False),
        ("/lib[^0-9].so", "/libx.so", True),
        ("/a[/]b", "/a/b", False),
        ("/a[b", "/a[b", True),
        ("/usr/bin/apt*", "/usr/bin/apt", True),
        ("/a.c", "/abc", False),
        ("", "", True),
    ],
)
def test_globs(glob: str, where: str, expected: bool) -> None:
    assert Glob(glob).matches(where) is expected


def test_a_hostile_path_cannot_make_a_pattern_slow() -> None:
    glob = Glob("/**a*a**a*a**a*a**a*ab")
    began = time.perf_counter()
    assert not glob.matches("/" + "a" * 4095)
    assert time.perf_counter() - began < 0.5


# --- the table -----------------------------------------------------------------------------------


def test_a_relative_path_is_refused_rather_than_let_past_every_block() -> None:
    with pytest.raises(ValueError, match="must be absolute"):
        Operation("read", "etc/shadow")


def test_matches_lists_the_weaker_rules_after_the_one_that_decided() -> None:
    policy = files(directory("/", ALLOW), directory("/d/", AUDIT), path("/d/f"))
    found = [rule for _, rule in Table([policy]).matches(read("/d/f"))]
    assert found == [policy.file[2], policy.file[1], policy.file[0]]


def test_deciding_does_not_slow_down_with_the_number_of_rules() -> None:
    rules = [path(f"/data/{n}/f", ALLOW) for n in range(5_000)]
    rules += [directory(f"/data/{n}/d/") for n in range(5_000)]
    tables = Table([files(*rules[:1])]), Table([files(*rules)])
    op = read("/data/4999/d/e/f")

    def fastest(table: Table) -> float:
        times = []
        for _ in range(200):
            began = time.perf_counter()
            table.decide(op)
            times.append(time.perf_counter() - began)
        return min(times)

    assert tables[1].decide(op).verdict == "block"
    # A scan of 10,000 rules would be thousands of times slower; the margin is for a busy machine.
    assert fastest(tables[1]) < 20 * fastest(tables[0])


def test_every_kind_of_operation_is_decided() -> None:
    for kind in get_args(OperationKind):
        assert decide(Operation(kind, "/d/f"), []).verdict == "allow"
