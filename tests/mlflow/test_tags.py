"""The server's tags are the server's."""

import shutil

import pytest
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException
from modelarmor_mlflow import names
from modelarmor_mlflow.store import GatedStore

from tests.mlflow.support import refused, template

RESERVED = [
    names.STATE, names.POLICY, names.REVIEW, names.SUBJECT, names.STATEMENTS, "modelarmor",
    "modelarmor.anything", "Modelarmor.state", "MODELARMOR.STATE", " modelarmor.state",
    "modelarmor .state", "modelarmor. state", "m o d e l a r m o r.state", "modelarmor/state",
    "modelarmor_state", "modelarmor-state", "modelarmor:state", "m\u00f3delarmor.state",
    "m\u043edelarmor.state", "modelarm\u03bfr.state", "modelarmor\u00adstate", "model\u200barmor.x",
    "".join(chr(ord(letter) + 0xFEE0) for letter in "modelarmor") + ".state", "modelarmor.approved",
    "modelarmor.submit ", "Modelarmor.Submit",
]  # fmt: skip
FREE = ["team", "modelarmory", "my.modelarmor.note", "model", "armor.x", "\u043c\u043e\u0434.note"]


def tags(server, version):
    return server.client.get_model_version(version.name, version.version).tags


@pytest.mark.parametrize("key", RESERVED)
def test_reserved_tag_is_not_set(server, sample, key):
    before = tags(server, sample)
    with pytest.raises(Exception, match=r"PERMISSION_DENIED|INVALID_PARAMETER_VALUE|Invalid"):
        server.client.set_model_version_tag("sample", sample.version, key, "approved")
    assert tags(server, sample) == before


@pytest.mark.parametrize("key", FREE)
def test_other_tag_is_set_and_deleted(server, sample, key):
    try:
        server.client.set_model_version_tag("sample", sample.version, key, "mine")
    except Exception as error:
        assert "Names may only contain" in str(error)  # MLflow's own rule
    else:
        assert tags(server, sample)[key] == "mine"
        server.client.delete_model_version_tag("sample", sample.version, key)
        assert key not in tags(server, sample)


@pytest.mark.parametrize("key", [*RESERVED[:8], names.SUBMIT, names.REQUEST])
def test_reserved_tag_is_not_deleted(server, sample, key):
    before = tags(server, sample)
    with refused("the server's own"):
        server.client.delete_model_version_tag("sample", sample.version, key)
    assert tags(server, sample) == before


@pytest.mark.parametrize("key", [names.STATE, "Modelarmor.review", names.SUBMIT, names.REQUEST])
def test_reserved_tag_does_not_come_with_a_new_version(server, name, key):
    source, run = server.upload()
    with refused("the server's own"):
        server.register_source(name, source, run, tags={key: "approved", "team": "a"})
    assert server.client.search_model_versions(f"name='{name}'") == []
    kept = server.register_source(name, source, run, tags={"team": "a"})
    assert tags(server, kept)["team"] == "a"


@pytest.mark.parametrize("key", [names.STATE, "MODELARMOR.x"])
def test_reserved_tag_is_no_registered_models_either(server, name, key):
    with refused("the server's own"):
        server.client.create_registered_model(name, tags={key: "approved"})
    server.client.create_registered_model(name, tags={"team": "a"})
    with refused("the server's own"):
        server.client.set_registered_model_tag(name, key, "approved")
    with refused("the server's own"):
        server.client.delete_registered_model_tag(name, key)
    server.client.set_registered_model_tag(name, "team", "b")
    server.client.delete_registered_model_tag(name, "team")


def test_copy_does_not_bring_tags_that_the_original_does_not_have(server, sample, name):
    server.client.create_registered_model(name)
    own = tags(server, sample)
    forgeries = (
        own | {names.REVIEW: "approved by ada"},
        own | {names.POLICY: "{}"},
        own | {"modelarmor.approved": "true"},
        own | {"Modelarmor.state": "generated"},
        {names.REVIEW: "approved by ada"},
    )
    for forged in forgeries:
        given = [{"key": key, "value": value} for key, value in forged.items()]
        body = {"name": name, "source": "models:/sample/1", "tags": given}
        status, told = server.post("/api/2.0/mlflow/model-versions/create", body)
        assert (status, "not what models:/sample/1 has" in told) == (403, True)
    assert server.client.search_model_versions(f"name='{name}'") == []


def test_forged_copy_tells_nobody_whether_there_is_an_original(tmp_path, monkeypatch):
    shutil.copy(template(), tmp_path / "mlflow.db")
    monkeypatch.setenv("MODELARMOR_REGISTRY_CONFIG", str(tmp_path / "none.yaml"))
    (tmp_path / "none.yaml").write_text("worker: {enabled: false}\n")
    registry = GatedStore(f"sqlite:///{tmp_path}/mlflow.db")
    registry.create_registered_model("m")
    registry.create_model_version("m", "mlflow-artifacts:/0/model")
    forged = [ModelVersionTag(names.REVIEW, "approved by ada")]
    answers = set()
    for source in ("models:/m/1", "models:/m/9", "models:/nobody/1", "models:/m@x", "models:/m/x"):
        with pytest.raises(MlflowException) as refusal:
            registry.create_model_version("m", source, tags=forged)
        answers.add((refusal.value.error_code, refusal.value.message.replace(source, "SOURCE")))
    assert [code for code, _ in answers] == ["PERMISSION_DENIED"]


def test_list_of_versions_shows_how_they_stand_and_no_policies(server, sample):
    (listed,) = server.client.search_model_versions("name='sample'")
    assert listed.tags.keys() & {names.REVIEW, names.FINDINGS} == {names.REVIEW, names.FINDINGS}
    assert not listed.tags.keys() & set(names.NOT_LISTED)
    model = server.client.get_registered_model("sample")
    assert {item.name for item in server.client.search_registered_models()} >= {model.name}
    found = server.client.search_model_versions(f"tags.`{names.STATE}` = 'generated'")
    assert "sample" in {item.name for item in found}
    assert {names.STATE, names.SUBJECT, names.POLICY} <= tags(server, sample).keys()


def test_copy_as_mlflows_client_makes_it_works(server, sample, name):
    copy = server.client.copy_model_version("models:/sample/1", name)
    server.wait_generated(copy.name, copy.version)
    found = tags(server, copy)
    assert found[names.POLICY] == tags(server, sample)[names.POLICY]
    assert found[names.SUBJECT] != tags(server, sample)[names.SUBJECT]


def test_reserved_tag_cannot_be_forced_in_by_raw_requests(server, sample):
    before = tags(server, sample)
    body = {"name": "sample", "version": "1", "key": names.REVIEW, "value": "approved by ada"}
    for prefix in ("/api/2.0", "/ajax-api/2.0", "/api//2.0", "//api/2.0"):
        for path, method in (("set-tag", "POST"), ("delete-tag", "DELETE"), ("set-tag", "PATCH")):
            url = f"{prefix}/mlflow/model-versions/{path}"
            assert server.post(url, body, method=method)[0] in (308, 403, 404, 405)
    assert tags(server, sample) == before
