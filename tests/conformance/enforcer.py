"""``python -m tests.conformance.enforcer DIRECTORY [--write]``: `decide` against KubeArmor's code.

Random policies, seeded, and random operations on them. What KubeArmor makes of them is asked of two
programs in DIRECTORY that hold its own code (see ``docs/kubearmor.md``):

* ``kadump`` turns policies into the rows of a container's map, as its daemon does (Go);
* ``kadecide`` answers operations by such rows, as its BPF-LSM programs do (C).

``--write`` records the answers in ``enforcer.json``, by which the tests go on without the programs.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final, TypeGuard

import yaml

from modelarmor.policy import document
from modelarmor.policy.decide import Operation, Table
from modelarmor.policy.lint import lint
from modelarmor.policy.lint.finding import BPF_LSM
from modelarmor.policy.model import PathRule, Policy, Posture, Rule

RECORDED: Final = Path(__file__).with_name("enforcer.json")
#: KubeArmor's commit, of which the answers are
COMMIT: Final = "510cee310a164dd1bf34705984ecefc423d0de4f"
SEEDS: Final = range(400)
QUESTIONS: Final = 30

_PROGRAMS: Final = ("/usr/bin/cat", "/usr/bin/python3")
_CALLERS: Final = (*_PROGRAMS, "/bin/other")
_DIRECTORIES: Final = ("/a/", "/a/b/", "/a/b/c/", "/a/d/", "/e/", "/e/f/", "/usr/bin/")
_FILES: Final = (
    "/a/x", "/a/b/x", "/a/b/c/x", "/a/b/c/y", "/a/d/x", "/e/x", "/e/f/x", "/g/x", "/usr/bin/cat",
)  # fmt: skip
_KINDS: Final = (
    "read", "write", "delete", "metadata", "create", "exec", "exec", "network", "capability",
)  # fmt: skip
#: which of KubeArmor's hooks an operation meets
_HOOKS: Final[dict[str, tuple[str, ...]]] = {
    "read": ("open",), "write": ("open", "write"), "delete": ("delete",), "metadata": ("chmod",),
    "create": ("create", "open"), "exec": ("open", "exec"),
}  # fmt: skip
_CAPABILITIES: Final = {"net_raw": 13, "chown": 0, "sys_admin": 21}
_PROTOCOLS: Final = ("tcp", "udp", "icmp", "sctp", "raw", "stream", "dgram", "seqpacket", "all")
#: socket type, protocol, and both as `Operation` calls them
_SOCKETS: Final = (
    (1, 0, "stream", "0"), (1, 6, "stream", "tcp"), (2, 17, "dgram", "udp"),
    (2, 0, "dgram", "0"), (3, 1, "raw", "icmp"), (2, 1, "dgram", "icmp"),
    (5, 132, "seqpacket", "sctp"), (5, 0, "seqpacket", "0"),
)  # fmt: skip
_NUMBERS: Final = {(type_, name): (a, b) for a, b, type_, name in _SOCKETS}


@dataclass(frozen=True, slots=True)
class Case:
    """Policies of one container, its posture, and what is asked of it."""

    documents: list[dict[str, Any]]
    policies: Sequence[Policy]
    posture: Posture
    operations: tuple[Operation, ...]

    @property
    def digest(self) -> str:
        """Of everything above: answers to another case are worth nothing."""
        asked = [
            (op.kind, op.path, op.source, op.parent, op.owner)
            if op.path
            else (op.kind, op.source, op.parent, op.socket_type, op.protocol, op.capability)
            for op in self.operations
        ]
        whole = json.dumps([self.documents, self.posture.file, asked])
        return hashlib.sha256(whole.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Answers:
    """What KubeArmor makes of a case."""

    #: rows of the container's map
    entries: int
    #: for each operation, whether it is refused
    refused: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """An operation that KubeArmor answers in another way than `decide`."""

    operation: Operation
    #: what KubeArmor does
    refused: bool
    #: of the linter, or words; empty where nothing explains it
    reason: str


def case(seed: int) -> Case:
    """The case of a seed; every third has rules with ``ownerOnly`` and ``readOnly``."""
    rng = random.Random(seed)
    used: set[tuple[object, ...]] = set()
    qualified = seed % 3 == 0
    drawn = (_policy(rng, number, used, qualified) for number in range(rng.randint(1, 2)))
    documents = [found for found in drawn if found]
    posture = Posture.all(rng.choice(["block", "audit"]))
    return Case(
        documents,
        document.load(yaml.safe_dump_all(documents)),
        posture,
        tuple(_operation(rng) for _ in range(QUESTIONS)),
    )


def _policy(
    rng: random.Random, number: int, used: set[tuple[object, ...]], qualified: bool
) -> dict[str, Any]:
    spec: dict[str, Any] = {"selector": {"matchLabels": {"a": "b"}}}
    for section in ("process", "file"):
        drawn = (_rule(rng, section, used, qualified) for _ in range(rng.randint(0, 4)))
        rules = [rule for rule in drawn if rule]
        lists = {
            "matchPaths": [rule for rule in rules if "path" in rule],
            "matchDirectories": [rule for rule in rules if "dir" in rule],
        }
        if rules:
            spec[section] = {name: value for name, value in lists.items() if value}
            spec[section]["action"] = rng.choice(["Allow", "Block"])
    for section, name, key, values in (
        ("network", "matchProtocols", "protocol", _PROTOCOLS),
        ("capabilities", "matchCapabilities", "capability", tuple(_CAPABILITIES)),
    ):
        found: list[dict[str, Any]] = []
        for _ in range(rng.randint(0, 2)):
            rule: dict[str, Any] = {key: rng.choice(values)}
            if rng.random() < 0.4:
                rule["fromSource"] = [{"path": _PROGRAMS[0]}]
            if _new(used, section, rule):
                found.append({**rule, "action": rng.choice(["Allow", "Block"])})
        if found:
            spec[section] = {name: found}
    if len(spec) == 1:
        return {}
    return {
        "apiVersion": "security.kubearmor.com/v1",
        "kind": "KubeArmorPolicy",
        "metadata": {"name": f"p{number}", "namespace": "d"},
        "spec": spec,
    }


def _rule(
    rng: random.Random, section: str, used: set[tuple[object, ...]], qualified: bool
) -> dict[str, Any]:
    rule: dict[str, Any]
    if rng.random() < 0.5:
        rule = {"path": rng.choice(_FILES)}
    else:
        rule = {"dir": rng.choice(_DIRECTORIES), "recursive": rng.random() < 0.6}
    if rng.random() < 0.35:
        count = rng.choice([1, 1, 2])
        rule["fromSource"] = [{"path": path} for path in rng.sample(_PROGRAMS, count)]
    if qualified and rng.random() < 0.3:
        rule["ownerOnly"] = True
    if qualified and section == "file" and rng.random() < 0.3:
        rule["readOnly"] = True
    return rule if _new(used, section, rule) else {}


def _new(used: set[tuple[object, ...]], section: str, rule: dict[str, Any]) -> bool:
    # Two rules of one key are an error to the linter (MA304), and would drown everything else.
    sources = [source["path"] for source in rule.get("fromSource", [{"path": ""}])]
    name = next(iter(rule.values()))
    keys = {(section, name, source) for source in sources}
    if keys & used:
        return False
    used |= keys
    return True


def _operation(rng: random.Random) -> Operation:
    kind = rng.choice(_KINDS)
    source = rng.choice(_CALLERS)
    parent = source if rng.random() < 0.8 else rng.choice(_CALLERS)
    if kind == "network":
        _, _, socket_type, protocol = rng.choice(_SOCKETS)
        return Operation(
            kind, source=source, parent=parent, socket_type=socket_type, protocol=protocol
        )
    if kind == "capability":
        name = rng.choice(tuple(_CAPABILITIES))
        return Operation(kind, source=source, parent=parent, capability=name)
    owner = rng.random() < 0.5
    return Operation(
        kind,  # type: ignore[arg-type]
        path=rng.choice(_FILES),
        source=source,
        parent=parent,
        owner=owner,
    )


class Enforcer:
    """KubeArmor's code, running as two programs."""

    def __init__(self, convert: subprocess.Popen[str], decide: subprocess.Popen[str]) -> None:
        self._convert, self._decide = convert, decide

    def answers(self, asked: Case) -> Answers:
        """What KubeArmor makes of a case.

        Raises:
            ValueError: KubeArmor does not take a policy.
        """
        posture = asked.posture
        question = {
            "policies": asked.documents,
            "posture": {
                "file": posture.file,
                "network": posture.network,
                "capabilities": posture.capabilities,
            },
        }
        reply = json.loads(_exchange(self._convert, json.dumps(question), starting="{"))
        if reply["error"]:
            raise ValueError(f"KubeArmor does not take {asked.documents}: {reply['error']}")
        _write(self._decide, "R")
        for path, source, process, file in reply["rows"]:
            _write(self._decide, f"K {_shortened(path)} {_shortened(source)} {process} {file}")
        refused = tuple(self._refuses(operation) for operation in asked.operations)
        return Answers(len(reply["rows"]), refused)

    def _refuses(self, op: Operation) -> bool:
        who = f"{op.source} {op.parent} {0 if not op.owner else 1000}"
        if op.kind == "network":
            type_, protocol = _NUMBERS[op.socket_type, op.protocol]
            lines = [f"O net /x {who} {type_} {protocol}"]
        elif op.kind == "capability":
            lines = [f"O cap /x {who} {_CAPABILITIES[op.capability]} 0"]
        else:
            lines = [f"O {hook} {op.path} {who} 0 0" for hook in _HOOKS[op.kind]]
        return any(int(_exchange(self._decide, line).split()[0]) < 0 for line in lines)


