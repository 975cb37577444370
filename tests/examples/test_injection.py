"""Code in models: real in a plain kernel, refused in a confined one, found without running it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelarmor.generate.pipeline import generate
from tests.examples.support import PLAIN, assert_stripped, run

pytestmark = pytest.mark.timeout(600)

PROFILE = "modelarmor-untrusted-model"
WAYS = ("system", "exec", "eval", "runpy")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of the test's own; scratch of plain kernels too."""
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    return home


def left_behind(work: Path) -> set[str]:
    return {path.name for path in work.glob("pwned-*.txt")}


def test_code_in_a_pytorch_model_is_refused_whichever_way_it_came(tmp_path: Path) -> None:
    work = tmp_path / "work"
    loaded = run("pickle-injection-pytorch", work)["load-code"]
    assert loaded.printed.count("the code was refused") == len(WAYS)
    assert "RAN" not in loaded.printed
    assert left_behind(work) == set()
    assert loaded.refused_by("Process", "sh") == {f"{PROFILE}-programs"}
    for way in ("exec", "eval", "runpy"):
        assert loaded.refused_by("File", f"pwned-{way}.txt"), way


def test_without_a_sandbox_the_code_in_a_pytorch_model_runs(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(home / "tmp"))
    work = tmp_path / "work"
    loaded = run("pickle-injection-pytorch", work, PLAIN)["load-code"]
    assert loaded.printed.count("the code RAN") == len(WAYS)
    assert left_behind(work) == {f"pwned-{way}.txt" for way in WAYS}
    # What the scan says of the files that the notebook left, without running any.
    for way in WAYS:
        file = next((home / "tmp").glob(f"*/{way}.pt"))
        found = generate(file, run=False).findings
        assert {one.severity for one in found} & {"critical", "high"}, way
    honest = next((home / "tmp").glob("*/honest.pt"))
    assert not {one.severity for one in generate(honest, run=False).findings} & {"critical"}


def keys(home: Path) -> None:
    """What a graph would read."""
    (home / ".aws").mkdir()
    (home / ".aws" / "credentials").write_text("worthless\n")


def test_code_in_a_keras_model_installs_and_writes_nothing(home: Path, tmp_path: Path) -> None:
    keys(home)
    done = run("keras-injection", tmp_path / "work")
    loaded = done["load-code"]
    assert loaded.printed.count("safe mode refuses it") == 2
    for attempt in ("apt-get", "pip", "write to /tmp"):
        assert loaded.printed.count(f"{attempt}: refused") >= 2, loaded.printed
    assert "SUCCEEDED" not in loaded.printed
    assert loaded.printed.count("the model answers, 1.00") == 2
    assert f"{PROFILE}-administration" in loaded.refused_by("Process", "apt-get")
    assert loaded.refused_by("File", "/tmp/kerasinject.py")
    assert not Path("/tmp/kerasinject.py").exists()
    assert not Path("/tmp/kerasinject").exists()
    graph = done["graph-code"]
    for attempt in ("graph writes to /tmp", "graph reads keys"):
        assert f"{attempt}: refused (PermissionDeniedError)" in graph.printed, graph.printed
    assert graph.refused_by("File", "/tmp/kerasinject-graph.py")
    assert graph.refused_by("File", ".aws/credentials") == {f"{PROFILE}-credentials"}
    assert not Path("/tmp/kerasinject-graph.py").exists()


@pytest.mark.thorough
def test_without_a_sandbox_the_code_in_a_keras_model_installs_and_writes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(home / "tmp"))
    place = tmp_path / "tmp-of-the-demonstration"
    place.mkdir()
    monkeypatch.setenv("DEMONSTRATION_TMP", str(place))
    keys(home)
    done = run("keras-injection", tmp_path / "work", PLAIN)
    loaded, graph = done["load-code"], done["graph-code"]
    for attempt in ("apt-get", "pip", "write to /tmp"):
        assert f"{attempt}: SUCCEEDED" in loaded.printed, loaded.printed
    for attempt in ("graph writes to /tmp", "graph reads keys"):
        assert f"{attempt}: SUCCEEDED" in graph.printed, graph.printed
    assert (place / "kerasinject-graph.py").read_text() == "# left by a graph\n"
    assert (place / "kerasinject.py").read_text() == "# left by a model\n"
    assert (place / "kerasinject" / "pwned.py").exists()
    for name in ("model.keras", "model.h5", "saved"):
        file = next((home / "tmp").glob(f"*/{name}"))
        found = generate(file, run=False).findings
        assert {one.severity for one in found} & {"critical", "high"}, name


@pytest.mark.parametrize("example", ["pickle-injection-pytorch", "keras-injection"])
def test_the_notebook_is_committed_without_outputs(example: str) -> None:
    assert_stripped(example)
