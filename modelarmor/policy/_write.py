"""Policies written as YAML: the inverse of ``_schema``, with what rules share written once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import yaml

from .model import (
    API_VERSION,
    CapabilityRule,
    DeviceRule,
    DnsRule,
    Outcome,
    PathRule,
    Policy,
    ProtocolRule,
    Rule,
    Selector,
    SyscallRule,
)

_PATH_LISTS = {
    "path": ("matchPaths", "path"),
    "execname": ("matchPaths", "execname"),
    "directory": ("matchDirectories", "dir"),
    "pattern": ("matchPatterns", "pattern"),
}
#: the sections, with their lists in the order in which they are read and written
_SECTIONS = {
    "process": ("matchPaths", "matchDirectories", "matchPatterns"),
    "file": ("matchPaths", "matchDirectories", "matchPatterns"),
    "network": ("matchProtocols", "matchDNSQueries"),
    "capabilities": ("matchCapabilities",),
    "syscalls": ("matchSyscalls", "matchPaths"),
    "device": ("matchDevice",),
}
_OUTCOME = ("severity", "tags", "message", "action")


def text(policies: Sequence[Policy]) -> str:
    """The policies as a stream of YAML documents; whether they can be read back is not checked."""
    written: str = yaml.dump_all(
        [_document(policy) for policy in policies],
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        explicit_start=len(policies) > 1,
        width=100,
    )
    return written


def grouped(policy: Policy) -> Policy:
    """The policy with the rules of each section in the order in which a document lists them."""
    sections: dict[str, Any] = {}
    for section, lists in _SECTIONS.items():
        rules: tuple[Rule, ...] = getattr(policy, section)
        sections[section] = tuple(sorted(rules, key=lambda r, of=lists: of.index(_list_of(r))))  # type: ignore[misc]
    return replace(policy, **sections)


def _document(policy: Policy) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": policy.name}
    if policy.namespace:
        metadata["namespace"] = policy.namespace
    if policy.labels:
        metadata["labels"] = dict(policy.labels)
    if policy.annotations:
        metadata["annotations"] = dict(policy.annotations)
    spec = _says(policy.outcome, Outcome("Block"))
    spec["action"] = policy.outcome.action
    selector = _selector(policy.selector)
    if policy.kind == "KubeArmorHostPolicy":
        spec["nodeSelector"] = selector
    elif selector:
        spec["selector"] = selector
    for section in _SECTIONS:
        if rules := getattr(policy, section):
            spec[section] = _section(rules, policy.outcome)
    if policy.presets:
        spec["presets"] = [
            {"name": rule.name, "action": rule.outcome.action} for rule in policy.presets
        ]
    if policy.apparmor:
        spec["apparmor"] = policy.apparmor
    return {"apiVersion": API_VERSION, "kind": policy.kind, "metadata": metadata, "spec": spec}


def _selector(selector: Selector) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if selector.match_labels:
        found["matchLabels"] = dict(selector.match_labels)
    if selector.match_expressions:
        found["matchExpressions"] = [
            {"key": e.key, "operator": e.operator, "values": list(e.values)}
            for e in selector.match_expressions
        ]
    return found


def _section(rules: Sequence[Rule], above: Outcome) -> dict[str, Any]:
    if isinstance(rules[0], SyscallRule):
        # Neither section nor rule has an action: KubeArmor audits system calls.
        above = replace(above, action="Audit")
    shared = rules[0].outcome
    for name in _OUTCOME:
        if any(getattr(rule.outcome, name) != getattr(shared, name) for rule in rules):
            shared = replace(shared, **{name: getattr(above, name)})
    section = _says(shared, above)
    for rule in rules:
        own = {} if isinstance(rule, SyscallRule) else _says(rule.outcome, shared)
        section.setdefault(_list_of(rule), []).append(_entry(rule) | own)
    return section


def _says(outcome: Outcome, above: Outcome) -> dict[str, Any]:
    """The fields in which an outcome differs from the one that it would inherit."""
    return {
        name: list(value) if name == "tags" else value
        for name in _OUTCOME
        if (value := getattr(outcome, name)) and value != getattr(above, name)
    }


def _list_of(rule: Rule) -> str:
    match rule:
        case PathRule():
            return _PATH_LISTS[rule.match][0]
        case ProtocolRule():
            return "matchProtocols"
        case DnsRule():
            return "matchDNSQueries"
        case CapabilityRule():
            return "matchCapabilities"
        case SyscallRule():
            return "matchPaths" if rule.path else "matchSyscalls"
        case _:
            return "matchDevice"


def _entry(rule: Rule) -> dict[str, Any]:
    entry: dict[str, Any]
    match rule:
        case PathRule():
            entry = {_PATH_LISTS[rule.match][1]: rule.value, "allowedArgs": list(rule.allowed_args)}
            entry |= {"recursive": rule.recursive, "ownerOnly": rule.owner_only}
            entry |= {"readOnly": rule.read_only}
        case ProtocolRule():
            entry = {"protocol": rule.protocol}
        case DnsRule():
            entry = {"domain": rule.domain}
        case CapabilityRule():
            entry = {"capability": rule.capability}
        case SyscallRule():
            sources = [
                {"path": s.path} if s.path else _present({"dir": s.dir, "recursive": s.recursive})
                for s in rule.from_source
            ]
            return _present(
                {"path": rule.path, "recursive": rule.recursive}
                | {"syscall": list(rule.syscalls), "fromSource": sources}
            )
        case DeviceRule():
            entry = {"class": rule.device_class, "subClass": rule.sub_class}
            entry |= {"protocol": rule.protocol, "level": rule.level}
            return {name: value for name, value in entry.items() if value is not None}
        case _:
            raise TypeError(f"{type(rule).__name__} is no rule that a document can hold")
    written = _present(entry)
    if isinstance(rule, PathRule | ProtocolRule) and not rule.pts:
        written["pts"] = False
    return written | _present({"fromSource": [{"path": path} for path in rule.from_source]})


def _present(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if value}


class _Dumper(yaml.SafeDumper):
    """PyYAML's, but what any reader might take for a number or a boolean is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)


_Dumper.add_representer(str, _string)
_quoted: Callable[..., None] = _Dumper.add_implicit_resolver
_quoted("tag:yaml.org,2002:bool", re.compile("[yYnN]$"), list("yYnN"))
_quoted("tag:yaml.org,2002:float", re.compile(r"[-+.]?[0-9.]\S*$"), list("-+.0123456789"))
_quoted("tag:yaml.org,2002:float", re.compile(r"[-+]?\.(inf|nan)$", re.I), list("-+."))
