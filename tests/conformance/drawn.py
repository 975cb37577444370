"""Random policies, seeded, and random operations on them, for `tests.conformance.enforcer`.

Seeds are in groups (`GROUPS`), since rules of some kinds would drown what is to be seen of others.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from modelarmor.policy import document
from modelarmor.policy.decide import MAX_ARGUMENT_LENGTH, MAX_ARGUMENTS, Operation
from modelarmor.policy.model import Policy, Posture

#: which seeds draw what
GROUPS: Final = {
    "plain": range(400),
    #: several rules of one key
    "repeated": range(400, 500),
    #: terminals, names, arguments, patterns, domains
    "options": range(500, 660),
}
QUESTIONS: Final = 30

_PROGRAMS: Final = ("/usr/bin/cat", "/usr/bin/python3")
_CALLERS: Final = (*_PROGRAMS, "/bin/other")
_DIRECTORIES: Final = ("/a/", "/a/b/", "/a/b/c/", "/a/d/", "/e/", "/e/f/", "/usr/bin/")
_FILES: Final = (
    "/a/x", "/a/b/x", "/a/b/c/x", "/a/b/c/y", "/a/d/x", "/e/x", "/e/f/x", "/g/x", "/usr/bin/cat",
)  # fmt: skip
_NAMES: Final = ("x", "y", "cat")
_PATTERNS: Final = ("/a/**", "/a/*", "/e/**/x", "/usr/bin/c?t", "/g/[xy]")
_ARGUMENTS: Final = ("-c", "good", "L" * (MAX_ARGUMENT_LENGTH - 1))
_GIVEN: Final = (*_ARGUMENTS, "bad", "L" * MAX_ARGUMENT_LENGTH)
_DOMAINS: Final = ("example.com", "www.example.com", "com", "example.org", "registry")
CLUSTER_SUFFIX: Final = ".cluster.local"
_QUERIES: Final = (
    "example.com", "www.example.com", "a.www.example.com", "example.org", "other.net", "registry",
    "badexample.com", "WWW.Example.Com", f"example.com{CLUSTER_SUFFIX}",
    f"{'l' * 60}.example.com", f"{'n.' * 12}example.com",
)  # fmt: skip
_KINDS: Final = (
    "read", "write", "delete", "metadata", "create", "exec", "exec", "network", "capability",
)  # fmt: skip
_CAPABILITIES: Final = ("net_raw", "chown", "sys_admin")
_PROTOCOLS: Final = ("tcp", "udp", "icmp", "sctp", "raw", "stream", "dgram", "seqpacket", "all")
#: type and protocol, as `Operation` calls them
SOCKETS: Final = (
    ("stream", "0"), ("stream", "tcp"), ("dgram", "udp"), ("dgram", "0"), ("raw", "icmp"),
    ("dgram", "icmp"), ("seqpacket", "sctp"), ("seqpacket", "0"), ("stream", "sctp"),
    ("stream", "mptcp"),
)  # fmt: skip


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
            (op.kind, op.path, op.source, op.parent, op.owner, op.tty, op.args)
            if op.path
            else (op.kind, op.source, op.parent, op.socket_type, op.protocol, op.capability,
                  op.dns, op.tty)
            for op in self.operations
        ]  # fmt: skip
        whole = json.dumps([self.documents, self.posture.file, asked])
        return hashlib.sha256(whole.encode()).hexdigest()[:16]


def of_group(seed: int) -> str:
    """The group of a seed; beyond all of them it is ``plain``."""
    return next((name for name, seeds in GROUPS.items() if seed in seeds), "plain")


def case(seed: int) -> Case:
    """The case of a seed; every third has rules with ``ownerOnly`` and ``readOnly``."""
    rng = random.Random(seed)
    draw = _Draw(rng, qualified=seed % 3 == 0, group=of_group(seed))
    documents = [found for number in range(rng.randint(1, 2)) if (found := draw.policy(number))]
    posture = Posture.all(rng.choice(["block", "audit"]))
    return Case(
        documents,
        document.load(yaml.safe_dump_all(documents)),
        posture,
        tuple(draw.operation() for _ in range(QUESTIONS)),
    )


class _Draw:
    """What comes of one seed's numbers, in their order."""

    def __init__(self, rng: random.Random, *, qualified: bool, group: str) -> None:
        self._rng = rng
        self._qualified = qualified
        self._repeats = group == "repeated"
        self._options = group == "options"
        self._used: set[tuple[object, ...]] = set()

    def policy(self, number: int) -> dict[str, Any]:
        """A document; empty where no rule was drawn."""
        rng = self._rng
        spec: dict[str, Any] = {"selector": {"matchLabels": {"a": "b"}}}
        for section in ("process", "file"):
            drawn = (self._rule(section) for _ in range(rng.randint(0, 4)))
            rules = [rule for rule in drawn if rule]
            if rules:
                spec[section] = {**_by_list(rules), "action": rng.choice(["Allow", "Block"])}
        for section, name, key, values in (
            ("network", "matchProtocols", "protocol", _PROTOCOLS),
            ("capabilities", "matchCapabilities", "capability", _CAPABILITIES),
        ):
            if found := self._flat(section, key, values):
                spec[section] = {name: found}
        if self._options and (found := self._flat("dns", "domain", _DOMAINS)):
            spec.setdefault("network", {})["matchDNSQueries"] = found
        if len(spec) == 1:
            return {}
        return {
            "apiVersion": "security.kubearmor.com/v1",
            "kind": "KubeArmorPolicy",
            "metadata": {"name": f"p{number}", "namespace": "d"},
            "spec": spec,
        }

    def _flat(self, section: str, key: str, values: Sequence[str]) -> list[dict[str, Any]]:
        rng = self._rng
        found: list[dict[str, Any]] = []
        for _ in range(rng.randint(0, 4 if self._repeats else 2)):
            rule: dict[str, Any] = {key: rng.choice(values)}
            if rng.random() < 0.4:
                rule["fromSource"] = [{"path": _PROGRAMS[0]}]
            if self._options and key == "protocol" and rng.random() < 0.3:
                rule["pts"] = False
            if self._new(section, rule):
                found.append({**rule, "action": rng.choice(["Allow", "Block"])})
        return found

    def _rule(self, section: str) -> dict[str, Any]:
        rng = self._rng
        rule: dict[str, Any]
        if rng.random() < 0.5:
            rule = {"path": rng.choice(_FILES)}
        else:
            rule = {"dir": rng.choice(_DIRECTORIES), "recursive": rng.random() < 0.6}
        if self._options and rng.random() < 0.4:
            rule = {"pattern": rng.choice(_PATTERNS)}
            if section == "process" and rng.random() < 0.6:
                rule = {"execname": rng.choice(_NAMES)}
        if "pattern" not in rule and rng.random() < 0.35:
            count = rng.choice([1, 1, 2])
            rule["fromSource"] = [{"path": path} for path in rng.sample(_PROGRAMS, count)]
        if self._qualified and rng.random() < 0.3:
            rule["ownerOnly"] = True
        if self._qualified and section == "file" and rng.random() < 0.3:
            rule["readOnly"] = True
        if self._options and "pattern" not in rule and rng.random() < 0.25:
            rule["pts"] = False
        takes_arguments = section == "process" and ("path" in rule or "execname" in rule)
        if self._options and takes_arguments and rng.random() < 0.4:
            rule["allowedArgs"] = rng.sample(_ARGUMENTS, rng.randint(1, 3))
        return rule if self._new(section, rule) else {}

    def _new(self, section: str, rule: dict[str, Any]) -> bool:
        # Two rules of one key are an error to the linter (MA304), and would drown everything else.
        sources = [source["path"] for source in rule.get("fromSource", [{"path": ""}])]
        name = next(iter(rule.values()))
        keys = {(section, name, source) for source in sources}
        if keys & self._used and not self._repeats:
            return False
        self._used |= keys
        return True

    def operation(self) -> Operation:
        rng = self._rng
        kind = rng.choice((*_KINDS, "dns", "exec") if self._options else _KINDS)
        source = rng.choice(_CALLERS)
        parent = source if rng.random() < 0.8 else rng.choice(_CALLERS)
        who: dict[str, Any] = {"source": source, "parent": parent}
        if self._options:
            who["tty"] = rng.random() < 0.5
        if kind == "dns":
            return Operation(
                "network", **who, socket_type="dgram", protocol="udp", dns=rng.choice(_QUERIES)
            )
        if kind == "network":
            socket_type, protocol = rng.choice(SOCKETS)
            return Operation(kind, **who, socket_type=socket_type, protocol=protocol)
        if kind == "capability":
            return Operation(kind, **who, capability=rng.choice(_CAPABILITIES))
        owner = rng.random() < 0.5
        path = rng.choice(_FILES)
        if self._options and kind == "exec":
            who["args"] = self._arguments()
        return Operation(kind, path=path, owner=owner, **who)  # type: ignore[arg-type]

    def _arguments(self) -> tuple[str, ...]:
        rng = self._rng
        if rng.random() < 0.1:
            return tuple("-c" for _ in range(MAX_ARGUMENTS + rng.randint(-1, 1)))
        given = _ARGUMENTS if rng.random() < 0.6 else _GIVEN
        return tuple(rng.choice(given) for _ in range(rng.randint(0, 3)))


def _by_list(rules: Sequence[dict[str, Any]]) -> dict[str, Any]:
    lists = {
        "matchPaths": [rule for rule in rules if "path" in rule or "execname" in rule],
        "matchDirectories": [rule for rule in rules if "dir" in rule],
        "matchPatterns": [rule for rule in rules if "pattern" in rule],
    }
    return {name: value for name, value in lists.items() if value}
