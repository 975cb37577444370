"""Documents: what is read, what is refused and how it is said, and what is written back."""

from __future__ import annotations

import io
import json
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from modelarmor.policy.document import PolicyError, dump, inspect, load, load_files
from modelarmor.policy.model import (
    KINDS,
    DeviceRule,
    DnsRule,
    Expression,
    Outcome,
    PathRule,
    Policy,
    ProtocolRule,
    Selector,
    SyscallSource,
)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "conformance"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"KubeArmor's own policies and definitions are not at {SHARED}"
)


def document(spec: str = "", kind: str = "KubeArmorPolicy", **metadata: Any) -> str:
    """A policy with this spec, which starts in line 4."""
    head = {"apiVersion": "security.kubearmor.com/v1", "kind": kind}
    metadata = {"name": "p"} | metadata
    lines = [f"{name}: {value}" for name, value in head.items()]
    lines += [f"metadata: {json.dumps(metadata)}", "spec:"]
    return "\n".join(lines) + "\n" + textwrap.indent(textwrap.dedent(spec) or "{}", "  ")


def only(text: str) -> Policy:
    (policy,) = load(text)
    return policy


def problem(text: str) -> tuple[int, str, str]:
    """Line, field and message of the one thing that is wrong."""
    with pytest.raises(PolicyError) as caught:
        load(text, name="p.yaml")
    (found,) = caught.value.problems
    assert found.place.file == "p.yaml"
    return found.place.line, found.field, f"{found.what}; {found.cure}"


