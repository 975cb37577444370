"""Controls are computed: what the policy loses, the report loses."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from modelarmor.generate.compliance import (
    Report,
    Subject,
    as_html,
    as_json,
    as_text,
    assess,
    placed_at,
    subjects,
)
from modelarmor.generate.compliance.assess import FACTS, STATUSES, Assessment
from modelarmor.generate.compliance.controls import CONTROLS
from modelarmor.generate.compliance.probes import ADDRESSES, OPERATIONS
from modelarmor.generate.evidence import Evidence, Observation
from modelarmor.policy import document
from modelarmor.policy.decide import Table
from tests.generate.review.samples import HOSTILE, IRIS, NASTY, PROFILE

#: the sample, brought up to what a good model's evidence is
GOOD = replace(
    IRIS,
    artifact=replace(IRIS.artifact, findings=()),
    scan=replace(IRIS.scan, findings=(), uninspected=(), voices=IRIS.scan.voices[:2]),
    observation=replace(
        IRIS.observation or Observation(),
        findings=(),
        events=tuple(
            event
            for event in (IRIS.observation or Observation()).events
            if event.operation.path != "/etc/shadow" and event.operation.family != "inet6"
        ),
    ),
)


def report(evidence: Evidence) -> Report:
    return assess(subjects.of_evidence(evidence))


def control(made: Report, identifier: str) -> Assessment:
    return next(item for item in made.assessments if item.control.id == identifier)


def failing(made: Report, identifier: str) -> list[str]:
    return [
        proof.asked
        for result in control(made, identifier).results
        for proof in result.proofs
        if not proof.holds
    ]


def test_a_good_policy_meets_what_a_policy_can() -> None:
    made = report(GOOD)
    # AC-6 wants a reason for every rule, which the sample does not have.
    assert [item.control.id for item in made.assessments if item.status == "partly"] == ["AC-6"]
    assert made.count("not met") == 0
    assert made.count("met") > 0


def test_what_is_left_to_others_is_never_counted_as_met() -> None:
    for item in report(GOOD).assessments:
        if item.status == "met":
            assert not item.control.rest
        if item.status == "met here":
            assert item.control.rest


@pytest.mark.parametrize(
    ("removed", "identifier", "asked"),
    [
        ("credentials", "M1043", ["read ${HOME}/.ssh/id_rsa"]),
        ("isolation", "SC-39", ["read /proc/1/environ", "read /proc/1/mem"]),
        ("administration", "M1026", ["use the capability sys_admin"]),
        ("isolation", "M1037", ["make a socket: inet raw icmp"]),
    ],
)
def test_a_policy_that_loses_a_document_loses_its_controls(
    removed: str, identifier: str, asked: list[str]
) -> None:
    documents = GOOD.policy.split("\n---\n")
    rest = [
        text for text in documents if f"name: modelarmor-untrusted-model-{removed}\n" not in text
    ]
    assert len(rest) == len(documents) - 1
    # As a deny-list: in an allow-list the posture would refuse what no rule names.
    policy = "\n---\n".join(rest).replace("  action: Allow\n", "  action: Audit\n")
    failed = failing(report(replace(GOOD, policy=policy)), identifier)
    assert set(asked) <= set(failed)
    kept = GOOD.policy.replace("  action: Allow\n", "  action: Audit\n")
    assert not set(asked) & set(failing(report(replace(GOOD, policy=kept)), identifier))


def test_every_answer_is_that_of_decide() -> None:
    subject = subjects.of_evidence(GOOD)
    table = Table(subject.policies, subject.posture)
    answered = {
        proof.asked: proof
        for item in assess(subject).assessments
        for check, result in zip(item.control.checks, item.results, strict=True)
        if check.kind == "refused"
        for proof in result.proofs
    }
    assert len(answered) == len(OPERATIONS)
    verdicts = [table.decide(asked).verdict for asked in OPERATIONS.values()]
    assert sum(proof.holds for proof in answered.values()) == verdicts.count("block")
    for proof in answered.values():
        assert proof.holds == proof.answer.startswith("refused: ")
        assert bool(proof.rule) >= proof.holds
        assert proof.tier in ("", "kernel", "supervised")


def test_without_a_network_policy_no_address_counts_as_unreachable() -> None:
    made = report(replace(GOOD, network=""))
    assert control(made, "SC-7").status == "not met"
    assert "not known: no network policy was given" in as_text(made)


def test_an_egress_that_grants_the_internet_is_seen() -> None:
    online = (PROFILE.parent / "notebook-online" / "network.yaml").read_text(encoding="utf-8")
    made = report(replace(GOOD, network=online))
    assert "connect to 203.0.113.10 port 443 by tcp" in failing(made, "SC-7")
    assert "connect to 169.254.169.254 port 80 by tcp" not in failing(made, "SC-7")


@pytest.mark.parametrize("missing", ["cpu", "memory", "pids", "ephemeral-storage"])
def test_a_limit_that_is_missing_is_seen(missing: str) -> None:
    resources = {name: value for name, value in GOOD.resources.items() if name != missing}
    assert failing(report(replace(GOOD, resources=resources)), "SC-5") == [f"limit of {missing}"]


@pytest.mark.parametrize(
    ("evidence", "identifier"),
    [
        (replace(GOOD, scan=IRIS.scan), "AML.M0016"),
        (replace(GOOD, artifact=replace(GOOD.artifact, digest="")), "SI-7"),
        (replace(GOOD, artifact=replace(GOOD.artifact, requirements=("mlflow",))), "SR-4"),
        (replace(GOOD, artifact=replace(GOOD.artifact, requirements=("mlflow==3.*",))), "SR-4"),
        (replace(GOOD, observation=None), "RA-3"),
    ],
)
def test_a_fact_that_is_missing_from_the_evidence_is_seen(
    evidence: Evidence, identifier: str
) -> None:
    assert control(report(GOOD), identifier).status in ("met", "met here")
    assert control(report(evidence), identifier).status in ("partly", "not met")


def test_of_a_bare_policy_nothing_of_the_evidence_is_claimed() -> None:
    made = assess(subjects.of_policies([PROFILE / "policy.yaml"], network=PROFILE / "network.yaml"))
    assert control(made, "AC-3").status == "met here"
    assert control(made, "RA-3").status == "not met"
    assert control(made, "SC-5").status == "not met"


def test_a_filled_policy_is_asked_about_its_own_places() -> None:
    policies = document.load(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: p}\n"
        "spec:\n  selector: {matchLabels: {a: b}}\n  severity: 5\n  action: Block\n"
        "  file:\n    matchDirectories:\n"
        "      - {dir: /opt/ml/model/, recursive: true, readOnly: true}\n"
    )
    bare = Subject(name="p", policies=policies)
    assert control(assess(bare), "AML.M0005").status == "not met"
    placed = placed_at(bare, {"MODEL": "/opt/ml/model"})
    assert control(assess(placed), "AML.M0005").status == "met here"


def test_a_policy_that_allows_everything_meets_nothing_of_access() -> None:
    policies = document.load(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: p}\n"
        "spec:\n  selector: {matchLabels: {a: b}}\n  severity: 5\n  action: Block\n"
        "  file: {matchPaths: [{path: /nothing}]}\n"
    )
    made = assess(Subject(name="p", policies=policies))
    assert {item.status for item in made.assessments} == {"not met"}


# --- the table


def test_every_check_names_something_that_is_computed() -> None:
    known = {
        "refused": set(OPERATIONS), "unreachable": set(ADDRESSES), "known": set(FACTS),
        "limited": {"cpu", "memory", "pids", "ephemeral-storage"},
    }  # fmt: skip
    used: dict[str, set[str]] = {kind: set() for kind in known}
    for item in CONTROLS:
        assert item.checks, item.id
        assert item.source.startswith("https://"), item.id
        for check in item.checks:
            assert check.names, item.id
            used[check.kind] |= set(check.names)
    assert used == known


def test_no_control_is_listed_twice() -> None:
    names = [(item.framework, item.id) for item in CONTROLS]
    assert len(names) == len(set(names))


# --- shown


@pytest.mark.parametrize("evidence", [GOOD, IRIS])
def test_json_text_and_page_tell_the_same(evidence: Evidence) -> None:
    made = report(evidence)
    text = as_json([made])
    assert text.isascii()
    (told,) = json.loads(text)
    assert [item["status"] for item in told["controls"]] == [a.status for a in made.assessments]
    assert {item["status"] for item in told["controls"]} <= set(STATUSES)
    page = as_html(made)
    for item in made.assessments:
        assert f">{item.control.id}</strong>" in page
        assert f"{item.control.id}  {item.control.title}" in as_text(made)


def test_a_hostile_name_is_shown_and_does_nothing() -> None:
    nasty = replace(GOOD, artifact=replace(GOOD.artifact, source=NASTY, requirements=(NASTY,)))
    made = report(nasty)
    for shown in (as_text(made), as_html(made)):
        assert not re.search("[\x00-\x09\x0b-\x1f\u200b\u202e\ud800]", shown)
        assert "\\x1b[2J" in shown
    assert "<script" not in as_html(made)
    assert "<img" not in as_html(made)


def test_evidence_that_cannot_be_read_is_refused_instead_of_assessed() -> None:
    with pytest.raises(ValueError, match="the network policy cannot be read"):
        report(HOSTILE)
