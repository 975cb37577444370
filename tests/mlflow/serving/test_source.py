"""Which models of a registry may be served."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3

import pytest
from modelarmor_mlflow import names
from modelarmor_mlflow.serving.server import ServeError
from modelarmor_mlflow.serving.source import found


@pytest.fixture(autouse=True)
def client_of(server, monkeypatch):
    """This process is a client of the registry."""
    import mlflow

    mlflow.set_tracking_uri(server.uri)
    mlflow.set_registry_uri(server.uri)
    yield
    # None, not what they were before: a default would be one no more, but what somebody set.
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(variable, None)


def test_a_version_without_an_approval_is_refused(server, name):
    server.register(name)
    with (
        pytest.raises(ServeError, match=r"is not approved.*modelarmor approve"),
        found(f"models:/{name}/1", config=server.config),
    ):
        pytest.fail("served")


def test_it_may_be_served_unreviewed_under_the_policy_that_was_made(server, name):
    server.register(name)
    with found(f"models:/{name}/1", unreviewed=True, config=server.config) as subject:
        assert subject.approved_by == ()
        assert subject.evidence.policy
        assert (subject.root / "MLmodel").exists()


def test_an_approved_version_is_served_by_version_and_by_alias(server, ada, name):
    version = server.register(name)
    ada.decide(server, version)
    server.client.set_registered_model_alias(name, "champion", version.version)
    for uri in (f"models:/{name}/1", f"models:/{name}@champion"):
        with found(uri, config=server.config) as subject:
            assert subject.name == f"{name}/1"
            assert subject.approved_by == ("ada",)


def test_an_approval_that_was_revoked_counts_no_more(server, ada, name):
    version = server.register(name)
    ada.decide(server, version)
    ada.decide(server, version, "revoke")
    with (
        pytest.raises(ServeError, match="revoked by ada"),
        found(f"models:/{name}/1", config=server.config),
    ):
        pytest.fail("served")


def test_files_that_changed_after_the_approval_are_refused(server, ada, name):
    version = server.register(name)
    ada.decide(server, version)
    (server.stored(version) / "data.bin").write_text("2")
    with (
        pytest.raises(ServeError, match="its files have changed"),
        found(f"models:/{name}/1", config=server.config),
    ):
        pytest.fail("served")


def test_a_serving_host_that_trusts_nobody_serves_nothing(server, ada, name, tmp_path):
    version = server.register(name)
    ada.decide(server, version)
    config = tmp_path / "registry.yaml"
    config.write_text("quorum: 1\n")
    with (
        pytest.raises(ServeError, match="nobody is trusted"),
        found(f"models:/{name}/1", config=config),
    ):
        pytest.fail("served")


def test_an_approval_of_another_version_written_into_the_database_is_worth_nothing(
    server, ada, name
):
    approved = server.register(name)
    ada.decide(server, approved)
    other = server.register(name, {"data.bin": "other"})
    tags = server.client.get_model_version(name, approved.version).tags
    with sqlite3.connect(server.directory / "mlflow.db") as database:
        database.execute(
            "insert or replace into model_version_tags (name, version, key, value, workspace)"
            " values (?, ?, ?, ?, 'default')",
            (name, other.version, names.STATEMENTS, tags[names.STATEMENTS]),
        )
    assert json.loads(
        server.client.get_model_version(name, other.version).tags[names.STATEMENTS]
    ), "the control: it is there to be read"
    with (
        pytest.raises(ServeError, match="is not approved"),
        found(f"models:/{name}/{other.version}", config=server.config),
    ):
        pytest.fail("served")


def test_a_model_whose_files_cannot_be_vouched_for_is_refused(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "MLmodel").write_text("flavors: {}\n")
    (model / "elsewhere").symlink_to("/etc/hostname")
    with (
        pytest.raises(ServeError, match="cannot be vouched for"),
        found(str(model), unreviewed=True),
    ):
        pytest.fail("served")


def test_a_file_alone_is_refused_before_anything_is_done_with_it(tmp_path):
    model = tmp_path / "model.pkl"
    model.write_bytes(pickle.dumps({}))
    with (
        pytest.raises(ServeError, match="is no MLflow model"),
        found(str(model), unreviewed=True),
    ):
        pass
