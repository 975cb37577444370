"""``python -m tests.conformance.enforcer DIRECTORY [--write]``: `decide` against KubeArmor's code.

The policies and operations are `tests.conformance.drawn`'s. What KubeArmor makes of them is asked
of two programs in DIRECTORY that hold its own code (see ``docs/kubearmor.md``):

* ``kadump`` turns policies into the rows of a container's map, as its daemon does (Go);
* ``kadecide`` answers operations by such rows, as its BPF-LSM programs do (C).

``--write`` records the answers in ``enforcer.json``, by which the tests go on without the programs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final, TypeGuard

from modelarmor.policy.capabilities import CAPABILITIES
from modelarmor.policy.decide import Operation, Table, baseline_allows
from modelarmor.policy.lint import lint
from modelarmor.policy.lint.finding import BPF_LSM, Finding
from modelarmor.policy.model import PathRule, Rule

from . import drawn
from .drawn import Case

RECORDED: Final = Path(__file__).with_name("enforcer.json")
#: KubeArmor's commit, of which the answers are
COMMIT: Final = "510cee310a164dd1bf34705984ecefc423d0de4f"
#: which of KubeArmor's hooks an operation meets
_HOOKS: Final[dict[str, tuple[str, ...]]] = {
    "read": ("open",), "write": ("open", "write"), "delete": ("delete",), "metadata": ("chmod",),
    "create": ("create", "open"), "exec": ("open", "exec"), "list": ("open",),
}  # fmt: skip
PARSER: Final = "apparmor_parser"
#: the kernel's numbers
_TYPES: Final = {
    "stream": 1, "dgram": 2, "raw": 3, "rdm": 4, "seqpacket": 5, "dccp": 6, "packet": 10,
}  # fmt: skip
_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "sctp": 132, "mptcp": 262}
#: checks that explain by a finding on a rule which matches, or has the key of one
_BY_PLACE: Final = (
    "MA304", "MA306", "MA310", "MA318", "MA319", "MA109", "MA415", "MA416", "MA104",
)  # fmt: skip


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


class Enforcer:
    """KubeArmor's code, running as two programs."""

    def __init__(self, convert: subprocess.Popen[str], decide: subprocess.Popen[str]) -> None:
        self._convert, self._decide = convert, decide

    def answers(self, asked: Case) -> Answers:
        """What KubeArmor makes of a case.

        Raises:
            ValueError: KubeArmor does not take a policy.
        """
        reply = self._converted(asked)
        _write(self._decide, "R")
        for path, source, process, file in reply["rows"]:
            _write(self._decide, f"K {_shortened(path)} {_shortened(source)} {process} {file}")
        for words in reply["arguments"]:
            _write(self._decide, f"V {' '.join(map(_shortened, words))}")
        refused = tuple(self._refuses(operation) for operation in asked.operations)
        return Answers(len(reply["rows"]), refused)

    def apparmor(self, asked: Case) -> str:
        """The profile that KubeArmor would load where AppArmor enforces.

        Raises:
            ValueError: KubeArmor does not take a policy.
        """
        return str(self._converted(asked)["apparmor"])

    def _converted(self, asked: Case) -> dict[str, Any]:
        posture = asked.posture
        question = {
            "policies": asked.documents,
            "posture": {
                "file": posture.file,
                "network": posture.network,
                "capabilities": posture.capabilities,
            },
        }
        reply: dict[str, Any] = json.loads(
            _exchange(self._convert, json.dumps(question), starting="{")
        )
        if reply["error"]:
            raise ValueError(f"KubeArmor does not take {asked.documents}: {reply['error']}")
        return reply

    def _refuses(self, op: Operation) -> bool:
        who = f"{op.source} {op.parent} {0 if not op.owner else 1000}"
        end = f"{int(op.tty)}"
        if op.dns:
            lines = [f"O dns {op.dns} {who} 0 0 {end}"]
        elif op.kind == "network":
            protocol = _PROTOCOLS.get(op.protocol, op.protocol)
            lines = [f"O net /x {who} {_TYPES[op.socket_type]} {protocol} {end}"]
        elif op.kind == "capability":
            lines = [f"O cap /x {who} {CAPABILITIES.index(op.capability)} 0 {end}"]
        else:
            words = " ".join(word.encode().hex() or "-" for word in (op.path, *op.args))
            lines = [f"O {hook} {op.path} {who} 0 0 {end} {words}" for hook in _HOOKS[op.kind]]
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


