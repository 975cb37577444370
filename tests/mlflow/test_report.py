"""What no plugin can stop, a change in the database itself, is found."""

import json
import shutil
from dataclasses import replace

import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.server import constants, handlers
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from modelarmor_mlflow import deciding, names, records, registry, settings, store
from sqlalchemy import event
from sqlalchemy.orm import Session

from modelarmor.cli import main
from tests.mlflow.support import KIT, Reviewer, Server, template, transition


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A registry: `fraud` is approved and promoted, `evil` is neither."""
    directory = tmp_path_factory.mktemp("report")
    with Server(directory / "registry") as running:
        running.ada = Reviewer(directory, "ada").trusted_by(running)
        version = running.register("fraud")
        running.register("evil", {"data.bin": "2"})
        running.ada.decide(running, version)
        running.client.set_registered_model_alias("fraud", "champion", version.version)
        running.case = deciding.Case.open("models:/evil/1", running.uri)
    return running


class Copy:
    """A copy of a registry, for somebody with its database's password to spoil."""

    def __init__(self, original, directory):
        shutil.copytree(original.directory, directory)
        self.directory = directory
        self.database = f"sqlite:///{directory}/mlflow.db"
        self.uri = f"modelarmor:{self.database}"
        self.artifacts = directory / "artifacts"
        self.config = directory / "registry.yaml"

    @property
    def store(self):
        return store.GatedStore(self.database)

    def execute(self, statement, **values):
        engine = sqlalchemy.create_engine(self.database)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(statement), values)
        engine.dispose()

    def stored(self, name):
        source = self.store.get_model_version_download_uri(name, 1)
        return self.artifacts / source.partition("mlflow-artifacts:/")[2].lstrip("/")

    def report(self):
        """The problems of each promoted version."""
        opened = registry.open_store(self.uri)
        lines = registry.report(opened, settings.load(self.config))
        return {f"{line.model}/{line.version}": " ".join(line.problems) for line in lines}

    def refuses(self, name, told):
        with pytest.raises(MlflowException, match=told):
            self.store.set_registered_model_alias(name, "champion", 1)
        return True

    def run(self, *arguments):
        return main([*arguments, "--registry-store-uri", self.uri])


@pytest.fixture
def spoiled(original, tmp_path, monkeypatch):
    """A copy, and this process as a server of it would be."""
    copy = Copy(original, tmp_path / "copy")
    monkeypatch.setenv(settings.VARIABLE, str(copy.config))
    monkeypatch.setenv(constants.SERVE_ARTIFACTS_ENV_VAR, "true")
    monkeypatch.setenv(constants.ARTIFACTS_DESTINATION_ENV_VAR, str(copy.artifacts))
    monkeypatch.setattr(handlers, "_artifact_repo", None)
    monkeypatch.setattr(handlers, "_tracking_store", None)
    return copy


def test_what_is_as_approved_is_in_order(spoiled, capsys):
    assert spoiled.report() == {"fraud/1": ""}
    assert spoiled.run("registry", "report") == 0
    assert "ok       models:/fraud/1  alias champion  approved by ada" in capsys.readouterr().out
    assert spoiled.run("audit", "verify") == 0


def test_alias_written_into_the_database(spoiled, capsys):
    spoiled.execute(
        "INSERT INTO registered_model_aliases (workspace, name, alias, version)"
        " VALUES ('default', 'evil', 'champion', 1)",
    )
    assert spoiled.report()["fraud/1"] == ""
    assert "unreviewed: 1 more approval" in spoiled.report()["evil/1"]
    assert spoiled.run("registry", "report", "--format", "json") == 1
    assert [line["model"] for line in json.loads(capsys.readouterr().out)] == ["evil", "fraud"]


def test_stage_written_into_the_database(spoiled):
    spoiled.execute("UPDATE model_versions SET current_stage = 'Production' WHERE name = 'evil'")
    assert "unreviewed" in spoiled.report()["evil/1"]


def test_files_changed_on_disk(spoiled):
    (spoiled.stored("fraud") / "data.bin").write_text("2")
    assert "changed: its files are sha256:" in spoiled.report()["fraud/1"]
    shutil.rmtree(spoiled.stored("fraud"))
    assert "unreadable" in spoiled.report()["fraud/1"]


def test_files_changed_and_the_record_of_them_too(spoiled):
    """Who changes the digest in our table cannot change it in the signature."""
    from modelarmor_mlflow.artifacts import digest_of

    (spoiled.stored("fraud") / "data.bin").write_text("2")
    digest = digest_of(spoiled.stored("fraud"))
    spoiled.execute("UPDATE modelarmor_jobs SET artifact = :digest", digest=digest)
    assert "drifted: 1 more approval" in spoiled.report()["fraud/1"]
    assert spoiled.refuses("fraud", "1 more approval")
    spoiled.execute("UPDATE modelarmor_records SET artifact = :digest", digest=digest)
    assert "drifted" in spoiled.report()["fraud/1"]
    assert spoiled.run("audit", "verify") == 1