def _shortened(text: str) -> str:
    """Hexadecimal without the zeros that fill it up."""
    return bytes.fromhex(text).rstrip(b"\0").hex() or "-"


def _write(program: subprocess.Popen[str], line: str) -> None:
    stream: IO[str] | None = program.stdin
    assert stream is not None
    stream.write(line + "\n")
    stream.flush()


def _exchange(program: subprocess.Popen[str], line: str, starting: str = "") -> str:
    _write(program, line)
    assert program.stdout is not None
    for reply in program.stdout:
        if reply.startswith(starting):
            return reply
    raise EOFError(f"{program.args!r} ended at {line[:200]}")


@contextmanager
def enforcer(directory: Path) -> Iterator[Enforcer]:
    """KubeArmor's code from ``kadump`` and ``kadecide`` in ``directory``."""
    with ExitStack() as stack:
        programs = [
            stack.enter_context(
                subprocess.Popen(
                    [directory / name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
            for name in ("kadump", "kadecide")
        ]
        for program in programs:
            stack.callback(program.kill)
        yield Enforcer(*programs)


def differences(asked: Case, answers: Answers) -> list[Difference]:
    """Where KubeArmor and `decide` differ, each with what the linter says to it."""
    table = Table(asked.policies, asked.posture)
    return [
        Difference(op, refused, _reason(asked, table, op, refused))
        for op, refused in zip(asked.operations, answers.refused, strict=True)
        if refused != (table.decide(op).verdict == "block")
    ]


def _reason(asked: Case, table: Table, op: Operation, refused: bool) -> str:
    """The linter's check that a difference falls under: only by a rule that matches ``op``."""
    opening = replace(op, kind="read") if op.path else op
    if op.kind == "exec" and refused:
        if table.decide(opening).verdict == "block":
            return "MA316"
        if op.path == op.source:
            return "own executable"
    seen_as = (op, opening, replace(op, source=op.parent)) if op.kind == "exec" else (op,)
    matched = list(chain.from_iterable(map(table.matches, seen_as)))
    places = {(policy.name, rule.where) for policy, rule in matched}
    told = lint(asked.policies, posture=asked.posture, enforcer=BPF_LSM)
    if op.kind == "network" and (op.socket_type, op.protocol) == ("seqpacket", "0"):
        return "seqpacket is sctp"
    for check in ("MA304", "MA306", "MA415"):
        if any(item.rule == check and (item.policy, item.where) in places for item in told):
            return check
    rules = [rule for _, rule in matched]
    if any(_is_path(rule) and rule.owner_only for rule in rules):
        return "MA311"
    if any(_is_path(rule) and rule.read_only for rule in rules):
        return "MA312"
    by_source = any(_is_path(rule) and rule.from_source for rule in rules)
    return "MA210" if op.kind == "exec" and op.source != op.parent and by_source else ""


def _is_path(rule: Rule) -> TypeGuard[PathRule]:
    return isinstance(rule, PathRule)


def recorded() -> dict[int, tuple[str, Answers]]:
    """By seed the case's digest and the answers that were recorded."""
    cases = json.loads(RECORDED.read_text())["cases"]
    return {
        int(seed): (digest, Answers(entries, tuple(mark == "1" for mark in refused)))
        for seed, (digest, entries, refused) in cases.items()
    }


def main(arguments: list[str]) -> int:
    directory, write = Path(arguments[0]), "--write" in arguments
    reasons: Counter[str] = Counter()
    cases: dict[str, tuple[str, int, str]] = {}
    asked = 0
    with enforcer(directory) as real:
        for seed in SEEDS:
            drawn = case(seed)
            answers = real.answers(drawn)
            asked += len(answers.refused)
            found = differences(drawn, answers)
            reasons.update(difference.reason for difference in found)
            for difference in found:
                if not difference.reason:
                    print("not explained: seed", seed, difference, drawn.documents)
            marks = "".join("1" if refused else "0" for refused in answers.refused)
            cases[str(seed)] = (drawn.digest, answers.entries, marks)
    print(f"{asked} operations on {len(SEEDS)} cases; differences: {dict(reasons)}")
    if write:
        rows = ",\n".join(f"{json.dumps(seed)}: {json.dumps(row)}" for seed, row in cases.items())
        RECORDED.write_text(f'{{"commit": "{COMMIT}", "cases": {{\n{rows}\n}}}}\n')
    return 1 if reasons[""] else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
