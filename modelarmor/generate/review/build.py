"""From evidence to a review."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from modelarmor.generate.evidence import (
    PHASES,
    SEVERITIES,
    Evidence,
    Finding,
    Observation,
    Robustness,
    Severity,
    Voice,
)
from modelarmor.generate.synthesize import benign
from modelarmor.policy.decide import Operation, baseline_allows
from modelarmor.sandbox.plan import describe_rule

from .changes import changes
from .grants import barriers, capabilities, reason_in_words, reasons_by_rule
from .model import Capability, Changes, Coverage, Point, Refusal, Review, Standing, Verdict, Why
from .policies import Policies
from .words import number, operation, path_as_written

#: by so much may noise do more than an attack by chance, as a share of the inputs
_NOISE_MARGIN = 0.1
_GRAVE: tuple[Severity, ...] = ("critical", "high")


def review(evidence: Evidence, against: Evidence | None = None) -> Review:
    """Compute what a reviewer needs.

    Nothing in the evidence makes this raise: what cannot be read of it is a point of the review.

    Args:
        evidence: of the version that is to be promoted.
        against: that of the version that was approved before, if there is one.
    """
    policies = Policies.of(evidence)
    permitted = capabilities(evidence, policies)
    refused = tuple(_refusals(evidence, policies))
    changed = changes(against, evidence, Policies.of(against), policies) if against else None
    verdicts = (*_verdicts(evidence), _recording(evidence.observation))
    points = [
        *_policy_points(evidence, policies, permitted),
        *_finding_points(evidence.findings),
        *_verdict_points(evidence, verdicts),
        *_refusal_points(refused),
        *_robustness_points(evidence.robustness),
        *(_change_points(changed) if changed else ()),
    ]
    return Review(
        evidence=evidence,
        verdicts=verdicts,
        points=tuple(sorted(points, key=lambda point: SEVERITIES.index(point.severity))),
        capabilities=permitted,
        barriers=barriers(policies),
        refusals=refused,
        coverage=tuple(_coverage(evidence.observation)),
        reasons=tuple(_whys(evidence, policies)),
        changes=changed,
    )


# --- who says what


def _verdicts(evidence: Evidence) -> Iterator[Verdict]:
    findings: dict[str, list[Finding]] = {}
    for finding in evidence.findings:
        findings.setdefault(finding.source.partition(" ")[0], []).append(finding)
    findings.pop("observation", None)
    findings.pop("redteam", None)  # which has a part of its own
    for voice in evidence.scan.voices:
        yield _verdict(voice, findings.pop(voice.name, []))
    for source, found in findings.items():  # said by nobody who is listed, such as our own look
        yield Verdict(name=source, standing="findings", counts=_counts(found))


def _verdict(voice: Voice, found: list[Finding]) -> Verdict:
    standing: Standing
    if voice.status != "complete":
        standing = voice.status
    elif voice.inspected == 0:
        standing = "incomplete"  # complete, and looked at nothing: no verdict at all
    else:
        standing = "findings" if found else "clean"
    return Verdict(
        name=voice.name,
        version=voice.version,
        standing=standing,
        inspected=voice.inspected,
        counts=_counts(found),
        note=voice.note,
    )


def _recording(observation: Observation | None) -> Verdict:
    if observation is None:
        return Verdict(name="recording", standing="absent", counts={}, note="the model was not run")
    missing = [phase for phase in PHASES if phase not in observation.completed]
    standing: Standing = "clean"
    note = f"asked {number(observation.predictions, 'prediction')}"
    if missing:
        standing, note = "incomplete", f"did not complete: {', '.join(missing)}"
    elif observation.unlisted:
        standing = "incomplete"
        note = f"{number(observation.unlisted, 'operation')} counted and not listed"
    elif observation.findings:
        standing = "findings"
    return Verdict(
        name="recording", standing=standing, counts=_counts(observation.findings), note=note
    )


def _counts(found: Iterable[Finding]) -> dict[Severity, int]:
    counted = Counter(finding.severity for finding in found)
    return {severity: counted[severity] for severity in SEVERITIES if counted[severity]}


# --- what the policy makes of what was seen


def _refusals(evidence: Evidence, policies: Policies) -> Iterator[Refusal]:
    if evidence.observation is None:
        return
    merged: dict[tuple[str, str, bool], tuple[set[str], int]] = {}
    for event in evidence.observation.events:
        decision = policies.decide(event.operation)
        if decision.verdict == "block":
            known = any(
                benign.resembles(expected.operation, event.operation)
                for expected in evidence.expected_denials
            )
            key = operation(event.operation), decision.why, known
            phases, count = merged.get(key, (set(), 0))
            merged[key] = phases | {event.phase}, count + event.count
    for (what, why, known), (phases, count) in merged.items():
        yield Refusal(
            operation=what,
            phases=tuple(phase for phase in PHASES if phase in phases),
            count=count,
            why=path_as_written(why.replace(" /${", " ${")),
            expected=known,
        )


def _coverage(observation: Observation | None) -> Iterator[Coverage]:
    events = observation.events if observation else ()
    for phase in PHASES:
        seen = [event.count for event in events if event.phase == phase]
        yield Coverage(
            phase=phase,
            completed=observation is not None and phase in observation.completed,
            operations=len(seen),
            events=sum(seen),
        )


def _whys(evidence: Evidence, policies: Policies) -> Iterator[Why]:
    known = reasons_by_rule(evidence)
    for policy in policies.policies:
        for rule in (
            *policy.process, *policy.file, *policy.network, *policy.capabilities,
            *policy.syscalls, *policy.presets,
        ):  # fmt: skip
            reason = known.get((policy.name, rule.where.removeprefix("spec.")))
            said = reason_in_words(reason)
            if reason and reason.what:
                said = f"{reason.what}: {said}"
            yield Why(
                policy=policy.name,
                rule=rule.where,
                action=rule.outcome.action,
                says=describe_rule(rule).replace(" /${", " ${"),
                reason=said,
                kind=reason.kind if reason else "",
            )


# --- what waits for a decision


def _policy_points(
    evidence: Evidence, policies: Policies, permitted: Iterable[Capability]
) -> Iterator[Point]:
    if not policies.policies:
        said = "There is no policy: nothing would be confined"
        yield Point(severity="critical", what=said, section="permits")
    for problem in policies.problems:
        said = f"The policy does not mean what it says: {problem}"
        yield Point(severity="critical", what=said, section="permits")
    open_kinds = {"exec": "run", "read": "read", "write": "write", "network": "reach"}
    for capability in permitted:
        if capability.open and capability.ability in open_kinds and policies.policies:
            said = f"It may {open_kinds[capability.ability]} what no rule names. "
            yield Point(severity="high", what=said + capability.otherwise, section="permits")
        idle = [grant.subject for grant in capability.grants if grant.unobserved]
        if capability.ability == "write":  # devices that the posture leaves to everybody
            idle = [path for path in idle if not _is_harmless(path)]
        if idle and capability.ability in ("exec", "write", "network", "capabilities"):
            said = f"Granted and never observed ({capability.ability}): {', '.join(idle)}"
            yield Point(severity="low", what=said, section="permits")
    if policies.policies and (
        unexplained := sum(not why.reason for why in _whys(evidence, policies))
    ):
        said = f"{number(unexplained, 'rule has', 'rules have')} no reason"
        yield Point(severity="low", what=said, section="reasons")


def _is_harmless(path: str) -> bool:
    return path.startswith("/") and baseline_allows(Operation("write", path))


def _finding_points(findings: Iterable[Finding]) -> Iterator[Point]:
    for finding in findings:
        if finding.severity in _GRAVE:
            where = f" ({finding.location})" if finding.location else ""
            yield Point(severity=finding.severity, what=finding.title + where, section="findings")


def _verdict_points(evidence: Evidence, verdicts: Iterable[Verdict]) -> Iterator[Point]:
    for verdict in verdicts:
        if verdict.standing in ("failed", "incomplete") or (
            verdict.standing == "absent" and verdict.name == "recording"
        ):
            why = f": {verdict.note}" if verdict.note else ""
            said = f"{verdict.name} is {verdict.standing}{why}"
            yield Point(severity="medium", what=said, section="verdicts")
    if not evidence.scan.voices:
        said = "No scanner looked at the files"
        yield Point(severity="medium", what=said, section="verdicts")
    if unseen := evidence.scan.uninspected:
        said = f"{number(len(unseen), 'file was', 'files were')} looked into by nobody"
        yield Point(severity="medium", what=said, section="coverage")
    if not evidence.artifact.digest:
        said = "The files have no digest: nothing binds this review to their bytes"
        yield Point(severity="high", what=said, section="files")


def _refusal_points(refused: Iterable[Refusal]) -> Iterator[Point]:
    unexpected = [refusal for refusal in refused if not refusal.expected]
    if unexpected:
        said = (
            f"The policy would refuse {number(len(unexpected), 'operation')} that"
            f" {'was' if len(unexpected) == 1 else 'were'} recorded: the model may fail under it"
        )
        yield Point(severity="medium", what=said, section="refusals")


def _robustness_points(robustness: Robustness | None) -> Iterator[Point]:
    if robustness is None:
        return
    aimless = {m.epsilon: m.accuracy for m in robustness.measures if m.attack == "noise"}
    for epsilon, accuracy in aimless.items():
        aimed = [
            m.accuracy for m in robustness.measures if m.epsilon == epsilon and m.attack != "noise"
        ]
        if aimed and accuracy < min(aimed) - _NOISE_MARGIN:
            said = (
                f"Noise does more than any attack at an epsilon of {epsilon:g}: the attacks were"
                " misled, so the measure says little"
            )
            yield Point(severity="medium", what=said, section="robustness")
            return


def _change_points(changed: Changes) -> Iterator[Point]:
    if changed.problem:
        said = f"The policies could not be compared: {changed.problem}"
        yield Point(severity="high", what=said, section="changes")
    if changed.gained:
        said = (
            f"{number(len(changed.gained), 'permission')} more than the version that was approved"
        )
        yield Point(severity="medium", what=said, section="changes")
    code = [file.path for file in changed.files if file.path.endswith((".py", ".sh", ".so"))]
    if code:
        said = f"Code differs from the version that was approved: {', '.join(code)}"
        yield Point(severity="medium", what=said, section="changes")
