"""Evidence beside a version's files."""

import os

import pytest
from modelarmor_mlflow import artifacts, jobs, tables
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from modelarmor.generate.artifact import own
from modelarmor.generate.evidence import Artifact, Evidence

EVIDENCE = Evidence(artifact=Artifact(source="models:/m/1", flavour="sklearn"))


@pytest.fixture
def place(tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"1")
    return tmp_path


def read(place):
    return Evidence.loads(artifacts.read_evidence(str(place), EVIDENCE.digest))


def test_evidence_is_read_back(place):
    artifacts.attach(str(place), EVIDENCE)
    artifacts.attach(str(place), EVIDENCE)
    assert read(place) == EVIDENCE


def test_evidence_that_was_changed_is_written_again(place):
    artifacts.attach(str(place), EVIDENCE)
    (place / own.evidence(EVIDENCE.digest)).write_text("{}")
    with pytest.raises(artifacts.ArtifactError, match="the evidence was changed"):
        read(place)
    artifacts.attach(str(place), EVIDENCE)
    assert read(place) == EVIDENCE


def test_evidence_is_there_whole_or_not_at_all(place, monkeypatch):
    before = artifacts.digest_of(place)

    def fails(_):
        raise OSError("no space left")

    with monkeypatch.context() as patched, pytest.raises(artifacts.ArtifactError, match="no space"):
        patched.setattr(os, "fsync", fails)
        artifacts.attach(str(place), EVIDENCE)
    assert list((place / own.DIRECTORY).iterdir()) == []
    artifacts.attach(str(place), EVIDENCE)
    assert artifacts.digest_of(place) == before


def test_evidence_is_written_where_a_file_system_has_no_nameless_files(place, monkeypatch):
    def without(path, flags, *mode, real=os.open, **more):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError("not supported")
        return real(path, flags, *mode, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", without)
        artifacts.attach(str(place), EVIDENCE)
    assert read(place) == EVIDENCE


def test_a_private_copy_has_no_evidence(place):
    artifacts.attach(str(place), EVIDENCE)
    with artifacts.copied(str(place), limit=1000) as copy:
        assert sorted(file.name for file in copy.rglob("*") if file.is_file()) == ["model.pkl"]


def test_evidence_of_every_version_of_the_same_bytes_is_there_to_choose_from():
    engine = create_engine("sqlite://")
    tables.create(engine)
    known = [
        ("here", "sha256:1"),
        ("here", "sha256:2"),
        ("here", "sha256:1"),
        ("there", "sha256:3"),
    ]
    with Session(engine) as session:
        for version, (location, evidence) in enumerate([*known, ("here", "")], 1):
            made = jobs.Result(artifact="sha256:a", policy="", evidence=evidence, concerns=())
            jobs.enqueue(
                session, workspace="default", model="m", version=version, created=1,
                location=location, authors=(), now=1.0, result=made if evidence else None,
            )  # fmt: skip
        asking = jobs.find(session, "default", "m", len(known) + 1)
        assert jobs.alike(session, asking, "sha256:a") == ["sha256:1", "sha256:2"]
        assert jobs.alike(session, asking, "sha256:b") == []
