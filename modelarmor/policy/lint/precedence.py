"""Rules that another rule, or the default posture, undoes.

Facts: KubeArmor v1.7.4, ``KubeArmor/BPF/shared.h`` (matching), ``KubeArmor/enforcer/bpflsm``
(what is written when), ``KubeArmor/config/config.go:170`` (postures), the operator's
``defaultVisibility``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final, TypeAlias

from modelarmor.policy.decide import Operation, Table
from modelarmor.policy.lint.finding import (
    APPARMOR,
    BPF_LSM,
    EVERYWHERE,
    KUBEARMOR,
    Check,
    Finding,
    Located,
    Subject,
    ancestors,
    found,
)
from modelarmor.policy.lint.limits import SOCKET_TYPES
from modelarmor.policy.model import (
    CapabilityRule,
    DnsRule,
    PathRule,
    Policy,
    Posture,
    ProtocolRule,
    Rule,
)

_POSTURE = Check(
    "MA301", "allow-under-audit-posture", "warning", KUBEARMOR,
    "An Allow rule refuses nothing by itself: what no rule matches follows the default posture, "
    "and KubeArmor ships with audit. An allow-list in a stock installation only reports.",
)  # fmt: skip
_LOADER = Check(
    "MA302", "allow-list-without-libraries", "error", (BPF_LSM,),
    "Under posture block a file allow-list has to name what every program opens to start: the C "
    "library, the loader's cache. AppArmor's profiles include these, and so does the sandbox; "
    "BPF-LSM does not, and no program starts.",
)  # fmt: skip
_COUPLED = Check(
    "MA303", "process-and-file-are-coupled", "warning", (APPARMOR,),
    "On AppArmor an Allow rule of either section takes away the general permission for both, so "
    "that a policy that allows processes only leaves no file to read. On BPF-LSM and in the "
    "sandbox the two are limited separately.",
)  # fmt: skip
_CONFLICT = Check(
    "MA304", "conflicting-rules", "error", EVERYWHERE,
    "Two rules name the same object for the same source and do different things. On BPF-LSM the "
    "one written last wins (a directory is also written as a path), on AppArmor and in the sandbox "
    "Block does. Protocols, domains and capabilities are such objects too.",
)  # fmt: skip
_DUPLICATE = Check(
    "MA305", "duplicate-rule", "warning", EVERYWHERE,
    "The same rule stands twice. One of them never decides, and a later change to the other will "
    "look as if it had no effect.",
)  # fmt: skip
_SHADOWED = Check(
    "MA306", "shadowed-directory", "error", (BPF_LSM,),
    "On BPF-LSM a recursive directory shadows a deeper one that is not recursive: the walk passes "
    "over the latter and takes the former's outcome.",
)  # fmt: skip
_MEANINGLESS = Check(
    "MA307", "source-made-meaningless", "error", EVERYWHERE,
    "An Allow with fromSource is meant to keep others out, but another rule without a "
    "source covers the same place, and lets everybody in.",
)  # fmt: skip
_EVERYTHING = Check(
    "MA308", "allow-list-allows-everything", "warning", EVERYWHERE,
    "A recursive Allow of / without a source permits everything. It also undoes each Allow below "
    "it that was to permit less.",
)  # fmt: skip
_REDUNDANT = Check(
    "MA309", "redundant-rule", "note", EVERYWHERE,
    "A directory above says the same already. The rule changes nothing, and on BPF-LSM it takes "
    "up entries.",
)  # fmt: skip
_EXECNAME = Check(
    "MA310", "execname-with-source", "error", KUBEARMOR,
    "execname together with fromSource does not work in KubeArmor (#1899): on BPF-LSM the rule "
    "never matches, and an Allow makes AppArmor's parser refuse the whole profile.",
)  # fmt: skip
_OWNER = Check(
    "MA311", "owner-only-differs", "warning", (BPF_LSM,),
    "On BPF-LSM ownerOnly overrides the action: the owner passes even a Block, and another user is "
    "refused even by an Allow under posture audit. KubeArmor skips its own tests of it there.",
)  # fmt: skip
_READ_ONLY = Check(
    "MA312", "read-only-allow-leaves-holes", "warning", (BPF_LSM,),
    "On BPF-LSM an Allow with readOnly stops writing to what is open, but not unlink, rename, "
    "mkdir, truncate or chmod.",
)  # fmt: skip
_PTS = Check(
    "MA313", "terminal-only-rule", "note", EVERYWHERE,
    "A rule with pts: false exists only for processes that have a terminal. kubectl exec -it and "
    "a Jupyter terminal have one; notebook kernels and servers do not.",
)  # fmt: skip
_VISIBILITY = Check(
    "MA314", "file-audit-is-invisible", "warning", KUBEARMOR,
    "File Audit rules are matched in user space against events that the kernel drops unless file "
    "visibility is on, and by default it is off: no alert is raised.",
)  # fmt: skip
_TOOLS = Check(
    "MA315", "allow-list-includes-shells", "warning", EVERYWHERE,
    "The directory that is allowed holds shells, downloaders and everything else that is "
    "installed, which is what whoever breaks in looks for.",
)  # fmt: skip
_OPENED = Check(
    "MA316", "program-cannot-be-opened", "warning", (BPF_LSM,),
    "BPF-LSM sees a program opened before it is executed: under posture block, what a process rule "
    "allows does not start unless a file rule allows to read it, too.",
)  # fmt: skip
_DEVICES = Check(
    "MA317", "allow-list-without-devices", "warning", (BPF_LSM,),
    "KubeArmor's posture leaves nothing out: with a file Allow and posture block, what no rule "
    "covers cannot be opened, /dev/null and /dev/urandom included.",
)  # fmt: skip

CHECKS = (
    _POSTURE, _LOADER, _COUPLED, _CONFLICT, _DUPLICATE, _SHADOWED, _MEANINGLESS, _EVERYTHING,
    _REDUNDANT, _EXECNAME, _OWNER, _READ_ONLY, _PTS, _VISIBILITY, _TOOLS, _OPENED, _DEVICES,
)  # fmt: skip

_Flat: TypeAlias = ProtocolRule | DnsRule | CapabilityRule

#: where the usual distributions have the C library; one of them readable is enough
_LIBRARIES: Final = (
    "/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/aarch64-linux-gnu/libc.so.6",
    "/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib64/libc.so.6", "/lib64/libc.so.6",
    "/usr/lib/libc.so.6", "/lib/ld-musl-x86_64.so.1",
)  # fmt: skip
_DEVICES_NEEDED: Final = ("/dev/null", "/dev/urandom")
_TOOL_NAMES: Final = ("bash", "sh", "dash", "curl", "wget", "nc")
_TOOL_DIRECTORIES: Final = ("/usr/bin/", "/bin/")


def check(subject: Subject) -> Iterator[Finding]:
    """Findings on how the rules of a subject work on each other and with the posture."""
    yield from _postures(subject)
    yield from _libraries(subject)
    yield from _posture_alone(subject)
    yield from _coupling(subject)
    yield from _same_keys(subject)
    yield from _same_names(subject)
    yield from _directories(subject)
    yield from _tools(subject)
    for located in subject.path_rules():
        yield from _options(located)
    for policy in subject.policies:
        audits = [rule for rule in policy.file if rule.outcome.action == "Audit"]
        if audits:
            yield found(
                _VISIBILITY, policy, audits[0],
                f"{_count(len(audits), 'file Audit rule')} of this policy"
                " without an alert while file visibility is off, as it is by default",
                "annotate the namespace: kubearmor-visibility=process,file,network",
            )  # fmt: skip


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _postures(subject: Subject) -> Iterator[Finding]:
    shipped = Posture.all("audit")
    posture = subject.posture or shipped
    for policy in subject.policies:
        classes: tuple[tuple[str, str, tuple[Rule, ...]], ...] = (
            ("file", posture.file, (*policy.process, *policy.file)),
            ("network", posture.network, policy.network),
            ("capabilities", posture.capabilities, policy.capabilities),
        )
        open_ = {
            name: allowing[0]
            for name, value, rules in classes
            if value == "audit"
            and (allowing := [rule for rule in rules if rule.outcome.action == "Allow"])
        }
        if open_:
            annotations = ", ".join(f"kubearmor-{name}-posture=block" for name in open_)
            known = "is" if subject.posture else "is, unless it was changed,"
            yield found(
                _POSTURE, policy, next(iter(open_.values())),
                f"this allow-list refuses nothing: the default posture {known} audit",
                f"annotate the namespace: {annotations} (then lint with --posture block)",
            )  # fmt: skip


def _libraries(subject: Subject) -> Iterator[Finding]:
    if subject.posture and subject.posture.file == "audit":
        return
    allows = [item for item in subject.path_rules("file") if item.rule.outcome.action == "Allow"]
    if not allows:
        return
    # A library that some source may read is enough: which program needs it is not known here.
    sources = {source for item in allows for source in item.rule.from_source} | {"/"}
    table = Table(subject.policies)
    for library in _LIBRARIES:
        for source in sources:
            for _, rule in table.matches(Operation("read", library, source=source)):
                if rule.outcome.action == "Allow":
                    return
    yield found(
        _LOADER, allows[0].policy, allows[0].rule,
        "no Allow rule covers the C library, so under posture block no program starts",
        "add file Allow rules for /lib/, /usr/lib/, /lib64/ (recursive, readOnly) and"
        " /etc/ld.so.cache",
    )  # fmt: skip


def _posture_alone(subject: Subject) -> Iterator[Finding]:
    """What BPF-LSM's posture refuses although it is needed, or a process rule allows it."""
    if subject.posture and subject.posture.file == "audit":
        return
    files = [*subject.path_rules("file")]
    allows = [item for item in files if _allows(item.rule)]
    if not allows:
        return
    table = Table(subject.policies)
    readers = {source for item in files for source in item.rule.from_source} | {"/"}

    def ruled(path: str, source: str) -> bool:
        return table.decide(Operation("read", path, source=source)).rule is not None

    missing = [path for path in _DEVICES_NEEDED if not any(ruled(path, who) for who in readers)]
    if missing:
        yield found(
            _DEVICES, allows[0].policy, allows[0].rule,
            f"no rule covers {' and '.join(missing)}, which hardly a program does without",
            f"add file Allow rules: {', '.join(f'path: {path}' for path in missing)}",
        )  # fmt: skip
    for policy, rule in ((item.policy, item.rule) for item in subject.path_rules("process")):
        if not _allows(rule) or rule.match not in ("path", "directory"):
            continue
        path = rule.value if rule.match == "path" else f"{rule.value}a-program"
        if not any(ruled(path, source) for source in rule.from_source or readers):
            yield found(
                _OPENED, policy, rule,
                f"{rule.value} may be executed, and no file rule lets it be read",
                "add a file Allow rule for it, with readOnly: true",
            )  # fmt: skip


