"""The review page behind MLflow's basic authentication: nothing that MLflow would not show."""

import os

import pytest
import requests

from tests.mlflow.pages import Visitor, address
from tests.mlflow.support import Reviewer, Server, aliases
from tests.mlflow.test_pages import signed

pytest.importorskip("flask_wtf")
#: the first test waits for the server too, which asks for a password a dozen times
pytestmark = pytest.mark.timeout(400)

PASSWORD = "a long enough password"
#: path and fields of everything that says or changes something
PLACES = [
    ("GET", "", {}),
    ("GET", "page.css", {}),
    ("GET", "review", {"name": "owned", "version": "1"}),
    ("GET", "audit", {"name": "owned", "version": "1"}),
    ("GET", "download", {"name": "owned", "version": "1", "what": "evidence"}),
    ("GET", "download", {"name": "owned", "version": "1", "what": "policy"}),
    ("POST", "draft", {"name": "owned", "version": "1", "decision": "reject", "reason": "x"}),
    ("POST", "statement", {"statement": "{}"}),
    ("POST", "submit", {"name": "owned", "version": "1", "envelope": "{}"}),
    ("POST", "generate", {"name": "owned", "version": "1"}),
]


def as_user(user):
    os.environ["MLFLOW_TRACKING_USERNAME"] = user
    os.environ["MLFLOW_TRACKING_PASSWORD"] = PASSWORD


