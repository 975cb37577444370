"""``modelarmor lint`` and ``modelarmor explain``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from modelarmor import __version__
from modelarmor.policy import document
from modelarmor.policy import lint as linter
from modelarmor.policy.decide import Decision, Operation, OperationKind, Table
from modelarmor.policy.document import Problem
from modelarmor.policy.model import PathRule, Place, Policy, Posture, Rule

_ENFORCERS: Final[dict[str, linter.Enforcer | None]] = {
    "all": None, "bpf-lsm": "BPF-LSM", "apparmor": "AppArmor", "sandbox": "sandbox",
}  # fmt: skip
_PATH_QUESTIONS: Final[tuple[OperationKind, ...]] = ("read", "write", "exec", "delete")
#: what --connect takes: socket type and protocol
_PROTOCOLS: Final = {
    "tcp": ("stream", "tcp"), "udp": ("dgram", "udp"), "icmp": ("raw", "icmp"),
    "icmpv6": ("raw", "icmpv6"), "sctp": ("seqpacket", "sctp"), "raw": ("raw", "raw"),
    "dccp": ("dccp", "dccp"), "packet": ("packet", ""), "stream": ("stream", ""),
    "dgram": ("dgram", ""), "rdm": ("rdm", ""), "seqpacket": ("seqpacket", ""),
}  # fmt: skip
_MAX_PORT: Final = 65535

_LINT_EXAMPLES: Final = """\
examples:
  modelarmor lint policy.yaml                     every pitfall, with line and cure
  modelarmor lint --enforcer bpf-lsm policies/    only what matters on BPF-LSM nodes
  modelarmor lint --posture block policy.yaml     for a namespace whose posture is block
  modelarmor lint --format sarif policy.yaml > lint.sarif
                                                  for code scanning

Exit status: 0 clean (notes do not count), 1 with errors, or with warnings under --strict,
2 if a file cannot be read.
"""
_EXPLAIN_EXAMPLES: Final = """\
examples:
  modelarmor explain policy.yaml --read /etc/shadow
  modelarmor explain policy.yaml --exec /usr/bin/curl --from /usr/bin/python3.11
  modelarmor explain a.yaml b.yaml --write /etc/hosts --not-owner
  modelarmor explain policy.yaml --connect tcp
  modelarmor explain policy.yaml --connect pypi.org:443

Paths are taken as resolved, as a rule sees them: /usr/bin/python3.11, not the link python3.
Exit status: 0 allowed, 1 blocked, 2 for a mistake in the command line or a file.
"""


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``lint`` and ``explain``; each sets ``run``, which takes the parsed arguments."""
    _add_lint(subparsers)
    _add_explain(subparsers)


