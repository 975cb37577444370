"""The plugin under MLflow's own authentication, with a real model and the real generator."""

import base64
import json
import os

import pytest
from modelarmor_mlflow import names

from tests.mlflow.support import Reviewer, Server, aliases, refused

pytest.importorskip("flask_wtf")

PASSWORD = "a long enough password"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server with `--app-name basic-auth`; this process is its administrator."""
    server = Server(
        tmp_path_factory.mktemp("auth"),
        config={"worker": {"generator": "modelarmor.generate.pipeline:generate"}},
        options=["--app-name", "basic-auth"],
        MLFLOW_FLASK_SERVER_SECRET_KEY="a secret key for the tests",
        MLFLOW_AUTH_ADMIN_PASSWORD=PASSWORD,
    )
    before = dict(os.environ)
    sign_in("admin")
    try:
        with server:
            for user in ("alice", "bea"):
                status, told = as_admin(server, "users/create", username=user, password=PASSWORD)
                assert status == 200, told
            yield server
    finally:
        os.environ.clear()
        os.environ.update(before)


def sign_in(user, password=PASSWORD):
    os.environ["MLFLOW_TRACKING_USERNAME"] = user
    os.environ["MLFLOW_TRACKING_PASSWORD"] = password


def as_admin(server, path, **body):
    secret = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
    return server.post(
        f"/api/2.0/mlflow/{path}", body, headers={"Authorization": f"Basic {secret}"}
    )


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # MLflow's, of its own and other libraries' ways
def test_author_is_who_signed_in_and_another_reviewer_approves(guarded, tmp_path):
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression

    alice = Reviewer(tmp_path, "alice").trusted_by(guarded)
    carol = Reviewer(tmp_path, "carol").trusted_by(guarded, users=["bea"])
    sign_in("alice")
    mlflow.set_tracking_uri(guarded.uri)
    try:
        mlflow.set_experiment("alice's own")
        with mlflow.start_run():
            mlflow.sklearn.log_model(
                LogisticRegression().fit([[0.0], [1.0]], [0, 1]),
                name="model",
                registered_model_name="iris",
                input_example=[[0.5]],
                pip_requirements=["scikit-learn"],  # what MLflow would find in half a minute
            )
    finally:
        mlflow.set_tracking_uri(None)
    tags = guarded.wait_generated("iris", "1")
    assert "kind: KubeArmorPolicy" in tags[names.POLICY]
    version = guarded.client.get_model_version("iris", "1")
    with refused("is protected"):
        guarded.client.set_registered_model_alias("iris", "champion", "1")
    evidence = json.loads(guarded.evidence(version).read_text())
    assert "load" in evidence["observation"]["completed"]
    assert evidence["artifact"]["source"] == "models:/iris/1"
    waive = waivers(guarded)

    with refused("another reviewer approves it"):
        alice.decide(guarded, version, waive=waive)
    # Whoever may not change the model may not submit for it; the signature says whose word it is.
    sign_in("bea")
    with pytest.raises(Exception, match=r"Permission denied|PERMISSION_DENIED"):
        carol.decide(guarded, version, waive=waive)
    sign_in("alice")
    carol.decide(guarded, version, waive=waive)
    guarded.client.set_registered_model_alias("iris", "champion", "1")
    assert aliases(guarded, "iris") == {"champion": "1"}
    dave = Reviewer(tmp_path, "dave").trusted_by(guarded, users=["admin"])
    others_register_what_alice_made(guarded, alice, dave, version, waive)


def others_register_what_alice_made(guarded, alice, dave, version, waive):
    """Whoever registers or copies it, its author approves it no more than the original."""
    sign_in("admin")
    status, told = as_admin(guarded, "registered-models/create", name="copies")
    assert status == 200, told
    logged = version.model_id or version.source.removeprefix("models:/")
    for given in (
        {"source": "models:/iris/1"},
        {"source": f"models:/{logged}", "model_id": logged},
    ):
        status, told = as_admin(guarded, "model-versions/create", name="copies", **given)
        assert status == 200, told
        number = json.loads(told)["model_version"]["version"]
        guarded.wait_generated("copies", number)
        with refused("another reviewer approves it"):
            alice.decide(guarded, guarded.client.get_model_version("copies", number), waive=waive)
    sign_in("alice")
    guarded.client.copy_model_version("models:/copies/1", "copies of copies")
    guarded.wait_generated("copies of copies", "1")
    with refused("another reviewer approves it"):
        dave.decide(guarded, guarded.client.get_model_version("copies of copies", "1"), waive=waive)


def waivers(server):
    from modelarmor_mlflow import deciding

    case = deciding.Case.open("models:/iris/1", server.uri)
    severe = ("critical", "high")
    return [item.fingerprint for item in case.evidence.findings if item.severity in severe]


def test_without_signing_in_nothing_happens(guarded):
    body = {"name": "iris", "alias": "champion", "version": "1"}
    assert guarded.post("/api/2.0/mlflow/registered-models/alias", body)[0] == 401