def test_location_changed_in_the_database(spoiled):
    source = spoiled.store.get_model_version_download_uri("evil", 1)
    spoiled.execute(
        "UPDATE model_versions SET storage_location = :source WHERE name = 'fraud'", source=source
    )
    assert "changed" in spoiled.report()["fraud/1"]
    assert spoiled.refuses("fraud", "no policy was generated|cannot be reviewed|is being generated")


@pytest.mark.parametrize("value", ['{"memory": "64Gi"}', "[]", "[" * 4000])
@pytest.mark.parametrize("key", [names.POLICY, names.SUBJECT, names.RESOURCES])
def test_tags_changed_in_the_database(spoiled, key, value):
    spoiled.execute(
        "UPDATE model_version_tags SET value = :value WHERE key = :key", key=key, value=value
    )
    assert "forged" in spoiled.report()["fraud/1"]


def test_approval_made_up_in_the_database(original, spoiled, tmp_path, capsys):
    """A record can be copied and chained by anybody; its signature cannot."""
    from modelarmor_mlflow import statements, tables

    mallory = Reviewer(tmp_path / "mallory", "mallory")
    told = deciding.statement_of(
        mallory.wanted(reviewer="ada"), replace(original.case.offer, previous="")
    )
    forged = statements.sign(told, mallory.signer)
    engine = sqlalchemy.create_engine(spoiled.database)
    with Session(engine) as session, session.begin():
        tables.lock(session)
        records.append(
            session, kind="approve", workspace="default", model="evil", version=1,
            artifact=told.subject.artifact, body=forged, time=0, statement="sha256:1",
        )  # fmt: skip
    engine.dispose()
    assert spoiled.refuses("evil", "1 more approval")
    assert spoiled.run("audit", "verify") == 1
    assert "does not trust" in capsys.readouterr().out


def test_approval_of_one_version_copied_to_another_in_the_database(spoiled):
    spoiled.execute(
        "UPDATE modelarmor_records SET model = 'evil', artifact ="
        " (SELECT artifact FROM modelarmor_jobs WHERE model = 'evil') WHERE kind = 'approve'"
    )
    assert spoiled.refuses("evil", "1 more approval")
    assert spoiled.run("audit", "verify") == 1


@pytest.mark.parametrize(
    "statement, told",
    [
        ("UPDATE modelarmor_records SET time = 0 WHERE seq = 2", "record 2 was changed"),
        ("UPDATE modelarmor_records SET version = 9 WHERE seq = 3", "record 3 was changed"),
        ("DELETE FROM modelarmor_records WHERE seq = 2", "record 3 does not follow record 1"),
        ("DELETE FROM modelarmor_records WHERE seq = 4", "records are missing"),
        ("DELETE FROM modelarmor_records", "records are missing"),
        ("UPDATE modelarmor_records SET seq = seq + 7", "does not follow record 0"),
    ],
)
def test_record_changed_in_the_database(spoiled, statement, told, capsys):
    spoiled.execute(statement)
    assert spoiled.run("audit", "verify") == 1
    said = capsys.readouterr().out
    assert "tampered" in said
    assert told in said


def test_end_cut_off_with_the_head_mended_is_found_with_an_earlier_copy(spoiled, capsys):
    copy = spoiled.directory / "earlier.jsonl"
    assert spoiled.run("audit", "export", "-o", str(copy)) == 0
    spoiled.execute("DELETE FROM modelarmor_records WHERE seq = 4")
    spoiled.execute(
        "UPDATE modelarmor_registry SET last = 3, head ="
        " (SELECT hash FROM modelarmor_records WHERE seq = 3)",
    )
    assert spoiled.run("audit", "verify") == 0
    assert spoiled.run("audit", "verify", "--earlier", str(copy)) == 1
    assert "record 4 of the copy is missing" in capsys.readouterr().out


def test_exported_record_is_verified_on_its_own(spoiled):
    copy = spoiled.directory / "record.jsonl"
    assert spoiled.run("audit", "export", "-o", str(copy)) == 0
    assert main(["audit", "verify", str(copy)]) == 0
    lines = copy.read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds == ["generated", "generated", "approve", "promoted"]
    for broken in (
        lines[1:],
        [lines[0], *lines[2:]],
        [lines[0].replace("fraud", "x"), *lines[1:]],
        ["{}"],
        ["[" * 9999],
        [lines[0].replace('"version": 1', '"version": "1"')],
    ):
        copy.write_text("\n".join(broken) + "\n")
        assert main(["audit", "verify", str(copy)]) == 1


