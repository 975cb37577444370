"""From a kernel's record to what would permit it: why something was refused, what to change.

Everything is computed from the server's own record. A client names alerts by their numbers; it
never says what they were about, nor what a policy should say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from modelarmor import profiles
from modelarmor.alerts import Alert, Recorder
from modelarmor.alerts.recorder import MAX_PAGE
from modelarmor.cluster import canary
from modelarmor.generate.propose import Proposal, Refusal, propose, why_not
from modelarmor.generate.replay import operation
from modelarmor.policy.decide import Operation, Table
from modelarmor.policy.model import Policy, Rule
from modelarmor.profiles import Profile
from modelarmor.sandbox.plan import describe_rule
from modelarmor.visible import escaped
from modelarmor_jupyter import own_profiles
from modelarmor_jupyter.confined import Confined
from modelarmor_jupyter.confinement import (
    GUARD_POLICY,
    RECORDING_POLICY,
    Confinement,
    keeps_unchanged,
)

#: by which a profile's policies select its pods
_LABEL: Final = "modelarmor.io/profile"
#: so many refusals are listed
_REFUSED: Final = 200
_OURS: Final = (GUARD_POLICY, RECORDING_POLICY)
_GUARDED: Final = (
    "This keeps what decides how kernels are confined out of their reach, and no profile grants it."
)
_READ_ONLY: Final = (
    "The profile gives this to be read only, and record mode keeps it so; ask for this one alone if"
    " it is meant."
)
_CANARY: Final = "These are the files by which a pod's start proves that its policy is in force."
_PERMITTED: Final = "The profile that the kernel has now permits this already."
_UNTOLD: Final = (
    "By the policy this would be permitted; what decided is not in the record, such as who owns"
    " the file."
)


class NotRecorded(LookupError):
    """An alert that is not in the record (any more)."""


class NothingToAdd(ValueError):
    """Nothing of what was asked for can be permitted; says why."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be added to a kernel's profile for a part of its record."""

    base: str
    events: int
    proposal: Proposal
    refused: tuple[Refusal, ...]
    operations: tuple[Operation, ...]

    def to_json(self) -> dict[str, Any]:
        """The preview as a JSON object."""
        return {
            **self.proposal.to_json(),
            "base": self.base,
            "events": self.events,
            "refused": [item.to_json() for item in self.refused],
        }


def explain(provisioner: Confined, seq: int) -> dict[str, Any]:
    """Why the alert of this number was raised, and what would permit what it is about.

    Raises
    ------
    NotRecorded
        when the record does not hold it.
    """
    alert = _alert(provisioner.recorder, seq)
    asked = operation(alert)
    answer: dict[str, Any] = {
        "seq": seq,
        "decision": _decision(alert, asked, provisioner.confinement_of(seq)),
        "proposal": None,
        "why_not": why_not(alert),
    }
    if answer["why_not"]:
        return answer
    if asked is None:
        return {**answer, "why_not": "The record does not say enough to propose a rule for it."}
    base = _profile(provisioner)
    proposal = propose(
        [asked], base.policies, base.posture, name=_added(base), home=provisioner.places["home"]
    )
    if proposal:
        return {**answer, "proposal": proposal.to_json()}
    refused = proposal.refused[0].why if proposal.refused else ""
    return {**answer, "why_not": refused or _permitted(alert, provisioner, seq)}


def preview(provisioner: Confined, seqs: Sequence[int] | None, name: str | None = None) -> Preview:
    """What would permit what these alerts are about.

    Parameters
    ----------
    provisioner
        The kernel's.
    seqs
        Numbers in its record. None for everything since the newest recording began or, without
        one, since the kernel got its present profile; what a Block rule refused is then left out,
        since it takes a person who means it.
    name
        Of the profile that is to be made; None for the kernel's own.

    Raises
    ------
    NotRecorded
        when the record does not hold one of them.
    """
    base = _profile(provisioner)
    events = 0
    # insertion-ordered sets: a flood is the same few things again and again
    refused: dict[Refusal, None] = {}
    operations: dict[Operation, None] = {}
    unchanged = _Unchanged(provisioner)
    for seq, alert in _alerts(provisioner, seqs):
        events += 1
        asked = operation(alert)
        if reason := _never(alert, asked):
            refused[Refusal(_what(alert), reason)] = None
        elif asked is not None and seqs is None and unchanged.kept(asked, alert, seq):
            refused[Refusal(_what(alert), _READ_ONLY)] = None
        elif asked is not None:
            operations[asked] = None
    proposal = propose(
        operations,
        base.policies,
        base.posture,
        name=_added(base, name),
        home=provisioner.places["home"],
        overrule=seqs is not None,
    )
    if name is not None:
        policies = tuple(_labelled(policy, base.name, name) for policy in proposal.policies)
        proposal = replace(proposal, policies=policies)
    both = tuple(dict.fromkeys([*refused, *proposal.refused]))[:_REFUSED]
    return Preview(base.name, events, proposal, both, tuple(operations))


