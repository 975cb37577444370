"""Evidence beside a version's files."""

import os

import pytest
from modelarmor_mlflow import artifacts

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
