"""Evidence in, policy out: grants, Blocks, network and limits, and why each is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import yaml

from modelarmor import profiles
from modelarmor.generate.evidence import (
    PHASES,
    Artifact,
    Event,
    Finding,
    Observation,
    Phase,
    Reason,
    Scan,
)
from modelarmor.generate.places import shown
from modelarmor.generate.synthesize import benign, hardening
from modelarmor.generate.synthesize.anchors import Anchor, chosen, uses_gpu
from modelarmor.generate.synthesize.resources import limits
from modelarmor.policy.decide import Operation, Table
from modelarmor.policy.model import Outcome, PathRule, Policy, ProtocolRule, Rule, Selector

#: the label by which a policy finds the pods that serve its model
LABEL: Final = "modelarmor.io/model"
_DIGEST: Final = "modelarmor.io/artifact-digest"
#: so many operations that the policy will refuse are told one by one
_MAX_REFUSED: Final = 100


@dataclass(frozen=True, slots=True)
class Draft:
    """What follows from the evidence."""

    #: KubeArmorPolicy documents with templates, YAML
    policy: str
    #: one NetworkPolicy, YAML
    network: str
    #: limits in Kubernetes' words
    resources: dict[str, str] = field(hash=False)
    reasons: tuple[Reason, ...]
    expected_denials: tuple[Event, ...]
    #: what was seen and is not granted, and nothing says that a model can do without
    findings: tuple[Finding, ...]


def labels(artifact: Artifact) -> dict[str, str]:
    """The labels of whatever serves this artifact; its policy selects by them."""
    return {LABEL: _name(artifact)}


def synthesize(
    artifact: Artifact,
    scan: Scan | None = None,
    observation: Observation | None = None,
    *,
    gpu: bool | None = None,
) -> Draft:
    """The policy of a model.

    The same evidence gives the same bytes.

    Args:
        artifact: what it is.
        scan: what scanners say of it; names the finding that a rule answers to.
        observation: what it did when watched; without it the policy is the template alone.
        gpu: whether it may use an accelerator; if left out, whether it looked for one.
    """
    events = observation.events if observation else ()
    granted = gpu if gpu is not None else uses_gpu(event.operation for event in events)
    name, selector = _name(artifact), Selector(tuple(labels(artifact).items()))
    grants, about = _grants(artifact, name, selector, events, gpu=granted)
    policies = [grants]
    what: dict[tuple[str, Rule], tuple[str, str]] = {
        (name, rule): (text, "base") for rule, text in about.items()
    }
    for policy, rules in hardening.policies(name, selector):
        policies.append(policy)
        what |= {(policy.name, rule): (text, "hardening") for rule, text in rules.items()}
    text = profiles.written(policies)
    read = profiles.unfilled(text, name="<generated>")
    hits, refused = _replayed(read, events)
    expected, unexpected = _sorted_out(refused)
    findings = (*(scan.findings if scan else ()), *(observation.findings if observation else ()))
    return Draft(
        policy=_headed(text, artifact),
        network=_network(name, artifact),
        resources=limits(observation),
        reasons=(
            *_reasons(read, what, hits),
            *_network_reasons(name, findings),
        ),
        expected_denials=expected,
        findings=unexpected,
    )


# ---- the grants --------------------------------------------------------------------------------


def _name(artifact: Artifact) -> str:
    digest = artifact.digest.rpartition(":")[2]
    return f"model-{digest[:16] or 'unknown'}"


def _interpreters(events: Iterable[Event]) -> tuple[str, ...]:
    """The interpreter by its real name, by which KubeArmor knows a process; or by its usual ones.

    ``bin/python`` is a link wherever there is a real name beside it.
    """
    seen = {
        shown(event.operation.source)
        for event in events
        if event.operation.source.startswith("/${PREFIX}/bin/python")
    }
    return tuple(sorted(seen)) or ("${PREFIX}/bin/python", "${PREFIX}/bin/python3")


def _grants(
    artifact: Artifact, name: str, selector: Selector, events: Sequence[Event], *, gpu: bool
) -> tuple[Policy, dict[Rule, str]]:
    outcome = Outcome(
        "Allow", 5, hardening.TAGS["grants"],
        f"Outside of what a {artifact.flavour} model needs",
    )  # fmt: skip
    interpreters = tuple(map(profiles.stand_in, _interpreters(events)))
    about: dict[Rule, str] = {}
    # Whoever serves it may have the same libraries in another version of Python.
    names = dict.fromkeys((*interpreters, profiles.stand_in("${PREFIX}/bin/python")))
    process = tuple(PathRule(outcome, match="path", value=path) for path in names)
    about |= dict.fromkeys(process, "the Python interpreter, which may start itself anew")
    anchors = list(chosen((event.operation for event in events), gpu=gpu))
    # KubeArmor sees a program opened before it is executed.
    files = [PathRule(outcome, match="path", value=path, read_only=True) for path in names]
    about |= dict.fromkeys(files, "the Python interpreter, which is opened to be executed")
    for anchor in anchors:
        rule = anchor.rule(outcome, interpreters)
        files.append(rule)
        about[rule] = _told(anchor)
    tcp = ProtocolRule(outcome, protocol="tcp", from_source=interpreters)
    about[tcp] = "stream sockets of the interpreter: the port that it serves on, and socket pairs"
    policy = Policy(
        "KubeArmorPolicy",
        name,
        selector=selector,
        annotations=((_DIGEST, artifact.digest),) if artifact.digest else (),
        process=process,
        file=tuple(files),
        network=(tcp,),
        outcome=outcome,
    )
    return policy, about


def _told(anchor: Anchor) -> str:
    use = "read and changed" if anchor.writable else "read"
    return f"{anchor.what}: may be {use}"


def _headed(text: str, artifact: Artifact) -> str:
    """The document, with a head for people. It names nothing that differs between two runs."""
    return (
        "# What this model may do when it serves, and nothing else: with posture block, what no\n"
        "# rule allows is refused. Templates are filled in where it serves.\n"
        f"# {artifact.flavour if artifact.flavour.isprintable() else '?'} {artifact.digest}\n"
        f"{text}"
    )


def _network(name: str, artifact: Artifact) -> str:
    document = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "podSelector": {"matchLabels": labels(artifact)},
            "policyTypes": ["Egress"],
            "egress": [],
        },
    }
    return "# A model answers; it has nobody to call.\n" + yaml.safe_dump(document, sort_keys=False)


# ---- what was seen, put to the policy ----------------------------------------------------------


def _replayed(
    policies: Sequence[Policy], events: Sequence[Event]
) -> tuple[dict[tuple[str, str], Counter[Phase]], list[Event]]:
    """How often each rule was used, by policy and place, and what would be refused."""
    table = Table(policies)
    hits: dict[tuple[str, str], Counter[Phase]] = {}
    refused: list[Event] = []
    for event in events:
        asked = _standing_in(event.operation)
        said = table.decide(asked)
        if said.verdict == "block" or _beyond_network(event.operation):
            refused.append(event)
        elif said.rule is not None and said.policy is not None:
            hits.setdefault((said.policy.name, said.rule.where), Counter())[event.phase] += (
                event.count
            )
    return hits, refused


def _standing_in(asked: Operation) -> Operation:
    return replace(
        asked,
        path=profiles.stand_in(shown(asked.path)),
        source=profiles.stand_in(shown(asked.source)),
    )


def _beyond_network(asked: Operation) -> bool:
    """Whether the NetworkPolicy, which lets nothing out, refuses it, and the sandbox with it."""
    return asked.kind == "network" and asked.family in ("inet", "inet6")


def _sorted_out(refused: Iterable[Event]) -> tuple[tuple[Event, ...], tuple[Finding, ...]]:
    """Denials that are expected, and findings about those that are not."""
    expected: list[Event] = list(benign.ALWAYS)
    unexpected: dict[tuple[str, str], None] = {}
    for event in refused:
        asked = event.operation
        if benign.reason(asked):
            if not any(benign.resembles(one.operation, asked) for one in expected):
                expected.append(event)
            continue
        what = shown(asked.path) or asked.dns or f"{asked.family} {asked.socket_type}"
        unexpected[asked.kind, what] = None
    findings = tuple(
        Finding(
            rule="not-granted",
            severity="medium",
            title=f"The policy refuses to {_VERBS.get(kind, kind)} what the model asked for",
            detail="It lies at no place that a served model needs. Where the model cannot do "
            "without, write the rule yourself and say why.",
            location=what[:300],
            source="modelarmor",
        )
        for kind, what in list(unexpected)[:_MAX_REFUSED]
    )
    return tuple(expected), findings


_VERBS: Final = {
    "exec": "start", "list": "list", "metadata": "change the attributes of", "network": "open",
    "capability": "use", "syscall": "call",
}  # fmt: skip


# ---- why ---------------------------------------------------------------------------------------


def _reasons(
    policies: Sequence[Policy],
    what: dict[tuple[str, Rule], tuple[str, str]],
    hits: dict[tuple[str, str], Counter[Phase]],
) -> list[Reason]:
    reasons = []
    for policy in policies:
        sections: tuple[Sequence[Rule], ...] = (
            policy.process, policy.file, policy.network, policy.capabilities, policy.presets,
        )  # fmt: skip
        for rule in (rule for section in sections for rule in section):
            told, origin = what[policy.name, rule]
            seen = hits.get((policy.name, rule.where), Counter())
            reasons.append(
                Reason(
                    policy=policy.name,
                    rule=rule.where,
                    what=told,
                    kind="observed" if seen else "template",
                    origin=""
                    if seen
                    else f"{origin}:{policy.name.rpartition('-')[2]}"
                    if origin == "hardening"
                    else "base:serving",
                    count=sum(seen.values()),
                    phases=tuple(phase for phase in PHASES if seen[phase]),
                )
            )
    return reasons


def _network_reasons(name: str, findings: Iterable[Finding]) -> list[Reason]:
    what = "no address may be reached, the cloud's metadata service among them"
    answered = [f for f in findings if f.rule in ("connected", "cloud-metadata", "opened-socket")]
    return [
        Reason(policy=name, rule="spec.egress", what=what, kind="template", origin="base:network"),
        *(
            Reason(
                policy=name,
                rule="spec.egress",
                what=f"refuses what it tried to reach: {finding.location}",
                kind="finding",
                origin=finding.fingerprint,
            )
            for finding in answered
        ),
    ]