def _coupling(subject: Subject) -> Iterator[Finding]:
    process = [item for item in subject.path_rules("process") if _allows(item.rule)]
    file = [item for item in subject.path_rules("file") if _allows(item.rule)]
    for present, missing, name in ((process, file, "file"), (file, process, "process")):
        if present and not missing:
            yield found(
                _COUPLED, present[0].policy, present[0].rule,
                f"there are {present[0].section} Allow rules and no {name} Allow rule: with"
                f" AppArmor every {name} operation is refused as well",
                f"add {name} Allow rules, or use nodes labelled kubearmor.io/enforcer=bpf",
            )  # fmt: skip


def _allows(rule: Rule) -> bool:
    return rule.outcome.action == "Allow"


def _effect(rule: PathRule) -> tuple[object, ...]:
    return rule.outcome.action, rule.owner_only, rule.read_only, rule.pts, rule.allowed_args


def _same_keys(subject: Subject) -> Iterator[Finding]:
    # For each key the first rule of each effect: enough to report every later one once or twice,
    # and a policy that repeats a rule ten thousand times costs no more than one that does not.
    seen: dict[tuple[str, ...], dict[tuple[object, ...], Located]] = defaultdict(dict)
    for item in subject.path_rules():
        rule = item.rule
        if rule.outcome.action == "Audit":
            continue  # audit rules are not in the enforcer's table
        clashing: dict[int, Located] = {}
        for source in rule.from_source or ("",):
            names = [rule.value]
            if rule.match == "directory":
                names.append(rule.value.rstrip("/"))
            for name in filter(None, names):
                firsts = seen[item.section, name, source]
                clashing |= {id(first.rule): first for first in firsts.values()}
                firsts.setdefault((rule.match, rule.recursive, *_effect(rule)), item)
        for earlier in clashing.values():
            if earlier.rule is not rule:
                yield from _same_key(earlier, item)


