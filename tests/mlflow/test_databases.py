"""The same gate over other databases, workspaces and MLflow's other ways to run."""

import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from modelarmor_mlflow import names

from tests.mlflow.support import PATIENCE, Reviewer, Server, aliases, refused, wait_for
from tests.ports import free_port

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


def _as_postgres():
    """PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return {}
    import pwd

    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        user = pwd.getpwnam("nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextmanager
def postgres():
    """A PostgreSQL of the system's, with a database of its own; yields the URI."""
    if not BINARIES:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    pytest.importorskip("psycopg2")
    place = Path(tempfile.mkdtemp(prefix="modelarmor-pg-"))
    who = _as_postgres()
    if who:
        shutil.chown(place, who["user"], who["group"])
    binaries, data, port = BINARIES[-1].parent, place / "data", free_port()
    run = {"cwd": place, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}, **who}
    try:
        subprocess.run(
            [binaries / "initdb", "-D", data, "-A", "trust", "-U", "mlflow", "-E", "UTF8",
             "--no-sync"],
            check=True, capture_output=True, **run,
        )  # fmt: skip
        with subprocess.Popen(
            [binaries / "postgres", "-D", data, "-p", str(port), "-k", str(place), "-F",
             "-h", "127.0.0.1"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **run,
        ) as process:  # fmt: skip
            try:
                ready = [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
                wait_for(
                    lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0,
                    "PostgreSQL",
                )
                yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
            finally:
                process.terminate()
                process.wait(PATIENCE)
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.timeout(600)
def test_postgresql_with_two_servers(tmp_path):
    with (
        postgres() as database,
        Server(tmp_path / "registry", database=database) as first,
        Server(tmp_path / "registry", database=database) as second,
    ):
        ada = Reviewer(tmp_path, "ada").trusted_by(first)
        both = (first, second)
        uploads = [first.upload({"data.bin": str(index)}) for index in range(4)]
        first.client.create_registered_model("m")

        def everything(index):
            server, other = both[index % 2], both[(index + 1) % 2]
            version = server.register_source("m", *uploads[index])
            with refused("1 more approval"):
                other.client.set_registered_model_alias("m", "champion", version.version)
            ada.decide(other, version)
            server.client.set_registered_model_alias("m", "champion", version.version)
            return int(version.version)

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(everything, range(4))) == [1, 2, 3, 4]
        assert "champion" in aliases(second, "m")
        first.client.delete_registered_model("m")
        version = second.register_source("m", *uploads[0])
        with refused("1 more approval"):
            second.client.set_registered_model_alias("m", "champion", version.version)
        alias_comes_with_no_rename(database, tmp_path / "other.yaml")


def alias_comes_with_no_rename(database, config):
    """An alias that is free under the old name, set while the name changes to one where it is not.

    SQLite lets nobody else write meanwhile.
    """
    from modelarmor_mlflow.store import GatedStore
    from sqlalchemy import create_engine, text

    config.write_text(yaml.safe_dump({"protected": [{"models": ["kept"], "aliases": ["a"]}]}))
    other = create_engine(database)
    columns = "INSERT INTO registered_model_aliases (workspace, name, alias, version)"

    class Slow(GatedStore):
        looked = 0

        def _exposed(self, session, name, new_name):
            yield from super()._exposed(session, name, new_name)
            self.looked += 1
            if self.looked == 2:  # the last time before the name changes
                with other.begin() as connection:
                    connection.execute(text(f"{columns} VALUES ('default', 'm', 'a', 1)"))

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MODELARMOR_REGISTRY_CONFIG", str(config))
        store = Slow(database)
        try:
            with refused("was promoted meanwhile"):
                store.rename_registered_model("m", "kept")
            assert store.get_registered_model("m").aliases == {"a": 1}
        finally:  # PostgreSQL waits for whoever is connected
            other.dispose()
            store.engine.dispose()


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_workspaces_have_approvals_of_their_own(tmp_path, monkeypatch):
    import mlflow
    from mlflow.utils.workspace_context import WorkspaceContext

    with Server(
        tmp_path / "registry", options=["--enable-workspaces"], MLFLOW_ENABLE_WORKSPACES="true"
    ) as server:
        ada = Reviewer(tmp_path, "ada").trusted_by(server)
        monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
        mlflow.set_tracking_uri(server.uri)
        try:
            mlflow.create_workspace("red")
            mlflow.create_workspace("blue")
        finally:
            mlflow.set_tracking_uri(None)
        versions = {}
        for workspace in ("red", "blue"):
            with WorkspaceContext(workspace):
                experiment = server.client.create_experiment("e")
                versions[workspace] = server.register("m", experiment=experiment)
        with WorkspaceContext("red"):
            ada.decide(server, versions["red"])
            server.client.set_registered_model_alias("m", "champion", "1")
            assert names.POLICY in server.client.get_model_version("m", "1").tags
        with WorkspaceContext("blue"):
            with refused("1 more approval"):
                server.client.set_registered_model_alias("m", "champion", "1")
            assert aliases(server, "m") == {}
        # Left to the default workspace, it would have its alias there.
        url = "/api/3.0/mlflow/workspaces/red?mode=SET_DEFAULT"
        status, told = server.post(url, method="DELETE")
        assert (status, "alias 'champion' of 'm'" in told) == (403, True)
        with WorkspaceContext("red"):
            server.client.delete_registered_model_alias("m", "champion")
        assert server.post(url, method="DELETE")[0] == 204


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_read_replica_that_is_behind_is_not_asked_about_approvals(tmp_path):
    server = Server(tmp_path / "registry")
    replica = tmp_path / "replica.db"
    with server:
        ada = Reviewer(tmp_path, "ada").trusted_by(server)
        version = server.register("m")
        ada.decide(server, version)
    shutil.copy(server.directory / "mlflow.db", replica)
    server.options = ["--read-replica-backend-store-uri", f"sqlite:///{replica}"]
    with server:
        server.client.set_registered_model_alias("m", "champion", "1")
        ada.decide(server, version, "revoke")
        assert "approved" in server.client.get_model_version("m", "1").tags[names.REVIEW]
        with refused("revoked by ada"):
            server.client.set_registered_model_alias("m", "champion", "1")
