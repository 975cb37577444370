"""What the custom resource definitions of KubeArmor v1.7.4 permit, read into the model.

The forms follow ``pkg/KubeArmorController/config/crd`` and are a little stricter where a cluster
would take a value that can mean nothing: no control characters, no unknown preset, no protocol
with a prefix. Defaults and inheritance follow ``KubeArmor/core/kubeUpdate.go``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, cast

from ._fields import Fields, Form
from ._nodes import Node
from ._problems import Log, closest, shown, suggestion
from ._syscalls import SYSCALLS
from .capabilities import KNOWN_TO_KUBEARMOR
from .model import (
    API_VERSION,
    KINDS,
    PRESETS,
    PROTOCOLS,
    Action,
    CapabilityRule,
    DeviceRule,
    DnsRule,
    Expression,
    Kind,
    Outcome,
    PathRule,
    Policy,
    PresetRule,
    ProtocolRule,
    Selector,
    SyscallRule,
    SyscallSource,
)

_ACTIONS: tuple[Action, ...] = ("Allow", "Audit", "Block")
_LONGEST_PATH = 200
_MOST_ARGUMENTS = 20
_INT32 = 1 << 31


def _path_cure(value: str) -> str:
    if not value.startswith("/"):
        return "write an absolute path"
    if not value.strip("/"):
        return "matchDirectories with dir: / covers everything"
    return f"write {shown(value.rstrip('/'))}, or a directory under matchDirectories"


def _without_slash(value: str) -> str:
    return value.rstrip("/") if value.startswith("/") else ""


def _with_slash(value: str) -> str:
    return value + "/" if value.startswith("/") else ""


_PATH = Form(
    re.compile(r"/+.*[^/]"),
    "is not an absolute path without a slash at its end",
    _path_cure,
    _without_slash,
    _LONGEST_PATH,
)
_DIRECTORY = Form(
    re.compile(r"/|/.*/"),
    "is not an absolute directory with a slash at its end",
    lambda value: f"write {shown(_with_slash(value) or '/' + value.strip('/') + '/')}",
    _with_slash,
)
_ANYWHERE = Form(re.compile(r"/.*"), "is not an absolute path", lambda _: "start it with a slash")
_EXECNAME = Form(
    re.compile(r"[^/]+"),
    "is not a bare name",
    lambda value: f"write {shown(value.rstrip('/').rpartition('/')[2])}, or use path",
)
_PATTERN = Form(re.compile(r".+"), "is not a pattern", lambda _: "write a glob", longest=4096)
_PROTOCOL = Form(
    re.compile("|".join(name for known in PROTOCOLS for name in (known, known.upper()))),
    "is no protocol",
    lambda value: suggestion(value, PROTOCOLS),
    lambda value: value.lower() if value.lower() in PROTOCOLS else "",
)
_HOST_LABEL = r"[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?"
_DOMAIN = Form(
    re.compile(rf"{_HOST_LABEL}(\.{_HOST_LABEL})*\.?"),
    "is no domain name",
    lambda value: (
        f"write {shown(value[2:])}, which covers its subdomains"
        if value.startswith("*.")
        else "write a name such as example.com"
    ),
    lambda value: value.removeprefix("*."),
    254,
)
_CAPABILITY = Form(
    re.compile("|".join(KNOWN_TO_KUBEARMOR)),
    "is no capability that KubeArmor knows",
    lambda value: suggestion(value.lower().removeprefix("cap_"), KNOWN_TO_KUBEARMOR),
    lambda value: next(
        (n for n in KNOWN_TO_KUBEARMOR if n == value.lower().removeprefix("cap_")), ""
    ),
)
_SYSCALL = Form(
    re.compile("|".join(SYSCALLS)),
    "is no system call that KubeArmor knows",
    lambda value: closest(value, SYSCALLS) or "write the name of an x86-64 system call",
)
_PRESET = Form(
    re.compile("|".join(PRESETS)),
    "is no preset, and KubeArmor would ignore it",
    lambda value: suggestion(value, PRESETS),
)
# Kubernetes' own rules: RFC 1123 subdomain, label, qualified name, label value.
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_NAME = Form(
    re.compile(rf"{_LABEL}(\.{_LABEL})*"),
    "is not a name that Kubernetes takes",
    lambda _: "write lower case letters, digits, '-' and '.'",
    lambda value: value,
    253,
)
# Wider than Kubernetes' own rule: published policies have placeholders such as container_namespace,
# and only a cluster minds, which says so itself.
_NAMESPACE = Form(
    re.compile(_WORD),
    "is not a namespace",
    lambda _: "write lower case letters, digits and '-'",
    lambda value: value,
    63,
)
_KEY = Form(
    re.compile(rf"({_LABEL}(\.{_LABEL})*/)?{_WORD}"),
    "is not a key that Kubernetes takes",
    lambda _: "write one such as app or example.com/app",
    lambda value: value,
    317,
)
_LABEL_VALUE = Form(
    re.compile(_WORD),
    "is not a label's value that Kubernetes takes",
    lambda _: "write letters, digits, '-', '_' and '.'",
    lambda value: value,
    63,
)
_LABEL_KEYS: dict[str, tuple[str, ...]] = {
    "KubeArmorPolicy": ("label",),
    "KubeArmorClusterPolicy": ("namespace", "label"),
}


def policies(node: Node, log: Log) -> Iterator[Policy]:
    """The policies of one document: one, or as many as a ``List`` holds.

    Args:
        node: the document.
        log: takes the problems; a policy is yielded in spite of them if its kind is known.
    """
    value = node.value
    kind = value["kind"].value if isinstance(value, dict) and "kind" in value else None
    if kind == "List" or kind in [f"{known}List" for known in KINDS]:
        with Fields(node, "", log) as document:
            document.ignore("apiVersion", "kind", "metadata")
            for number, item in enumerate(document.nodes("items")):
                if policy := _policy(item, f"items[{number}]", log):
                    yield policy
    elif policy := _policy(node, "", log):
        yield policy


def _policy(node: Node, where: str, log: Log) -> Policy | None:
    with Fields(node, where, log) as document:
        document.ignore("status")
        version = document.text("apiVersion", required=True)
        kind = document.text("kind", required=True)
        if kind not in KINDS:
            if kind:
                document.problem("kind", f"{shown(kind)} is no policy", _kind_cure(kind))
            document.ignore("metadata", "spec", *document.names())
            return None
        if version and version != API_VERSION:
            document.problem("apiVersion", f"{shown(version)} is not known", f"write {API_VERSION}")
        with document.inner("metadata") as metadata:
            name = metadata.text("name", _NAME, required=True)
            namespace = metadata.text("namespace", _NAMESPACE)
            labels = metadata.pairs("labels", _KEY, _LABEL_VALUE)
            annotations = metadata.pairs("annotations", _KEY)
            # What a cluster adds to an object that it gives out.
            metadata.ignore(
                "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp",
                "finalizers", "generateName", "generation", "managedFields", "ownerReferences",
                "resourceVersion", "selfLink", "uid",
            )  # fmt: skip
        if not document.has("spec"):
            document.problem("spec", "is missing", "write what the policy applies to and says")
        with document.inner("spec") as spec:
            return Policy(
                kind=kind,
                name=name,
                namespace=namespace,
                labels=labels,
                annotations=annotations,
                place=node.place,
                source=node.plain() if isinstance(node.value, dict) else {},
                **_spec(spec, kind),
            )


def _kind_cure(kind: str) -> str:
    if kind == "KubeArmorNetworkPolicy":
        return "ModelArmor reads addresses from a NetworkPolicy in a file of its own"
    if kind == "NetworkPolicy":
        return "keep it in a file of its own, for `modelarmor run --network FILE`"
    return suggestion(kind, KINDS)


def _spec(spec: Fields, kind: Kind) -> dict[str, Any]:
    host = kind == "KubeArmorHostPolicy"
    outcome = _outcome(spec, Outcome())
    found: dict[str, Any] = {
        "outcome": outcome,
        "selector": _selector(spec, kind),
        "process": _paths(spec, "process", outcome),
        "file": _paths(spec, "file", outcome),
        "network": _network(spec, outcome, host),
        "capabilities": _capabilities(spec, outcome),
        "syscalls": _syscalls(spec, outcome),
        "apparmor": spec.text("apparmor", lines=True),
    }
    if host:
        found["device"] = _devices(spec, outcome)
    else:
        found["presets"] = _presets(spec, outcome)
    return found


def _outcome(fields: Fields, above: Outcome) -> Outcome:
    """What the rule, section or spec says itself, and for the rest what the one above says."""
    return Outcome(
        _action(fields) or above.action,
        fields.integer("severity", 1, 10) or above.severity,
        fields.texts("tags") or above.tags,
        fields.text("message", lines=True) or above.message,
    )


def _action(fields: Fields) -> Action | None:
    text = fields.text("action")
    for action in _ACTIONS:
        if text in (action, action.lower()):
            return action
    if fields.has("action"):
        fields.problem("action", f"{shown(text)} is no action", suggestion(text, _ACTIONS))
    return None


def _selector(spec: Fields, kind: Kind) -> Selector:
    if kind == "KubeArmorHostPolicy":
        if not spec.has("nodeSelector"):
            cure = "write matchLabels with kubearmor.io/hostname: '*' for every node"
            spec.problem("nodeSelector", "is missing", cure)
        with spec.inner("nodeSelector") as selector:
            return Selector(selector.pairs("matchLabels"))
    with spec.inner("selector") as selector:
        labels = selector.pairs("matchLabels") if kind == "KubeArmorPolicy" else ()
        expressions = []
        for fields in selector.each("matchExpressions"):
            keys = _LABEL_KEYS[kind]
            key = fields.text("key", _one_of(keys), required=True)
            operator = fields.text("operator", _one_of(("In", "NotIn")), required=True)
            values = fields.texts("values")
            if key and operator:
                operator = cast(Literal["In", "NotIn"], operator)
                expressions.append(Expression(key, operator, values))
        return Selector(labels, tuple(expressions))


def _one_of(names: tuple[str, ...]) -> Form:
    return Form(
        re.compile("|".join(names)), "is not known here", lambda value: suggestion(value, names)
    )


def _paths(spec: Fields, section: str, above: Outcome) -> tuple[PathRule, ...]:
    file = section == "file"
    rules: list[PathRule] = []

    def rule(fields: Fields, match: Literal["path", "execname", "directory", "pattern"],
             value: str, **rest: Any) -> None:  # fmt: skip
        rest["owner_only"] = fields.flag("ownerOnly")
        if file:
            rest["read_only"] = fields.flag("readOnly")
        outcome = _outcome(fields, section_outcome)
        if value:
            rules.append(
                PathRule(outcome, fields.place, fields.where, match=match, value=value, **rest)
            )

    with spec.inner(section) as inner:
        section_outcome = _outcome(inner, above)
        for fields in inner.each("matchPaths"):
            common = {"from_source": _sources(fields), "pts": fields.flag("pts", True)}
            if file:
                rule(fields, "path", fields.text("path", _PATH, required=True), **common)
                continue
            path, name = fields.text("path", _PATH), fields.text("execname", _EXECNAME)
            if fields.has("path") == fields.has("execname"):
                both = fields.has("path")
                what = "stands beside execname" if both else "is missing"
                fields.problem("path", what, "write either path or execname")
            common["allowed_args"] = fields.texts("allowedArgs", most=_MOST_ARGUMENTS)
            rule(fields, "path" if path else "execname", path or name, **common)
        for fields in inner.each("matchDirectories"):
            value = fields.text("dir", _DIRECTORY, required=True)
            rule(
                fields, "directory", value,
                from_source=_sources(fields), pts=fields.flag("pts", True),
                recursive=fields.flag("recursive"),
            )  # fmt: skip
        for fields in inner.each("matchPatterns"):
            rule(fields, "pattern", fields.text("pattern", _PATTERN, required=True))
    return tuple(rules)


def _sources(fields: Fields) -> tuple[str, ...]:
    found = [source.text("path", _PATH, required=True) for source in fields.each("fromSource")]
    return tuple(path for path in found if path)


def _network(spec: Fields, above: Outcome, host: bool) -> tuple[ProtocolRule | DnsRule, ...]:
    rules: list[ProtocolRule | DnsRule] = []
    with spec.inner("network") as inner:
        above = _outcome(inner, above)
        for fields in inner.each("matchProtocols"):
            protocol = fields.text("protocol", _PROTOCOL, required=True).lower()
            # A cluster takes no pts here in a host policy, and wants a fromSource; KubeArmor
            # outside a cluster, and its own tests of that, do without either.
            pts = True if host else fields.flag("pts", True)
            sources, outcome = _sources(fields), _outcome(fields, above)
            if protocol:
                rules.append(
                    ProtocolRule(outcome, fields.place, fields.where, protocol, sources, pts)
                )
        for fields in inner.each("matchDNSQueries"):
            domain = fields.text("domain", _DOMAIN, required=True).lower().rstrip(".")
            sources, outcome = _sources(fields), _outcome(fields, above)
            if domain:
                rules.append(DnsRule(outcome, fields.place, fields.where, domain, sources))
    return tuple(rules)


def _capabilities(spec: Fields, above: Outcome) -> tuple[CapabilityRule, ...]:
    rules = []
    with spec.inner("capabilities") as inner:
        above = _outcome(inner, above)
        for fields in inner.each("matchCapabilities"):
            name = fields.text("capability", _CAPABILITY, required=True)
            sources, outcome = _sources(fields), _outcome(fields, above)
            if name:
                rules.append(CapabilityRule(outcome, fields.place, fields.where, name, sources))
    return tuple(rules)


def _syscalls(spec: Fields, above: Outcome) -> tuple[SyscallRule, ...]:
    rules = []
    with spec.inner("syscalls") as inner:
        # KubeArmor audits system calls whatever the policy's action is, and a section or a rule
        # has no action of its own.
        outcome = Outcome(
            "Audit",
            inner.integer("severity", 1, 10) or above.severity,
            inner.texts("tags") or above.tags,
            inner.text("message", lines=True) or above.message,
        )
        for fields in inner.each("matchSyscalls"):
            names, sources = fields.texts("syscall", _SYSCALL), _syscall_sources(fields)
            rules.append(
                SyscallRule(outcome, fields.place, fields.where, names, from_source=sources)
            )
        for fields in inner.each("matchPaths"):
            names, sources = fields.texts("syscall", _SYSCALL), _syscall_sources(fields)
            path = fields.text("path", _ANYWHERE, required=True)
            recursive = fields.flag("recursive")
            if path:
                rules.append(
                    SyscallRule(
                        outcome, fields.place, fields.where, names, path, recursive, sources
                    )
                )
    return tuple(rules)


def _syscall_sources(fields: Fields) -> tuple[SyscallSource, ...]:
    found = []
    for source in fields.each("fromSource"):
        path, directory = source.text("path", _PATH), source.text("dir", _ANYWHERE)
        recursive = source.flag("recursive")
        if source.has("path") == source.has("dir"):
            what = "stands beside dir" if source.has("path") else "is missing"
            source.problem("path", what, "write either path or dir")
        if path:
            found.append(SyscallSource(path))
        elif directory:
            # Here alone the definitions do not ask for the slash; it means the same without.
            found.append(SyscallSource("", directory.rstrip("/") + "/", recursive))
    return tuple(found)


def _presets(spec: Fields, above: Outcome) -> tuple[PresetRule, ...]:
    rules = []
    for fields in spec.each("presets"):
        # A preset does not inherit the action: what is not Audit blocks.
        action: Action = "Audit" if _action(fields) == "Audit" else "Block"
        outcome = Outcome(action, above.severity, above.tags, above.message)
        if name := fields.text("name", _PRESET, required=True):
            rules.append(PresetRule(outcome, fields.place, fields.where, name))
    return tuple(rules)


def _devices(spec: Fields, above: Outcome) -> tuple[DeviceRule, ...]:
    rules = []
    with spec.inner("device") as inner:
        above = _outcome(inner, above)
        for fields in inner.each("matchDevice"):
            name = fields.text("class", required=True)
            rule = DeviceRule(
                _outcome(fields, above), fields.place, fields.where, name,
                fields.integer("subClass", -_INT32, _INT32 - 1),
                fields.integer("protocol", -_INT32, _INT32 - 1),
                fields.integer("level", 1, _INT32 - 1),
            )  # fmt: skip
            if name:
                rules.append(rule)
    return tuple(rules)