def _same_key(earlier: Located, later: Located) -> Iterator[Finding]:
    at = f"{earlier.rule.where or earlier.policy.name} ({earlier.rule.place})"
    here, there = earlier.rule, later.rule
    if _effect(here) == _effect(there) and here.match == there.match:
        if here.recursive == there.recursive:
            yield found(
                _DUPLICATE, later.policy, there, f"the same rule as {at}", "remove one of the two"
            )
            return
    elif here.match != there.match and _effect(here) == _effect(there):
        return
    yield found(
        _CONFLICT, later.policy, there,
        f"{there.outcome.action} of {there.value} and {here.outcome.action} at {at}"
        " have the same key",
        "keep one of them; or tell them apart by fromSource",
    )  # fmt: skip


def _same_names(subject: Subject) -> Iterator[Finding]:
    """Rules of protocols, domains and capabilities that the one written last undoes."""
    seen: dict[tuple[str, str, str], tuple[Policy, _Flat]] = {}
    for policy in subject.policies:
        for rule in (*policy.network, *policy.capabilities):
            kind, name = _flat_key(rule)
            # What the types of sockets do to each other is MA415's.
            if rule.outcome.action == "Audit" or name in ("all", *SOCKET_TYPES):
                continue
            clashing: dict[int, tuple[Policy, _Flat]] = {}
            for source in rule.from_source or ("",):
                first = seen.setdefault((kind, name, source), (policy, rule))
                if _flat_effect(first[1]) != _flat_effect(rule):
                    clashing[id(first[1])] = first
            for other, earlier in clashing.values():
                yield found(
                    _CONFLICT, policy, rule,
                    f"{rule.outcome.action} of {name} and {earlier.outcome.action} at"
                    f" {earlier.where or other.name} ({earlier.place}) have the same key",
                    "keep one of them; or tell them apart by fromSource",
                )  # fmt: skip


