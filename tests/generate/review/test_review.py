"""What follows from evidence, before anything is shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelarmor.generate.evidence import Evidence, Observation, Scan, Voice
from modelarmor.generate.review import Review, review
from modelarmor.generate.review.model import Ability, Capability

from .samples import BEFORE, HOSTILE, IRIS, LSCPU


def capability(made: Review, ability: Ability) -> Capability:
    return next(item for item in made.capabilities if item.ability == ability)


def points(made: Review) -> str:
    return "\n".join(f"{point.severity}: {point.what}" for point in made.points)


def test_grave_findings_wait_for_a_decision_worst_first() -> None:
    made = review(IRIS)
    assert made.worst == "critical"
    assert [point.severity for point in made.points][:3] == ["critical", "critical", "high"]
    assert "high: The pickle calls posix.system (model.pkl:1234)" in points(made)


@pytest.mark.parametrize(
    ("voice", "standing"),
    [
        (Voice(name="a", status="complete", inspected=2), "clean"),
        (Voice(name="picklescan", status="complete", inspected=1), "findings"),
        (Voice(name="a", status="complete", inspected=0), "incomplete"),
        (Voice(name="a", status="failed", inspected=2), "failed"),
        (Voice(name="a", status="absent"), "absent"),
    ],
)
def test_a_voice_is_only_clean_if_it_looked_at_something(voice: Voice, standing: str) -> None:
    made = review(replace(IRIS, scan=replace(IRIS.scan, voices=(voice,))))
    assert next(v for v in made.verdicts if v.name == voice.name).standing == standing


def test_a_finding_of_a_voice_that_is_not_listed_is_still_told() -> None:
    made = review(replace(IRIS, scan=replace(IRIS.scan, voices=())))
    assert {v.name: dict(v.counts) for v in made.verdicts}["picklescan"] == {"critical": 1}


def test_a_model_that_was_not_run_is_a_point() -> None:
    made = review(replace(IRIS, observation=None))
    assert "medium: recording is absent: the model was not run" in points(made)
    assert made.refusals == ()
    assert not any(phase.completed for phase in made.coverage)
    assert all(g.observed is None for g in capability(made, "read").grants)


def test_a_recording_that_did_not_end_or_is_not_whole_is_incomplete() -> None:
    assert IRIS.observation is not None
    cut = replace(IRIS, observation=replace(IRIS.observation, completed=("start",)))
    assert "recording is incomplete: did not complete: load, serve" in points(review(cut))
    flood = replace(IRIS, observation=replace(IRIS.observation, unlisted=7))
    assert "7 operations counted and not listed" in points(review(flood))


def test_grants_are_counted_by_the_operations_that_rest_on_them() -> None:
    made = review(IRIS)
    written = {grant.subject: grant.observed for grant in capability(made, "write").grants}
    assert written == {"${TMP}/": 5, "/dev/shm/": 2}
    reads = {grant.subject: grant for grant in capability(made, "read").grants}
    assert reads["${PREFIX}/"].observed == 211
    assert reads["${PREFIX}/"].meaning == "the Python environment"
    assert reads["/etc/passwd"].unobserved
    assert "Granted and never observed (exec): ${PREFIX}/bin/python3" in points(made)


def test_reading_through_a_writable_grant_does_not_count_as_writing() -> None:
    assert IRIS.observation is not None
    events = tuple(e for e in IRIS.observation.events if e.operation.kind == "read")
    made = review(replace(IRIS, observation=Observation(events=events)))
    assert {g.observed for g in capability(made, "write").grants} == {0}


def test_what_the_network_policy_grants_is_told() -> None:
    assert not capability(review(IRIS), "network").open
    without = review(replace(IRIS, network=""))
    assert capability(without, "network").open
    assert "high: It may reach what no rule names." in points(without)


def test_an_allow_list_that_is_gone_is_told() -> None:
    block_only = IRIS.policy.partition("\n---\n")[2]
    made = review(replace(IRIS, policy=block_only))
    for ability in ("exec", "read", "write"):
        assert capability(made, ability).open  # type: ignore[arg-type]
    assert "high: It may write what no rule names." in points(made)


def test_without_a_policy_nothing_is_confined() -> None:
    assert "critical: There is no policy" in points(review(replace(IRIS, policy="")))


def test_recorded_operations_are_put_to_the_policy() -> None:
    made = review(IRIS)
    refused = {refusal.operation: refusal for refusal in made.refusals}
    assert refused["run /usr/bin/lscpu"].expected
    assert not refused["read /etc/shadow"].expected
    assert "modelarmor-untrusted-model-credentials" in refused["read /etc/shadow"].why
    assert refused["make a socket: inet6 stream tcp"].why.startswith("NetworkPolicy grants no")
    assert set(refused) == {
        "run /usr/bin/lscpu", "read /etc/shadow", "make a socket: inet6 stream tcp",
    }  # fmt: skip


def test_an_expected_denial_is_only_expected_if_the_evidence_says_so() -> None:
    made = review(replace(IRIS, expected_denials=()))
    assert not any(refusal.expected for refusal in made.refusals)
    assert LSCPU.operation.path in "".join(refusal.operation for refusal in made.refusals)


def test_every_rule_is_listed_with_its_reason_or_without_one() -> None:
    made = review(IRIS)
    reasons = {(why.policy, why.rule): why for why in made.reasons}
    model = reasons["modelarmor-untrusted-model", "spec.file.matchDirectories[1]"]
    assert model.reason == "the model's own files: seen 3 times during load"
    assert model.kind == "observed"
    assert sum(bool(why.reason) for why in made.reasons) == len(IRIS.reasons)
    assert f"{len(made.reasons) - len(IRIS.reasons)} rules have no reason" in points(made)


def test_changes_are_in_effect_and_in_bytes() -> None:
    made = review(IRIS, BEFORE)
    changes = made.changes
    assert changes is not None
    assert changes.gained == ("read/write ${TMP}/ and everything below is now allowed",)
    assert changes.lost == ()
    assert [(file.change, file.path) for file in changes.files] == [
        ("added", "code/features.py"), ("changed", "model.pkl"), ("removed", "old.bin"),
    ]  # fmt: skip
    assert ("limit of memory", "512Mi", "1Gi") in changes.facts
    assert ("requirement", "mlflow==3.16.0", "none") in changes.facts
    assert {finding.severity for finding in changes.new_findings} == {"critical", "high", "medium"}
    assert "Code differs from the version that was approved: code/features.py" in points(made)
    assert not changes.same_bytes


def test_the_same_version_has_not_changed() -> None:
    changes = review(IRIS, IRIS).changes
    assert changes is not None
    assert not changes
    assert changes.same_bytes
    assert changes.same_policy


def test_a_reordered_policy_is_no_change() -> None:
    first, *rest = IRIS.policy.split("\n---\n")
    changes = review(replace(IRIS, policy="\n---\n".join([*rest, first])), IRIS).changes
    assert changes is not None
    assert not changes
    assert not changes.same_policy


def test_what_cannot_be_read_of_hostile_evidence_is_critical_and_does_not_stop_the_review() -> None:
    made = review(HOSTILE, IRIS)
    said = points(made)
    assert said.count("critical: The policy does not mean what it says") >= 3
    assert "the network policy cannot be read" in said
    assert "the resources cannot be read" in said
    assert review(IRIS, HOSTILE).changes


def test_the_same_evidence_gives_the_same_review() -> None:
    assert review(Evidence.loads(IRIS.dumps())) == review(IRIS)


def test_nobody_looking_is_no_clean_bill() -> None:
    made = review(replace(IRIS, scan=Scan()))
    assert "medium: No scanner looked at the files" in points(made)
