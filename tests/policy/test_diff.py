"""Comparing policies: sentences about what changes in effect, and silence about the rest."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelarmor.policy import diff as module
from modelarmor.policy.decide import Operation, OperationKind, Table
from modelarmor.policy.diff import Diff, diff
from modelarmor.policy.document import dump, load
from modelarmor.policy.model import Outcome, PathRule, Policy, Posture

READ_USR = "file: {matchDirectories: [{dir: /usr/, recursive: true, readOnly: true}]}"


def policy(*sections: str, action: str = "Allow") -> list[Policy]:
    spec = "".join(f"  {section}\n" for section in (f"action: {action}", *sections))
    head = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: p}\n"
    return load(f"{head}spec:\n{spec}")


def files(*rules: str, action: str = "Allow") -> list[Policy]:
    """A policy whose file section has these directories."""
    return policy(f"file: {{matchDirectories: [{', '.join(rules)}]}}", action=action)


def said(found: Diff) -> list[str]:
    return str(found).splitlines()[:-1]


class TestWhatChanges:
    def test_a_directory_that_may_now_be_written(self) -> None:
        before = files("{dir: /ws/, recursive: true, readOnly: true}")
        after = files("{dir: /ws/, recursive: true}")
        assert said(diff(before, after)) == ["+ write /ws/ and everything below is now allowed"]
        assert said(diff(after, before)) == [
            "- write /ws/ and everything below is no longer allowed"
        ]

    def test_a_change_carries_both_reasons(self) -> None:
        (change,) = diff(files("{dir: /a/, readOnly: true}"), files("{dir: /a/}")).gained
        assert (change.section, change.operations) == (
            "file",
            ("write", "create", "delete", "metadata"),
        )
        assert "default posture" in change.before
        assert "allows it" in change.after

    def test_one_source_alone(self) -> None:
        after = files("{dir: /usr/, recursive: true, readOnly: true}",
                      "{dir: /k/, recursive: true, fromSource: [{path: /bin/a}]}")  # fmt: skip
        assert said(diff(policy(READ_USR), after)) == [
            "+ read/write /k/ and everything below from /bin/a is now allowed"
        ]

    def test_every_program_but_one(self) -> None:
        before = files("{dir: /k/, recursive: true}", action="Block")
        after = [
            *before,
            *files("{dir: /k/, recursive: true, fromSource: [{path: /bin/a}]}", action="Block"),
            *policy("network: {matchProtocols: [{protocol: tcp}]}", action="Audit"),
        ]
        assert not diff(before, after).lost
        (change,) = diff(
            files("{dir: /k/, fromSource: [{path: /bin/a}]}", action="Block"),
            files("{dir: /k/}", action="Block"),
        ).lost[:1]
        assert change.sources == ("",)
        assert "from any other program" in str(change)

    def test_owner_and_terminal_are_told(self) -> None:
        assert said(diff([], files("{dir: /h/, ownerOnly: true}", action="Block")))[0] == (
            "- read/write /h/ and directly in it by others than the file's owner is no longer"
            " allowed"
        )
        assert "with a terminal" in str(diff([], files("{dir: /h/, pts: false}", action="Block")))

    def test_direct_children_alone(self) -> None:
        before = files("{dir: /d/}")
        after = files("{dir: /d/, recursive: true}")
        assert said(diff(before, after)) == ["+ read/write deeper below /d/ is now allowed"]

    def test_what_is_excepted_is_named(self) -> None:
        after = files(
            "{dir: /usr/, recursive: true, readOnly: true}",
            "{dir: /ws/, recursive: true}",
            "{dir: /ws/.git/, recursive: true, action: Block}",
        )
        assert said(diff(policy(READ_USR), after)) == [
            "+ read/write /ws/ and everything below"
            " (but for /ws/.git/ and everything below) is now allowed",
            # To execute a file is to open it.
            "- exec /ws/.git/ and everything below is no longer allowed",
        ]

    def test_a_directory_that_follows_its_parent_is_not_told_again(self) -> None:
        after = files("{dir: /x/}", "{dir: /a/, recursive: true}", "{dir: /a/b/, recursive: true}")
        assert said(diff(files("{dir: /x/}"), after)) == [
            "+ read/write /a/ and everything below is now allowed"
        ]

    def test_a_program_by_name_wherever_it_may_run(self) -> None:
        before = policy("process: {matchDirectories: [{dir: /usr/bin/}]}")
        after = [*before, *policy("process: {matchPaths: [{execname: nc}]}", action="Block")]
        assert said(diff(before, after)) == ["- exec any nc in /usr/bin/ is no longer allowed"]

    def test_a_program_by_name_where_only_a_pattern_lets_it_run(self) -> None:
        before = policy("process: {matchPatterns: [{pattern: /opt/*/bin/*}]}")
        after = [*before, *policy("process: {matchPaths: [{execname: nc}]}", action="Block")]
        assert said(diff(before, after)) == ["- exec any nc in /opt/*/bin/* is no longer allowed"]

    def test_a_pattern_inside_a_directory(self) -> None:
        before = files("{dir: /m/, recursive: true}")
        after = [
            *before,
            *policy('file: {matchPatterns: [{pattern: "/m/**/*.pkl"}]}', action="Block"),
        ]
        assert said(diff(before, after)) == [
            "- read/write what matches /m/**/*.pkl is no longer allowed",
            "- exec what matches /m/**/*.pkl is no longer allowed",
        ]

    def test_arguments(self) -> None:
        after = policy(
            "process: {matchPaths: [{path: /bin/git, allowedArgs: [status]}]}", action="Block"
        )
        (line,) = said(diff([], after))
        assert line == "- exec /bin/git with other arguments is no longer allowed"

    def test_a_posture_alone(self) -> None:
        found = diff(policy(READ_USR), policy(READ_USR), Posture(), Posture.all("audit"))
        assert not found.lost
        assert any(change.subject == "/ and everything below" for change in found.gained)

    def test_network_capabilities_and_names(self) -> None:
        after = policy(
            "network: {matchProtocols: [{protocol: udp}], matchDNSQueries: [{domain: a.com}]}",
            "capabilities: {matchCapabilities: [{capability: net_raw}]}",
            action="Block",
        )
        assert said(diff([], after)) == [
            "- network udp is no longer allowed",
            "- network DNS queries for a.com, names in a.com is no longer allowed",
            "- use net_raw is no longer allowed",
        ]

    def test_presets(self) -> None:
        lost = diff([], policy("presets: [{name: protectEnv}]")).lost
        assert [change.subject for change in lost] == ["another process's environment"]

    def test_audit_changes_only_what_is_reported(self) -> None:
        found = diff([], files("{dir: /etc/, recursive: true}", action="Audit"))
        assert not found.gained
        assert not found.lost
        assert said(found) == [
            "~ read/write /etc/ and everything below is still allowed, and now reported"
        ]
        calls = policy("syscalls: {matchSyscalls: [{syscall: [ptrace]}]}")
        assert said(diff(calls, [])) == [
            "~ system call ptrace is still allowed, and no longer reported"
        ]


class TestWhatDoesNot:
    def test_order_splitting_and_inherited_fields(self) -> None:
        one = policy(
            "severity: 5",
            READ_USR.replace("]}", ", {dir: /ws/, recursive: true}]}"),
            "process: {matchPaths: [{path: /bin/a}, {path: /bin/b}]}",
        )
        parts = [replace(one[0], name="q", file=one[0].file[::-1], process=()),
                 replace(one[0], name="r", file=())]  # fmt: skip
        assert not diff(one, parts)
        assert not diff(one, load(dump(parts)))
        assert said(diff(one, parts)) == ["Nothing that was asked is decided differently."]

    def test_a_rule_that_another_outweighs(self) -> None:
        before = files("{dir: /a/, recursive: true}", action="Block")
        assert not diff(before, [*before, *files("{dir: /a/b/, recursive: true}", action="Block")])

    def test_nothing_at_all(self) -> None:
        assert not diff([], [])


def test_json_says_the_same() -> None:
    found = diff([], files("{dir: /etc/}", action="Block"))
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["lost"][0]["subject"] == "/etc/ and directly in it"
    assert plain["questions"] == found.questions


def test_too_many_questions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUESTIONS", 10)
    with pytest.raises(ValueError, match="more than 10 questions"):
        diff([], policy(READ_USR))


_RULES = st.one_of(
    st.builds(PathRule, match=st.just("path"), value=st.sampled_from(["/a", "/a/b", "/a/b/c"])),
    st.builds(PathRule, match=st.just("directory"), recursive=st.booleans(),
              value=st.sampled_from(["/", "/a/", "/a/b/", "/z/"])),
    st.builds(PathRule, match=st.just("execname"), value=st.sampled_from(["b", "c"])),
    st.builds(PathRule, match=st.just("pattern"),
              value=st.sampled_from(["/a/*", "/**/c", "/a/b/?", "/[ab]/**"])),
)  # fmt: skip


@st.composite
def _policies(draw: st.DrawFn) -> list[Policy]:
    def rules(*matches: str) -> tuple[PathRule, ...]:
        return tuple(
            replace(
                rule,
                outcome=Outcome(draw(st.sampled_from(["Allow", "Block"]))),
                owner_only=draw(st.booleans()),
                pts=draw(st.booleans()),
                read_only="file" in matches and draw(st.booleans()),
                from_source=draw(st.sampled_from([(), ("/s",), ("/s", "/t")])),
            )
            for rule in draw(st.lists(_RULES, max_size=3))
            if rule.match != "execname" or "process" in matches
        )

    return [Policy("KubeArmorPolicy", "p", process=rules("process"), file=rules("file"))]


_UNIVERSE = [
    Operation(kind, path, source, owner=owner, tty=tty)
    for kind, path, source, owner, tty in itertools.product(
        list[OperationKind](["exec", "read", "write", "list"]),
        ["/", "/a", "/q", "/a/b", "/a/q", "/a/b/c", "/a/b/q", "/a/b/q/c", "/z/b", "/z/q/c", "/b/r"],
        ["/s", "/t", "/u"],
        [True, False],
        [True, False],
    )
]


@given(_policies(), _policies())
@settings(deadline=None, max_examples=150)
def test_an_empty_diff_means_that_no_operation_is_decided_differently(
    before: list[Policy], after: list[Policy]
) -> None:
    found = diff(before, after)
    old, new = Table(before), Table(after)
    gained = lost = False
    for operation in _UNIVERSE:
        was, now = old.decide(operation).verdict, new.decide(operation).verdict
        gained |= (was, now) == ("block", "allow")
        lost |= (was, now) == ("allow", "block")
    assert bool(found.gained) >= gained
    assert bool(found.lost) >= lost
