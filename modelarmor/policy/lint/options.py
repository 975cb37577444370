"""Options of a rule that BPF-LSM takes in another way than the rule's words say.

Facts: KubeArmor v1.7.4, ``KubeArmor/BPF/enforcer.bpf.c`` (``enforce_proc``, ``match_net_rules``),
``KubeArmor/BPF/shared.h`` (``matchArguments``), ``KubeArmor/enforcer/bpflsm/rulesHelper.go``
(``handleAllNetworkRule``), each met in ``tests/conformance/enforcer.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from modelarmor.policy.decide import Operation, Table
from modelarmor.policy.lint.finding import BPF_LSM, Check, Finding, Located, Subject, found
from modelarmor.policy.model import PathRule, Policy, ProtocolRule

_TERMINAL = Check(
    "MA318", "terminal-rule-differs", "error", (BPF_LSM,),
    "On BPF-LSM pts: false does not limit a rule to callers with a terminal. In an Allow it "
    "refuses them, and allows everybody else; with a Block, callers without one pass whatever a "
    "less specific rule or the posture says; beside protocol: all it is forgotten.",
)  # fmt: skip
_ARGUMENTS = Check(
    "MA319", "arguments-differ", "error", (BPF_LSM,),
    "BPF-LSM looks up allowed arguments by the whole path, so that those of an execname are never "
    "found, and with a fromSource by a key that an earlier hook has left filled. It counts "
    "argv[0] among the arguments, too: a call without any other is refused unless the list has it.",
)  # fmt: skip
_ITSELF = Check(
    "MA320", "program-cannot-start-itself", "note", (BPF_LSM,),
    "BPF-LSM has no exemption for the caller's own file: under posture block a program that no "
    "process rule lets it start cannot start itself again, as Python's multiprocessing does.",
)  # fmt: skip

CHECKS = (_TERMINAL, _ARGUMENTS, _ITSELF)


def check(subject: Subject) -> Iterator[Finding]:
    """Findings on terminals, arguments, and programs that start themselves."""
    paths = [item for item in subject.path_rules() if item.rule.outcome.action != "Audit"]
    sections = Counter(item.section for item in paths)
    for item in paths:
        others = sections[item.section] > 1
        yield from _terminal(item.policy, item.rule, item.rule.value, others=others)
        yield from _arguments(item.policy, item.rule)
    network = [
        (policy, rule)
        for policy in subject.policies
        for rule in policy.network
        if isinstance(rule, ProtocolRule) and rule.outcome.action != "Audit"
    ]
    for policy, rule in network:
        what = f"protocol {rule.protocol}"
        yield from _terminal(policy, rule, what, others=len(network) > 1)
    yield from _itself(subject, [item for item in paths if item.section == "process"])


def _terminal(
    policy: Policy, rule: PathRule | ProtocolRule, what: str, *, others: bool
) -> Iterator[Finding]:
    if rule.pts:
        return
    if isinstance(rule, ProtocolRule) and rule.protocol == "all":
        yield found(
            _TERMINAL, policy, rule, "pts: false is forgotten beside protocol: all",
            "name the protocols that matter",
        )  # fmt: skip
    elif rule.outcome.action == "Allow":
        yield found(
            _TERMINAL, policy, rule,
            f"on BPF-LSM this Allow of {what} refuses callers with a terminal, and allows others",
            "leave pts out of an Allow",
        )  # fmt: skip
    elif others:
        yield found(
            _TERMINAL, policy, rule,
            f"on BPF-LSM callers without a terminal pass at {what}, whatever other rules say",
            "block without pts what must not be used at all",
            "warning",
        )  # fmt: skip


def _arguments(policy: Policy, rule: PathRule) -> Iterator[Finding]:
    if not rule.allowed_args or rule.outcome.action != "Block":
        return
    if rule.match == "execname" or rule.from_source:
        what = "an execname" if rule.match == "execname" else "a fromSource"
        yield found(
            _ARGUMENTS, policy, rule,
            f"allowedArgs with {what} are not found on BPF-LSM: every call of {rule.value}"
            " that the rule matches is refused",
            "name the path, without fromSource",
        )  # fmt: skip
    elif not {rule.value, rule.value.rsplit("/", 1)[-1]} & set(rule.allowed_args):
        yield found(
            _ARGUMENTS, policy, rule,
            f"{rule.value} without any argument is refused on BPF-LSM, and passes elsewhere",
            f"add {rule.value} to allowedArgs, as it is called, if it may be started bare",
            "note",
        )  # fmt: skip


def _itself(subject: Subject, rules: Sequence[Located]) -> Iterator[Finding]:
    if subject.posture and subject.posture.file == "audit":
        return
    if not subject.has_allow(item.rule for item in rules):
        return
    table = Table(subject.policies)
    told: set[str] = set()
    for item in rules:
        # Whoever starts something runs; and so does what is started by another.
        running = list(item.rule.from_source)
        if running and item.rule.match == "path" and item.rule.outcome.action == "Allow":
            running.append(item.rule.value)
        for program in running:
            if program in told or not program.startswith("/"):
                continue
            told.add(program)
            itself = Operation("exec", program, source=program, parent=program)
            if table.decide(itself).rule is None:
                yield found(
                    _ITSELF, item.policy, item.rule,
                    f"{program} runs, and no rule lets it start {program} again",
                    f"if it does that, allow {program} without fromSource (from itself AppArmor"
                    " refuses it, MA113)",
                )  # fmt: skip
