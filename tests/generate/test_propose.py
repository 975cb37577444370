from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelarmor import profiles
from modelarmor.alerts import Alert
from modelarmor.generate import propose as room
from modelarmor.generate.propose import Proposal, propose, why_not
from modelarmor.policy import document
from modelarmor.policy.decide import Operation, OperationKind, Table
from modelarmor.policy.model import (
    CapabilityRule,
    Outcome,
    PathRule,
    Policy,
    Posture,
    ProtocolRule,
)
from modelarmor.sandbox.events import EGRESS_POLICY, RESOURCE_POLICY, SANDBOX_POLICY

HOME = Path("/home/ada")
PYTHON = "/usr/bin/python3.11"
ALLOW, BLOCK = Outcome("Allow"), Outcome("Block", message="Not this")
PROFILE = profiles.load(
    "notebook",
    workspace=HOME / "work",
    home=HOME,
    tmp=Path("/tmp/scratch"),
    prefix=Path("/opt/env"),
)


def _ask(*operations: Operation, overrule: bool = True) -> Proposal:
    return propose(
        operations, PROFILE.policies, PROFILE.posture, name="added", home=HOME, overrule=overrule
    )


def _rules(proposal: Proposal) -> list[PathRule]:
    [policy] = proposal.policies
    return [*policy.process, *policy.file]


def _grave(proposal: Proposal) -> str:
    return "\n".join(item.text for item in proposal.warnings if item.severity == "high")


def test_one_file_is_read_by_one_rule_that_says_so() -> None:
    proposal = _ask(Operation("read", "/data/x.csv", source=PYTHON))

    assert proposal.summary == "Allow reading /data/x.csv"
    [rule] = _rules(proposal)
    assert (rule.match, rule.value, rule.read_only) == ("path", "/data/x.csv", True)
    assert [str(change) for change in proposal.changes] == ["read /data/x.csv is now allowed"]
    assert proposal.warnings == proposal.refused == ()
    assert document.load(proposal.document) == [
        document.load(document.dump(proposal.policies))[0],
    ]


def test_a_file_that_is_changed_may_be_read_too() -> None:
    proposal = _ask(
        Operation("create", "/data/out"),
        Operation("read", "/data/out"),
        Operation("delete", "/data/out"),
    )

    [rule] = _rules(proposal)
    assert rule.read_only is False
    assert proposal.operations == 3


def test_many_files_of_one_directory_are_one_rule_for_it() -> None:
    files = [Operation("read", f"/srv/data/set/{n}.png") for n in range(room.SIBLINGS)]

    assert len(_rules(_ask(*files[1:]))) == room.SIBLINGS - 1
    [rule] = _rules(_ask(*files))
    assert (rule.match, rule.value) == ("directory", "/srv/data/set/")
    assert (rule.recursive, rule.read_only) == (False, True)


def test_a_tree_of_files_is_one_rule_for_its_top() -> None:
    files = [Operation("read", f"/srv/data/set/{n % 4}/{n}.png") for n in range(40)]

    [rule] = _rules(_ask(*files))
    assert (rule.value, rule.recursive) == ("/srv/data/set/", True)


@pytest.mark.parametrize("directory", ["/home/ada", "/etc", "/", "/home/ada/.aws/sso", "/var/lib"])
def test_a_place_that_holds_other_things_is_never_granted_as_a_whole(directory: str) -> None:
    files = [Operation("read", f"{directory.rstrip('/')}/{n}.conf") for n in range(20)]

    assert {rule.match for rule in _rules(_ask(*files))} == {"path"}


def test_a_listing_takes_the_directorys_own_rule() -> None:
    [rule] = _rules(_ask(Operation("list", "/srv/data")))

    assert (rule.match, rule.value, rule.recursive) == ("directory", "/srv/data/", False)


def test_a_program_takes_a_process_rule() -> None:
    proposal = _ask(Operation("exec", "/opt/tool/bin/run", source=PYTHON))

    assert [rule.value for rule in proposal.policies[0].process] == ["/opt/tool/bin/run"]
    assert proposal.policies[0].file == ()


