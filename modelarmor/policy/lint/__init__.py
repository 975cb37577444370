"""What a policy does not say although its author thinks so: KubeArmor's silent pitfalls.

KubeArmor accepts much that it does not enforce, and what it enforces differs between its enforcers.
`lint` names each such place with its line, the enforcer it concerns, and a cure. What the rules
*mean* is `modelarmor.policy.decide`'s; here is where an enforcer departs from it, and where the
meaning is hardly the intention.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from modelarmor.policy._problems import Problem
from modelarmor.policy.lint import documents, limits, network, options, paths, precedence
from modelarmor.policy.lint.finding import Check, Enforcer, Finding, Severity, Subject
from modelarmor.policy.lint.limits import entry_cost
from modelarmor.policy.lint.report import as_json, as_sarif, as_text
from modelarmor.policy.model import Policy, Posture

__all__ = [
    "CHECKS",
    "Check",
    "Enforcer",
    "Finding",
    "Severity",
    "as_json",
    "as_sarif",
    "as_text",
    "entry_cost",
    "lint",
]

_ROOMS: Final = (limits, paths, precedence, options, network, documents)

#: every check, by ascending identifier
CHECKS: Final[tuple[Check, ...]] = tuple(check for room in _ROOMS for check in room.CHECKS)


def lint(
    policies: Iterable[Policy],
    *,
    problems: Iterable[Problem] = (),
    posture: Posture | None = None,
    enforcer: Enforcer | None = None,
) -> list[Finding]:
    """What is wrong with ``policies``, in the order of the documents.

    Policies with the same namespace and selector are looked at together, since they end in one
    table of the enforcer. Paths are also looked up on this machine, to find symbolic links and
    scripts; only names and the first two bytes of regular files are read.

    Args:
        policies: what could be loaded.
        problems: what the loader found wrong (``PolicyError.problems``).
        posture: the default posture where the policies will be applied; ``None`` if it is not
            known, which is judged as KubeArmor ships (audit) and as it should be (block).
        enforcer: only what matters on this one; ``None`` for all.
    """
    findings = [*documents.from_problems(problems)]
    for subject in _subjects(policies, posture):
        for room in _ROOMS:
            findings += room.check(subject)
    chosen = [finding for finding in findings if enforcer is None or enforcer in finding.enforcers]
    unique = dict.fromkeys(chosen)
    files = {file: at for at, file in enumerate(dict.fromkeys(f.place.file for f in unique))}
    return sorted(unique, key=lambda f: (files[f.place.file], f.place.line, f.rule, f.where))


def _subjects(policies: Iterable[Policy], posture: Posture | None) -> Iterator[Subject]:
    groups: dict[object, list[Policy]] = {}
    for policy in policies:
        on_host = policy.kind == "KubeArmorHostPolicy"
        groups.setdefault((on_host, policy.namespace, policy.selector), []).append(policy)
    for group in groups.values():
        yield Subject(group, posture)
