"""Generation survives what servers go through."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy
from modelarmor_mlflow import names

from tests.mlflow.support import Reviewer, Server, aliases, refused, wait_for


@pytest.fixture
def alone(tmp_path):
    """A server of this test's own, which it may kill."""
    with Server(tmp_path / "registry") as running:
        yield running


def gone(pid):
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def records(server, kind=None):
    engine = sqlalchemy.create_engine(server.database)
    with engine.connect() as connection:
        rows = connection.execute(
            sqlalchemy.text("SELECT kind, model, version FROM modelarmor_records ORDER BY seq")
        ).all()
    engine.dispose()
    return [tuple(row) for row in rows if kind in (None, row[0])]


def verified(server):
    """The record is chained without a gap."""
    command = [
        sys.executable, "-m", "modelarmor", "audit", "verify",
        "--registry-store-uri", server.registry_uri,
    ]  # fmt: skip
    done = subprocess.run(
        command, env=server.environment(), cwd=server.directory, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_server_killed_while_it_generates_finishes_after_the_restart(alone, name, tmp_path):
    go, started = tmp_path / "go", tmp_path / "started"
    alone.register(name, {"hold.txt": f"{go}\n{started}"}, wait=False)
    wait_for(started.exists, "the generation to start")
    assert alone.client.get_model_version(name, "1").tags[names.STATE] == "running"
    alone.stop(signal.SIGKILL)
    wait_for(lambda: gone(int(started.read_text())), "the generation to end with its server")
    go.touch()
    alone.start()
    alone.wait_generated(name, "1")
    assert records(alone, "generated") == [("generated", name, 1)]
    verified(alone)


def test_queue_is_worked_off_without_any_request_after_a_restart(alone, name, tmp_path):
    go = tmp_path / "go"
    alone.register(name, {"hold.txt": str(go)}, wait=False)
    alone.register(name, {"data.bin": "2"}, wait=False)
    alone.restart()
    go.touch()
    wait_for(lambda: len(records(alone, "generated")) == 2, "both policies")


def test_generator_that_dies_is_a_failure_with_a_reason(server, name):
    server.register(name, {"crash.txt": ""}, wait=False)
    tags = server.wait_generated(name, "1", state="failed")
    assert "signal 11" in tags[names.PROGRESS]
    with refused("no policy could be generated", "signal 11"):
        server.client.set_registered_model_alias(name, "champion", "1")
    (server.stored(server.client.get_model_version(name, "1")) / "crash.txt").unlink()
    server.client.set_model_version_tag(name, "1", names.REQUEST, names.GENERATE)
    server.wait_generated(name, "1")


def test_generation_that_takes_too_long_is_a_failure(tmp_path, name):
    config = {"worker": {"timeout_minutes": 0.05}}
    with Server(tmp_path / "registry", config=config) as server:
        server.register(name, {"hold.txt": str(tmp_path / "never")}, wait=False)
        tags = server.wait_generated(name, "1", state="failed")
        assert "gave up after 3 s" in tags[names.PROGRESS]


def test_model_that_kills_every_worker_is_given_up(tmp_path, name):
    go = tmp_path / "never"
    with Server(tmp_path / "registry", config={"worker": {"attempts": 2}}) as server:
        for attempt in range(2):
            started = tmp_path / f"started-{attempt}"
            if attempt == 0:
                server.register(name, {"hold.txt": f"{go}\n{started}"}, wait=False)
            else:
                next(server.artifacts.rglob("hold.txt")).write_text(f"{go}\n{started}")
                server.start()
            wait_for(started.exists, "the generation to start")
            server.stop(signal.SIGKILL)
        server.start()
        tags = server.wait_generated(name, "1", state="failed")
        assert "the worker died 2 times" in tags[names.PROGRESS]


def test_progress_is_shown(server, name, tmp_path):
    go = tmp_path / "go"
    server.register(name, {"hold.txt": str(go)}, wait=False)

    def shown():
        return server.client.get_model_version(name, "1").tags.get(names.PROGRESS) == "looking 25 %"

    wait_for(shown, "the progress")
    go.touch()
    assert names.PROGRESS not in server.wait_generated(name, "1")


def test_version_deleted_while_its_policy_is_made_leaves_nothing(server, name, tmp_path):
    go, started = tmp_path / "go", tmp_path / "started"
    server.register(name, {"hold.txt": f"{go}\n{started}"}, wait=False)
    wait_for(started.exists, "the generation to start")
    server.client.delete_registered_model(name)
    wait_for(lambda: gone(int(started.read_text())), "the generation to be given up")
    go.touch()
    server.register(name)
    assert records(server, "generated").count(("generated", name, 1)) == 1


def test_two_servers_on_one_database_do_nothing_twice(alone, name, tmp_path):
    second = Server(alone.directory, workers=2)  # several processes, too
    second.database, second.registry_uri = alone.database, alone.registry_uri
    with second:
        ada = Reviewer(tmp_path, "ada").trusted_by(alone)
        alone.client.create_registered_model(name)
        uploads = [alone.upload({"data.bin": str(index)}) for index in range(6)]

        def register(index):
            server = (alone, second)[index % 2]
            return server.register_source(name, *uploads[index], wait=False)

        with ThreadPoolExecutor(4) as pool:
            versions = list(pool.map(register, range(6)))
        assert sorted(int(item.version) for item in versions) == [1, 2, 3, 4, 5, 6]
        for version in versions:
            second.wait_generated(name, version.version)
        assert sorted(records(alone, "generated")) == [("generated", name, i) for i in range(1, 7)]

        def decide(version):
            ada.decide((alone, second)[int(version.version) % 2], version)
            second.client.set_registered_model_alias(name, "champion", version.version)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(decide, versions))
        assert sorted(records(alone, "approve")) == [("approve", name, i) for i in range(1, 7)]
        assert sorted(records(alone, "promoted")) == [("promoted", name, i) for i in range(1, 7)]
        verified(alone)