class TestReading:
    def test_every_field_of_a_path_rule(self) -> None:
        policy = only(
            document("""\
            process:
              matchPaths:
              - path: /usr/bin/curl
                allowedArgs: [-s, http://localhost/]
                ownerOnly: true
                pts: false
                fromSource: [{path: /bin/bash}, {path: /usr/bin/env}]
              - execname: xmrig
              matchDirectories: [{dir: /tmp/, recursive: true}]
              matchPatterns: [{pattern: "/usr/**/pip*", ownerOnly: true}]
            file:
              matchPaths: [{path: /etc/passwd, readOnly: true}]
            """)
        )
        curl, xmrig, tmp, pip = policy.process
        assert curl == PathRule(
            match="path",
            value="/usr/bin/curl",
            allowed_args=("-s", "http://localhost/"),
            owner_only=True,
            pts=False,
            from_source=("/bin/bash", "/usr/bin/env"),
        )
        assert (xmrig.match, xmrig.value) == ("execname", "xmrig")
        assert (tmp.match, tmp.value, tmp.recursive) == ("directory", "/tmp/", True)
        assert (pip.match, pip.value, pip.owner_only) == ("pattern", "/usr/**/pip*", True)
        assert policy.file[0].read_only

    def test_a_rule_knows_its_line_and_field(self) -> None:
        rule = only(document("file:\n  matchPaths:\n  - path: /a\n  - path: /b\n")).file[1]
        assert (rule.place.file, rule.place.line, rule.where) == (
            "<string>",
            8,
            "spec.file.matchPaths[1]",
        )

    def test_severity_tags_message_and_action_are_inherited_from_section_then_spec(self) -> None:
        policy = only(
            document("""\
            severity: 3
            tags: [a]
            message: from spec
            action: Allow
            file:
              severity: 5
              action: Audit
              matchPaths:
              - path: /a
              - {path: /b, severity: 7, tags: [b], message: own, action: Block}
            process:
              matchPaths: [{path: /c}]
            """)
        )
        assert policy.outcome == Outcome("Allow", 3, ("a",), "from spec")
        assert policy.file[0].outcome == Outcome("Audit", 5, ("a",), "from spec")
        assert policy.file[1].outcome == Outcome("Block", 7, ("b",), "own")
        assert policy.process[0].outcome == policy.outcome

    def test_the_default_action_is_block(self) -> None:
        assert only(document("file: {matchPaths: [{path: /a}]}")).file[0].outcome.action == "Block"

    @pytest.mark.parametrize("action", ["audit", "Audit"])
    def test_an_action_in_lower_case_is_canonicalised(self, action: str) -> None:
        assert only(document(f"action: {action}")).outcome.action == "Audit"

    def test_a_preset_audits_or_blocks_but_never_inherits_the_action(self) -> None:
        presets = only(
            document("""\
            action: Allow
            severity: 4
            presets:
            - {name: filelessExec}
            - {name: protectEnv, action: Audit}
            - {name: protectProc, action: Allow}
            """)
        ).presets
        assert [rule.outcome.action for rule in presets] == ["Block", "Audit", "Block"]
        assert presets[0].outcome.severity == 4

    def test_system_calls_are_always_audited(self) -> None:
        calls, path = only(
            document("""\
            action: Block
            syscalls:
              severity: 2
              matchSyscalls:
              - syscall: [unlink, rmdir]
                fromSource: [{path: /bin/rm}, {dir: /bin, recursive: true}]
              matchPaths:
              - {path: /dev/shm/, recursive: true, syscall: [open]}
            """)
        ).syscalls
        assert calls.outcome == Outcome("Audit", 2)
        assert calls.from_source == (
            SyscallSource("/bin/rm"),
            SyscallSource("", "/bin/", recursive=True),
        )
        assert (path.path, path.recursive, path.syscalls) == ("/dev/shm/", True, ("open",))

    def test_network_and_capabilities(self) -> None:
        policy = only(
            document("""\
            network:
              matchProtocols: [{protocol: TCP, pts: false, fromSource: [{path: /bin/nc}]}]
              matchDNSQueries: [{domain: Example.COM., action: Allow}]
            capabilities:
              matchCapabilities: [{capability: net_raw}]
            """)
        )
        assert policy.network == (
            ProtocolRule(protocol="tcp", pts=False, from_source=("/bin/nc",)),
            DnsRule(Outcome("Allow"), domain="example.com"),
        )
        assert policy.capabilities[0].capability == "net_raw"

    def test_selectors_of_each_kind(self) -> None:
        assert only(
            document("""\
            selector:
              matchLabels: {app: a, kubearmor.io/container.name: "[c1,c2]"}
              matchExpressions: [{key: label, operator: NotIn, values: [app=b]}]
            """)
        ).selector == Selector(
            (("app", "a"), ("kubearmor.io/container.name", "[c1,c2]")),
            (Expression("label", "NotIn", ("app=b",)),),
        )
        cluster = "selector: {matchExpressions: [{key: namespace, operator: In, values: [ml]}]}"
        assert only(document(cluster, "KubeArmorClusterPolicy")).selector.match_expressions == (
            Expression("namespace", "In", ("ml",)),
        )
        host = "nodeSelector: {matchLabels: {kubearmor.io/hostname: '*'}}"
        assert only(document(host, "KubeArmorHostPolicy")).selector.match_labels == (
            ("kubearmor.io/hostname", "*"),
        )

    def test_a_host_policy_has_devices(self) -> None:
        policy = only(
            document(
                """\
                nodeSelector: {matchLabels: {kubearmor.io/hostname: '*'}}
                device:
                  action: Audit
                  matchDevice: [{class: MASS-STORAGE, subClass: 6, level: 1}]
                """,
                "KubeArmorHostPolicy",
            )
        )
        assert policy.device == (DeviceRule(Outcome("Audit"), device_class="MASS-STORAGE",
                                            sub_class=6, level=1),)  # fmt: skip

    def test_null_is_absent(self) -> None:
        rule = only(document("file: {matchPaths: [{path: /a, fromSource: null, pts: ~}]}")).file[0]
        assert rule == PathRule(value="/a")

    def test_a_stream_holds_many_documents_and_empty_ones_are_skipped(self) -> None:
        text = (
            "---\n# nothing\n---\n" + document() + "\n---\n---\n" + document(kind="KubeArmorPolicy")
        )
        assert len(load(text)) == 2
        assert load("") == load("# nothing\n") == load("---\n...\n") == []

    def test_what_kubectl_get_prints_is_read(self) -> None:
        item = yaml.safe_load(document("file: {matchPaths: [{path: /a}]}"))
        item["metadata"] |= {"uid": "u", "generation": 1, "managedFields": [{"a": {"f:spec": {}}}]}
        item["status"] = {"status": "OK"}
        text = json.dumps({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": [item]})
        assert only(text).file[0].where == "items[0].spec.file.matchPaths[0]"

    def test_sources_of_every_type_say_the_same(self, tmp_path: Path) -> None:
        text = document("message: grüße")
        path = tmp_path / "policy.yaml"
        path.write_text(text, encoding="utf-8")
        with path.open(encoding="utf-8") as file:
            assert load(path) == load(text) == load(b"\xef\xbb\xbf" + text.encode()) == load(file)
        assert load(path)[0].place.file == str(path)

    def test_files_and_directories_are_read_together(self, tmp_path: Path) -> None:
        (tmp_path / "b.yaml").write_text(document(name="b"))
        (tmp_path / "a.yml").write_text(document(name="a"))
        (tmp_path / "README").write_text("not yaml: [")
        assert [policy.name for policy in load_files([tmp_path, tmp_path / "b.yaml"])] == [
            "a",
            "b",
            "b",
        ]


class TestMistakes:
    def test_several_are_reported_at_once_with_their_lines(self) -> None:
        text = document("""\
        severity: 11
        file:
          matchPaths:
          - path: /a
            fromSouce: [{path: /bin/sh}]
          - path: etc/passwd
        """)
        with pytest.raises(PolicyError) as caught:
            load(text, name="p.yaml")
        assert [(p.place.line, p.field) for p in caught.value.problems] == [
            (5, "spec.severity"),
            (9, "spec.file.matchPaths[0].fromSouce"),
            (10, "spec.file.matchPaths[1].path"),
        ]
        assert "p.yaml:9: spec.file.matchPaths[0].fromSouce" in str(caught.value)
        assert "did you mean fromSource?" in str(caught.value)

    @pytest.mark.parametrize(
        ("spec", "field", "said"),
        [
            ("file: {matchPaths: [{path: /a/}]}", "file.matchPaths[0].path", "write '/a'"),
            ("file: {matchPaths: [{path: /}]}", "file.matchPaths[0].path", "dir: /"),
            ("file: {matchPaths: [{path: a}]}", "file.matchPaths[0].path", "absolute path"),
            ("file: {matchPaths: [{}]}", "file.matchPaths[0].path", "missing"),
            ("file: {matchPaths: [{path: ''}]}", "file.matchPaths[0].path", "empty"),
            ("file: {matchPaths: [{path: 5}]}", "file.matchPaths[0].path", "the number 5"),
            (f"file: {{matchPaths: [{{path: /{'a' * 200}}}]}}", "file.matchPaths[0].path", "200"),
            ('file: {matchPaths: [{path: "/a\\0b"}]}', "file.matchPaths[0].path", "U+0000"),
            ('file: {matchPaths: [{path: "/a\\nb"}]}', "file.matchPaths[0].path", "U+000A"),
            ("file: {matchPaths: [~]}", "file.matchPaths[0]", "mapping"),
            ("file: {matchPaths: {path: /a}}", "file.matchPaths", "should be a list"),
            ("file: [a]", "file", "a list, and should be a mapping"),
            ("file: {matchDirectories: [{dir: /a}]}", "file.matchDirectories[0].dir", "'/a/'"),
            ("file: {matchDirectories: [{dir: a}]}", "file.matchDirectories[0].dir", "'/a/'"),
            ("process: {matchPaths: [{path: /a, execname: a}]}", "process.matchPaths[0].path",
             "either"),
            ("process: {matchPaths: [{action: Allow}]}", "process.matchPaths[0].path", "either"),
            ("process: {matchPaths: [{execname: bin/a}]}", "process.matchPaths[0].execname",
             "write 'a'"),
            ("process: {matchPaths: [{path: /a, readOnly: true}]}",
             "process.matchPaths[0].readOnly", "not a field"),
            (f"process: {{matchPaths: [{{path: /a, allowedArgs: {list('a' * 21)}}}]}}",
             "process.matchPaths[0].allowedArgs", "at most 20"),
            ("process: {matchPaths: [{path: /a, recursive: true}]}",
             "process.matchPaths[0].recursive", "not a field"),
            ("file: {matchPaths: [{path: /a, fromSource: [{}]}]}",
             "file.matchPaths[0].fromSource[0].path", "missing"),
            ("file: {matchPaths: [{path: /a, readOnly: 'yes'}]}", "file.matchPaths[0].readOnly",
             "without quotes"),
            ("file: {matchPatterns: [{pattern: a, fromSource: []}]}",
             "file.matchPatterns[0].fromSource", "not a field"),
            ("network: {matchProtocols: [{protocol: tpc}]}", "network.matchProtocols[0].protocol",
             "did you mean tcp?"),
            ("network: {matchProtocols: [{protocol: xtcp}]}", "network.matchProtocols[0].protocol",
             "tcp"),
            ("network: {matchDNSQueries: [{domain: '*.a.com'}]}",
             "network.matchDNSQueries[0].domain", "'a.com'"),
            ("capabilities: {matchCapabilities: [{capability: CAP_NET_RAW}]}",
             "capabilities.matchCapabilities[0].capability", "did you mean net_raw?"),
            ("syscalls: {matchSyscalls: [{syscall: [opne]}]}",
             "syscalls.matchSyscalls[0].syscall[0]", "did you mean open?"),
            ("syscalls: {matchSyscalls: [{syscall: [open], fromSource: [{}]}]}",
             "syscalls.matchSyscalls[0].fromSource[0].path", "either"),
            ("syscalls: {action: Block}", "syscalls.action", "not a field"),
            ("presets: [{name: anonMapExec}]", "presets[0].name", "anonymousMapExec"),
            ("action: Deny", "action", "Allow, Audit, Block"),
            ("action: ''", "action", "Allow, Audit, Block"),
            ("severity: '5'", "severity", "without quotes"),
            ("severity: 0", "severity", "from 1 to 10"),
            ("severity: true", "severity", "the boolean true"),
            ("tags: a", "tags", "should be a list"),
            ("message: 5", "message", "put it in quotes"),
            ("selector: {matchLabels: {app: 5}}", "selector.matchLabels.app", "quotes"),
            ("selector: {matchLabels: [app]}", "selector.matchLabels", "mapping"),
            ("selector: {matchExpressions: [{key: namespace, operator: In}]}",
             "selector.matchExpressions[0].key", "label"),
            ("nodeSelector: {}", "nodeSelector", "did you mean selector?"),
            ("file: {matchPath: []}", "file.matchPath", "did you mean matchPaths?"),
            ("FILE: {}", "FILE", "did you mean file?"),
        ],
    )  # fmt: skip
    def test_a_field_is_named_with_its_cure(self, spec: str, field: str, said: str) -> None:
        line, where, message = problem(document(spec))
        assert (line, where) == (5, f"spec.{field}")
        assert said in message

    @pytest.mark.parametrize(
        ("text", "field", "said"),
        [
            (document(kind="KubeArmorPolcy"), "kind", "did you mean KubeArmorPolicy?"),
            (document(kind="NetworkPolicy"), "kind", "file of its own"),
            (document(kind="Pod"), "kind", "KubeArmorHostPolicy"),
            (document().replace("/v1", "/v2"), "apiVersion", "write security.kubearmor.com/v1"),
            (document().replace('"p"', '"P p"'), "metadata.name", "lower case"),
            (document().replace('"name": "p"', ""), "metadata.name", "missing"),
            (document(labels={"a": "b c"}), "metadata.labels.a", "label's value"),
            (document(labels={"a": 1}), "metadata.labels.a", "string"),
            (document() + "\nstaus: {}", "staus", "did you mean status?"),
            (document(kind="KubeArmorHostPolicy"), "spec.nodeSelector", "every node"),
            ("[1]", "the document", "mapping"),
            ("just text", "the document", "the string 'just text'"),
        ],
    )
    def test_the_frame_of_a_document(self, text: str, field: str, said: str) -> None:
        with pytest.raises(PolicyError) as caught:
            load(text)
        first = caught.value.problems[0]
        assert first.field == field
        assert said in f"{first.what}; {first.cure}"

    def test_an_inspection_goes_on_with_what_was_meant(self) -> None:
        policies, problems = inspect(
            document("file: {matchDirectories: [{dir: /usr/local/cuda-12.3}], matchPath: []}")
        )
        assert policies[0].file[0].value == "/usr/local/cuda-12.3/"
        assert len(problems) == 2
        assert load(document("severity: 99"), strict=False)[0].name == "p"

    def test_documents_before_a_broken_one_are_inspected(self) -> None:
        policies, problems = inspect(document() + "\n---\n{")
        assert [policy.name for policy in policies] == ["p"]
        assert "is not YAML" in problems[0].what

    def test_problems_of_all_files_are_raised_together(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(document("severity: 0"))
        (tmp_path / "empty").mkdir()
        with pytest.raises(PolicyError) as caught:
            load_files([tmp_path / "a.yaml", tmp_path / "missing.yaml", tmp_path / "empty"])
        assert [Path(p.place.file).name for p in caught.value.problems] == [
            "a.yaml",
            "missing.yaml",
            "empty",
        ]


class TestHostileInput:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a: &x [1]\nb: *x", "anchors and aliases"),
            ("a: *x", "aliases"),
            ("a: {<<: {b: 1}}", "merge keys"),
            ("a: !!python/object/apply:os.system [id]", "tag"),
            ("a: !!binary aGk=", "tag"),
            ("{a: 1}: 2", "field's name"),
            ("[a]: 2", "field's name"),
            ("[" * 100_000, "deeper"),
            ("{a: " * 100_000, "deeper"),
            ("- " * 5_000, "deeper"),
            ("- a\n" * 250_000, "values"),
            ("--- a\n" * 2_000, "documents"),
            ("# " + "x" * (5 << 20), "larger than 4 MiB"),
            ("a: b\0", "U+0000"),
            ("a: \ud800", "U+D800"),
            ('a: "\\ud800"', "not YAML"),
            ("a: b: c", "not YAML"),
            ("%YAML 9.9\n--- a", "not YAML"),
            ("\ta: b", "not YAML"),
        ],
    )
    def test_it_is_refused_with_a_reason(self, text: str, said: str) -> None:
        with pytest.raises(PolicyError) as caught:
            load(text)
        assert said in caught.value.problems[-1].what

    def test_invalid_utf_8_is_refused_with_its_line(self) -> None:
        with pytest.raises(PolicyError) as caught:
            load(b"a: b\nc: \xff\n")
        assert caught.value.problems[0].place.line == 2

    def test_an_endless_source_is_read_no_further_than_the_limit(self) -> None:
        class Endless(io.TextIOBase):
            taken = 0

            def read(self, size: int | None = -1, /) -> str:
                assert size is not None
                assert size > 0
                self.taken += size
                return "a" * size

        source = Endless()
        with pytest.raises(PolicyError, match="larger"):
            load(source)  # type: ignore[arg-type]
        assert source.taken < 5 << 20

    def test_a_key_that_occurs_twice_is_refused(self) -> None:
        line, _, message = problem(document("action: Allow\naction: Block\n"))
        assert line == 6
        assert "line 5" in message

    def test_a_flood_of_mistakes_is_cut_short(self) -> None:
        text = document("".join(f"a{number}: 1\n" for number in range(50_000)))
        with pytest.raises(PolicyError) as caught:
            load(text)
        assert len(caught.value.problems) == 100
        assert "not listed" in caught.value.problems[-1].what

    def test_a_message_does_not_repeat_what_it_complains_of_at_length(self) -> None:
        huge = "x" * 1_000_000
        with pytest.raises(PolicyError) as caught:
            load(document(f"{huge}: 1\naction: {huge}\nseverity: {'9' * 10_000}\n"))
        assert len(str(caught.value)) < 1_000

    def test_a_path_that_is_no_file_is_a_policy_error(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "missing", Path("a\0b")):
            with pytest.raises(PolicyError, match="cannot be read"):
                load(path)


class TestWriting:
    def test_what_rules_share_is_written_once(self) -> None:
        text = dump(
            load(
                document("""\
                severity: 3
                action: Allow
                file:
                  matchPaths:
                  - {path: /a, action: Audit, message: m, severity: 3}
                  - {path: /b, action: Audit, message: m, tags: [t]}
                """)
            )
        )
        assert yaml.safe_load(text)["spec"] == {
            "severity": 3,
            "action": "Allow",
            "file": {
                "message": "m",
                "action": "Audit",
                "matchPaths": [{"path": "/a"}, {"path": "/b", "tags": ["t"]}],
            },
        }

    def test_rules_are_grouped_as_a_document_lists_them(self) -> None:
        directory, path = PathRule(match="directory", value="/d/"), PathRule(value="/p")
        (back,) = load(dump([Policy("KubeArmorPolicy", "p", file=(directory, path))]))
        assert back.file == (path, directory)

    def test_no_policies_are_an_empty_stream(self) -> None:
        assert load(dump([])) == []

    @pytest.mark.parametrize(
        "text",
        [
            "yes",
            "n",
            "0x1",
            "1e5",
            "012",
            "1_0",
            ".inf",
            "~",
            "<<",
            "1:30",
            "2001-01-01",
            "-",
            "é:_#",
            "true",
            "a\nb\n",
            " a",
        ],
    )
    def test_text_that_looks_like_something_else_stays_text(self, text: str) -> None:
        policy = Policy("KubeArmorPolicy", "p", outcome=Outcome(message=text),
                        selector=Selector((("app", text.strip()),)))  # fmt: skip
        if "\n" in text:
            policy = replace(policy, selector=Selector())
        assert load(dump([policy])) == [policy]

    def test_what_no_document_can_hold_is_refused(self) -> None:
        with pytest.raises(PolicyError, match="absolute"):
            dump([Policy("KubeArmorPolicy", "p", file=(PathRule(value="relative"),))])
        with pytest.raises(PolicyError, match="inherit"):
            dump([
                Policy("KubeArmorPolicy", "p", outcome=Outcome(severity=5),
                       file=(PathRule(value="/a"),))
            ])  # fmt: skip


@needs_shared
class TestConformance:
    def test_the_policies_of_kubearmors_own_tests_load_and_survive_a_round_trip(self) -> None:
        cases = json.loads((SHARED / "kubearmor_cases.json").read_text())["cases"]
        documents = [policy for case in cases for policy in case["policies"]]
        assert len(documents) > 100
        for policy in documents:
            loaded = load(json.dumps(policy))
            assert load(dump(loaded)) == loaded

    def test_what_is_written_satisfies_the_custom_resource_definitions(self) -> None:
        jsonschema = pytest.importorskip("jsonschema")
        validators = {
            kind: jsonschema.Draft202012Validator(_closed(definition(kind))) for kind in KINDS
        }
        cases = json.loads((SHARED / "kubearmor_cases.json").read_text())["cases"]
        loaded = [p for case in cases for d in case["policies"] for p in load(json.dumps(d))]
        for policy in loaded:
            if policy.kind == "KubeArmorHostPolicy" and policy.network:
                continue  # upstream's own has no fromSource, which its definition requires
            validators[policy.kind].validate(yaml.safe_load(dump([policy])))

    def test_enumerations_are_those_of_the_definitions(self) -> None:
        from modelarmor.policy._syscalls import SYSCALLS
        from modelarmor.policy.capabilities import KNOWN_TO_KUBEARMOR

        spec = definition("KubeArmorPolicy")["properties"]["spec"]
        calls = spec["properties"]["syscalls"]["properties"]["matchSyscalls"]["items"]
        assert set(calls["properties"]["syscall"]["items"]["enum"]) == SYSCALLS
        capabilities = spec["properties"]["capabilities"]["properties"]["matchCapabilities"]
        pattern = capabilities["items"]["properties"]["capability"]["pattern"]
        assert tuple(pattern.strip("()$").split("|")) == KNOWN_TO_KUBEARMOR

    def test_mistakes_of_published_policies_are_found_and_nothing_else(self) -> None:
        _, problems = inspect(SHARED / "modelarmor_policies" / "nim.yaml")
        assert [(p.place.line, p.field) for p in problems] == [
            (58, "spec.file.matchDirectories[2].dir"),
            (80, "spec.file.matchPaths[0].fromSouce"),
        ]
        assert "'/usr/local/cuda-12.3/'" in problems[0].cure
        assert problems[1].cure == "did you mean fromSource?"
        for name in ("protect-jupyter", "restrict-file-access"):
            assert load(SHARED / "modelarmor_policies" / f"{name}.yaml")


def definition(kind: str) -> Any:
    """The OpenAPI schema of a kind."""
    crd = yaml.safe_load((SHARED / "crd" / f"{kind}.yaml").read_text())
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def _closed(schema: Any) -> Any:
    """The schema with unknown fields refused, as the API server's strict validation does."""
    if isinstance(schema, dict):
        closed = {key: _closed(value) for key, value in schema.items()}
        if "properties" in closed and isinstance(closed["properties"], dict):
            closed.setdefault("additionalProperties", False)
        return closed
    return [_closed(item) for item in schema] if isinstance(schema, list) else schema


_FIELDS = st.sampled_from(
    ["apiVersion", "kind", "metadata", "name", "namespace", "labels", "spec", "selector",
     "nodeSelector", "matchLabels", "matchExpressions", "key", "operator", "values", "process",
     "file", "network", "capabilities", "syscalls", "presets", "device", "matchPaths",
     "matchDirectories", "matchPatterns", "matchProtocols", "matchDNSQueries", "matchSyscalls",
     "matchCapabilities", "matchDevice", "path", "dir", "execname", "pattern", "fromSource",
     "action", "severity", "tags", "message", "items", "syscall", "recursive", "apparmor"]
)  # fmt: skip
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(),
    st.sampled_from(["/a", "/a/", "Allow", "List", "KubeArmorPolicy", "KubeArmorHostPolicy",
                     "security.kubearmor.com/v1", "tcp", "net_raw", "open", "exec"]),
)  # fmt: skip
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(_FIELDS | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=40,
)


