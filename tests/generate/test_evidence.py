from __future__ import annotations

import json
from typing import Any

import pytest

from modelarmor.generate.evidence import (
    Artifact,
    ArtifactFile,
    Event,
    Evidence,
    EvidenceError,
    Finding,
    Observation,
    Reason,
    Scan,
    Usage,
    Voice,
)
from modelarmor.policy.decide import Operation

FULL = Evidence(
    artifact=Artifact(
        source="models:/iris/3",
        flavour="sklearn",
        flavours=("sklearn", "python_function"),
        loader="mlflow.sklearn",
        files=(ArtifactFile(path="model.pkl", size=12, sha256="ab" * 32, format="pickle"),),
        digest="sha256:" + "cd" * 32,
        findings=(Finding(rule="odd-name", severity="low", title="An odd name"),),
    ),
    scan=Scan(
        voices=(Voice(name="picklescan", version="1.0.5", status="complete", inspected=1),),
        findings=(Finding(rule="shell", severity="critical", title="It starts a shell"),),
    ),
    observation=Observation(
        completed=("start", "load"),
        events=(
            Event(phase="load", operation=Operation("read", "/etc/hosts", owner=False)),
            Event(phase="serve", operation=Operation("network", protocol="", family="unix")),
        ),
        usage=Usage(cpu_seconds=1.5, memory=1 << 30, processes=3),
        unlisted=4,
    ),
    policy="kind: KubeArmorPolicy\n",
    resources={"memory": "2Gi"},
    reasons=(
        Reason(policy="p", rule="file.matchPaths[0]", what="hosts", kind="observed", count=1),
    ),
)


def test_evidence_is_read_as_it_was_written() -> None:
    assert Evidence.loads(FULL.dumps()) == FULL
    assert Evidence.loads(FULL.dumps()).digest == FULL.digest


def test_the_same_facts_give_the_same_bytes() -> None:
    again = Evidence.loads(json.dumps(json.loads(FULL.dumps()), indent=None))
    assert again.dumps() == FULL.dumps()


def test_findings_of_every_part_come_worst_first() -> None:
    assert [finding.rule for finding in FULL.findings] == ["shell", "odd-name"]


def test_the_policy_digest_is_about_the_policy_alone() -> None:
    other = Evidence(artifact=FULL.artifact, policy=FULL.policy, resources=FULL.resources)
    assert other.policy_digest == FULL.policy_digest
    assert Evidence(artifact=FULL.artifact).policy_digest != FULL.policy_digest


def _with(path: str, value: Any) -> str:
    body = json.loads(FULL.dumps())
    *parents, last = path.split(".")
    place = body
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    place[last] = value
    return json.dumps(body)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "no evidence of format"),
        ("{", "no JSON document"),
        ("[" * 100_000, "no JSON document"),
        (_with("format", 99), "no evidence of format"),
        (_with("artifact.files", {}), "evidence.artifact.files should be a list"),
        (_with("artifact.files.0.size", "12"), r"files\[0\].size should be int"),
        (_with("artifact.files.0.size", True), r"files\[0\].size should be int"),
        (_with("scan.findings.0.severity", "grave"), "is none of"),
        (_with("observation.events.0.operation.path", "relative"), "must be absolute"),
        (_with("resources", {"memory": 2}), "object of strings"),
        (_with("verdict", "fine"), "has no 'verdict'"),
        (_with("artifact", {}), "missing"),
    ],
)
def test_what_is_no_evidence_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(EvidenceError, match=says):
        Evidence.loads(text)