def _flat_key(rule: _Flat) -> tuple[str, str]:
    match rule:
        case ProtocolRule():
            return "network", rule.protocol
        case DnsRule():
            return "dns", rule.domain.strip(".")
        case CapabilityRule():
            return "capabilities", rule.capability


def _flat_effect(rule: _Flat) -> tuple[object, ...]:
    return rule.outcome.action, getattr(rule, "pts", True)


def _directories(subject: Subject) -> Iterator[Finding]:
    for section in ("process", "file"):
        rules = [item for item in subject.path_rules(section) if item.rule.match != "pattern"]
        above: dict[str, list[Located]] = defaultdict(list)
        for item in rules:
            if item.rule.match == "directory" and item.rule.outcome.action != "Audit":
                above[item.rule.value].append(item)
        for item in rules:
            if item.rule.match == "execname" or item.rule.outcome.action == "Audit":
                continue
            chain = [other for name in ancestors(item.rule.value) for other in above[name]]
            chain = [other for other in chain if other.rule is not item.rule]
            yield from _beneath(item, [other for other in chain if other.rule.recursive])
            if item.rule.match == "directory" and item.rule.value == "/":
                yield from _root(item, rules)


def _beneath(item: Located, above: list[Located]) -> Iterator[Finding]:
    """Findings on a rule by the recursive directories that hold it, from the root down."""
    rule = item.rule
    if rule.match == "directory" and not rule.recursive:
        # Of each source the deepest recursive directory decides.
        deciding = {
            source: other
            for other in above
            for source in set(other.rule.from_source or ("",)) & set(rule.from_source or ("",))
        }
        differing = [o for o in deciding.values() if _effect(o.rule) != _effect(rule)]
        for nearest in differing[:1]:
            yield found(
                _SHADOWED, item.policy, rule,
                f"{rule.value} is not recursive and is shadowed by the recursive"
                f" {nearest.rule.value} ({nearest.rule.place}), which decides instead",
                f"set recursive: true on {rule.value}",
            )  # fmt: skip
    same = [other for other in above if set(other.rule.from_source) == set(rule.from_source)]
    if same:
        nearest = same[-1]
        equal = _effect(nearest.rule) == _effect(rule)
        if equal and above[-1] is nearest and rule.match == nearest.rule.match:
            yield found(
                _REDUNDANT, item.policy, rule,
                f"{nearest.rule.value} ({nearest.rule.place}) says the same",
                "remove the rule, or give it the outcome that it was meant to have",
            )  # fmt: skip
    unsourced = [other for other in above if not other.rule.from_source]
    if rule.from_source and _allows(rule) and unsourced:
        nearest = unsourced[-1]
        if _lets_others_in(nearest.rule, rule):
            yield found(
                _MEANINGLESS, item.policy, rule,
                f"{rule.value} is open to every program by the"
                f" {nearest.rule.outcome.action} of {nearest.rule.value} ({nearest.rule.place}),"
                " so naming sources keeps nobody out",
                f"add a Block of {rule.value} without fromSource, or narrow {nearest.rule.value}",
            )  # fmt: skip


