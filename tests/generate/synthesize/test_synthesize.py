"""Policies from evidence that is written down here: what is granted, refused, told, and why."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelarmor import profiles
from modelarmor.alerts import Alert
from modelarmor.generate import workload
from modelarmor.generate.evidence import Artifact, Event, Evidence, Finding, Observation, Usage
from modelarmor.generate.places import Places
from modelarmor.generate.replay import replay
from modelarmor.generate.synthesize import Draft, labels, synthesize
from modelarmor.policy.decide import Operation, OperationKind, Table
from modelarmor.sandbox.network import Egress

ARTIFACT = Artifact(source="m", flavour="sklearn", digest="sha256:" + "ab" * 32)
PYTHON = "/${PREFIX}/bin/python3.11"
PLACES: dict[str, Any] = {
    "model": Path("/opt/ml/model"), "prefix": Path("/opt/env"), "tmp": Path("/scratch"),
    "home": Path("/home/someone"), "workspace": Path("/work-of-a-loader"),
}  # fmt: skip
INTERPRETER = "/opt/env/bin/python3.11"


def event(kind: OperationKind, path: str = "", **more: Any) -> Event:
    return Event(phase="load", operation=Operation(kind, path, source=PYTHON, **more))


def observation(*events: Event, **more: Any) -> Observation:
    return Observation(completed=("start", "load", "serve"), events=events, **more)


def draft(*events: Event, **options: Any) -> Draft:
    return synthesize(ARTIFACT, None, observation(*events), **options)


def table(made: Draft) -> Table:
    return Table(profiles.fill(made.policy, name="<test>", **PLACES))


def asked(kind: OperationKind, path: str = "", **more: Any) -> Operation:
    return Operation(kind, path, source=INTERPRETER, **more)


@pytest.mark.parametrize(
    "operation",
    [
        asked("read", "/opt/ml/model/model.pkl"),
        asked("list", "/opt/ml/model"),
        asked("write", "/scratch/tmpab12cd34/x"),
        asked("create", "/dev/shm/sem.abc"),
        asked("read", "/opt/env/lib/python3.11/site-packages/uvicorn/main.py"),
        asked("read", "/usr/lib/x86_64-linux-gnu/libc.so.6"),
        asked("read", "/etc/nsswitch.conf"),
        asked("read", "/proc/self/environ"),
        asked("write", "/dev/null"),
        asked("exec", INTERPRETER),
        asked("network", family="inet"),
        asked("network", family="unix", protocol=""),
    ],
    ids=lambda operation: f"{operation.kind} {operation.path or operation.family}",
)
def test_what_serving_needs_is_granted_whatever_was_seen(operation: Operation) -> None:
    assert table(draft(event("read", "/${MODEL}/x"))).decide(operation).verdict == "allow"


@pytest.mark.parametrize(
    "operation",
    [
        asked("write", "/opt/ml/model/model.pkl"),
        asked("create", "/opt/env/lib/python3.11/site-packages/sitecustomize.py"),
        asked("read", "/home/someone/.ssh/id_rsa"),
        asked("read", "/home/someone/thesis.txt"),
        asked("read", "/etc/shadow"),
        asked("read", "/run/secrets/kubernetes.io/serviceaccount/token"),
        asked("create", "/var/spool/cron/root"),
        asked("read", "/proc/kcore"),
        asked("read", "/proc/7/environ", foreign_proc=True),
        asked("read", "/dev/nvidia0"),
        asked("exec", "/bin/sh"),
        asked("exec", "/usr/bin/curl"),
        asked("exec", "/usr/bin/pip3"),
        asked("exec", "/usr/bin/nvidia-smi"),
        asked("exec", "/scratch/xmrig"),
        asked("exec", "/scratch/dropped"),
        asked("exec", "/dev/shm/dropped"),
        asked("exec", "/memfd:x", fileless=True),
        asked("network", socket_type="dgram", protocol="udp"),
        asked("network", socket_type="raw", protocol="icmp"),
        asked("network", family="packet", socket_type="raw", protocol="3"),
        asked("capability", capability="sys_admin"),
        Operation("network", source="/usr/bin/other", protocol="tcp"),
    ],
    ids=lambda operation: f"{operation.kind} {operation.path or operation.protocol}",
)
def test_what_no_model_needs_is_refused_even_where_it_was_seen(operation: Operation) -> None:
    """A model that reads keys while it is watched has earned no right to them."""
    seen = replace(operation, path=operation.path.replace("/opt/ml/model", "/${MODEL}"))
    seen = replace(seen, path=seen.path.replace("/home/someone", "/${HOME}"))
    seen = replace(seen, path=seen.path.replace("/scratch", "/${TMP}"))
    gpu = operation.path.startswith("/dev/nvidia")
    made = draft() if gpu else draft(Event(phase="load", operation=seen))
    assert table(made).decide(operation).verdict == "block"
    if not gpu:
        assert [finding.rule for finding in made.findings] == ["not-granted"]


def test_places_are_granted_where_something_in_them_was_seen() -> None:
    fonts = asked("read", "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")
    assert table(draft()).decide(fonts).verdict == "block"
    granted = draft(event("read", "/usr/share/fonts/truetype/x.ttf"))
    assert table(granted).decide(fonts).verdict == "allow"
    assert table(granted).decide(asked("read", "/usr/share/dict/words")).verdict == "block"
    reason = next(r for r in granted.reasons if r.kind == "observed")
    assert reason.what == "fonts: may be read" and reason.phases == ("load",) and reason.count == 1


def test_an_accelerator_is_the_interpreters_alone() -> None:
    for made in (
        draft(event("read", "/${MODEL}/x"), gpu=True),
        draft(event("read", "/dev/nvidiactl")),
    ):
        assert table(made).decide(asked("write", "/dev/nvidia0")).verdict == "allow"
        other = Operation("write", "/dev/nvidia0", source="/usr/bin/python3-of-the-system")
        assert table(made).decide(other).verdict == "block"
    assert table(draft(event("read", "/dev/nvidiactl"), gpu=False)).decide(
        asked("write", "/dev/nvidia0")
    ).verdict == "block"  # fmt: skip


def test_chance_and_accident_leave_no_trace() -> None:
    """Two runs with other random names, process numbers and directories give the same bytes."""

    def run(number: int, model: str) -> Draft:
        places = Places.of(**(PLACES | {"model": Path(model), "tmp": Path(f"/scratch{number}")}))
        operations = [
            Operation("read", f"{model}/model.pkl", source=INTERPRETER),
            Operation("create", f"/scratch{number}/tmp{number}x_qz4", source=INTERPRETER),
            Operation("create", f"/dev/shm/sem.a{number}Qz", source=INTERPRETER),
            Operation("write", f"/proc/{number}/task/{number + 1}/comm", source=INTERPRETER),
        ]
        events = [
            Event(phase="load", operation=places.event(each, (str(number),))) for each in operations
        ]
        return synthesize(ARTIFACT, None, observation(*events))

    assert run(101, "/home/a/models/one") == run(20202, "/srv/other place/two")


def test_a_file_called_like_a_template_is_not_taken_for_one() -> None:
    places = Places.of(**PLACES)
    meant = places.event(Operation("read", "/${MODEL}/x", source=INTERPRETER))
    assert meant.path == "/$%7BMODEL}/x"
    assert [f.location for f in draft(Event(phase="load", operation=meant)).findings] == [
        "/$%7BMODEL}/x"
    ]


def test_each_rule_has_one_reason() -> None:
    made = draft(event("read", "/${MODEL}/model.pkl"))
    policies = profiles.unfilled(made.policy, name="<test>")
    rules = {
        (policy.name, rule.where)
        for policy in policies
        for section in (
            policy.process, policy.file, policy.network, policy.capabilities, policy.presets,
        )
        for rule in section
    }  # fmt: skip
    given = [
        (reason.policy, reason.rule) for reason in made.reasons if reason.rule != "spec.egress"
    ]
    assert sorted(given) == sorted(rules)
    assert all(reason.what for reason in made.reasons)
    assert all(reason.origin for reason in made.reasons if reason.kind != "observed")


def test_what_it_tried_to_reach_is_named_as_a_reason_for_the_closed_network() -> None:
    found = Finding(rule="connected", severity="high", title="t", location="192.0.2.7 port 443")
    made = synthesize(ARTIFACT, None, observation(findings=(found,)))
    assert Egress.from_network_policy(yaml.safe_load(made.network)).is_none
    assert any(reason.origin == found.fingerprint for reason in made.reasons)


def test_a_policy_selects_what_serves_its_model_alone() -> None:
    other = replace(ARTIFACT, digest="sha256:" + "cd" * 32)
    assert labels(ARTIFACT) != labels(other)
    policies = profiles.unfilled(synthesize(ARTIFACT).policy, name="<test>")
    assert {policy.selector.match_labels for policy in policies} == {
        tuple(labels(ARTIFACT).items())
    }
    assert len({policy.name for policy in policies}) == len(policies)


def test_tags_name_techniques_and_controls() -> None:
    for policy in profiles.unfilled(synthesize(ARTIFACT).policy, name="<test>"):
        tags = policy.outcome.tags
        assert {"MITRE", "NIST"} <= set(tags), policy.name
        assert policy.outcome.message and policy.outcome.severity


@pytest.mark.parametrize(
    ("memory", "limit"), [(100 << 20, "1024Mi"), (101 << 20, "1024Mi"), (2 << 30, "3584Mi")]
)
def test_limits_leave_room_and_do_not_follow_noise(memory: int, limit: str) -> None:
    made = synthesize(ARTIFACT, None, observation(usage=Usage(memory=memory, processes=5)))
    assert made.resources["memory"] == limit and made.resources["pids"] == "256"


def test_limits_of_one_that_did_not_predict_are_the_profiles() -> None:
    unfinished = Observation(completed=("start",), usage=Usage(memory=1))
    assert synthesize(ARTIFACT, None, unfinished).resources["memory"] == "8192Mi"


def test_the_evidence_replays_against_its_own_policy(tmp_path: Path) -> None:
    made = draft(event("read", "/${MODEL}/model.pkl"), event("read", "/${PREFIX}/lib/x.py"))
    kept = Evidence(
        artifact=ARTIFACT,
        observation=observation(
            event("read", "/${MODEL}/model.pkl"), event("read", "/${PREFIX}/lib/x.py")
        ),
        policy=made.policy, network=made.network, resources=made.resources,
        expected_denials=made.expected_denials,
    )  # fmt: skip
    kept = Evidence.loads(kept.dumps())
    (tmp_path / "tmp").mkdir()
    places: dict[str, Any] = {
        "model": tmp_path / "model", "prefix": Path(sys.prefix), "tmp": tmp_path / "tmp",
        "home": tmp_path / "home",
    }  # fmt: skip
    profile = workload.filled(kept, **places)
    operations = workload.operations(kept, **places)
    assert len(operations) >= 2
    assert replay(profile.policies, operations, profile.posture) == []
    assert profile.variables["HOME"] == str((tmp_path / "tmp" / "home").resolve())
    assert Path(profile.variables["HOME"]).is_dir()
    assert "AWS_SECRET_ACCESS_KEY" not in profile.environ({"AWS_SECRET_ACCESS_KEY": "x"})


def test_only_what_was_foreseen_is_no_news() -> None:
    kept = Evidence(artifact=ARTIFACT, expected_denials=synthesize(ARTIFACT).expected_denials)
    places = Places.of(**PLACES)

    def expected(line: str) -> bool:
        alert = Alert(Operation="Process", Resource=line, ProcessName=line.partition(" ")[0],
                      ParentProcessName=INTERPRETER, PID=7)  # fmt: skip
        return workload.is_expected(kept, alert, places)

    assert expected("/usr/bin/uname -p") and expected("/bin/uname -p")
    assert not expected("/usr/bin/id") and not expected("/bin/sh -c uname")
    connects = Alert(Operation="Network", Resource="domain=AF_INET type=SOCK_STREAM protocol=TCP",
                     PolicyName="NetworkPolicy")  # fmt: skip
    assert not workload.is_expected(kept, connects, places)
    reads = Alert(Operation="File", Resource="/etc/shadow", Data="access=read")
    assert not workload.is_expected(kept, reads, places)


def test_evidence_without_a_policy_confines_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="generate it again"):
        workload.filled(
            Evidence(artifact=ARTIFACT), model=tmp_path, prefix=Path(sys.prefix), tmp=tmp_path
        )


@pytest.mark.parametrize("network", ["", "[", "[" * 5000, "a: &a [*a]", "kind: Pod"])
def test_evidence_with_no_network_policy_confines_nothing(tmp_path: Path, network: str) -> None:
    made = draft()
    kept = Evidence(artifact=ARTIFACT, policy=made.policy, network=network)
    with pytest.raises(ValueError, match="<generated network policy>"):
        workload.filled(
            kept, model=tmp_path, prefix=Path(sys.prefix), tmp=tmp_path, home=Path("/h")
        )