def test_what_a_block_rule_guards_is_granted_only_where_a_closer_rule_wins() -> None:
    key = Operation("read", str(HOME / ".ssh" / "id_rsa"), source=PYTHON)
    shadow = Operation("read", "/etc/shadow", source=PYTHON)

    proposal = _ask(key, shadow)

    by_value = {rule.value: rule.from_source for rule in _rules(proposal)}
    # the directory is blocked, so the path is closer; the path is, so the path from a source is
    assert by_value == {key.path: (), shadow.path: (PYTHON,)}
    assert "overrules the Block rule spec.file.matchDirectories[0]" in _grave(proposal)
    assert "Keys, passwords and tokens are out of reach" in _grave(proposal)


def test_of_many_none_that_a_block_rule_guards_is_granted_by_the_way() -> None:
    key = Operation("read", str(HOME / ".ssh" / "id_rsa"))
    proposal = _ask(key, Operation("read", "/data/x"), overrule=False)

    assert [rule.value for rule in _rules(proposal)] == ["/data/x"]
    [refusal] = proposal.refused
    assert refusal.what == f"reading {key.path}"
    assert "ask for this one alone" in refusal.why


def test_a_block_rule_as_close_as_can_be_is_not_overruled() -> None:
    own = PathRule(BLOCK, match="path", value="/x", from_source=(PYTHON,), where="spec.file[0]")
    base = [
        Policy("KubeArmorPolicy", "p", file=(own, PathRule(ALLOW, match="path", value="/y"))),
    ]

    proposal = propose([Operation("read", "/x", source=PYTHON)], base, name="added")

    assert not proposal
    assert "no Allow rule is more specific" in proposal.refused[0].why


def test_no_rule_is_added_that_would_refuse_everything_else() -> None:
    """Where only Block rules speak of programs, the first Allow rule is an allow-list of one."""
    base = [Policy("KubeArmorPolicy", "p", process=(PathRule(BLOCK, match="execname", value="x"),))]
    operation = Operation("exec", "/usr/bin/x", source=PYTHON)

    proposal = propose([operation], base, name="added")

    assert not proposal
    assert "would refuse everything else" in proposal.refused[0].why


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        (Operation("read", str(HOME / ".aws" / "credentials")), "keys, passwords or tokens"),
        (Operation("list", str(HOME)), "every credential in it"),
        (Operation("write", str(HOME / ".bashrc")), "runs later, outside of the sandbox"),
        (Operation("write", "/run/docker.sock"), "start programs outside"),
        (Operation("write", "/usr/local/bin/tool"), "writable, and what is here may be executed"),
        (Operation("exec", str(HOME / "work" / "built")), "executable, and what is here may be"),
        (Operation("read", "/dev/mem"), "reaches past every policy"),
        (Operation("exec", "/usr/bin/sudo"), "administers the machine"),
    ],
)
def test_what_is_dangerous_is_said(operation: Operation, says: str) -> None:
    assert says in _grave(_ask(replace(operation, source=PYTHON)))


def test_a_network_protocol_is_granted_by_its_narrowest_name_with_a_warning() -> None:
    base = [Policy("KubeArmorPolicy", "p", network=(ProtocolRule(ALLOW, protocol="udp"),))]
    tcp = Operation("network", family="inet", socket_type="stream", protocol="tcp")
    unix = Operation("network", family="unix", socket_type="stream", protocol="")

    for operation, protocol in ((tcp, "tcp"), (unix, "stream")):
        proposal = propose([operation], base, name="added")
        [rule] = proposal.policies[0].network
        assert isinstance(rule, ProtocolRule)
        assert rule.protocol == protocol
        assert "limits no address" in proposal.warnings[0].text