def _lets_others_in(above: PathRule, rule: PathRule) -> bool:
    """Whether whoever ``rule`` does not name gets by ``above`` some of what ``rule`` allows."""
    if above.owner_only:
        return False
    if _allows(above):
        return rule.read_only or not above.read_only
    return above.read_only  # a Block that leaves reading to everybody


def _root(item: Located, rules: list[Located]) -> Iterator[Finding]:
    rule = item.rule
    qualified = rule.owner_only or rule.read_only or rule.from_source
    if rule.recursive and _allows(rule) and not qualified:
        others = sum(_allows(other.rule) for other in rules) - 1
        also = f", and {_count(others, 'other Allow rule')} of the section limit nothing"
        yield found(
            _EVERYTHING, item.policy, rule,
            f"the recursive Allow of / permits every {item.section} operation"
            + (also if others else ""),
            "allow the directories that the workload needs; or drop the allow-list and Block",
        )  # fmt: skip


def _tools(subject: Subject) -> Iterator[Finding]:
    table = Table(subject.policies)
    tools: dict[int, tuple[Policy, Rule, list[str]]] = {}
    for directory in _TOOL_DIRECTORIES:
        for name in _TOOL_NAMES:
            decision = table.decide(Operation("exec", directory + name, source="/"))
            policy, rule = decision.policy, decision.rule
            if not policy or not isinstance(rule, PathRule) or not _allows(rule):
                continue
            if rule.match in ("directory", "pattern"):
                tools.setdefault(id(rule), (policy, rule, []))[2].append(name)
    for policy, rule, names in tools.values():
        value = rule.value if isinstance(rule, PathRule) else ""
        yield found(
            _TOOLS, policy, rule,
            f"every program in {value} may be executed, {', '.join(names)} among them",
            "allow single programs by path, or Block shells and downloaders by execname or path",
        )  # fmt: skip


def _options(located: Located) -> Iterator[Finding]:
    policy, rule = located.policy, located.rule
    if rule.match == "execname" and rule.from_source:
        yield found(
            _EXECNAME, policy, rule,
            f"execname {rule.value} with fromSource does not work in KubeArmor",
            "name the path instead of the execname, or leave fromSource out",
        )  # fmt: skip
    if rule.owner_only and rule.outcome.action != "Audit":
        effect = {
            "Block": "the owner passes this Block",
            "Allow": "another user is refused by this Allow even where the posture is audit",
        }[rule.outcome.action]  # fmt: skip
        yield found(
            _OWNER, policy, rule, f"ownerOnly on BPF-LSM: {effect}",
            "use fromSource to tell users of a file apart, or file modes",
        )  # fmt: skip
    if rule.read_only and _allows(rule):
        yield found(
            _READ_ONLY, policy, rule,
            f"{rule.value} can still be deleted, renamed and chmodded on BPF-LSM",
            f"add a Block with readOnly: true for {rule.value}, or mount it read-only",
        )  # fmt: skip
    if not rule.pts:
        yield found(
            _PTS, policy, rule,
            "pts: false limits the rule to processes with a terminal; a notebook kernel has none",
            "leave pts out where kernels and servers are meant too",
        )  # fmt: skip