def _add_lint(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "lint",
        help="find what in a policy does not mean what it seems to",
        description="Find what in KubeArmor policies is dropped, shadowed or misunderstood without"
        " a word by the enforcer. Every finding has a line, the enforcers that it concerns and a"
        " cure.",
        epilog=_LINT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a YAML file or a directory")
    parser.add_argument("--format", choices=("text", "json", "sarif"), default="text")
    parser.add_argument(
        "--enforcer", choices=tuple(_ENFORCERS), default="all",
        help="only what matters on this enforcer (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--posture", choices=("block", "audit"),
        help="the default posture of the namespace (default: not known)",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="exit 1 on warnings too")
    parser.set_defaults(run=_lint)


def _lint(arguments: argparse.Namespace) -> int:
    from modelarmor import profiles

    files = _files(arguments.files)
    for file in files:
        if not os.access(file, os.R_OK):  # which is no mistake in a document
            raise ValueError(f"{file} cannot be read: it is not there, or not yours to read")
    policies, problems = profiles.read(files)
    findings = linter.lint(
        policies,
        problems=problems,
        posture=Posture.all(arguments.posture) if arguments.posture else None,
        enforcer=_ENFORCERS[arguments.enforcer],
    )
    if arguments.format == "json":
        text = linter.as_json(findings)
    elif arguments.format == "sarif":
        text = linter.as_sarif(findings, linter.CHECKS, version=__version__)
    else:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        text = linter.as_text(findings, colour=colour)
    sys.stdout.write(text)
    counted = {"error", "warning"} if arguments.strict else {"error"}
    return int(any(finding.severity in counted for finding in findings))


def _files(names: list[str]) -> list[Path]:
    empty: list[Problem] = []
    files = list(document.files(names, empty))
    if empty:
        raise ValueError("; ".join(map(str, empty)))
    return files


def _add_explain(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "explain",
        help="say what policies decide on one operation, and why",
        description="Say what policies decide on one operation: the verdict, the rule and its"
        " line, and which weaker rules match too.",
        epilog=_EXPLAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("policies", nargs="+", metavar="POLICY", help="a YAML file or a directory")
    question = parser.add_mutually_exclusive_group(required=True)
    for kind in _PATH_QUESTIONS:
        question.add_argument(f"--{kind}", metavar="PATH", help=f"may PATH be {_participle(kind)}?")
    question.add_argument(
        "--connect", metavar="PROTOCOL|HOST:PORT",
        help="may a socket of PROTOCOL be made? HOST:PORT asks for tcp",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="source", default="", metavar="EXE", help="the caller's executable"
    )
    parser.add_argument(
        "--parent", default="", metavar="EXE", help="its parent's (default: the same)"
    )
    parser.add_argument("--posture", choices=("block", "audit"), default="block")
    owner = parser.add_mutually_exclusive_group()
    owner.add_argument(
        "--owner", action="store_true", default=True, help="the caller owns the file (default)"
    )
    owner.add_argument("--not-owner", dest="owner", action="store_false")
    parser.add_argument("--tty", action="store_true", help="the caller has a terminal")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.set_defaults(run=_explain)


def _participle(kind: str) -> str:
    return {"read": "read", "write": "written", "exec": "executed", "delete": "deleted"}[kind]


def _explain(arguments: argparse.Namespace) -> int:
    from modelarmor import profiles

    operation, note = _operation(arguments)
    policies, problems = profiles.read(arguments.policies)
    if problems:
        raise document.PolicyError(problems)
    table = Table(policies, Posture.all(arguments.posture))
    decision = table.decide(operation)
    weaker = [
        (policy, rule)
        for policy, rule in table.matches(operation)
        if rule is not decision.rule and not (decision.audit and rule is decision.audit[1])
    ]
    if arguments.format == "json":
        print(json.dumps(_as_data(operation, decision, weaker, note), indent=2))
    else:
        print(_as_text(operation, decision, weaker, note))
    return int(decision.verdict == "block")


def _operation(arguments: argparse.Namespace) -> tuple[Operation, str]:
    """What is asked, and what has to be said about the question itself.

    Raises:
        ValueError: a path is not absolute, or what to connect to is not understood.
    """
    for option, path in (("--from", arguments.source), ("--parent", arguments.parent)):
        if path and not path.startswith("/"):
            raise ValueError(f"{option} {path}: an executable is named by its absolute path")
    common: dict[str, Any] = {
        "source": arguments.source,
        "parent": arguments.parent or arguments.source,
        "tty": arguments.tty,
    }
    if arguments.connect is not None:
        return _connection(arguments.connect, common)
    kind = next(kind for kind in _PATH_QUESTIONS if getattr(arguments, kind) is not None)
    written: str = getattr(arguments, kind)
    if not written.startswith("/") or "\0" in written:
        raise ValueError(f"--{kind} {written}: give the absolute path that the kernel would see")
    path = os.path.normpath("/" + written.lstrip("/"))
    resolved = os.path.realpath(path)
    note = ""
    if resolved != path:
        note = f"on this machine {path} is {resolved}: ask for that to see what happens here"
    return Operation(kind, path, owner=arguments.owner, **common), note


def _connection(target: str, common: dict[str, Any]) -> tuple[Operation, str]:
    protocol, note = target.lower(), ""
    host, colon, port = target.rpartition(":")
    if colon:
        if not host or not (port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
            raise ValueError(f"--connect {target}: expected HOST:PORT or a protocol such as tcp")
        protocol = "tcp"
        note = (
            "a KubeArmorPolicy decides on the protocol only;"
            f" whether {target} may be reached is said in a NetworkPolicy"
        )
    if protocol not in _PROTOCOLS:
        known = ", ".join(_PROTOCOLS)
        raise ValueError(f"--connect {target}: give HOST:PORT, or a protocol, one of {known}")
    socket_type, number = _PROTOCOLS[protocol]
    operation = Operation("network", socket_type=socket_type, protocol=number, **common)
    return operation, note


def _as_data(
    operation: Operation, decision: Decision, weaker: list[tuple[Policy, Rule]], note: str
) -> dict[str, Any]:
    deciding = decision.rule and decision.policy and (decision.policy, decision.rule)
    return {
        "operation": operation.kind,
        "what": operation.path or operation.protocol or operation.socket_type,
        "from": operation.source,
        "verdict": decision.verdict,
        "policy": decision.policy_name,
        "posture": decision.posture,
        "rule": _rule_data(*deciding) if deciding else None,
        "audit": _rule_data(*decision.audit) if decision.audit else None,
        "why": decision.why,
        "weaker": [_rule_data(policy, rule) for policy, rule in weaker],
        "note": note,
    }


def _rule_data(policy: Policy, rule: Rule) -> dict[str, Any]:
    return {
        "policy": policy.name,
        "action": rule.outcome.action,
        "where": rule.where,
        "file": rule.place.file,
        "line": rule.place.line,
        "matches": _subject(rule),
        "severity": rule.outcome.severity,
        "message": rule.outcome.message,
    }


def _subject(rule: Rule) -> str:
    """What a rule names, in words."""
    if isinstance(rule, PathRule):
        qualifiers = [
            word
            for word, said in (
                ("recursive", rule.recursive), ("ownerOnly", rule.owner_only),
                ("readOnly", rule.read_only), ("pts: false", not rule.pts),
                ("allowedArgs", bool(rule.allowed_args)),
            )
            if said
        ]  # fmt: skip
        words = [f"{rule.match} {rule.value}", *qualifiers]
    else:
        named = ("protocol", "domain", "capability", "name")
        words = [f"{name} {value}" for name in named if (value := getattr(rule, name, ""))]
    if sources := getattr(rule, "from_source", ()):
        words.append("from " + ", ".join(map(str, sources)))
    return ", ".join(words)


def _as_text(
    operation: Operation, decision: Decision, weaker: list[tuple[Policy, Rule]], note: str
) -> str:
    what = operation.path or f"{operation.socket_type} {operation.protocol}".strip()
    by = f" by {operation.source}" if operation.source else ""
    verdict = "allowed" if decision.verdict == "allow" else "blocked"
    lines = [f"{verdict}: {operation.kind} {what}{by}", f"  why: {decision.why}"]
    if decision.rule and decision.policy:
        lines.append(f"  rule: {_line(decision.policy, decision.rule)}")
    elif decision.posture:
        lines.append(f"  rule: none, reported as {decision.policy_name}")
    if decision.audit:
        lines.append(f"  audited by: {_line(*decision.audit)}")
    if weaker:
        lines.append("  weaker rules that match too:")
        lines += [f"    {_line(policy, rule)}" for policy, rule in weaker]
    if note:
        lines.append(f"  note: {note}")
    return "\n".join(lines)


def _line(policy: Policy, rule: Rule) -> str:
    place = rule.place if rule.place.line else Place()
    at = f"{place}: " if place.line else ""
    return f"{at}{rule.outcome.action} {_subject(rule)} ({policy.name}, {rule.where})"