class TestAnythingAtAll:
    @given(st.text() | st.binary())
    @settings(max_examples=300, deadline=None)
    def test_bytes_and_text(self, source: str | bytes) -> None:
        _loads_or_refuses(source)

    @given(_VALUES, st.sampled_from(["KubeArmorPolicy", "KubeArmorHostPolicy"]))
    @settings(max_examples=300, deadline=None)
    def test_a_spec_of_wrong_types(self, spec: Any, kind: str) -> None:
        head = {"apiVersion": "security.kubearmor.com/v1", "kind": kind, "metadata": {"name": "p"}}
        _loads_or_refuses(json.dumps(head | {"spec": spec}))
        _loads_or_refuses(json.dumps(spec))

    @given(st.text(alphabet="-: \n[]{},&*!|>'\"%#?<~a1\t", max_size=200))
    @settings(max_examples=500, deadline=None)
    def test_the_syntax_of_yaml(self, source: str) -> None:
        _loads_or_refuses(source)


def _loads_or_refuses(source: str | bytes) -> None:
    try:
        policies = load(source)
    except PolicyError as error:
        assert error.problems
    else:
        assert load(dump(policies)) == policies


_PATHS = st.from_regex(r"/[a-zA-Z0-9 _.:#'é-]{0,20}[a-z]", fullmatch=True)
_OUTCOMES = st.builds(
    Outcome,
    st.sampled_from(["Allow", "Audit", "Block"]),
    st.integers(1, 10),
    st.lists(st.text("a b:#-", min_size=1), min_size=1, max_size=2).map(tuple),
    st.text("ab :\n#'\"é-", min_size=1),
)
_RULES = st.builds(
    PathRule, outcome=_OUTCOMES, match=st.just("path"), value=_PATHS,
    from_source=st.lists(_PATHS, max_size=2).map(tuple), owner_only=st.booleans(),
    read_only=st.booleans(), pts=st.booleans(),
)  # fmt: skip
_POLICIES = st.builds(
    Policy, kind=st.just("KubeArmorPolicy"), name=st.just("p"), outcome=_OUTCOMES,
    file=st.lists(_RULES, max_size=4).map(tuple), apparmor=st.text("a {}\n\t"),
)  # fmt: skip


@given(st.lists(_POLICIES, max_size=3))
@settings(deadline=None)
def test_what_is_written_is_read_back_equal(policies: list[Policy]) -> None:
    assert load(dump(policies)) == policies
