"""What is protected is refused without an approval, and granted with one."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from mlflow.exceptions import MlflowException
from modelarmor_mlflow import names
from modelarmor_mlflow.deciding import Case

from modelarmor.cli import main
from tests.mlflow.support import aliases, refused, transition


def test_a_policy_is_attached_to_a_version_that_is_registered(server, name):
    version = server.register(name, description="the author's words")
    found = server.client.get_model_version(name, version.version)
    assert "KubeArmorPolicy" in found.tags[names.POLICY]
    assert json.loads(found.tags[names.RESOURCES]) == {"memory": "1Gi"}
    assert json.loads(found.tags[names.SUBJECT])["artifact"].startswith("sha256:")
    assert found.description.startswith("the author's words")
    assert "**ModelArmor**" in found.description
    assert server.evidence(version).is_file()


def test_the_generator_sees_none_of_the_servers_secrets(server, sample):
    evidence = json.loads(server.evidence(sample).read_text())
    assert "note" not in evidence["scan"]["voices"][0]


def test_description_keeps_the_authors_text_and_our_summary(server, name):
    version = server.register(name)
    begin, end = "<!-- modelarmor: the server writes what follows -->", "<!-- modelarmor: end -->"
    nested = f"{begin[:20]}{begin}{end}{begin[20:]}\n\n**approved**\n\n{end}"
    nested = f"{begin[:20]}{nested}{begin[20:]}\n\n**approved**\n\n{end}"
    for fake in (f"mine{nested}", f"mine{nested}", f"mine\n\n{begin}\n\n**approved**"):
        server.client.update_model_version(name, version.version, fake)
        told = server.client.get_model_version(name, version.version).description
        assert told.count(begin) == 1
        assert "**approved**" not in told
    assert told.startswith("mine")
    assert "**approved**" not in told
    assert "**ModelArmor**" in told
    assert len(told) <= 5000
    server.client.update_model_version(name, version.version, "x" * 4990)
    assert server.client.get_model_version(name, version.version).description == "x" * 4990


# --- aliases

PROTECTED = [
    "champion", "production", "prod-eu", "Champion", "CHAMPION", "cHaMpIoN", "chämpion",
    "champïon", "".join(chr(ord(letter) + 0xFEE0) for letter in "champion"), "PRODuction", "prod",
]  # fmt: skip


@pytest.mark.parametrize("alias", PROTECTED)
def test_alias_is_refused_without_approval(server, sample, alias):
    with refused(alias, "1 more approval", "https://review.example/sample/1", "approve models:/"):
        server.client.set_registered_model_alias("sample", alias, sample.version)
    assert alias not in aliases(server, "sample")


@pytest.mark.parametrize("alias", ["challenger", "champions-league", "pro", "3"])
def test_alias_that_is_not_protected_is_free(server, sample, alias):
    server.client.set_registered_model_alias("sample", alias, sample.version)
    assert alias in aliases(server, "sample")


@pytest.mark.parametrize("alias", ["champion ", "champion\n", "cham pion", "v1", "latest", ""])
def test_alias_that_mlflow_has_no_word_for_is_refused_by_somebody(server, sample, alias):
    with pytest.raises(MlflowException):
        server.client.set_registered_model_alias("sample", alias, sample.version)
    assert not {"champion", alias} & set(aliases(server, "sample"))


SET = "/api/2.0/mlflow/registered-models/alias"
PATHS = [
    SET,
    SET.replace("/api/", "/ajax-api/"),
    "/" + SET,
    SET.replace("/api/", "/api//"),
    SET.replace("mlflow", quote("m") + "%6Cflow"),
    SET.replace("alias", "%61lias"),
    SET.replace("2.0", "3.0"),
    SET + "/",
    SET + "?version=1",
    SET.upper(),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_alias_is_refused_however_it_is_asked_for(server, sample, path, method):
    body = {"name": "sample", "alias": "champion", "version": sample.version}
    headers = {"X-HTTP-Method-Override": "POST"}
    status, _ = server.post(path, body, method=method, headers=headers)
    assert status in (308, 403, 404, 405)  # 308 leads to the path that is refused
    assert "champion" not in aliases(server, "sample")


@pytest.mark.parametrize("path", PATHS[:2])
def test_alias_that_is_not_protected_is_set_by_the_same_request(server, sample, path):
    body = {"name": "sample", "alias": "raw", "version": sample.version}
    assert server.post(path, body)[0] == 200
    assert "raw" in aliases(server, "sample")


@pytest.mark.parametrize("version", ["1", "01", " 1", "1 ", "+1", "1.0", "\uff11", 1, 1.0])
def test_version_in_another_spelling_is_refused_too(server, sample, version):
    body = {"name": "sample", "alias": "champion", "version": version}
    status, _ = server.post(SET, body)
    assert status >= 400
    assert "champion" not in aliases(server, "sample")


# --- approved


def test_approved_version_is_promoted(server, ada, name):
    version = server.register(name)
    ada.decide(server, version)
    server.client.set_registered_model_alias(name, "champion", version.version)
    transition(server, version, "Production")
    assert aliases(server, name)["champion"] == version.version
    assert server.client.get_model_version(name, version.version).current_stage == "Production"
    assert "approved by ada" in server.client.get_model_version(name, 1).tags[names.REVIEW]


def test_approval_of_one_version_is_not_one_of_the_next(server, ada, name):
    first, second = server.register(name), server.register(name, {"data.bin": "2"})
    ada.decide(server, first)
    server.client.set_registered_model_alias(name, "champion", first.version)
    with refused("1 more approval"):
        server.client.set_registered_model_alias(name, "champion", second.version)
    assert aliases(server, name)["champion"] == first.version


def test_same_bytes_as_another_version_need_an_approval_of_their_own(server, ada, name):
    first, second = server.register(name), server.register(name)
    ada.decide(server, first)
    with refused("1 more approval"):
        server.client.set_registered_model_alias(name, "champion", second.version)
    ada.decide(server, second)
    server.client.set_registered_model_alias(name, "champion", second.version)


# --- stages


@pytest.mark.parametrize("stage", ["Production", "production", "PRODUCTION"])
def test_stage_is_refused_without_approval(server, sample, stage):
    with refused("stage 'Production'"):
        transition(server, sample, stage)
    assert server.client.get_model_version("sample", 1).current_stage == "None"


def test_stage_that_is_not_protected_is_free(server, sample):
    transition(server, sample, "Staging")
    assert server.client.get_model_version("sample", 1).current_stage == "Staging"
    transition(server, sample, "None")


def test_refused_stage_archives_nothing(server, ada, name):
    first, second = server.register(name), server.register(name)
    ada.decide(server, first)
    transition(server, first, "Production")
    with refused():
        transition(server, second, "Production", archive_existing_versions=True)
    assert server.client.get_model_version(name, first.version).current_stage == "Production"


# --- bytes


def put(server, version, path, data):
    """Change a file of a registered version, as every client can."""
    source = server.client.get_model_version_download_uri(version.name, version.version)
    place = source.partition("mlflow-artifacts:/")[2].lstrip("/")
    url = f"/api/2.0/mlflow-artifacts/artifacts/{place}/{path}"
    assert server.post(url, method="PUT", data=data)[0] == 200


@pytest.mark.parametrize(
    "path", ["data.bin", "new.bin", "modelarmor/payload.py", "modelarmor/evidence.json/x.py"]
)
def test_files_that_change_after_the_approval_void_it(server, ada, name, path):
    version = server.register(name)
    ada.decide(server, version)
    put(server, version, path, b"other bytes")
    with refused("its files have changed"):
        server.client.set_registered_model_alias(name, "champion", version.version)
    assert aliases(server, name) == {}


def test_files_that_change_and_change_back_hold(server, ada, name):
    version = server.register(name)
    ada.decide(server, version)
    put(server, version, "data.bin", b"2")
    put(server, version, "data.bin", b"1")
    server.client.set_registered_model_alias(name, "champion", version.version)


def test_evidence_that_is_no_evidence_is_a_changed_file(server, ada, name):
    version = server.register(name)
    ada.decide(server, version)
    put(server, version, f"modelarmor/{server.evidence(version).name}", b"import os")
    with refused("its files have changed"):
        server.client.set_registered_model_alias(name, "champion", version.version)


def test_copy_with_evidence_of_its_own_leaves_that_of_the_original(server, ada, name):
    first = server.register(name)
    kept = server.evidence(first)
    ada.decide(server, first)
    copy = server.register_source(f"demanding-{name}", first.source, first.run_id)
    assert server.stored(copy) == server.stored(first)
    assert server.evidence(copy) != kept
    assert Case.open(f"models:/demanding-{name}/1", server.uri).evidence.robustness is not None
    assert Case.open(f"models:/{name}/1", server.uri).evidence.robustness is None
    server.client.set_registered_model_alias(name, "champion", first.version)


@pytest.mark.parametrize("odd", ["data.bin?x", "data%2ebin", "data.bin;", "data\t.bin"])
def test_files_of_which_clients_would_load_others_are_refused(server, name, odd):
    source, run = server.upload({"data.bin": "what a client gets"})
    place = server.artifacts / source.partition("mlflow-artifacts:/")[2].lstrip("/")
    (place / odd).write_text("what is looked at")
    version = server.register_source(name, source, run, wait=False)
    tags = server.wait_generated(name, version.version, state="failed")
    assert "would load another file" in tags[names.PROGRESS]


def test_files_with_names_that_an_address_keeps_are_a_model(server, name):
    version = server.register(name, {"Größe 1+1=2 [a]/.x,y@z~": "1"})
    assert server.client.get_model_version(name, version.version).tags[names.STATE] == "generated"


def test_new_bytes_get_a_new_policy_that_needs_a_new_approval(server, ada, name):
    version = server.register(name)
    ada.decide(server, version)
    put(server, version, "policy.txt", b"# another policy\n")
    server.client.set_model_version_tag(name, version.version, names.REQUEST, names.GENERATE)
    tags = server.wait_generated(name, version.version)
    assert "another policy" in tags[names.POLICY]
    with refused("1 more approval"):
        server.client.set_registered_model_alias(name, "champion", version.version)
    ada.decide(server, version)
    server.client.set_registered_model_alias(name, "champion", version.version)


def test_a_policy_is_not_made_again_for_nothing(server, sample):
    with refused("files are as they were", code="RESOURCE_CONFLICT"):
        server.client.set_model_version_tag("sample", "1", names.REQUEST, names.GENERATE)
    with refused(names.REQUEST, code="INVALID_PARAMETER_VALUE"):
        server.client.set_model_version_tag("sample", "1", names.REQUEST, "approve")


# --- names


def test_deleted_and_made_again_under_the_same_name_is_another_version(server, ada, name):
    source, run = server.upload()
    version = server.register_source(name, source, run)
    statement = ada.decide(server, version)
    server.client.set_registered_model_alias(name, "champion", version.version)
    server.client.delete_registered_model(name)
    again = server.register_source(name, source, run)
    assert (again.version, aliases(server, name)) == (version.version, {})
    with refused("1 more approval"):
        server.client.set_registered_model_alias(name, "champion", again.version)
    assert statement not in server.client.get_model_version(name, 1).tags[names.REVIEW]


def test_deleted_version_takes_its_alias_along(server, ada, name):
    version = server.register(name)
    ada.decide(server, version)
    server.client.set_registered_model_alias(name, "champion", version.version)
    server.client.delete_model_version(name, version.version)
    second = server.register(name)
    assert (second.version, aliases(server, name)) == ("2", {})
    with refused():
        server.client.set_registered_model_alias(name, "champion", second.version)


def test_rename_to_a_name_where_an_alias_is_protected_is_a_promotion(server, ada, name):
    version = server.register(name)
    server.client.set_registered_model_alias(name, "blessed", version.version)
    with refused(f"guarded-{name}", "--name"):
        server.client.rename_registered_model(name, f"guarded-{name}")
    ada.decide(server, version, names=(f"guarded-{name}",))
    server.client.rename_registered_model(name, f"guarded-{name}")
    assert aliases(server, f"guarded-{name}") == {"blessed": version.version}
    # The approval speaks of the new name, so what follows under it is granted as well.
    server.client.set_registered_model_alias(f"guarded-{name}", "best", version.version)


def test_rename_of_an_approved_alias_to_another_name_is_refused(server, ada, name):
    version = server.register(name)
    ada.decide(server, version)
    server.client.set_registered_model_alias(name, "champion", version.version)
    with refused(f"{name}-2"):
        server.client.rename_registered_model(name, f"{name}-2")
    server.client.delete_registered_model_alias(name, "champion")
    server.client.rename_registered_model(name, f"{name}-2")
    with refused("1 more approval"):
        server.client.set_registered_model_alias(f"{name}-2", "champion", version.version)


def test_rename_to_a_trusted_name_needs_every_version_approved(server, ada, name):
    first, second = server.register(name), server.register(name, {"data.bin": "2"})
    ada.decide(server, first, names=(f"trusted.{name}",))
    with refused("models:/" + name + "/2"):
        server.client.rename_registered_model(name, f"trusted.{name}")
    ada.decide(server, second, names=(f"trusted.{name}",))
    server.client.rename_registered_model(name, f"trusted.{name}")


def test_plain_rename_is_free_and_the_version_is_reviewed_under_the_new_name(server, ada, name):
    version = server.register(name)
    ada.decide(server, version)
    server.client.rename_registered_model(name, f"{name}-new")
    renamed = server.client.get_model_version(f"{name}-new", version.version)
    assert renamed.tags[names.STATE] == "generated"
    ada.decide(server, renamed)
    server.client.set_registered_model_alias(renamed.name, "champion", renamed.version)


@pytest.mark.parametrize("spelling", ["trusted.{}", "Trusted.{}", "TRUSTED.{}", "trústed.{}"])
def test_nothing_is_registered_under_a_trusted_name(server, name, spelling):
    source, run = server.upload()
    with refused("is a trusted name"):
        server.register_source(spelling.format(name), source, run)


def test_only_an_approved_version_is_copied_to_a_trusted_name(server, ada, name):
    version = server.register(name)
    target = f"trusted.{name}"
    with refused("is a trusted name"):
        server.client.copy_model_version(f"models:/{name}/1", target)
    ada.decide(server, version)
    with refused("is a trusted name", "--name"):
        server.client.copy_model_version(f"models:/{name}/1", target)
    ada.decide(server, version, names=(target,))
    copy = server.client.copy_model_version(f"models:/{name}/1", target)
    assert "KubeArmorPolicy" in server.client.get_model_version(target, 1).tags[names.POLICY]
    server.client.set_registered_model_alias(target, "champion", copy.version)
    ada.decide(server, version, "revoke")
    with refused("is a trusted name"):
        server.client.copy_model_version(f"models:/{name}/1", target)


def test_copy_of_an_approved_version_is_not_approved(server, ada, name):
    version = server.register(name)
    ada.decide(server, version)
    copy = server.client.copy_model_version(f"models:/{name}/1", f"{name}-copy")
    server.wait_generated(copy.name, copy.version)
    with refused("1 more approval"):
        server.client.set_registered_model_alias(copy.name, "champion", copy.version)
    subjects = [
        json.loads(server.client.get_model_version(item, 1).tags[names.SUBJECT])
        for item in (name, copy.name)
    ]
    assert subjects[0]["evidence"] == subjects[1]["evidence"]
    ada.decide(server, copy)
    server.client.set_registered_model_alias(copy.name, "champion", copy.version)


# --- prompts


def test_prompts_work_and_need_no_approval(server, name):
    client = server.client
    client.create_prompt(name)
    client.create_prompt_version(name, "Hello {{you}}")
    client.set_prompt_alias(name, "champion", 1)
    assert client.get_prompt_version(name, "1").template == "Hello {{you}}"
    assert client.load_prompt(f"prompts:/{name}@champion").version == 1
    status, told = server.post(f"/api/2.0/mlflow/registered-models/get?name={name}", method="GET")
    assert (status, names.NAMESPACE in told) == (200, False)


def test_model_that_calls_itself_a_prompt_is_a_model(server, name):
    version = server.register(name)
    server.client.set_model_version_tag(name, version.version, "mlflow.prompt.is_prompt", "true")
    with refused():
        server.client.set_registered_model_alias(name, "champion", version.version)
    server.client.set_registered_model_tag(name, "mlflow.prompt.is_prompt", "true")
    body = {"name": name, "alias": "champion", "version": version.version}
    assert server.post(SET, body)[0] == 403
    source, run = server.upload()
    body = {
        "name": name, "source": source, "run_id": run,
        "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}],
    }  # fmt: skip
    assert server.post("/api/2.0/mlflow/model-versions/create", body)[0] == 400


@pytest.mark.parametrize("path", [SET, "/api/2.0/mlflow/model-versions/transition-stage"])
def test_version_without_files_takes_no_models_place(server, name, path):
    server.register(name)
    body = {
        "name": name, "source": "prompt-template",
        "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}],
    }  # fmt: skip
    assert server.post("/api/2.0/mlflow/model-versions/create", body)[0] == 200
    body = {"name": name, "alias": "champion", "version": "2"}
    if path != SET:
        body = {"name": name, "stage": "Production", "version": "2"}
        body["archive_existing_versions"] = False
    status, told = server.post(path, body)
    assert (status, "a prompt" in told) == (403, True)


def test_version_without_files_is_not_the_latest_under_a_trusted_name(server, ada, name):
    version = server.register(name)
    ada.decide(server, version, names=(f"trusted.{name}",))
    server.client.copy_model_version(f"models:/{name}/1", f"trusted.{name}")
    body = {
        "name": f"trusted.{name}", "source": "prompt-template",
        "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}],
    }  # fmt: skip
    assert server.post("/api/2.0/mlflow/model-versions/create", body)[0] == 403


# --- decisions


def test_rejected_version_stays_refused_until_somebody_approves(server, ada, bob, name):
    version = server.register(name)
    bob.decide(server, version, "reject", reason="it opens a socket")
    with refused("rejected by bob: it opens a socket"):
        server.client.set_registered_model_alias(name, "champion", version.version)
    ada.decide(server, version)
    server.client.set_registered_model_alias(name, "champion", version.version)


def test_revoked_approval_counts_no_more(server, ada, bob, name):
    version = server.register(name)
    ada.decide(server, version)
    bob.decide(server, version, "revoke", reason="poisoned")
    with refused("revoked by bob: poisoned"):
        server.client.set_registered_model_alias(name, "champion", version.version)


def test_alias_may_always_be_taken_away(server, ada, name):
    version = server.register(name)
    ada.decide(server, version)
    server.client.set_registered_model_alias(name, "champion", version.version)
    ada.decide(server, version, "revoke")
    server.client.delete_registered_model_alias(name, "champion")
    assert aliases(server, name) == {}


def test_severe_findings_are_waived_one_by_one(server, ada, name):
    files = {"findings.txt": "critical runs a shell\nhigh opens a socket\nmedium is odd\n"}
    version = server.register(name, files)
    statement = ada.statement(server, version)
    from modelarmor_mlflow import deciding

    case = deciding.Case.open(f"models:/{name}/1", server.uri)
    severe = [item.fingerprint for item in case.evidence.findings if item.severity != "medium"]
    with refused("leaves findings unanswered", *severe):
        ada.decide(server, version)
    with refused("leaves findings unanswered", severe[1]):
        ada.decide(server, version, waive=severe[:1])
    with refused("leaves findings unanswered"):
        ada.decide(server, version, waive=["0" * 16, "1" * 16])
    ada.decide(server, version, waive=severe)
    server.client.set_registered_model_alias(name, "champion", version.version)
    assert replace(statement, waivers=()) == statement


# --- the command line


def test_review_from_the_command_line(server, ada, name, capsys):
    server.register(name, {"findings.txt": "high opens a socket\n"})
    uri = f"models:/{name}/1"
    place = ["--tracking-uri", server.uri, "--key", str(ada.secret)]
    assert main(["approve", uri, "--reason", "fine", *place]) == 2
    told = capsys.readouterr()
    assert "opens a socket" in told.out  # what is decided on is shown first
    assert "leaves findings unanswered" in told.err
    finding = re.search(r"finding ([0-9a-f]{16}) \(high\)", told.err)[1]
    waive = ["--waive", f"{finding}=to localhost only@{datetime.now(UTC) + timedelta(90):%Y-%m-%d}"]
    assert main(["approve", uri, "--reason", "fine", *waive[:1], "no", *place]) == 2
    assert "should be FINDING=REASON" in capsys.readouterr().err
    assert main(["approve", uri, "--reason", "fine", "--quiet", *waive, *place]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"approve: {uri}, recorded as sha256:")
    assert told.endswith(f"{uri} is now approved by ada\n")
    server.client.set_registered_model_alias(name, "champion", "1")
    assert main(["revoke", f"models:/{name}@champion", "--reason", "bad", "--quiet", *place]) == 0
    assert main(["revoke", "models:/nobody/1", "--reason", "bad", *place]) == 2
    assert "nobody" in capsys.readouterr().err
