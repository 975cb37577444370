from __future__ import annotations

import hashlib
import os
import pickle
import sys
from pathlib import Path

import pytest

from modelarmor.generate.artifact import ArtifactError, inspect, open_model, own
from modelarmor.generate.evidence import Artifact, Evidence

MLMODEL = """\
flavors:
  python_function:
    loader_module: mlflow.sklearn
    model_path: model.pkl
  sklearn:
    pickled_model: model.pkl
"""
EVIDENCE = Evidence(artifact=Artifact(source="models:/m/1", flavour="sklearn"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    root.mkdir()
    (root / "MLmodel").write_text(MLMODEL)
    (root / "model.pkl").write_bytes(pickle.dumps({"a": 1}))
    (root / "requirements.txt").write_text("mlflow==3.1\n# a comment\nnumpy\n")
    return root


def rules(artifact: Artifact) -> list[str]:
    return [finding.rule for finding in artifact.findings]


def test_an_mlflow_model_is_known_by_its_mlmodel(model: Path) -> None:
    found = inspect(model)
    assert (found.flavour, found.loader) == ("sklearn", "mlflow.sklearn")
    assert found.flavours == ("sklearn", "python_function")
    assert found.requirements == ("mlflow==3.1", "numpy")
    assert [(file.path, file.format) for file in found.files] == [
        ("MLmodel", "text"),
        ("model.pkl", "pickle"),
        ("requirements.txt", "text"),
    ]
    assert not found.findings


def test_the_digest_binds_each_byte_and_each_name(model: Path) -> None:
    before = inspect(model).digest
    assert before == inspect(model).digest
    (model / "model.pkl").rename(model / "other.pkl")
    renamed = inspect(model).digest
    (model / "other.pkl").rename(model / "model.pkl")
    assert before == inspect(model).digest != renamed
    with (model / "model.pkl").open("ab") as file:
        file.write(b"\0")
    assert inspect(model).digest not in (before, renamed)


def test_what_mlflow_and_we_write_beside_the_model_is_in_no_digest(model: Path) -> None:
    before = inspect(model)
    (model / "registered_model_meta").write_text("model_name: X\nmodel_version: '3'\n")
    (model / "modelarmor").mkdir()
    evidence = Evidence(artifact=before, policy="kind: KubeArmorPolicy")
    (model / "modelarmor/evidence.json").write_text(evidence.dumps())
    (model / own.evidence(evidence.digest)).write_text(evidence.dumps())
    assert inspect(model).digest == before.digest
    assert inspect(model).files == before.files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("registered_model_meta", "import os\n"),
        ("registered_model_meta", "model_name: X\nmodel_version: '3'\nimport: os\n"),
        ("modelarmor/evidence.json", "print(1)"),
        ("modelarmor/evidence.json", "[]"),
        # XGBoost reads its weights from JSON, whatever the file is called
        ("modelarmor/evidence.json", '{"learner": {}, "version": [3, 0, 0]}'),
        ("modelarmor/approval.json", "{}"),
        ("modelarmor/__init__.py", "{}"),
        ("modelarmor/evidence.json/x", "{}"),
        (own.evidence("sha256:" + 64 * "a"), "print(1)"),
        (own.evidence("sha256:" + 64 * "a"), EVIDENCE.dumps()),
        (own.evidence("sha256:" + hashlib.sha256(b"{}").hexdigest()), "{}"),
        ("modelarmor/evidence-a.json", "{}"),
    ],
)
def test_nothing_hides_behind_a_name_of_ours(model: Path, name: str, content: str) -> None:
    before = inspect(model).digest
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_text(content)
    found = inspect(model)
    assert found.digest != before
    assert "hostile-metadata" in rules(found)


def test_a_link_within_the_model_is_the_file_that_it_leads_to(model: Path) -> None:
    (model / "copy.pkl").write_bytes((model / "model.pkl").read_bytes())
    copied = inspect(model).digest
    (model / "copy.pkl").unlink()
    (model / "copy.pkl").symlink_to("model.pkl")
    assert inspect(model).digest == copied
    assert rules(inspect(model)) == ["symlink"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../beside", "/dev/zero", "loop", "nowhere"])
def test_a_link_that_leads_out_is_told_and_not_followed(model: Path, target: str) -> None:
    (model.parent / "beside").write_text("x")
    (model / "loop").symlink_to(target)
    found = inspect(model)
    assert "symlink-out-of-model" in rules(found)
    assert found.digest == ""


def test_special_files_are_told_and_block_nobody(model: Path) -> None:
    os.mkfifo(model / "pipe")
    found = inspect(model)
    assert rules(found) == ["special-file"]
    assert found.digest == ""


def test_a_pipe_itself_is_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert rules(inspect(tmp_path / "pipe"))[0] == "special-file"


def test_a_hard_link_is_told(model: Path) -> None:
    os.link(model / "model.pkl", model.parent / "elsewhere")
    assert rules(inspect(model)) == ["hard-link"]


def test_directories_nest_only_so_deep(model: Path) -> None:
    place = model
    for _ in range(100):
        place /= "d"
    place.mkdir(parents=True)
    found = inspect(model)
    assert rules(found) == ["unreadable"]
    assert found.digest == ""


@pytest.mark.parametrize("name", ["a\u202egnp.py", "a\nb", "\udcff"])
def test_names_that_nobody_sees_are_told(model: Path, name: str) -> None:
    (model / name).write_bytes(b"x")
    assert rules(inspect(model)) == ["odd-name"]


@pytest.mark.parametrize(
    "text",
    [
        "flavors: {a: &x {}, b: *x}",
        "flavors: {a: {}}\nflavors: {b: {}}",
        "!!python/object/apply:os.getpid []",
        "[]",
        "a" * (2 << 20),
        "[" * 10_000,
    ],
)
def test_an_mlmodel_of_tricks_is_told(model: Path, text: str) -> None:
    (model / "MLmodel").write_text(text)
    found = inspect(model)
    assert found.flavour == "pickle"
    assert rules(found) == ["mlmodel-unreadable"]


def test_nothing_is_a_finding(tmp_path: Path) -> None:
    found = inspect(tmp_path)
    assert rules(found) == ["empty"]
    assert found.digest == ""


def test_a_file_is_a_model(model: Path) -> None:
    with open_model(str(model / "model.pkl")) as opened:
        assert opened.artifact.flavour == "pickle"
        assert [file.path for file in opened.artifact.files] == ["model.pkl"]


def test_a_path_may_be_an_address_too(model: Path) -> None:
    with open_model(model.as_uri()) as opened, open_model(model) as plain:
        assert opened.artifact.digest == plain.artifact.digest
        assert opened.root == plain.root
    assert model.exists()


@pytest.mark.parametrize("source", ["", "/no/such/place", "a\0b", "file://elsewhere/model"])
def test_no_model_is_an_error_that_says_so(source: str) -> None:
    with pytest.raises(ArtifactError, match=r"no place|Name a model|no host"):
        open_model(source)


def test_an_address_needs_mlflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.artifacts", None)
    with pytest.raises(ArtifactError, match=r"pip install 'modelarmor\[mlflow\]'"):
        open_model("models:/X/1", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_credentials_of_an_address_are_not_kept(model: Path) -> None:
    found = inspect(model, "https://user:secret@host/path?token=secret")
    assert found.source == "https://host/path"