def test_key_trusted_no_more_shows(original, spoiled):
    assert main(["keys", "distrust", original.ada.key.identifier]) == 0
    assert "drifted" in spoiled.report()["fraud/1"]
    assert spoiled.run("audit", "verify") == 1


def test_registry_that_is_older_than_the_plugin(tmp_path, capsys, monkeypatch):
    with Server(tmp_path / "registry", plugin=False) as plain:
        for index in range(3):
            plain.register("old", {"data.bin": str(index)}, wait=False)
        plain.register("bad", {"fail.txt": "unknown flavour"}, wait=False)
        plain.client.set_registered_model_alias("old", "champion", "3")
        transition(plain, plain.client.get_model_version("old", "2"), "Production")
    server = Server(tmp_path / "registry")
    place = ["--registry-store-uri", server.registry_uri]
    monkeypatch.setenv(settings.VARIABLE, str(server.config))
    monkeypatch.setenv(constants.SERVE_ARTIFACTS_ENV_VAR, "true")
    monkeypatch.setenv(constants.ARTIFACTS_DESTINATION_ENV_VAR, str(server.artifacts))
    monkeypatch.setattr(handlers, "_artifact_repo", None)
    monkeypatch.setattr(handlers, "_tracking_store", None)
    monkeypatch.syspath_prepend(KIT)

    assert main(["registry", "report", *place]) == 1
    assert capsys.readouterr().out.count("unreviewed: its policy is never asked for") == 2
    assert main(["registry", "scan", "--models", "ol*", "--no-wait", *place]) == 0
    assert "3 versions queued" in capsys.readouterr().out
    # Without a server the command does the work, and goes on where it was ended.
    assert main(["registry", "scan", "--work", *place]) == 1
    said = capsys.readouterr()
    assert "1 versions queued" in said.out
    assert "3 generated, 0 to do, 1 failed" in said.err
    with server:
        tags = server.client.get_model_version("bad", "1").tags
        assert "unknown flavour" in tags[names.PROGRESS]
        ada = Reviewer(tmp_path, "ada").trusted_by(server)
        for version in ("2", "3"):
            ada.decide(server, server.client.get_model_version("old", version))
    assert main(["registry", "report", *place]) == 0
    assert capsys.readouterr().out.count("approved by ada") == 2


def test_large_registry_is_queued_and_reported_on_in_few_transactions(tmp_path, monkeypatch):
    shutil.copy(template(), tmp_path / "mlflow.db")
    config = tmp_path / "registry.yaml"
    config.write_text("worker: {enabled: false}\n")
    monkeypatch.setenv(settings.VARIABLE, str(config))
    monkeypatch.setenv(constants.SERVE_ARTIFACTS_ENV_VAR, "true")
    monkeypatch.setenv(constants.ARTIFACTS_DESTINATION_ENV_VAR, str(tmp_path))
    monkeypatch.setattr(handlers, "_artifact_repo", None)
    monkeypatch.setattr(handlers, "_tracking_store", None)
    database = f"sqlite:///{tmp_path}/mlflow.db"
    plain = SqlAlchemyStore(database)
    plain.create_registered_model("many")
    with plain.ManagedSessionMaker(read_only=False) as session:
        session.add_all(
            SqlModelVersion(
                workspace="default", name="many", version=number, creation_time=number,
                source="mlflow-artifacts:/0/m", storage_location="mlflow-artifacts:/0/m",
                current_stage="Production" if number == 900 else "None",
            )
            for number in range(1, 1001)
        )  # fmt: skip
    plain.set_registered_model_alias("many", "champion", "700")
    opened = registry.open_store(f"modelarmor:{database}")
    begun, told = [], []
    event.listen(opened.engine, "begin", begun.append)
    assert registry.enqueue(opened, ["*"], told.append, retry=False) == 1000
    assert registry.enqueue(opened, ["*"], told.append, retry=True) == 0
    lines = registry.report(opened, settings.load(config), told.append)
    assert [(item.version, *item.promoted_as) for item in lines] == [
        (700, "alias champion"), (900, "stage Production"),
    ]  # fmt: skip
    assert "1000 versions looked at, 1000 queued" in told
    assert len(begun) < 40


def test_an_exported_line_without_an_end_is_not_read_to_its_end():
    class Endless:
        def readline(self, size=-1):
            assert size >= 0, "all of it was asked for"
            return "a" * size

    with pytest.raises(records.ChainError, match="longer than"):
        next(records.load(Endless()))
