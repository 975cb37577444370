"""Where the BPF-LSM enforcer's table is too small or too blunt for a rule.

Facts: KubeArmor v1.7.4, ``KubeArmor/enforcer/bpflsm/{enforcer,rulesHandling}.go`` and
``KubeArmor/BPF/{shared.h,enforcer.bpf.c}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from typing import Final

from modelarmor.policy.decide import MAX_ARGUMENT_LENGTH, MAX_ARGUMENTS
from modelarmor.policy.lint.finding import (
    APPARMOR,
    BPF_LSM,
    EVERYWHERE,
    KUBEARMOR,
    SANDBOX,
    Check,
    Finding,
    Located,
    Subject,
    ancestors,
    found,
)
from modelarmor.policy.model import CapabilityRule, DnsRule, Policy, ProtocolRule

#: entries of the map of one container
MAX_ENTRIES: Final = 256
#: characters of a path that are scanned for directories
MAX_DIRECTORY: Final = 64
#: characters of a path or source that are kept
MAX_PATH: Final = 199
#: components from which a path is put together in the kernel
MAX_DEPTH: Final = 20
_NEARLY_FULL: Final = 200
#: characters of an argument that BPF-LSM, which needs one for the end, tells from a longer one
_TOLD_APART: Final = MAX_ARGUMENT_LENGTH - 2
#: what ``protocol: all`` is written as, beside an entry of its own that nothing looks up
SOCKET_TYPES: Final = ("stream", "dgram", "raw", "rdm", "seqpacket", "dccp", "packet")

_ENTRIES = Check(
    "MA101", "too-many-entries", "error", (BPF_LSM,),
    "The BPF-LSM enforcer keeps at most 256 entries for a container. What does not fit is left out "
    "with a line in KubeArmor's log and nothing else: a Block that is left out allows. A path "
    "costs one entry for each source; a directory two and one for each ancestor, shared ones once "
    "for each source; protocol all eight; a DNS domain four, or five with a namespace.",
)  # fmt: skip
_DIRECTORY = Check(
    "MA102", "directory-too-long", "error", (BPF_LSM,),
    "The BPF-LSM enforcer looks for directories in the first 64 characters of a path only. A rule "
    "for a directory whose name, slash included, is longer never matches.",
)  # fmt: skip
_PATH = Check(
    "MA103", "path-too-long", "error", (BPF_LSM,),
    "The BPF-LSM enforcer cuts paths and sources at 199 characters, so a longer one never matches.",
)  # fmt: skip
_PATTERN = Check(
    "MA104", "pattern-not-enforced", "error", (BPF_LSM,),
    "The BPF-LSM enforcer ignores matchPatterns: a Block does not block, what an Allow names "
    "is refused by the default posture, and where no other rule of the section is an Allow there "
    "is no such posture: everything passes.",
)  # fmt: skip
_NOT_A_REGEXP = Check(
    "MA105", "pattern-not-a-regular-expression", "warning", KUBEARMOR,
    "KubeArmor matches a pattern as a glob, but for its alerts first passes it to Go's "
    "regexp.Compile and drops it when that fails, so that what it blocks or audits is not told.",
)  # fmt: skip
_COMMAND_LINE = Check(
    "MA106", "pattern-is-a-command-line", "error", EVERYWHERE,
    "A pattern is matched against the path of the file that is executed. Arguments are no part of "
    "it, so a pattern such as /*/pip install* never matches.",
)  # fmt: skip
_NOT_A_GLOB = Check(
    "MA107", "pattern-is-not-a-glob", "warning", EVERYWHERE,
    "Patterns are globs: * and ? stop at a slash, ** does not, [a-z] is a class. The signs of a "
    "regular expression stand for themselves, and {a,b} is alternation under AppArmor only.",
)  # fmt: skip
_DEEP = Check(
    "MA108", "path-too-deep", "warning", (BPF_LSM,),
    "In the kernel a path is put together from at most 20 components; of a deeper one the "
    "beginning is lost, and a rule for it does not match.",
)  # fmt: skip
_ARGUMENTS = Check(
    "MA109", "too-many-arguments", "error", (BPF_LSM, SANDBOX),
    "allowedArgs compares at most 20 arguments of at most 104 characters; a call with more or "
    "longer ones is refused, so what is listed beyond that can never be allowed. BPF-LSM counts "
    "argv[0], cuts an argument at 103 characters, and takes all that begin so for one.",
)  # fmt: skip
_ARGUMENTS_ALLOW = Check(
    "MA110", "arguments-of-an-allow", "warning", EVERYWHERE,
    "allowedArgs narrows a Block: the call passes if every argument is in the set. In an Allow or "
    "Audit rule it narrows nothing.",
)  # fmt: skip
_APPARMOR = Check(
    "MA111", "not-on-apparmor", "warning", (APPARMOR,),
    "allowedArgs, pts, presets and DNS rules exist in the BPF-LSM enforcer only. On a node with "
    "AppArmor the rule is applied without the option, or not at all.",
)  # fmt: skip
_LOST = Check(
    "MA112", "process-allow-is-lost", "warning", (APPARMOR,),
    "KubeArmor's AppArmor profile has no rule for some process Allows: an execname, a pattern and "
    "a name with the signs of one become a comment, a directory with fromSource is left out, and "
    "a program that is itself a source is led into a profile that does not exist. All stay "
    "refused.",
)  # fmt: skip
_REFUSED = Check(
    "MA113", "apparmor-refuses-the-profile", "warning", (APPARMOR,),
    "A process Allow of an execname or a pattern with stars where any rule has a fromSource "
    "mostly, and an Allow of a program from itself always, end in an AppArmor profile with "
    "conflicting rules. The parser refuses all of it, which KubeArmor notes in its log: nothing is "
    "enforced for that workload.",
)  # fmt: skip

CHECKS = (
    _ENTRIES, _DIRECTORY, _PATH, _PATTERN, _NOT_A_REGEXP, _COMMAND_LINE, _NOT_A_GLOB, _DEEP,
    _ARGUMENTS, _ARGUMENTS_ALLOW, _APPARMOR, _LOST, _REFUSED,
)  # fmt: skip


def check(subject: Subject) -> Iterator[Finding]:
    """Findings on size, patterns and options that an enforcer has no room for."""
    yield from _entries(subject)
    sources = {
        source
        for policy in subject.policies
        for rule in (*policy.process, *policy.file, *policy.network, *policy.capabilities)
        if rule.outcome.action != "Audit" and not isinstance(rule, DnsRule)
        for source in rule.from_source
    }
    for located in subject.path_rules():
        yield from _lengths(located)
        yield from _patterns(located)
        yield from _arguments(located)
        yield from _lost(located, sources)
    for policy in subject.policies:
        yield from _apparmor(policy)


def entry_cost(policies: Iterator[Policy] | list[Policy] | tuple[Policy, ...]) -> int:
    """How many of the 256 entries the BPF-LSM enforcer needs for ``policies`` together."""
    keys: set[tuple[str, str, str]] = set()
    dns: set[tuple[str, str, int]] = set()
    for policy in policies:
        for section, rules in (("process", policy.process), ("file", policy.file)):
            for rule in rules:
                if rule.outcome.action == "Audit" or rule.match == "pattern":
                    continue
                if rule.outcome.action == "Allow":
                    keys.add(("posture", section, ""))
                names = [rule.value]
                if rule.match == "directory":
                    names += [rule.value.rstrip("/") or "/.", *ancestors(rule.value)]
                # process and file share a key: its value has a mask for each
                keys.update(
                    ("name", name, source) for name in names for source in rule.from_source or ("",)
                )
        for entry in (*policy.network, *policy.capabilities):
            if entry.outcome.action == "Audit":
                continue
            sources = entry.from_source or ("",)
            match entry:
                case DnsRule():
                    kind, names = "dns", []
                    cost = 5 if policy.namespace else 4
                    dns.update((entry.domain, source, cost) for source in sources)
                case ProtocolRule():
                    kind = "network"
                    names = [entry.protocol, *(SOCKET_TYPES if entry.protocol == "all" else ())]
                case CapabilityRule():
                    kind, names = "capabilities", [entry.capability]
            if entry.outcome.action == "Allow":
                keys.add(("posture", kind, ""))
            keys.update((kind, name, source) for name in names for source in sources)
    return len(keys) + sum(cost for _, _, cost in dns)


def _entries(subject: Subject) -> Iterator[Finding]:
    cost = entry_cost(list(subject.policies))
    if cost <= _NEARLY_FULL:
        return
    largest = max(subject.policies, key=lambda policy: entry_cost([policy]))
    together = f"{len(subject.policies)} policies for the same workloads need"
    subject_of = "this policy needs" if len(subject.policies) == 1 else together
    if cost > MAX_ENTRIES:
        message = (
            f"{subject_of} {cost} entries; the enforcer holds {MAX_ENTRIES} and drops the rest"
        )
    else:
        message = f"{subject_of} {cost} of {MAX_ENTRIES} entries"
    cure = (
        "name a common parent instead of sibling directories, leave out fromSource where every "
        "program may, or split the workload's containers"
    )
    yield found(_ENTRIES, largest, None, message, cure, None if cost > MAX_ENTRIES else "warning")


def _lengths(located: Located) -> Iterator[Finding]:
    policy, rule = located.policy, located.rule
    if rule.match == "directory" and len(rule.value) > MAX_DIRECTORY:
        yield found(
            _DIRECTORY, policy, rule,
            f"the directory has {len(rule.value)} characters, and only {MAX_DIRECTORY} are scanned:"
            " the rule never matches",
            f"name a parent of at most {MAX_DIRECTORY} characters, or each file as a path",
        )  # fmt: skip
    named = [("path", rule.value)] if rule.match == "path" else []
    for what, value in [*named, *(("source", source) for source in rule.from_source)]:
        if len(value) > MAX_PATH:
            yield found(
                _PATH, policy, rule,
                f"the {what} has {len(value)} characters and is cut at {MAX_PATH}",
                "move the file to a shorter path, or name a directory above it",
            )  # fmt: skip
        elif value.count("/") > MAX_DEPTH:
            yield found(
                _DEEP, policy, rule,
                f"the {what} has {value.count('/')} components; {MAX_DEPTH} are kept",
                "name a directory nearer to the root",
            )  # fmt: skip


def _patterns(located: Located) -> Iterator[Finding]:
    policy, rule = located.policy, located.rule
    if rule.match != "pattern":
        return
    effect = {
        "Block": "it blocks nothing", "Allow": "it allows and limits nothing",
        "Audit": "it is only told from user space",
    }[rule.outcome.action]  # fmt: skip
    yield found(
        _PATTERN, policy, rule,
        f"pattern {rule.value!r} is not enforced by BPF-LSM: {effect}",
        "name paths, directories or an execname instead",
        "warning" if rule.outcome.action == "Audit" else None,
    )  # fmt: skip
    if reason := _refused_by_go(rule.value):
        yield found(
            _NOT_A_REGEXP, policy, rule,
            f"pattern {rule.value!r} is no regular expression ({reason}), so its alerts are lost",
            "name paths or a directory; or begin the pattern with a slash and use single stars",
        )  # fmt: skip
    if " " in rule.value:
        yield found(
            _COMMAND_LINE, policy, rule,
            f"pattern {rule.value!r} holds a space: it is compared with a path, not with a command"
            " line",
            "block the program by execname or path, with allowedArgs for what it may be given",
        )  # fmt: skip
    if signs := re.search(r"\.[*+]|\\.|\(|\||\^|\$$|\{", re.sub(r"\[[^]]*\]", "", rule.value)):
        yield found(
            _NOT_A_GLOB, policy, rule,
            f"pattern {rule.value!r} is matched as a glob, in which {signs[0]!r} has no special"
            " meaning",
            "write it with *, **, ? and [a-z]; write alternatives as separate patterns",
        )  # fmt: skip


def _refused_by_go(pattern: str) -> str:
    """Why Go's regexp.Compile refuses ``pattern``; empty if it does not.

    Python's syntax is a superset of RE2's but for rarities, so Python's own error or one of the
    constructs that RE2 lacks tells.
    """
    if lacking := re.search(r"\(\?(?:=|!|<=|<!|>|\()|\\[1-9]|[*+?}]\+", pattern):
        return f"Go has no {lacking[0]}"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return ""


def _arguments(located: Located) -> Iterator[Finding]:
    policy, rule = located.policy, located.rule
    if not rule.allowed_args:
        return
    longest = max(map(len, rule.allowed_args))
    if len(rule.allowed_args) > MAX_ARGUMENTS or longest > _TOLD_APART:
        yield found(
            _ARGUMENTS, policy, rule,
            f"allowedArgs has {len(rule.allowed_args)} entries, the longest of {longest}"
            f" characters; {MAX_ARGUMENTS} of {_TOLD_APART} are compared everywhere",
            "list fewer or shorter arguments, or block the program without exception",
        )  # fmt: skip
    if rule.outcome.action != "Block":
        yield found(
            _ARGUMENTS_ALLOW, policy, rule,
            f"allowedArgs in an {rule.outcome.action} rule does not restrict the arguments",
            "make the rule a Block: it then refuses every other argument",
        )  # fmt: skip


def _lost(located: Located, sources: Set[str]) -> Iterator[Finding]:
    policy, rule = located.policy, located.rule
    if located.section != "process" or rule.outcome.action != "Allow":
        return
    named = rule.match == "execname" or (rule.match == "pattern" and "*" in rule.value)
    if (named and sources) or rule.value in rule.from_source:
        yield found(
            _REFUSED, policy, rule,
            f"with this Allow of {rule.value} AppArmor refuses the whole profile of the workload",
            "name the path" if named else f"leave {rule.value} out of its own fromSource",
        )  # fmt: skip
        return
    if rule.from_source:
        lost = rule.match == "directory" or rule.value in sources
    else:
        # As KubeArmor's template asks; an execname is written with stars, so it has one always.
        lost = rule.match == "execname" or bool(re.search(r"[\[*+?$|]", rule.value))
    if lost:
        yield found(
            _LOST, policy, rule,
            f"Allow of {rule.value} has no effect with AppArmor: what it names stays refused",
            "name paths, or a directory without fromSource",
        )  # fmt: skip


def _apparmor(policy: Policy) -> Iterator[Finding]:
    for rule in (*policy.process, *policy.file):
        for option, used in (("allowedArgs", rule.allowed_args), ("pts", not rule.pts)):
            if used:
                yield found(
                    _APPARMOR, policy, rule,
                    f"{option} is not known to the AppArmor enforcer, which applies the rule"
                    " without it",
                    "schedule the workload on nodes labelled kubearmor.io/enforcer=bpf",
                )  # fmt: skip
    dns = [rule for rule in policy.network if isinstance(rule, DnsRule)]
    for what, first in (("DNS rules", dns[:1]), ("presets", policy.presets[:1])):
        for rule_ in first:
            yield found(
                _APPARMOR, policy, rule_,
                f"{what} are not enforced with AppArmor",
                "schedule the workload on nodes labelled kubearmor.io/enforcer=bpf",
            )  # fmt: skip
