"""What of each control a policy meets: computed, never claimed.

`modelarmor.policy.decide` answers every probe; the planner says which tier would enforce the rule
that answered; the rest is read from the evidence. Where there is nothing to compute from, a check
is not met.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from modelarmor.generate.evidence import PHASES, Evidence
from modelarmor.generate.review import review
from modelarmor.generate.review.model import Review
from modelarmor.generate.review.policies import NETWORK_POLICY
from modelarmor.generate.review.words import operation
from modelarmor.policy.decide import DEFAULT_POSTURE, Decision, Table
from modelarmor.policy.model import PathRule, Policy, Posture
from modelarmor.sandbox.network import Egress
from modelarmor.sandbox.plan import Machine, Plan
from modelarmor.sandbox.planner import make_plan
from modelarmor.sandbox.resources import Resources

from .controls import CONTROLS, Check, Control
from .probes import ADDRESSES, CALLER, OPERATIONS

#: ``met here``: every check holds, and others have to do the rest of the control
Status = Literal["met", "met here", "partly", "not met"]
STATUSES: Final[tuple[Status, ...]] = ("met", "met here", "partly", "not met")
#: whether it is as a control wants it, and what came out
_Fact = tuple[bool, str]
_PINNED: Final = re.compile(r"[A-Za-z0-9._-]+(\[[^\]]*\])?\s*===?\s*[^*\s;]+(\s*;.*)?")
#: a kernel that has all that the sandbox uses, and a user that is not root: where no machine is
#: given, tiers are told for such a one
_MACHINE: Final = Machine(landlock_abi=6, uid=1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is assessed: a policy with what stands beside it, and the evidence for it, if any.

    Attributes:
        name: what the report calls it.
        policies: with templates as the directories ``/${MODEL}`` …, or filled in.
        posture: the default posture.
        egress: None where no network policy is known, so that nothing counts as unreachable.
        resources: limits; none where they are not known.
        evidence: None for a bare policy, of which no fact is known.
        filled: the same policies as they are on the machine, to tell tiers by; they may be left out
            where `policies` hold no templates.
    """

    name: str
    policies: Sequence[Policy]
    posture: Posture = field(default_factory=Posture)
    egress: Egress | None = None
    resources: Resources = field(default_factory=Resources)
    evidence: Evidence | None = None
    filled: Sequence[Policy] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One computed answer."""

    #: what was asked, in words
    asked: str
    #: whether it is as the control wants it
    holds: bool
    #: what came out, and why
    answer: str
    #: policy and field of the rule that answered; ``DefaultPosture`` and ``NetworkPolicy`` too
    rule: str = ""
    #: ``kernel``, ``supervised``, or empty where no rule of files or programs answered
    tier: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One check with its answers."""

    what: str
    proofs: tuple[Proof, ...]

    @property
    def holds(self) -> bool:
        return all(proof.holds for proof in self.proofs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """One control with what was computed for it."""

    control: Control
    results: tuple[Result, ...]

    @property
    def status(self) -> Status:
        """What of the control is met; what is left to others is never counted as met."""
        held = [result.holds for result in self.results]
        if all(held):
            return "met here" if self.control.rest else "met"
        return "partly" if any(held) else "not met"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All controls for one subject."""

    subject: Subject
    assessments: tuple[Assessment, ...]

    def count(self, status: Status) -> int:
        """How many controls came out so."""
        return sum(assessment.status == status for assessment in self.assessments)


def assess(subject: Subject, controls: Sequence[Control] = CONTROLS) -> Report:
    """Compute what of each control `subject` meets."""
    known = _Known(subject)
    return Report(
        subject=subject,
        assessments=tuple(
            Assessment(
                control=control,
                results=tuple(
                    Result(what=check.what, proofs=known.proofs(check)) for check in control.checks
                ),
            )
            for control in controls
        ),
    )


class _Known:
    """A subject, asked once for each question however many controls ask it."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._table = Table(subject.policies, subject.posture)
        self._plan = _plan(subject)
        self._tiers = {
            (planned.policy.name, planned.rule.where): planned.tier for planned in self._plan.rules
        }
        self.review = review(subject.evidence) if subject.evidence else None
        self._answers: dict[tuple[str, str], Proof] = {}

    def proofs(self, check: Check) -> tuple[Proof, ...]:
        ask = {
            "refused": self._refused,
            "unreachable": self._unreachable,
            "limited": self._limited,
            "known": self._fact,
        }[check.kind]
        found = []
        for name in check.names:
            if (check.kind, name) not in self._answers:
                self._answers[check.kind, name] = ask(name)
            found.append(self._answers[check.kind, name])
        return tuple(found)

    def _refused(self, name: str) -> Proof:
        asked = OPERATIONS[name]
        decision = self._table.decide(asked)
        return Proof(
            asked=operation(asked),
            holds=decision.verdict == "block",
            answer=f"{'refused' if decision.verdict == 'block' else 'ALLOWED'}: {decision.why}",
            rule=self._rule(decision),
            tier=self._tier(asked.kind, decision),
        )

    @staticmethod
    def _rule(decision: Decision) -> str:
        if decision.posture:
            return DEFAULT_POSTURE
        if decision.policy is None or decision.rule is None:
            return ""
        return f"{decision.policy.name} {decision.rule.where}"

    def _tier(self, kind: str, decision: Decision) -> str:
        if decision.verdict != "block":
            return ""
        if decision.posture:
            # An allow-list is a Landlock domain; where its mode is to enforce, the supervisor
            # holds the part that the kernel cannot express.
            trap = {"read": "read", "list": "read", "exec": "exec"}.get(kind, "write")
            return "supervised" if self._plan.modes.get(trap) == "enforce" else "kernel"
        assert decision.policy is not None
        assert decision.rule is not None
        return self._tiers.get((decision.policy.name, decision.rule.where), "")

    def _unreachable(self, name: str) -> Proof:
        address = ADDRESSES[name]
        asked = f"connect to {address.ip} port {address.port} by {address.protocol}"
        egress = self._subject.egress
        if egress is None:
            return Proof(asked=asked, holds=False, answer="not known: no network policy was given")
        allowed = egress.allows(*address)
        answer = "ALLOWED: a rule grants it" if allowed else "refused: no egress rule grants it"
        return Proof(
            asked=asked,
            holds=not allowed,
            answer=answer,
            rule=NETWORK_POLICY,
            tier="" if allowed else "kernel" if egress.is_none else "supervised",
        )

    def _limited(self, name: str) -> Proof:
        field_name = {
            "cpu": "cpu", "memory": "memory", "pids": "processes", "ephemeral-storage": "disk",
        }[name]  # fmt: skip
        value = getattr(self._subject.resources, field_name)
        answer = "no limit is known" if value is None else f"at most {value:g}"
        return Proof(asked=f"limit of {name}", holds=value is not None, answer=answer)

    def _fact(self, name: str) -> Proof:
        what, compute = FACTS[name]
        holds, answer = compute(self)
        return Proof(asked=what, holds=holds, answer=answer)

    def alerts(self) -> _Fact:
        """A Block without a name or severity is an alert that nobody can sort."""
        blocked = [self._table.decide(asked) for asked in OPERATIONS.values()]
        blocked = [decision for decision in blocked if decision.verdict == "block"]
        mute = [
            decision.policy_name
            for decision in blocked
            if not decision.posture and not (decision.rule and decision.rule.outcome.severity)
        ]
        answer = f"{len(blocked)} of {len(OPERATIONS)} probes are refused and reported"
        if mute:
            answer += f"; without a severity: {', '.join(sorted(set(mute)))}"
        return bool(blocked) and not mute, answer


def _plan(subject: Subject) -> Plan:
    """How the embedded sandbox would enforce the policies; on a cluster it is KubeArmor's LSM."""
    return make_plan(
        subject.filled or subject.policies,
        subject.posture,
        egress=subject.egress or Egress.unrestricted(),
        resources=subject.resources,
        capabilities=frozenset(),
        command=[CALLER],
        machine=_MACHINE,
    )


# --- facts of the evidence


def _digest(found: Review) -> _Fact:
    artifact = found.evidence.artifact
    unnamed = [file.path for file in artifact.files if len(file.sha256) != 64]
    if not artifact.digest or not artifact.files or unnamed:
        return False, "there is no digest over the files, or a file has none"
    return True, f"{len(artifact.files)} files, {artifact.digest}"


def _scanned(found: Review) -> _Fact:
    voices = found.evidence.scan.voices
    asked = [voice for voice in voices if voice.status != "absent"]
    done = [voice for voice in asked if voice.status == "complete" and voice.inspected]
    said = ", ".join(f"{v.name} {v.version}: {v.status}" for v in voices) or "nobody looked"
    return bool(done) and len(done) == len(asked), said


def _unseen(found: Review) -> _Fact:
    unseen = found.evidence.scan.uninspected
    said = f"looked into by nobody: {', '.join(unseen)}" if unseen else "none is left out"
    return not unseen and bool(found.evidence.artifact.files), said


def _grave(found: Review) -> _Fact:
    findings = found.evidence.findings
    grave = [finding for finding in findings if finding.severity in ("critical", "high")]
    said = "; ".join(f"{finding.severity}: {finding.title}" for finding in grave)
    return not grave, said or f"{len(findings)} findings, none of them critical or high"


def _recorded(found: Review) -> _Fact:
    observation = found.evidence.observation
    if observation is None:
        return False, "the model was not run"
    missing = [phase for phase in PHASES if phase not in observation.completed]
    if missing or observation.unlisted or not observation.predictions:
        return False, (
            f"did not complete: {', '.join(missing) or 'nothing'};"
            f" {observation.predictions} predictions; {observation.unlisted} operations not listed"
        )
    return True, f"{len(observation.events)} operations, {observation.predictions} predictions"


def _reasons(found: Review) -> _Fact:
    silent = sum(not why.reason for why in found.reasons)
    return bool(found.reasons) and not silent, f"{len(found.reasons)} rules, {silent} without"


def _surprise(found: Review) -> _Fact:
    if found.evidence.observation is None:
        return False, "the model was not run"
    surprising = [refusal for refusal in found.refusals if not refusal.expected]
    said = "; ".join(refusal.operation for refusal in surprising)
    expected = len(found.refusals) - len(surprising)
    return not surprising, said or f"none; {expected} refused on purpose"


def _pinned(found: Review) -> _Fact:
    lines = found.evidence.artifact.requirements
    loose = [line for line in lines if not _PINNED.fullmatch(line.strip())]
    if not lines:
        return False, "the model names no requirements"
    return (
        not loose,
        f"without one version: {', '.join(loose)}" if loose else f"{len(lines)} pinned",
    )


def _of_evidence(fact: Callable[[Review], _Fact]) -> Callable[[_Known], _Fact]:
    def ask(known: _Known) -> _Fact:
        if known.review is None:
            return False, "not known: there is no evidence"
        return fact(known.review)

    return ask


#: facts by name: what is asked, and how it is found
FACTS: Final[Mapping[str, tuple[str, Callable[[_Known], _Fact]]]] = {
    "digest": ("every file has a digest", _of_evidence(_digest)),
    "scanned": ("scanners came to their end", _of_evidence(_scanned)),
    "nothing-unseen": ("files that nobody looked into", _of_evidence(_unseen)),
    "nothing-grave": ("critical and high findings", _of_evidence(_grave)),
    "recorded": ("start, load and predictions were recorded", _of_evidence(_recorded)),
    "reasons": ("rules and their reasons", _of_evidence(_reasons)),
    "no-surprise": ("recorded operations that would be refused", _of_evidence(_surprise)),
    "alerts": ("refusals with policy and severity", _Known.alerts),
    "pinned": ("requirements with exact versions", _of_evidence(_pinned)),
}


def placed_at(subject: Subject, places: Mapping[str, str]) -> Subject:
    """`subject` with a bare policy's own directories taken for the templates of the probes.

    Args:
        subject: of a policy whose templates are filled in.
        places: template name -> the directory that the policy means.
    """
    if not places:
        return subject
    return replace(subject, policies=[_renamed(policy, places) for policy in subject.policies],
                   filled=subject.filled or subject.policies)  # fmt: skip


def _renamed(policy: Policy, places: Mapping[str, str]) -> Policy:
    roots = sorted(places.items(), key=lambda pair: -len(pair[1]))

    def named(path: str) -> str:
        for name, root in roots:
            if path == root or path.startswith(root.rstrip("/") + "/"):
                return f"/${{{name}}}{path[len(root.rstrip('/')) :]}"
        return path

    def moved(rules: tuple[PathRule, ...]) -> tuple[PathRule, ...]:
        return tuple(
            replace(rule, value=named(rule.value), from_source=tuple(map(named, rule.from_source)))
            for rule in rules
        )

    return replace(policy, process=moved(policy.process), file=moved(policy.file))