def test_a_capability_is_granted_on_a_cluster_and_never_in_the_sandbox() -> None:
    base = [
        Policy("KubeArmorPolicy", "p", capabilities=(CapabilityRule(ALLOW, capability="chown"),))
    ]
    operation = Operation("capability", capability="CAP_NET_BIND_SERVICE")

    assert not propose([operation], base, name="added")
    [policy] = propose([operation], base, name="added", local=False).policies
    assert policy.capabilities[0].capability == "net_bind_service"


@pytest.mark.parametrize(
    ("alert", "says"),
    [
        (Alert(Operation="Network", PolicyName=EGRESS_POLICY), "network.yaml"),
        (Alert(Operation="Resource", PolicyName=RESOURCE_POLICY), "resources.limits"),
        (Alert(Operation="File", PolicyName=SANDBOX_POLICY), "no policy can"),
        (Alert(Operation="AlertThreshold"), "only counted"),
        (Alert(Operation="Syscall"), "only report"),
    ],
)
def test_what_a_policy_has_no_word_for_names_the_place_that_has(alert: Alert, says: str) -> None:
    assert says in why_not(alert)


def test_a_preset_and_a_hostile_name_are_refused_with_the_reason() -> None:
    proposal = _ask(
        Operation("read", "/proc/1/environ", foreign_proc=True),
        Operation("read", "/data/${HOME}/.ssh"),
        Operation("read", "/data/a\nb"),
        Operation("exec", fileless=True),
        Operation("syscall", syscall="mount"),
    )

    assert not proposal
    reasons = [refusal.why for refusal in proposal.refused]
    assert "no rule outweighs a preset" in reasons[0]
    assert reasons[1] == reasons[2] == "its name cannot be written in a policy safely"
    assert len(reasons) == 4  # a system call is never refused


def test_a_flood_of_places_is_bounded() -> None:
    scattered = [Operation("read", f"/srv/d{n}/e{n}/f") for n in range(room.MAX_RULES + 50)]

    proposal = _ask(*scattered)

    assert len(_rules(proposal)) <= room.MAX_RULES
    assert len(proposal.refused) + proposal.operations >= len(scattered) - 1
    assert len(proposal.to_json()["changes"]) >= 1


_NAMES = st.sampled_from(["a", "b", "data", ".ssh", "x.csv", "bin", "work"])
_PATHS = st.builds(
    lambda top, parts: "/".join([top, *parts]),
    st.sampled_from(["/srv", "/home/ada", "/etc", "/usr", "/opt/env", "/run"]),
    st.lists(_NAMES, min_size=1, max_size=3),
)
_KINDS: list[OperationKind] = ["read", "list", "write", "create", "delete", "metadata", "exec"]
_OPERATIONS = st.builds(
    Operation, st.sampled_from(_KINDS), _PATHS, source=st.sampled_from([PYTHON, "/usr/bin/cat"])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_OPERATIONS, min_size=1, max_size=12), st.lists(_OPERATIONS, max_size=30))
def test_it_permits_what_it_says_and_changes_nothing_that_it_does_not_name(
    asked: list[Operation], others: list[Operation]
) -> None:
    proposal = _ask(*asked)
    before = Table(PROFILE.policies, PROFILE.posture)
    after = Table([*PROFILE.policies, *proposal.policies], PROFILE.posture)

    refused = {refusal.what for refusal in proposal.refused}
    still = [item for item in set(asked) if after.decide(item).verdict == "block"]
    assert len(refused) <= len(still)
    assert proposal.operations == len(
        [item for item in set(asked) if before.decide(item).verdict == "block"]
    ) - len(still)
    names = {policy.name for policy in proposal.policies}
    for item in [*asked, *others]:
        was, now = before.decide(item), after.decide(item)
        if was.verdict != now.verdict:
            assert now.verdict == "allow"
            assert now.policy_name in names
    assert all(change.effect != "lost" for change in proposal.changes)


def test_what_is_permitted_already_is_passed_over() -> None:
    assert not _ask(Operation("read", str(HOME / "work" / "x")))
    audited = propose(
        [Operation("read", "/data/x")], PROFILE.policies, Posture.all("audit"), name="added"
    )
    assert not audited