def administer(server, path, **body):
    answer = requests.post(
        f"{server.uri}/api/{path}", json=body, auth=("admin", PASSWORD), timeout=60
    )
    assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """alice has made `owned`; bea may edit it, rita may read it, nora may do nothing."""
    directory = tmp_path_factory.mktemp("pages-auth")
    (directory / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{directory}/auth.db\nadmin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    server = Server(
        directory,
        options=["--app-name", "modelarmor-basic-auth"],
        MLFLOW_FLASK_SERVER_SECRET_KEY="a secret key for the tests",
        MLFLOW_AUTH_ADMIN_PASSWORD=PASSWORD,
        MLFLOW_AUTH_CONFIG_PATH=str(directory / "auth.ini"),
    )
    before = dict(os.environ)
    try:
        with server:
            for user in ("alice", "bea", "rita", "nora"):
                administer(server, "2.0/mlflow/users/create", username=user, password=PASSWORD)
            as_user("alice")
            experiment = server.client.create_experiment("alice's")
            server.register("owned", {"findings.txt": "low told"}, experiment=experiment)
            for user, permission in (("bea", "EDIT"), ("rita", "READ")):
                administer(
                    server, "3.0/mlflow/users/permissions/grant", username=user,
                    resource_type="registered_model", resource_id="owned", permission=permission,
                )  # fmt: skip
            yield server
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def carol(guarded, tmp_path_factory):
    """Whom MLflow calls bea."""
    return Reviewer(tmp_path_factory.mktemp("carol"), "carol").trusted_by(guarded, users=["bea"])


@pytest.fixture(scope="module")
def ryan(guarded, tmp_path_factory):
    """Whom MLflow calls rita: a reviewer who may only read."""
    return Reviewer(tmp_path_factory.mktemp("ryan"), "ryan").trusted_by(guarded, users=["rita"])


@pytest.fixture(scope="module")
def author(guarded, tmp_path_factory):
    return Reviewer(tmp_path_factory.mktemp("al"), "al").trusted_by(guarded, users=["alice"])


def visit(guarded, user):
    return Visitor(guarded, user, PASSWORD)


def ask(guarded, method, path, fields, **options):
    given = {"params": fields} if method == "GET" else {"data": fields}
    headers = {"Origin": guarded.uri}
    return requests.request(
        method, address(guarded, path), headers=headers, timeout=60, **given, **options
    )


@pytest.mark.parametrize(("method", "path", "fields"), PLACES)
def test_nothing_without_signing_in(guarded, method, path, fields):
    for credentials in (None, ("alice", "wrong"), ("", "")):
        answer = ask(guarded, method, path, fields, auth=credentials)
        assert answer.status_code == 401
        assert "owned" not in answer.text
        assert answer.headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize(("method", "path", "fields"), PLACES[2:])
def test_who_may_not_read_the_model_sees_nothing_of_it(guarded, method, path, fields):
    nora = visit(guarded, "nora")
    nora.get()
    token = nora.http.cookies["modelarmor-token"]
    answer = ask(
        guarded, method, path, {**fields, "token": token}, auth=("nora", PASSWORD),
        cookies={"modelarmor-token": token},
    )  # fmt: skip
    assert answer.status_code in (403, 404, 409)
    assert (answer.status_code == 409) == (path == "statement")  # which is about no model
    assert "owned" not in answer.text and "told" not in answer.text


def test_queue_shows_what_the_reader_may_read(guarded):
    assert "owned" not in visit(guarded, "nora").get().text
    for user in ("alice", "bea", "rita", "admin"):
        assert "review?name=owned&amp;version=1" in visit(guarded, user).get().text, user


def test_other_spellings_of_a_path_open_nothing(guarded):
    for path in ("/modelarmor//review", "//modelarmor/review", "/modelarmor/./review",
                 "/modelarmor/%72eview", "/modelarmor/review/", "/static/../modelarmor/review",
                 "/health/../modelarmor/review", "/MODELARMOR/review"):  # fmt: skip
        request = requests.Request("GET", guarded.uri, params={"name": "owned", "version": "1"})
        prepared = request.prepare()
        prepared.url = f"{guarded.uri}{path}?name=owned&version=1"
        with requests.Session() as session:
            answer = session.send(prepared, timeout=60, allow_redirects=True)
        assert answer.status_code in (401, 404, 405), path
        assert "told" not in answer.text


def test_readers_see_the_review_and_only_listed_reviewers_get_its_form(guarded, ryan, carol):
    version = guarded_version()
    reader = visit(guarded, "rita").review(version)
    assert "told" in reader.text and 'value="ryan"' in reader.text
    assert 'value="carol"' not in reader.text  # each reviewer is offered what is theirs
    admin = visit(guarded, "admin").review(version)
    assert "who is no reviewer of this registry" in admin.text
    assert 'name="decision"' not in admin.text


def test_reviewer_who_may_not_edit_the_model_records_nothing(guarded, ryan, tmp_path):
    rita = visit(guarded, "rita")
    draft = rita.draft(guarded_version(), "reject", reviewer="ryan")
    envelope, _ = signed(draft, ryan, tmp_path, rita)
    answer = rita.send(rita.form(draft, "/submit"), envelope=envelope)
    assert answer.status_code == 403
    assert "MLflow does not let you do that" in answer.text
    assert ">reject<" not in rita.get("audit", name="owned", version="1").text


def test_what_another_reviewer_signed_is_not_brought(guarded, ryan, carol, tmp_path):
    rita, bea = visit(guarded, "rita"), visit(guarded, "bea")
    draft = rita.draft(guarded_version(), "reject", reviewer="ryan")
    envelope, _ = signed(draft, ryan, tmp_path, rita)
    own = bea.draft(guarded_version(), "reject", reviewer="carol")
    answer = bea.send(bea.form(own, "/submit"), envelope=envelope)
    assert answer.status_code == 409
    assert "signed by ryan, and you are signed in as somebody else" in answer.text
    assert (
        "a reviewer whom this registry trusts"
        in bea.draft(guarded_version(), "reject", reviewer="ryan").text
    )


def test_author_does_not_approve(guarded, author):
    alice = visit(guarded, "alice")
    assert "You made this version" in alice.review(guarded_version()).text
    assert "another reviewer approves it" in alice.draft(guarded_version(), reviewer="al").text


def test_reviewer_approves_and_the_author_promotes(guarded, carol, tmp_path):
    bea = visit(guarded, "bea")
    draft = bea.draft(guarded_version(), reviewer="carol", reason="read it")
    envelope, _ = signed(draft, carol, tmp_path, bea)
    done = bea.send(bea.form(draft, "/submit"), envelope=envelope)
    assert "The decision is recorded." in done.text

    as_user("alice")
    guarded.client.set_registered_model_alias("owned", "champion", "1")
    assert aliases(guarded, "owned") == {"champion": "1"}
    record = bea.get("audit", name="owned", version="1").text
    assert "<strong><bdi>carol</bdi></strong>" in record and "read it" in record
    assert "<strong><bdi>alice</bdi></strong>" in record  # who promoted it


def guarded_version():
    class Version:
        name = "owned"
        version = "1"

    return Version
