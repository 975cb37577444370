"""From a place to the evidence, all of it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from modelarmor import __version__
from modelarmor.generate.artifact import ArtifactError
from modelarmor.generate.evidence import Evidence
from modelarmor.generate.pipeline import generate
from modelarmor.policy import document
from modelarmor.sandbox import process
from tests.generate.observe.support import model


def test_a_model_becomes_evidence_that_can_be_kept(tmp_path: Path) -> None:
    file = tmp_path / "table.pkl"
    file.write_bytes(pickle.dumps({"weights": [1.0, 2.0]}))
    told: list[str] = []
    made = generate(file, progress=told.append)
    assert made.observation is not None
    assert made.observation.completed == ("start", "load")
    assert made.policy and made.network and made.resources and made.reasons
    assert made.generator == __version__
    assert Evidence.loads(made.dumps()) == made
    assert any("loading" in line for line in told)
    # data cannot be asked, and the evidence says so
    assert "not-asked" in {finding.rule for finding in made.findings}


def test_without_running_it_the_policy_is_the_template(tmp_path: Path) -> None:
    ran = tmp_path / "ran.txt"
    file = model(tmp_path / "model.pkl", f"open({str(ran)!r}, 'w')")
    made = generate(file, run=False)
    assert made.observation is None and not ran.exists()
    assert {reason.kind for reason in made.reasons} == {"template"}
    assert made.scan.findings


def test_what_cannot_be_confined_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise process.CannotConfine("observation: the kernel has no Landlock")

    ran = tmp_path / "ran.txt"
    file = model(tmp_path / "model.pkl", f"open({str(ran)!r}, 'w')")
    monkeypatch.setattr(process.Sandbox, "start", refuse)
    made = generate(file)
    assert not ran.exists()
    assert made.observation is not None and made.observation.completed == ()
    assert "not-observed" in {finding.rule for finding in made.findings}
    assert made.policy


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere"):
        generate(tmp_path / "nowhere")


def test_the_policy_begins_with_words_for_people(tmp_path: Path) -> None:
    file = tmp_path / "table.pkl"
    file.write_bytes(pickle.dumps([1]))
    made = generate(file, run=False)
    head = made.policy.partition("apiVersion:")[0]
    assert all(line.startswith("#") or line in ("", "---") for line in head.splitlines())
    names = [policy.name for policy in document.load(made.policy.replace("${", "/$"), strict=False)]
    assert len(names) == len(set(names)) > 3