def refused_by_apparmor(profile: str) -> str:
    """What AppArmor's parser says against a profile; nothing is loaded."""
    done = subprocess.run(
        [PARSER, "--skip-kernel-load", "--skip-cache"],
        input=profile, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stderr if done.returncode else ""


def differences(asked: Case, answers: Answers) -> list[Difference]:
    """Where KubeArmor and `decide` differ, each with what the linter says to it."""
    table = Table(asked.policies, asked.posture)
    told = lint(asked.policies, posture=asked.posture, enforcer=BPF_LSM)
    return [
        Difference(op, refused, _reason(asked, table, told, op, refused))
        for op, refused in zip(asked.operations, answers.refused, strict=True)
        if refused != (table.decide(op).verdict == "block")
    ]


def _reason(
    asked: Case, table: Table, told: Sequence[Finding], op: Operation, refused: bool
) -> str:
    """The linter's check that a difference falls under: only by a rule that matches ``op``."""
    if op.dns and _oddly_named(op.dns) and any(item.rule == "MA405" for item in told):
        return "MA405"
    opening = replace(op, kind="read") if op.path else op
    if refused and (reason := _of_the_posture(table, op, opening, told)):
        return reason
    # A rule with `pts: false` does not match who has no terminal, and BPF-LSM takes it to.
    terminal = replace(op, tty=True)
    seen_as = [terminal, replace(terminal, kind=opening.kind)]
    if op.kind == "exec":
        seen_as.append(replace(terminal, source=op.parent))
    if (op.socket_type, op.protocol) == ("seqpacket", "0"):
        seen_as.append(replace(terminal, protocol="sctp"))
    matched = list(chain.from_iterable(map(table.matches, seen_as)))
    return (
        _of_a_finding(asked, [rule for _, rule in matched], told)
        or _of_a_qualifier([rule for _, rule in matched])
        or ("MA104" if _only_patterns_allow(asked, op.kind) else "")
        or ("MA210" if _is_for_the_parent(op, [rule for _, rule in matched]) else "")
    )


def _oddly_named(name: str) -> bool:
    odd = name != name.lower() or len(name) > 63 or name.count(".") > 9
    return odd or name.endswith(drawn.CLUSTER_SUFFIX)


def _of_the_posture(
    table: Table, op: Operation, opening: Operation, told: Sequence[Finding]
) -> str:
    """What is refused here by no rule, because KubeArmor's posture has no exemptions."""
    if baseline_allows(opening):
        return "baseline"
    if op.kind == "exec" and table.decide(opening).verdict == "block":
        return "MA316"
    if op.kind == "exec" and op.path == op.source:
        known = any(f"{op.path} runs" in item.message for item in told if item.rule == "MA320")
        return "MA320" if known else "own executable"
    return ""


def _of_a_finding(asked: Case, matched: Sequence[Rule], told: Sequence[Finding]) -> str:
    """A check with a finding on one of the rules, or on one that has the key of one."""
    keys = {(_key(rule), source) for rule in matched for source in _sources(rule)}
    places = {
        (policy.name, rule.where)
        for policy in asked.policies
        for rule in (*policy.process, *policy.file, *policy.network, *policy.capabilities)
        if any((_key(rule), source) in keys for source in _sources(rule))
    }
    found = {item.rule for item in told if (item.policy, item.where) in places}
    return next((check for check in _BY_PLACE if check in found), "")


def _of_a_qualifier(matched: Sequence[Rule]) -> str:
    if any(_is_path(rule) and rule.owner_only for rule in matched):
        return "MA311"
    return "MA312" if any(_is_path(rule) and rule.read_only for rule in matched) else ""


def _is_for_the_parent(op: Operation, matched: Sequence[Rule]) -> bool:
    by_source = any(_is_path(rule) and rule.from_source for rule in matched)
    return op.kind == "exec" and op.source != op.parent and by_source


def _key(rule: Rule) -> tuple[str, str]:
    """The section of a rule, and what it names; a directory is written as a path, too."""
    named = (getattr(rule, name, "") for name in ("value", "protocol", "domain", "capability"))
    return rule.where.split(".")[1], next(filter(None, named), "").rstrip("/")


def _sources(rule: Rule) -> tuple[str, ...]:
    return getattr(rule, "from_source", ()) or ("",)


def _only_patterns_allow(asked: Case, kind: str) -> bool:
    """Whether the posture comes of patterns alone: BPF-LSM then has none."""
    allows = [
        rule.match
        for policy in asked.policies
        for rule in (policy.process if kind == "exec" else policy.file)
        if rule.outcome.action == "Allow"
    ]
    return bool(allows) and set(allows) == {"pattern"}


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
    seeds = list(chain.from_iterable(drawn.GROUPS.values()))
    with enforcer(directory) as real:
        for seed in seeds:
            case = drawn.case(seed)
            answers = real.answers(case)
            asked += len(answers.refused)
            found = differences(case, answers)
            reasons.update(difference.reason for difference in found)
            for difference in found:
                if not difference.reason:
                    print("not explained: seed", seed, difference, case.documents)
            marks = "".join("1" if refused else "0" for refused in answers.refused)
            cases[str(seed)] = (case.digest, answers.entries, marks)
    print(f"{asked} operations on {len(seeds)} cases; differences: {dict(reasons)}")
    if write:
        rows = ",\n".join(f"{json.dumps(seed)}: {json.dumps(row)}" for seed, row in cases.items())
        RECORDED.write_text(f'{{"commit": "{COMMIT}", "cases": {{\n{rows}\n}}}}\n')
    return 1 if reasons[""] else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