def test_revocation_and_promotion_at_once_end_in_one_order(server, ada, name):
    """Never is a version promoted after its approval was revoked."""
    version = server.register(name)
    for _ in range(5):
        ada.decide(server, version)
        done = []

        def promote(done=done):
            try:
                server.client.set_registered_model_alias(name, "champion", version.version)
            except Exception as error:
                done.append(str(error))

        threads = [threading.Thread(target=promote) for _ in range(3)]
        for thread in threads:
            thread.start()
        ada.decide(server, version, "revoke")
        for thread in threads:
            thread.join()
        assert all("revoked by ada" in told for told in done)
        kinds = [kind for kind, model, _ in records(server) if model == name]
        last = len(kinds) - 1 - kinds[::-1].index("revoke")
        assert "promoted" not in kinds[last:]
    with refused("revoked"):
        server.client.set_registered_model_alias(name, "champion", version.version)


@pytest.mark.parametrize(
    "moment",
    [pytest.param(0, marks=pytest.mark.thorough), 1, pytest.param(2, marks=pytest.mark.thorough)],
)
def test_killed_in_the_middle_of_everything_the_registry_stays_consistent(
    alone, name, tmp_path, moment
):
    ada = Reviewer(tmp_path, "ada").trusted_by(alone)
    first = alone.register(name)
    source, run = alone.upload({"data.bin": "2"})

    def work():
        try:
            ada.decide(alone, first)
            alone.client.set_registered_model_alias(name, "champion", first.version)
            alone.register_source(name, source, run, wait=False)
            alone.client.set_registered_model_alias(name, "other", "2")
        except Exception as error:
            assert error  # the server was gone

    thread = threading.Thread(target=work, daemon=True)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    try:
        thread.start()
        wait_for(lambda: len(records(alone)) >= 1 + moment or not thread.is_alive(), "progress")
        alone.stop(signal.SIGKILL)
        thread.join()
    finally:
        del os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    alone.start()
    kinds = [kind for kind, *_ in records(alone)]
    assert ("promoted" in kinds) == ("champion" in aliases(alone, name))
    verified(alone)
    for version in alone.client.search_model_versions(f"name='{name}'"):
        alone.wait_generated(name, version.version)
    if "approve" in kinds:
        alone.client.set_registered_model_alias(name, "champion", first.version)