def save(
    provisioner: Confined,
    seqs: Sequence[int] | None,
    *,
    name: str,
    title: str,
    kernel_spec: dict[str, Any],
) -> tuple[Path, Preview]:
    """Make a profile of one's own that permits what these alerts are about, besides the base's.

    Parameters
    ----------
    provisioner, seqs
        As for `preview`.
    name, title
        Of the profile.
    kernel_spec
        The kernel's kernelspec, as ``kernel.json`` has it.

    Raises
    ------
    NothingToAdd
        when nothing of it can be permitted.
    NotRecorded, own_profiles.NameTaken, ValueError, ProfileError, PolicyError, OSError
        see `preview`, `own_profiles.check_name` and `own_profiles.save`.
    """
    own_profiles.check_name(name, provisioner.settings.search_path())
    base, found = _profile(provisioner), preview(provisioner, seqs, name)
    if not found.proposal:
        reasons = "; ".join(item.why for item in found.refused[:3])
        raise NothingToAdd(f"there is nothing to add to {base.name}. {reasons}".strip())
    places = provisioner.places

    def check(directory: Path) -> None:
        made = profiles.load(name, **places, search_path=[directory])
        after = Table(made.policies, made.posture)
        added = Table([*base.policies, *found.proposal.policies], base.posture)
        if any(after.decide(op).verdict != added.decide(op).verdict for op in found.operations):
            raise NothingToAdd(
                f"the profile {base.name} has changed since the kernel started; restart the"
                " kernel, and try again"
            )

    directory = own_profiles.save(
        name,
        base=base,
        title=title,
        description=f"{base.description} Made from {base.name}. {found.proposal.summary}.",
        policy=profiles.templated(found.proposal.policies, **places),
        kernel_spec=kernel_spec,
        check=check,
    )
    return directory, found


def _never(alert: Alert, asked: Operation | None) -> str:
    """Why no profile permits what an alert is about; empty where one may."""
    if reason := why_not(alert):
        return reason
    if alert.PolicyName == GUARD_POLICY:
        return _GUARDED
    return _CANARY if asked is not None and asked.path.startswith(f"{canary.FILES}/") else ""


def _profile(provisioner: Confined) -> Profile:
    assert provisioner.confinement is not None
    return provisioner.confinement.profile


def _added(base: Profile, name: str | None = None) -> str:
    """What to call the policy that is added: no policy of the profile is called so."""
    there = {policy.name.removeprefix(f"modelarmor-{base.name}") for policy in base.policies}
    suffix, n = "-added", 1
    while suffix in there:
        n += 1
        suffix = f"-added-{n}"
    return f"modelarmor-{name or base.name}{suffix}"


def _labelled(policy: Policy, old: str, new: str) -> Policy:
    """The policy for workloads of the profile `new`, as the rest of that is."""
    labels = dict(policy.selector.match_labels)
    if labels.get(_LABEL) != old:
        return policy
    selector = replace(policy.selector, match_labels=tuple({**labels, _LABEL: new}.items()))
    return replace(policy, selector=selector)


# --- the record


def _alert(recorder: Recorder, seq: int) -> Alert:
    found = recorder.after(seq - 1, 1).alerts if seq >= 1 else ()
    if not found or found[0][0] != seq:
        raise NotRecorded(f"the record holds no alert {seq}, or no longer; it goes to"
                          f" {recorder.last}")  # fmt: skip
    return found[0][1]


def _alerts(provisioner: Confined, seqs: Iterable[int] | None) -> Iterator[tuple[int, Alert]]:
    recorder = provisioner.recorder
    if seqs is not None:
        yield from ((seq, _alert(recorder, seq)) for seq in seqs)
        return
    at, last = provisioner.recorded_from - 1, recorder.last  # what comes now is not waited for
    while at < last:
        page = recorder.after(at, min(MAX_PAGE, last - at)).alerts
        if not page:
            return
        yield from page
        at = page[-1][0]


class _Unchanged:
    """What record mode alone refused, since the profile gives it to be read."""

    def __init__(self, provisioner: Confined) -> None:
        self._provisioner = provisioner
        self._tables: dict[int, Table] = {}

    def kept(self, asked: Operation, alert: Alert, seq: int) -> bool:
        confinement = self._provisioner.confinement_of(seq)
        if not (confinement.recording and alert.blocked):
            return False
        table = self._tables.get(confinement.first)
        if table is None:
            table = Table(confinement.policies, confinement.posture)
            self._tables[confinement.first] = table
        said = table.decide(asked)
        return said.verdict == "block" and keeps_unchanged(said.rule)


# --- in words


def _decision(alert: Alert, asked: Operation | None, confinement: Confinement) -> dict[str, Any]:
    verdict = "block" if alert.blocked else "allow"
    told = {"verdict": verdict, "policy": alert.PolicyName, "rule": "", "where": ""}
    if asked is None:
        return {**told, "why": alert.Message or why_not(alert)}
    said = Table(confinement.policies, confinement.posture).decide(asked)
    policy, rule = said.policy, said.rule
    if said.audit is not None:
        policy, rule = said.audit
    if said.verdict != verdict:
        return {**told, "why": f"{alert.Message}. {_UNTOLD}".removeprefix(". ")}
    answer = {
        **told,
        "why": said.why,
        "policy": policy.name if policy is not None else said.policy_name,
    }
    return answer | (_of_rule(rule) if rule is not None else {})


def _of_rule(rule: Rule) -> dict[str, Any]:
    found: dict[str, Any] = {"rule": describe_rule(rule), "where": rule.where}
    if rule.place.line:
        found["line"] = rule.place.line
    if rule.outcome.severity:
        found["severity"] = rule.outcome.severity
    return found


def _permitted(alert: Alert, provisioner: Confined, seq: int) -> str:
    if alert.PolicyName in _OURS:
        return _GUARDED
    same = provisioner.confinement_of(seq) is provisioner.confinement
    return _UNTOLD if same and alert.blocked else _PERMITTED


def _what(alert: Alert) -> str:
    return escaped(f"{alert.Operation} {alert.Resource}"[:200].strip())
