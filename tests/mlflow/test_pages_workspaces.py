"""The review page of a server with workspaces, and under a prefix: one page, many registries."""

import re

import pytest

from tests.mlflow.pages import Visitor, assert_harmless
from tests.mlflow.support import Reviewer, Server, ensure_model
from tests.mlflow.test_pages import run_command, signed

pytestmark = [pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore")]


def test_each_workspace_has_its_own_queue_review_and_record(tmp_path, monkeypatch):
    import mlflow
    from mlflow.utils.workspace_context import WorkspaceContext

    server = Server(
        tmp_path / "registry",
        options=["--enable-workspaces", "--app-name", "modelarmor"],
        MLFLOW_ENABLE_WORKSPACES="true",
    )
    with server:
        monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
        mlflow.set_tracking_uri(server.uri)
        try:
            for workspace in ("red", "blue"):
                mlflow.create_workspace(workspace)
                with WorkspaceContext(workspace):
                    experiment = server.client.create_experiment(f"{workspace}'s own")
                    ensure_model(server.client, "m")
                    files = {"findings.txt": f"low found in {workspace}"}
                    version = server.register("m", files, experiment=experiment)
        finally:
            mlflow.set_tracking_uri(None)
        ada = Reviewer(tmp_path, "ada").trusted_by(server)
        visitor = Visitor(server)

        assert "review?name=m" not in visitor.get().text
        queue = visitor.get(workspace="red")
        assert "review?name=m&amp;version=1&amp;workspace=red" in queue.text
        page = visitor.get("review", name="m", version="1", workspace="red")
        assert "found in red" in page.text and "found in blue" not in page.text
        assert "#/models/m/versions/1?workspace=red" in page.text
        assert_harmless(page.text)

        filled = visitor.form(page, "/draft")
        answers = {"decision": "reject", "reviewer": "ada", "reason": "red it is"}
        draft = visitor.send(filled, **answers)
        envelope, _ = signed(draft, ada, tmp_path, visitor)
        done = visitor.send(visitor.form(draft, "/submit"), envelope=envelope)
        assert "rejected by ada" in done.text
        again = visitor.send(filled, **{**answers, "reason": "red again"})
        run_command(again, ada)

        record = visitor.get("audit", name="m", version="1", workspace="red").text
        assert "red it is" in record and "red again" in record
        other = visitor.get("audit", name="m", version="1", workspace="blue").text
        assert ">generated<" in other and "red it is" not in other
        assert version.name in visitor.get(workspace="blue").text
        assert visitor.get("review", name="m", version="1", workspace="green").status_code == 404
        assert visitor.get(workspace="green").status_code == 404


def test_pages_lie_under_the_prefix_that_mlflow_has(tmp_path):
    server = Server(tmp_path, options=["--app-name", "modelarmor", "--static-prefix", "/ml"])
    server.uri += "/ml"
    with server:
        visitor = Visitor(server)
        page = visitor.get()
        assert page.status_code == 200
        assert page.headers["X-Frame-Options"] == "DENY"
        assert set(re.findall(r'(?:href|action)="(/[^/"]*)', page.text)) == {"/ml"}
        assert "Path=/ml/modelarmor" in page.headers["Set-Cookie"]
        bare = server.uri.removesuffix("/ml")
        assert visitor.http.get(f"{bare}/modelarmor/", timeout=60).status_code == 404
