"""The linter: each pitfall by a policy that has it, and one that has not."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from modelarmor.cli import main
from modelarmor.policy.document import inspect
from modelarmor.policy.lint import CHECKS, Finding, as_sarif, as_text, entry_cost, lint
from modelarmor.policy.model import (
    CapabilityRule,
    Outcome,
    PathRule,
    Policy,
    Posture,
    ProtocolRule,
    Selector,
    SyscallRule,
)

PUBLISHED = Path(__file__).parents[3] / "shared/conformance/modelarmor_policies"

TEMPLATE = """\
apiVersion: security.kubearmor.com/v1
kind: {kind}
metadata: {{name: p{namespace}}}
spec:
  {selector}
  severity: 5
  tags: [t]
  message: m
  action: {action}
{body}
"""


def text(body: str, action: str = "Block", **fields: str) -> str:
    kind = fields.get("kind", "KubeArmorPolicy")
    default = "nodeSelector" if kind == "KubeArmorHostPolicy" else "selector"
    return TEMPLATE.format(
        kind=kind,
        namespace=f", namespace: {fields.get('namespace', 'n')}"
        if kind == "KubeArmorPolicy"
        else "",
        selector=fields.get("selector", f"{default}: {{matchLabels: {{app: a}}}}"),
        action=action,
        body="\n".join("  " + line for line in body.splitlines()),
    )


def findings(
    body: str, action: str = "Block", posture: str | None = "block", **fields: str
) -> list[Finding]:
    policies, problems = inspect(text(body, action, **fields), name="p.yaml")
    known = Posture.all(posture) if posture else None  # type: ignore[arg-type]
    return lint(policies, problems=problems, posture=known)


def ids(found: Sequence[Finding]) -> set[str]:
    return {finding.rule for finding in found}


def paths(section: str, *entries: str) -> str:
    return f"{section}:\n  matchPaths: [" + ", ".join(f"{{{entry}}}" for entry in entries) + "]"


def directories(section: str, *entries: str) -> str:
    return paths(section, *entries).replace("matchPaths", "matchDirectories")


def protocols(*entries: str) -> str:
    return paths("network", *entries).replace("matchPaths", "matchProtocols")


def capabilities(*entries: str) -> str:
    named = (f"capability: {entry}" for entry in entries)
    return paths("capabilities", *named).replace("matchPaths", "matchCapabilities")


def domains(*entries: str) -> str:
    named = (f"domain: {entry}" for entry in entries)
    return paths("network", *named).replace("matchPaths", "matchDNSQueries")


LONG_DIRECTORY = "/usr/local/lib/python3.11/dist-packages/tensorflow/include/external/"
FROM = "fromSource: [{path: /opt/x/tool}]"
BOTH = "fromSource: [{path: /opt/x/tool}, {path: /o/x}]"
HOST = {"kind": "KubeArmorHostPolicy"}
CLUSTER = {"kind": "KubeArmorClusterPolicy"}

# check, body, fields of the policy; and the same without the mistake
PITFALLS: list[tuple[str, str, str, dict[str, str]]] = [
    ("MA102", directories("file", f"dir: {LONG_DIRECTORY}"), directories("file", "dir: /opt/d/"),
     {}),
    ("MA103", paths("file", "path: /" + "x" * 199), paths("file", "path: /" + "x" * 198), {}),
    ("MA104", "file:\n  matchPatterns: [{pattern: /opt/*.pt}]", paths("file", "path: /o"), {}),
    ("MA105", 'file:\n  matchPatterns: [{pattern: "/**/*.pt"}]',
     "file:\n  matchPatterns: [{pattern: /opt/*}]", {}),
    ("MA106", 'process:\n  matchPatterns: [{pattern: "/*/pip install*"}]',
     'process:\n  matchPatterns: [{pattern: "/*/pip*"}]', {}),
    ("MA107", 'file:\n  matchPatterns: [{pattern: "/opt/.*"}]',
     'file:\n  matchPatterns: [{pattern: "/opt/*.[co]"}]', {}),
    ("MA108", paths("file", "path: " + "/d" * 21), paths("file", "path: " + "/d" * 20), {}),
    ("MA110", paths("process", "path: /opt/x, allowedArgs: [-l], action: Allow"),
     paths("process", "path: /opt/x, allowedArgs: [-l]"), {}),
    ("MA111", paths("process", "path: /opt/x, pts: false"), paths("process", "path: /opt/x"), {}),
    ("MA112", paths("process", "path: /opt/g++, action: Allow"),
     paths("process", "path: /opt/g++", "path: /opt/gcc, action: Allow"), {}),
    ("MA112", paths("process", "execname: x, action: Allow"), paths("process", "execname: x"), {}),
    ("MA112", directories("process", f"dir: /o/, action: Allow, {FROM}"),
     directories("process", "dir: /o/, action: Allow", f"dir: /p/, {FROM}"), {}),
    ("MA112", paths("process", f"path: /o/x, action: Allow, {FROM}",
                    "path: /o/y, fromSource: [{path: /o/x}]"),
     paths("process", f"path: /o/x, action: Allow, {FROM}"), {}),
    ("MA113", paths("process", "execname: x, action: Allow", f"path: /o/x, {FROM}"),
     paths("process", "execname: x, action: Allow", "path: /o/x"), {}),
    ("MA113", paths("process", f"path: /opt/x/tool, action: Allow, {FROM}"),
     paths("process", f"path: /opt/x/tool, {FROM}", f"path: /o/x, action: Allow, {FROM}"), {}),
    ("MA201", paths("process", "path: /bin/nosuchtool"), paths("process", "path: /usr/bin/nosuch"),
     {}),
    ("MA202", paths("file", "path: /opt/f, fromSource: [{path: /opt/.venv/bin/python3}]"),
     paths("file", f"path: /opt/f, {FROM}"), {}),
    ("MA203", paths("file", "path: /opt/f, fromSource: [{path: /opt/app/main.py}]"),
     paths("file", f"path: /opt/f, {FROM}"), {}),
    ("MA204", paths("process", "path: /etc/shadow"), paths("file", "path: /etc/shadow"), {}),
    ("MA204", paths("process", "path: /models/model.pkl"), paths("process", "path: /models/run"),
     {}),
    ("MA206", paths("file", "path: /usr/lib64/libcuda.so.560.35.03"),
     paths("file", "path: /usr/lib64/libfoo.so.1"), {}),
    ("MA207", paths("file", "path: /opt/f, fromSource: [{path: /opt/bin/python3.10}]"),
     paths("file", f"path: /opt/f, {FROM}"), {}),
    ("MA208", paths("file", "path: /dev/nvidia0"), paths("file", "path: /dev/sda"), {}),
    ("MA210", paths("process", f"path: /opt/x, {FROM}"), paths("file", f"path: /opt/x, {FROM}"),
     {}),
    ("MA304", paths("file", "path: /o/f", "path: /o/f, action: Allow"),
     paths("file", "path: /o/f", f"path: /o/f, action: Allow, {FROM}"), {}),
    ("MA304", paths("file", "path: /o/d") + "\n  matchDirectories: [{dir: /o/d/, action: Allow}]",
     paths("file", "path: /o/d") + "\n  matchDirectories: [{dir: /o/d/}]", {}),
    ("MA304", protocols("protocol: tcp", "protocol: tcp, action: Allow"),
     protocols("protocol: tcp", f"protocol: tcp, action: Allow, {FROM}"), {}),
    ("MA304", capabilities("net_raw", "net_raw, action: Allow"), capabilities("net_raw", "chown"),
     {}),
    ("MA304", domains("a.org, action: Allow", "a.org."), domains("a.org, action: Allow", "b.org"),
     {}),
    ("MA305", paths("file", "path: /o/f", "path: /o/f"), paths("file", "path: /o/f", "path: /o/g"),
     {}),
    ("MA306", directories("file", "dir: /o/, recursive: true, action: Allow", "dir: /o/d/"),
     directories("file", "dir: /o/, recursive: true, action: Allow",
                 "dir: /o/d/, recursive: true"), {}),
    ("MA306", directories("file", f"dir: /o/, recursive: true, {BOTH}",
                          f"dir: /o/d/, action: Allow, {FROM}"),
     directories("file", "dir: /o/, recursive: true", f"dir: /o/d/, action: Allow, {FROM}"), {}),
    ("MA309", directories("file", "dir: /o/, recursive: true", "dir: /o/d/, recursive: true"),
     directories("file", "dir: /o/, recursive: true", "dir: /p/d/, recursive: true"), {}),
    ("MA310", paths("process", f"execname: x, {FROM}"), paths("process", "execname: x"), {}),
    ("MA311", paths("file", "path: /o/f, ownerOnly: true"), paths("file", "path: /o/f"), {}),
    ("MA312", paths("file", "path: /o/f, readOnly: true, action: Allow"),
     paths("file", "path: /o/f, readOnly: true"), {}),
    ("MA313", paths("process", "path: /o/x, pts: false"), paths("process", "path: /o/x"), {}),
    ("MA314", paths("file", "path: /o/f, action: Audit"),
     paths("process", "path: /o/f, action: Audit"), {}),
    ("MA318", paths("file", "path: /o/f, pts: false, action: Allow"),
     paths("file", "path: /o/f, pts: false"), {}),
    ("MA318", paths("file", "path: /o/f, pts: false", "path: /o/g"),
     paths("file", "path: /o/f", "path: /o/g"), {}),
    ("MA318", protocols("protocol: all, pts: false"), protocols("protocol: raw, pts: false"), {}),
    ("MA319", paths("process", "execname: x, allowedArgs: [x, -l]"),
     paths("process", "path: /o/x, allowedArgs: [x, -l]"), {}),
    ("MA319", paths("process", f"path: /o/x, allowedArgs: [x, -l], {FROM}"),
     paths("process", f"path: /o/x, {FROM}"), {}),
    ("MA319", paths("process", "path: /o/x, allowedArgs: [-l]"),
     paths("process", "path: /o/x, allowedArgs: [/o/x, -l]"), {}),
    ("MA320", paths("process", f"path: /o/x, action: Allow, {FROM}"),
     paths("process", "path: /opt/x/tool, action: Allow",
           f"path: /o/x, action: Allow, {BOTH}"), {}),
    ("MA320", paths("process", f"path: /o/x, action: Allow, {FROM}"),
     paths("process", f"path: /o/x, {FROM}"), {}),
    ("MA401", protocols("protocol: tcp"), protocols("protocol: raw"), {}),
    ("MA403", protocols("protocol: tcp, action: Allow"), protocols("protocol: tcp"), {}),
    ("MA404", protocols("protocol: all"), protocols("protocol: sctp"), {}),
    ("MA405", "network:\n  matchDNSQueries: [{domain: example.com}]", protocols("protocol: raw"),
     {}),
    ("MA406", "network:\n  matchDNSQueries: [{domain: a.b.c.d.e.f.g.h.i.j.k}]",
     "network:\n  matchDNSQueries: [{domain: a.b.c.d.e.f.g.h.i.j}]", {}),
    ("MA407", f"capabilities:\n  matchCapabilities: [{{capability: net_raw, {FROM}}}]",
     protocols(f"protocol: raw, {FROM}"), HOST),
    ("MA408", protocols("protocol: raw"), protocols(f"protocol: raw, {FROM}"), HOST),
    ("MA410", "presets: [{name: anonymousMapExec, action: Block}]",
     "presets: [{name: anonymousMapExec, action: Audit}]", {}),
    ("MA413", protocols("protocol: icmpv6"), protocols("protocol: icmp"), {}),
    ("MA415", protocols("protocol: all, action: Allow", "protocol: tcp, action: Block"),
     protocols("protocol: udp, action: Allow", "protocol: tcp, action: Block"), {}),
    ("MA415", protocols("protocol: dgram, action: Allow", "protocol: icmp, action: Block"),
     protocols(f"protocol: dgram, action: Allow, {FROM}", "protocol: icmp, action: Block"), {}),
    ("MA416", protocols("protocol: sctp"), protocols("protocol: sctp", "protocol: seqpacket"), {}),
    ("MA416", protocols(f"protocol: sctp, action: Allow, {FROM}"),
     protocols(f"protocol: all, {FROM}", f"protocol: sctp, {FROM}"), {}),
    ("MA417", protocols("protocol: dccp"), protocols("protocol: all"), {}),
    ("MA417", protocols("protocol: all, action: Allow"), protocols("protocol: sctp, action: Audit"),
     {}),
    ("MA418", "presets: [{name: protectProc, action: Block}]",
     "presets: [{name: protectProc, action: Audit}]", {}),
    ("MA419", "presets: [{name: protectEnv, action: Block}]",
     "presets: [{name: protectEnv, action: Block}, {name: protectProc, action: Block}]", {}),
    ("MA507", 'apparmor: "deny /x r,"', paths("file", "path: /o/f"), {}),
    ("MA502", paths("file", "path: /o/f"), "", {"selector": "selector: {}"}),
    ("MA503", paths("file", "path: /o/f"), "", {
        "selector": "selector: {matchLabels: {kubearmor.io/container.name: c1}}"}),
    ("MA504", paths("file", "path: /o/f"), "", {
        "selector": "selector: {matchExpressions: ["
        "{key: label, operator: In, values: [a=b]}, {key: label, operator: NotIn, values: [c=d]}]}"
    }),
    ("MA505", paths("file", "path: /o/f"), "", {"namespace": "kube-system"}),
    ("MA505", paths("file", "path: /o/f"), "", CLUSTER | {
        "selector": "selector: {matchExpressions: ["
        "{key: namespace, operator: In, values: [kubearmor]}]}"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "faulty", "sound", "fields"), PITFALLS, ids=[entry[0] for entry in PITFALLS]
)
def test_a_pitfall_is_found_where_it_is_and_not_where_it_is_not(
    check: str, faulty: str, sound: str, fields: dict[str, str]
) -> None:
    found = [finding for finding in findings(faulty, **fields) if finding.rule == check]
    assert found
    for finding in found:
        assert finding.place.line > 0
        assert finding.message
        assert finding.cure
    plain = {key: value for key, value in fields.items() if key == "kind" and sound}
    assert check not in ids(findings(sound or paths("file", "path: /o/f"), **plain))


def test_a_finding_points_at_the_line_of_its_rule() -> None:
    (finding,) = [
        f for f in findings("file:\n  matchPaths:\n  - path: /o/f\n  - path: /o/f")
        if f.rule == "MA305"
    ]  # fmt: skip
    assert (finding.place.file, finding.place.line) == ("p.yaml", 13)
    assert finding.where == "spec.file.matchPaths[1]"
    assert "spec.file.matchPaths[0]" in finding.message


def siblings(sources: str = "") -> str:
    root = "/usr/local/lib/python3.11/site-packages"
    return directories(
        "file", *(f"dir: {root}/p{n:02}/, recursive: true{sources}" for n in range(40))
    )


def test_entries_are_counted_as_the_enforcer_writes_them() -> None:
    sourced = ", fromSource: [{path: /o/a}, {path: /o/b}, {path: /o/c}]"
    for body, expected in ((siblings(), 87), (siblings(sourced), 259)):
        assert entry_cost(inspect(text(body, "Allow"))[0]) == expected
    assert "MA101" not in ids(findings(siblings(), "Allow"))
    (finding,) = [f for f in findings(siblings(sourced), "Allow") if f.rule == "MA101"]
    assert finding.severity == "error"
    assert "259 entries" in finding.message
    assert entry_cost(inspect(text(protocols("protocol: all")))[0]) == 8
    dns = "network:\n  matchDNSQueries: [{domain: example.com}]"
    assert entry_cost(inspect(text(dns))[0]) == 5


def test_entries_of_policies_for_the_same_workload_are_counted_together() -> None:
    halves = [
        text(paths("file", *(f"path: /{half}/{n}" for n in range(150)))) for half in ("a", "b")
    ]
    policies, problems = inspect("---\n".join(halves))
    assert not problems
    assert "MA101" in ids(lint(policies))
    assert "MA101" not in ids(lint(policies[:1]))


def test_an_allow_list_is_judged_by_the_posture() -> None:
    body = paths("process", "path: /o/x")
    assert "MA301" not in ids(findings(body, "Allow", "block"))
    assert "MA301" in ids(findings(body, "Allow", "audit"))
    (unknown,) = [f for f in findings(body, "Allow", None) if f.rule == "MA301"]
    assert "kubearmor-file-posture=block" in unknown.cure


def test_a_file_allow_list_has_to_hold_the_system_libraries() -> None:
    narrow = directories("file", "dir: /opt/app/, recursive: true")
    wide = directories("file", "dir: /usr/lib/, recursive: true")
    assert "MA302" in ids(findings(narrow, "Allow"))
    assert "MA302" not in ids(findings(narrow, "Allow", "audit"))
    assert "MA302" not in ids(findings(wide, "Allow"))


def test_what_kubearmors_posture_refuses_although_it_is_needed_is_told() -> None:
    both = (
        directories("file", "dir: /usr/, recursive: true")
        + "\n"
        + paths("file", "path: /dev/null", "path: /dev/urandom").split("\n", 1)[1]
    )
    narrow = directories("file", "dir: /usr/, recursive: true") + "\n"
    assert "MA317" in ids(findings(narrow, "Allow"))
    assert "MA317" not in ids(findings(narrow, "Allow", "audit"))
    assert "MA317" not in ids(findings(narrow, "Block"))
    assert "MA317" not in ids(findings(both, "Allow"))
    outside = paths("process", "path: /opt/program")
    inside = directories("process", "dir: /usr/bin/, recursive: true")
    assert "MA316" in ids(findings(narrow + outside, "Allow"))
    assert "MA316" not in ids(findings(narrow + inside, "Allow"))
    assert "MA316" not in ids(findings(outside, "Allow"))  # nothing allows files: no posture
    assert "MA316" not in ids(findings(narrow + outside, "Allow", "audit"))


def test_a_network_allow_list_without_tcp_or_udp_is_told() -> None:
    messages = [f.message for f in findings(protocols("protocol: icmp"), "Allow")
                if f.rule == "MA402"]  # fmt: skip
    assert len(messages) == 2
    assert "MA402" not in ids(findings(protocols("protocol: all"), "Allow"))


def test_block_of_tcp_from_another_program_is_no_error_for_a_kernel() -> None:
    def severity(entry: str) -> str:
        return next(f.severity for f in findings(protocols(entry)) if f.rule == "MA401")

    assert severity("protocol: tcp") == "error"
    assert severity("protocol: tcp, fromSource: [{path: /usr/bin/python3.11}]") == "error"
    assert severity(f"protocol: tcp, {FROM}") == "warning"


def test_a_misspelt_preset_is_an_error_with_the_name_that_was_meant() -> None:
    found = findings("presets: [{name: anonMapExec, action: Block}]")
    assert any(
        f.severity == "error" and "anonymousMapExec" in f.cure
        for f in found
        if f.rule in ("MA409", "MA501")
    )


def test_a_preset_that_was_to_inherit_audit_is_told_to_block() -> None:
    body = paths("file", "path: /o/f") + "\npresets:\n- name: protectEnv"
    assert "MA411" in ids(findings(body, "Audit"))
    assert "MA411" not in ids(findings(body + "\n  action: Block", "Audit"))


def test_both_names_of_a_merged_directory_are_no_mistake() -> None:
    both = directories("file", "dir: /sbin/", "dir: /usr/sbin/")
    assert "MA201" not in ids(findings(both))


def test_syscall_rules_that_were_to_block_are_told() -> None:
    policy = Policy("KubeArmorPolicy", "p", syscalls=(SyscallRule(syscalls=("unlink",)),))
    assert "MA412" in ids(lint([policy]))


@pytest.mark.parametrize(
    ("check", "rule"),
    [
        ("MA205", PathRule(match="directory", value="/opt/d")),
        ("MA205", PathRule(value="/opt/d/")),
        ("MA209", PathRule(value="/opt/../d")),
        ("MA109", PathRule(value="/opt/x", allowed_args=("x" * 105,))),
        ("MA109", PathRule(value="/opt/x", allowed_args=tuple(map(str, range(21))))),
    ],
)
def test_what_the_loader_refuses_is_found_in_policies_made_otherwise(
    check: str, rule: PathRule
) -> None:
    assert check in ids(lint([Policy("KubeArmorPolicy", "p", process=(rule,))]))


def test_names_that_the_enforcer_does_not_know_are_told_with_the_nearest() -> None:
    policy = Policy(
        "KubeArmorPolicy",
        "p",
        capabilities=(CapabilityRule(capability="net_rau"),),
        network=(ProtocolRule(protocol="tcpp"),),
    )
    cures = {finding.cure for finding in lint([policy]) if finding.rule == "MA414"}
    assert cures == {"did you mean net_raw?", "did you mean tcp?"}


def test_on_apparmor_an_allow_of_one_section_limits_the_other() -> None:
    assert "MA303" in ids(findings(paths("process", "path: /o/x"), "Allow"))
    both = paths("process", "path: /o/x") + "\n" + paths("file", "path: /o/x")
    assert "MA303" not in ids(findings(both, "Allow"))


def test_labels_of_a_cluster_policy_are_not_read() -> None:
    selector = Selector(match_labels=(("app", "a"),))
    assert "MA506" in ids(lint([Policy("KubeArmorClusterPolicy", "p", selector=selector)]))


def test_links_scripts_and_data_on_this_machine_are_seen(tmp_path: Path) -> None:
    tool, link, data = tmp_path / "tool", tmp_path / "link", tmp_path / "data"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    link.symlink_to(data)
    data.write_text("x")
    assert "MA201" in ids(findings(paths("file", f"path: {link}")))
    assert "MA203" in ids(findings(paths("file", f"path: /o, fromSource: [{{path: {tool}}}]")))
    assert "MA202" in ids(findings(paths("file", f"path: /o, fromSource: [{{path: {link}}}]")))
    assert "MA204" in ids(findings(paths("process", f"path: {data}")))
    assert "MA204" not in ids(findings(paths("process", f"path: {tool}")))


def test_an_empty_policy_and_an_empty_selector_are_told() -> None:
    assert {"MA502", "MA508"} <= ids(findings("", selector="selector: {}"))


def test_a_sound_policy_has_no_errors_or_warnings() -> None:
    body = (
        paths("process", "execname: xmrig", "path: /usr/bin/nosuchtool")
        + "\n"
        + directories("file", "dir: /root/.ssh/, recursive: true")
    )
    assert [f for f in findings(body) if f.severity != "note"] == []


# --- the published policies ---------------------------------------------------------------------


def published(name: str) -> list[Finding]:
    file = PUBLISHED / name
    if not file.exists():
        pytest.skip(f"needs the published policies in {PUBLISHED}")
    policies, problems = inspect(file)
    return lint(policies, problems=problems)


def has(found: list[Finding], check: str, policy: str, words: str) -> bool:
    return any(
        f.rule == check and f.policy in (policy, "") and re.search(words, f"{f.where} {f.message}")
        for f in found
    )


def test_restrict_file_access_does_not_protect_etc_shadow() -> None:
    found = published("restrict-file-access.yaml")
    for name in ("/etc/shadow", "/etc/passwd"):
        assert has(found, "MA204", "restrict-file-access", f"{name} is a data file")
    assert has(found, "MA314", "restrict-file-access", "visibility is off")


def test_protect_jupyter_is_shadowed_audited_and_full_of_shells() -> None:
    found = published("protect-jupyter.yaml")
    for directory in ("/usr/local/bin/", "/bin/", "/usr/bin/"):
        assert has(found, "MA306", "protect-jupyter", f"{directory} is not recursive and is sha")
    assert has(found, "MA315", "protect-jupyter", "/usr/bin/.*bash.*curl")
    assert has(found, "MA308", "protect-jupyter", "permits every file operation")
    assert has(found, "MA301", "protect-jupyter", "audit")
    assert has(found, "MA207", "protect-jupyter", "python3.11")


def test_nim_allow_starts_no_python_and_names_a_link() -> None:
    found = published("nim.yaml")
    nim = "autopol-system-1123564177"
    assert has(found, "MA302", nim, "no program starts")
    assert has(found, "MA202", nim, r"\.venv/bin/python3 is usually a link")
    assert has(found, "MA203", nim, "nim-llm-set-cache-env is a script")


def test_nim_cuda_host_allow_lets_everybody_in_and_loses_a_source() -> None:
    found = published("nim.yaml")
    host = "hsp-protect-hpc-libs-access"
    assert has(found, "MA307", host, "/usr/local/cuda-12.6/ is open to every program")
    assert has(found, "MA307", host, "/usr/lib/firmware/nvidia/ is open to every program")
    assert has(found, "MA501", host, "fromSouce")


def test_hpc_audit_lacks_a_slash_and_pins_the_driver() -> None:
    found = published("nim.yaml")
    audit = "ksp-audit-hpc-libs-access"
    assert has(found, "MA501", audit, r"cuda-12\.3") or has(found, "MA205", audit, r"cuda-12\.3")
    for version in ("560.35.03", "545.23.08"):
        assert has(found, "MA206", audit, rf"libcuda\.so\.{version}")
    assert has(found, "MA314", audit, "visibility")


def test_the_block_policies_of_nim_are_found_sound() -> None:
    found = [
        f for f in published("nim.yaml")
        if f.policy in ("ksp-block-nvidia-tools-exec", "hsp-protect-against-cryptojacking",
                        "hsp-file-integrity-monitoring")
    ]  # fmt: skip
    assert [f for f in found if f.severity == "error"] == []


# --- the checks and their reports ---------------------------------------------------------------


def test_checks_are_numbered_once_and_explained() -> None:
    numbers = [check.id for check in CHECKS]
    assert numbers == sorted(set(numbers))
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert re.fullmatch(r"MA\d{3}", check.id)
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", check.name)
        assert check.help.endswith(".")


def test_only_what_concerns_an_enforcer_is_told() -> None:
    policies, _ = inspect(text(directories("file", f"dir: {LONG_DIRECTORY}")))
    assert "MA102" in ids(lint(policies, enforcer="BPF-LSM"))
    assert "MA102" not in ids(lint(policies, enforcer="sandbox"))


def test_text_colours_only_on_request_and_cannot_be_made_to_play_on_a_terminal() -> None:
    found = findings(protocols("protocol: tcp"))
    assert "\033[" not in as_text(found)
    assert "\033[31merror" in as_text(found, colour=True)
    policies, _ = inspect(text(r'file: {matchPaths: [{path: "/opt/.venv/bin/x.pem/\e[2J"}]}'))
    assert "\033" not in as_text(lint(policies))


def test_sarif_has_what_its_schema_asks_for() -> None:
    found = findings(protocols("protocol: tcp"))
    log = json.loads(as_sarif(found, CHECKS, version="1.0"))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len(rules) == len(CHECKS)
    assert len(run["results"]) == len(found)
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        assert result["message"]["text"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "p.yaml"
        assert place["region"]["startLine"] >= 1
    for rule in rules:
        assert rule["help"]["text"].startswith(rule["fullDescription"]["text"])


# --- the command --------------------------------------------------------------------------------


def test_lint_exits_by_the_worst_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, warned, wrong = (tmp_path / f"{name}.yaml" for name in ("clean", "warned", "wrong"))
    clean.write_text(text(paths("process", "execname: xmrig")))
    warned.write_text(text(paths("file", "path: /o/f, ownerOnly: true")))
    wrong.write_text(text(protocols("protocol: tcp")))
    assert main(["lint", str(clean)]) == 0
    assert main(["lint", str(warned)]) == 0
    assert main(["lint", "--strict", str(warned)]) == 1
    assert main(["lint", "--strict", "--enforcer", "sandbox", str(warned)]) == 0
    assert main(["lint", str(wrong)]) == 1
    assert main(["lint", str(tmp_path)]) == 1
    assert main(["lint", str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml" in capsys.readouterr().err


def test_lint_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text(protocols("protocol: tcp")))
    assert main(["lint", "--format", "json", str(file)]) == 1
    entries = json.loads(capsys.readouterr().out)
    assert {"rule", "name", "severity", "file", "line", "cure", "enforcers"} <= entries[0].keys()
    assert entries[0]["file"] == str(file)


def test_a_policy_of_many_rules_takes_time_in_proportion() -> None:
    def measure(count: int) -> float:
        rules = tuple(
            PathRule(Outcome("Allow"), value=f"/bin/{n // 2}", match="path") for n in range(count)
        )
        policy = Policy("KubeArmorPolicy", "p", file=rules, process=rules)
        began = time.process_time()
        assert ids(lint([policy])) >= {"MA201", "MA305"}
        return time.process_time() - began

    measure(100)  # imports and caches
    # Quadratic would be sixty-four times as long.
    assert measure(4_000) < 30 * max(measure(500), 0.01)
