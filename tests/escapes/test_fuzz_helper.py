"""The helper reads hostile memory and a table: under the sanitizers neither may trip it up, and the
table must say what `modelarmor.policy.decide` says."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from modelarmor.policy.decide import Operation, Table
from modelarmor.policy.document import load
from modelarmor.policy.model import (
    CapabilityRule,
    DnsRule,
    Outcome,
    PathRule,
    Policy,
    Posture,
    ProtocolRule,
    Rule,
)
from modelarmor.sandbox import process as sandbox
from modelarmor.sandbox.network import Egress, EgressRule
from modelarmor.sandbox.plan import Machine, Plan
from modelarmor.sandbox.planner import make_plan
from modelarmor.sandbox.resources import Resources

from .run import USER

HERE = Path(__file__).parent
SOURCES = Path(sandbox.__file__).parent / "helper"
SANITIZE = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g"]
#: what the sanitizers say is looked for in the output, so nothing may be swallowed
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99:handle_segv=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=98",
}
STORM_S = 12
MUTANTS = 20_000

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the helper is Linux's"),
    pytest.mark.timeout(180),
]


def _compile(output: Path, *arguments: object) -> Path:
    compiler = os.environ.get("CC", "cc")
    done = subprocess.run(
        [compiler, "-std=gnu11", "-O1", "-Werror", "-D_GNU_SOURCE", f"-I{SOURCES}", *SANITIZE,
         "-o", output, *map(str, arguments)], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode and "asan" in done.stderr:
        pytest.skip("this compiler has no address sanitizer")
    assert done.returncode == 0, done.stderr[-2000:]
    return output


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("fuzz")
    _compile(folder / "helper", *sorted(SOURCES.glob("*.c")), "-fPIE", "-pie")
    _compile(folder / "fuzz_plan", HERE / "fuzz_plan.c", SOURCES / "plan.c")
    compiler = os.environ.get("CC", "cc")
    storm = [compiler, "-O2", "-pthread", "-o", folder / "storm", HERE / "fuzz_storm.c"]
    subprocess.run(storm, check=True)
    yield folder


# ---- the plan ----------------------------------------------------------------------------------

POLICY = """
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: fuzz, namespace: default}
spec:
  selector: {matchLabels: {a: b}}
  process:
    matchPaths:
      - path: /usr/bin/apt
      - {path: /bin/sleep, fromSource: [{path: /bin/bash}], allowedArgs: ["1", "-h", "a b"]}
      - {execname: curl}
    matchDirectories: [{dir: /opt/tools/, recursive: true, action: Allow}]
  file:
    matchPaths: [{path: /etc/shadow, readOnly: true, ownerOnly: true}, {path: "/tmp/a b%c"}]
    matchDirectories: [{dir: /srv/secret/, recursive: true}, {dir: /srv/, recursive: false}]
    matchPatterns: [{pattern: "/var/**/[a-c]*?.pem"}, {pattern: /home/*/.ssh/*, action: Audit}]
  network:
    matchProtocols: [{protocol: udp, fromSource: [{path: /usr/bin/dig}]}, {protocol: raw}]
  capabilities: {matchCapabilities: [{capability: net_raw}]}
  syscalls:
    matchSyscalls: [{syscall: [unlink, ptrace]}]
    matchPaths: [{path: /etc/passwd, recursive: false, syscall: [rmdir]}]
  action: Block
"""


def _plan(policies: list[Policy], posture: Posture | None = None, *, egress: Egress | None = None,
          resources: Resources | None = None) -> Plan:  # fmt: skip
    return make_plan(
        policies, posture or Posture(), egress=egress or Egress.unrestricted(),
        resources=resources or Resources(), capabilities=frozenset(), command=["/bin/true"],
        machine=Machine(landlock_abi=7, uid=os.getuid()),
    )  # fmt: skip


def _seeds() -> list[bytes]:
    policies = load(POLICY)
    egress = Egress((EgressRule("10.0.0.0/8", ["10.1.0.0/16"], [("tcp", 443), ("udp", 53)]),
                     EgressRule("fd00::/8", ["fd00:1::/32"])))  # fmt: skip
    extra = [
        ("limit", "memory", 1 << 40),
        ("limit", "processes", 64),
        ("cgroup", "/sys/fs/cgroup/a"),
        ("counter", "memory", "/sys/fs/cgroup/b", "oom"),
    ]
    return [_plan(policies).text(), _plan(policies, egress=egress).text(extra),
            _plan([], egress=Egress.none()).text()]  # fmt: skip


def _mutant(rng: random.Random, seeds: list[bytes]) -> bytes:
    text = bytearray(rng.choice(seeds))
    if len(text) > 6000:  # a window of the grants is as good as all of them
        lines = bytes(text).splitlines(keepends=True)
        keep = [line for line in lines if not line.startswith(b"grant") or rng.random() < 0.02]
        text = bytearray(b"".join(keep))
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        lines = bytes(text).split(b"\n")
        i, at = rng.randrange(len(lines)), rng.randrange(len(text) or 1)
        fields = lines[i].split(b"\t")
        j = rng.randrange(len(fields))
        match rng.randrange(9):
            case 0:
                text[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                text[at:at] = rng.choice((b"\t", b"\n", b"%", b"%0", b"%zz", b"%00", b"\0", b"-1"))
            case 2:
                del text[at : at + rng.randrange(1, 200)]
            case 3:
                fields[j] = rng.choice(
                    (
                        b"",
                        b"-1",
                        b"99999999999999999999",
                        b"4294967296",
                        b"0x10",
                        b"100000",
                        b"%ff" * 5000,
                        b"*" * 300,
                        b"[",
                        b"[]",
                        b"[a-",
                        b"/" * 5000,
                        b"::ffff:1.2.3.4",
                        b"33",
                        b"1" * 400,
                    )
                )
                lines[i] = b"\t".join(fields)
                text = bytearray(b"\n".join(lines))
            case 4:
                lines.insert(i, lines[rng.randrange(len(lines))])
                text = bytearray(b"\n".join(lines))
            case 5:
                del fields[j]
                lines[i] = b"\t".join(fields)
                text = bytearray(b"\n".join(lines))
            case 6:
                fields[j:j] = [rng.choice(fields)] * rng.choice((1, 2, 40))
                lines[i] = b"\t".join(fields)
                text = bytearray(b"\n".join(lines))
            case 7:
                del text[at:]
            case _:
                other = rng.choice(seeds).split(b"\n")
                lines[i] = rng.choice(other)
                text = bytearray(b"\n".join(lines))
    return bytes(text)


def test_mutated_plans_are_understood_or_refused(built: Path) -> None:
    rng, seeds = random.Random(20261122), _seeds()
    mutants = (_mutant(rng, seeds) for _ in range(MUTANTS))
    data = b"".join(struct.pack("I", len(text)) + text for text in (*seeds, b"", *mutants))
    done = subprocess.run([built / "fuzz_plan"], input=data, capture_output=True, check=False,
                          env=ENVIRONMENT, timeout=100)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    tried, understood = map(int, done.stdout.split())
    assert tried == MUTANTS + len(seeds) + 1
    assert len(seeds) <= understood < tried


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"modelarmor-plan\t2\n", b"modelarmor-plan\t1\nrule\n", b"\0" * 100,
     b"modelarmor-plan\t1\nmode\tread", b"modelarmor-plan\t1\nnonsense\t1\n"],
    ids=["empty", "blank", "version", "short", "nul", "cut", "unknown"],
)  # fmt: skip
def test_bad_plan_is_refused_with_a_reason(built: Path, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "plan").write_bytes(text)
    done = subprocess.run([built / "helper", "--check-plan", tmp_path / "plan"], check=False,
                          capture_output=True, env=ENVIRONMENT, timeout=100)  # fmt: skip
    assert (done.returncode, b"Sanitizer" in done.stderr) == (2, False), done.stderr
    assert b"plan" in done.stderr


def test_planned_table_is_understood(built: Path, tmp_path: Path) -> None:
    for i, text in enumerate(_seeds()):
        (tmp_path / f"{i}").write_bytes(text)
        subprocess.run([built / "helper", "--check-plan", tmp_path / f"{i}"], check=True,
                       env=ENVIRONMENT, timeout=100)  # fmt: skip


# ---- the table against the definition -----------------------------------------------------------

_NAMES = ("a", "b", "sh", "x.so", "é ", "%41")
_PATHS = st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4).map(lambda n: "/" + "/".join(n))
_PATTERNS = st.lists(
    st.sampled_from(("a", "*", "**", "?", "[ab]", "[!a]", "x.so", "[", "b*")),
    min_size=1, max_size=4,
).map(lambda n: "/" + "/".join(n))  # fmt: skip
_SOURCES = st.lists(st.sampled_from(("/a/sh", "/b/sh", "/c")), max_size=2, unique=True).map(tuple)
_OUTCOMES = st.sampled_from(("Allow", "Block", "Audit")).map(lambda a: Outcome(action=a))


@st.composite
def _path_rules(draw: st.DrawFn, process: bool) -> PathRule:
    kinds = ["path", "directory", "pattern"] + (["execname"] if process else [])
    match = draw(st.sampled_from(kinds))
    value = draw({"path": _PATHS, "directory": _PATHS.map(lambda p: p + "/"),
                  "pattern": _PATTERNS, "execname": st.sampled_from(_NAMES)}[match])  # fmt: skip
    return PathRule(
        outcome=draw(_OUTCOMES), match=match, value=value,
        from_source=draw(_SOURCES) if draw(st.booleans()) else (),
        owner_only=draw(st.booleans()) and draw(st.booleans()),
        recursive=match == "directory" and draw(st.booleans()),
        read_only=not process and draw(st.booleans()) and draw(st.booleans()),
        pts=draw(st.booleans()) or draw(st.booleans()),
        allowed_args=("-l", "a b") if process and match == "path" and draw(st.booleans()) else (),
        where=f"spec.{'process' if process else 'file'}.match[0]",
    )  # fmt: skip


_PROTOCOL_RULES = st.builds(
    ProtocolRule, outcome=_OUTCOMES, from_source=_SOURCES,
    protocol=st.sampled_from(("tcp", "udp", "raw", "icmp", "all", "dgram", "packet", "sctp")),
)  # fmt: skip
_DNS_RULES = st.builds(
    DnsRule, outcome=_OUTCOMES, domain=st.sampled_from(("example.com", "a.example.com", "com"))
)
_CAPABILITY_RULES = st.builds(
    CapabilityRule, outcome=_OUTCOMES, from_source=_SOURCES,
    capability=st.sampled_from(("net_raw", "sys_admin")),
)  # fmt: skip
_POLICIES = st.builds(
    Policy, kind=st.just("KubeArmorPolicy"), name=st.sampled_from(("one", "two")),
    process=st.lists(_path_rules(True), max_size=4).map(tuple),
    file=st.lists(_path_rules(False), max_size=4).map(tuple),
    network=st.lists(st.one_of(_PROTOCOL_RULES, _DNS_RULES), max_size=3).map(tuple),
    capabilities=st.lists(_CAPABILITY_RULES, max_size=2).map(tuple),
)  # fmt: skip
_CALLERS = {"source": st.sampled_from(("/a/sh", "/c", "/a/b")),
            "parent": st.sampled_from(("/a/sh", "/b/sh"))}  # fmt: skip
_FILES = st.builds(
    Operation, path=_PATHS, owner=st.booleans(), tty=st.booleans(), **_CALLERS,
    kind=st.sampled_from(("read", "write", "create", "delete", "metadata", "list")),
)  # fmt: skip
_EXECS = st.builds(
    Operation, kind=st.just("exec"), path=_PATHS, owner=st.booleans(), tty=st.booleans(),
    args=st.sampled_from(((), ("-l",), ("-l", "a b"), ("-x",), ("-l",) * 21)), **_CALLERS,
)  # fmt: skip
_SOCKET_TYPES = {"stream": 1, "dgram": 2, "raw": 3, "seqpacket": 5}
_FAMILIES = {"inet": 2, "inet6": 10, "unix": 1, "packet": 17, "netlink": 16}
_PROTOCOLS = {"0": 0, "tcp": 6, "udp": 17, "icmp": 1, "sctp": 132}
_NETWORK = st.builds(
    Operation, kind=st.just("network"), family=st.sampled_from(tuple(_FAMILIES)),
    socket_type=st.sampled_from(tuple(_SOCKET_TYPES)), protocol=st.sampled_from(tuple(_PROTOCOLS)),
    **_CALLERS,
)  # fmt: skip
_CAPABILITIES = st.builds(
    Operation, kind=st.just("capability"),
    capability=st.sampled_from(("net_raw", "sys_admin", "kill")),
    **_CALLERS,
)  # fmt: skip


def _line(op: Operation) -> bytes:
    """An operation as ``--decide`` reads it; see ``helper/check.c``."""
    path = op.capability if op.kind == "capability" else op.path
    numbers = (_FAMILIES[op.family], _SOCKET_TYPES[op.socket_type], _PROTOCOLS[op.protocol])
    fields = (op.kind, path, op.source, op.parent, int(op.owner), int(op.tty),
              *(numbers if op.kind == "network" else (0, 0, 0)), *op.args)  # fmt: skip
    return b"\t".join(_escape(str(field)) for field in fields) + b"\n"


def _escape(text: str) -> bytes:
    return b"".join(b"%%%02x" % b if b <= 0x20 or b in b"%\x7f" else bytes((b,))
                    for b in text.encode())  # fmt: skip


@settings(
    max_examples=80, deadline=None, derandomize=True, database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(
    policies=st.lists(_POLICIES, min_size=1, max_size=2),
    posture=st.sampled_from((Posture(), Posture.all("audit"))),
    operations=st.lists(
        st.one_of(_FILES, _EXECS, _NETWORK, _CAPABILITIES), min_size=20, max_size=60
    ),
)  # fmt: skip
def test_helper_decides_as_the_definition_does(
    policies: list[Policy], posture: Posture, operations: list[Operation]
) -> None:
    plan = _plan(policies, posture)
    table = Table(policies, posture)
    memory = os.memfd_create("plan")
    try:
        os.write(memory, plan.text())
        done = subprocess.run(
            [sandbox.HELPER, "--decide", f"/proc/self/fd/{memory}"], pass_fds=[memory],
            input=b"".join(map(_line, operations)), capture_output=True, check=True, timeout=100,
        )  # fmt: skip
    finally:
        os.close(memory)
    for op, answer in zip(operations, done.stdout.decode().splitlines(), strict=True):
        verdict, number, by, _ = answer.split()
        expected = table.decide(op)
        assert verdict == expected.verdict, (op, answer, expected.why)
        assert (by == "posture") == expected.posture, (op, answer, expected.why)
        if expected.rule is not None and not expected.posture:
            decided = plan.rules[int(number)].rule
            assert _key(decided) == _key(expected.rule), (op, answer, expected.why)


def _key(rule: Rule) -> tuple[object, ...]:
    """What must agree: of two rules on the same key either may be named."""
    if isinstance(rule, PathRule):
        return (rule.outcome.action, rule.match, rule.value, bool(rule.from_source))
    return (type(rule), rule.outcome.action)


# ---- the storm ---------------------------------------------------------------------------------


@pytest.fixture
def range_(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of the ordinary user's, where the storm may do what it likes."""
    path = Path(tempfile.mkdtemp(prefix="modelarmor-storm-"))
    for folder in ("vault", "ro", "work"):
        (path / folder).mkdir()
    (path / "secret").write_text("secret")
    (path / "ro/data").write_text("data")
    (path / "link").symlink_to("secret")
    (path / "loop").symlink_to("loop")
    os.mkfifo(path / "fifo")
    yield path
    shutil.rmtree(path)


_STORM_POLICY = """
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {{name: storm, namespace: default}}
spec:
  selector: {{matchLabels: {{a: b}}}}
  process:
    matchPaths: [{{path: {range}/denied, fromSource: [{{path: /bin/sh}}]}}]
    matchPatterns: [{{pattern: "{range}/*/no?"}}]
  file:
    matchPaths: [{{path: {range}/secret}}]
    matchDirectories:
      - {{dir: {range}/vault/, recursive: true}}
      - {{dir: {range}/ro/, recursive: true, readOnly: true}}
    matchPatterns: [{{pattern: "{range}/**/*.pem", ownerOnly: true}}]
  network: {{matchProtocols: [{{protocol: udp, fromSource: [{{path: /bin/sh}}]}}]}}
  syscalls: {{matchSyscalls: [{{syscall: [rmdir]}}]}}
  presets: [{{name: filelessExec}}, {{name: protectProc}}, {{name: protectEnv}}]
  action: Block
"""


@pytest.mark.parametrize(
    "egress", [[], [{"cidr": "127.0.0.1/32", "ports": [["tcp", 9]]}]], ids=["offline", "limited"]
)
def test_storm_of_system_calls_trips_no_sanitizer(
    built: Path, range_: Path, egress: list[dict[str, object]]
) -> None:
    """As an ordinary user, and with all else read-only: it changes whatever it can reach."""
    work, uid = range_ / "work", os.getuid() or USER
    for name in ("storm", "helper"):
        shutil.copy(built / name, work / name)
    for folder, _, files in os.walk(range_):
        for path in (folder, *(os.path.join(folder, file) for file in files)):
            os.chown(path, uid, uid, follow_symlinks=False)
    job = {
        "command": [str(work / "storm"), str(range_), str(STORM_S // 2), "7"],
        "policy": _STORM_POLICY.format(range=range_), "cwd": str(work), "egress": egress,
        "alerts": str(work / "alerts"), "helper": str(work / "helper"),
    }  # fmt: skip
    package = __package__ or "escapes"
    done = subprocess.run(
        [sys.executable, "-m", f"{package}.unprivileged", str(uid), str(range_),
         sys.executable, "-m", f"{package}.confine", json.dumps(job)],
        cwd=HERE.parents[package.count(".")], stdin=subprocess.DEVNULL, capture_output=True,
        timeout=STORM_S + 60, check=False,
        env={**ENVIRONMENT, "PATH": "/usr/bin:/bin", "TMPDIR": str(work),
             "PYTHONPATH": str(HERE.parents[1]), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    text = done.stderr.decode(errors="replace")
    assert "Sanitizer" not in text, text[-5000:]
    assert "runtime error" not in text, text[-5000:]
    assert done.returncode == 0, (done.returncode, text[-2000:])
    assert b"rounds" in done.stdout
    assert (work / "alerts").stat().st_size > 100_000
    assert (range_ / "secret").read_text() == "secret"
    assert (range_ / "ro/data").read_text() == "data"
