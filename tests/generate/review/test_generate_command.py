"""``modelarmor generate`` from a model to its files."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from modelarmor.generate.evidence import Evidence
from modelarmor.policy import document
from modelarmor.profiles import unfilled
from modelarmor.sandbox.probe import probe

from .test_commands import modelarmor

pytestmark = [
    pytest.mark.skipif(not probe().can_confine, reason="nothing can be confined here"),
    pytest.mark.timeout(240),
]


class _Shell:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        import os

        return os.system, ("true",)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "model.pkl").write_bytes(pickle.dumps({"weights": [1.0, 2.0]}))
    return directory


def test_a_policy_has_its_evidence_and_network_beside_it(model: Path, tmp_path: Path) -> None:
    done = modelarmor("generate", model, "-o", tmp_path / "iris.yaml", "--fail-on", "critical")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    evidence = Evidence.loads((tmp_path / "iris.evidence.json").read_bytes())
    assert (tmp_path / "iris.yaml").read_text() == evidence.policy
    assert (tmp_path / "iris.network.yaml").read_text() == evidence.network
    assert evidence.observation is not None
    assert "load" in evidence.observation.completed
    rows = dict(line.split(maxsplit=1) for line in done.stderr.splitlines() if line[:2] == "  ")
    assert rows["flavour"].startswith("pickle")
    assert rows["evidence"] == str(tmp_path / "iris.evidence.json")
    assert f"next: modelarmor review {tmp_path}/iris.evidence.json" in done.stderr


def test_progress_is_told_in_lines(model: Path) -> None:
    told = modelarmor("generate", model, "--fail-on", "never").stderr
    assert "loading the model" in told
    assert all(line.isprintable() for line in told.splitlines())


def test_without_running_it_the_policy_is_the_template(model: Path) -> None:
    done = modelarmor("generate", model, "--no-run", "--quiet", "--fail-on", "never")
    assert done.returncode == 0
    assert done.stderr == ""
    assert unfilled(done.stdout, name="out")
    assert "${MODEL}" in done.stdout


def test_all_evidence_can_go_to_standard_output(model: Path) -> None:
    done = modelarmor("generate", model, "--no-run", "-q", "--format", "json", "--fail-on", "never")
    evidence = Evidence.loads(done.stdout)
    assert [file.path for file in evidence.artifact.files] == ["model.pkl"]
    assert evidence.observation is None


def test_a_model_that_starts_a_shell_gets_a_policy_and_status_1(
    model: Path, tmp_path: Path
) -> None:
    (model / "model.pkl").write_bytes(pickle.dumps(_Shell()))
    done = modelarmor("generate", model, "-o", tmp_path / "evil.yaml")
    assert done.returncode == 1, done.stderr
    assert "critical" in done.stderr
    evidence = Evidence.loads((tmp_path / "evil.evidence.json").read_bytes())
    assert evidence.findings[0].severity == "critical"
    shown = modelarmor("review", tmp_path / "evil.evidence.json")
    assert shown.returncode == 1
    assert "  critical " in shown.stdout
    again = modelarmor("compliance", tmp_path / "evil.evidence.json", "--strict")
    assert again.returncode == 1
    assert "not met  AML.M0016" in again.stdout or "partly   AML.M0016" in again.stdout


def test_a_model_that_is_not_there_is_status_2_and_leaves_nothing(tmp_path: Path) -> None:
    done = modelarmor("generate", tmp_path / "nothing", "-o", tmp_path / "policy.yaml")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("modelarmor: error: ")
    assert list(tmp_path.iterdir()) == []


def test_the_policy_can_be_read_by_everything_that_reads_policies(
    model: Path, tmp_path: Path
) -> None:
    modelarmor("generate", model, "--no-run", "-q", "-o", tmp_path / "p.yaml")
    text = (tmp_path / "p.yaml").read_text()
    policies, problems = document.inspect(text.replace("${", "/${"))
    assert policies
    assert not problems


def test_a_policy_filled_in_for_a_container_names_its_directories(
    model: Path, tmp_path: Path
) -> None:
    places = ("MODEL=/opt/model", "PREFIX=/opt/env", "HOME=/home/app", "TMP=/scratch")
    fill = [part for place in places for part in ("--fill", place)]
    to = tmp_path / "app.yaml"
    done = modelarmor("generate", model, "--no-run", "-q", "-o", to, *fill, "--fail-on", "never")
    assert done.returncode == 0, done.stderr
    granted = {rule.value for policy in document.load(to.read_bytes()) for rule in policy.file}
    assert {"/opt/model/", "/opt/env/lib/", "/scratch/"} <= {
        place for value in granted for place in (value, f"{Path(value).parent}/")
    }
    assert "/dev/null" in granted  # KubeArmor's posture leaves nothing out
    assert "${" not in to.read_text()
    assert "${MODEL}" in Evidence.loads((tmp_path / "app.evidence.json").read_bytes()).policy


def test_a_model_is_asked_what_a_file_says(tmp_path: Path) -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    asked, model = tmp_path / "rows.json", tmp_path / "model.pkl"
    model.write_bytes(pickle.dumps(sklearn.LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])))
    asked.write_text('{"inputs": [[2.0], [3.0]]}')
    done = modelarmor(
        "generate", model, "-q", "--input", asked, "--predictions", "5", "--timeout", "200",
        "--format", "json", "--fail-on", "never",
    )  # fmt: skip
    observation = Evidence.loads(done.stdout).observation
    assert observation is not None
    assert (observation.input, observation.predictions) == ("given", 5), observation.error


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--fill", "MODEL=model"], "NAME=/DIRECTORY"),
        (["--fill", "ROOT=/opt"], "MODEL, PREFIX, HOME, TMP"),
        (["--fill", "TMP=/scratch"], "--fill MODEL=/opt/model"),
        (["--fill", "MODEL=/m", "--format", "json"], "evidence keeps its templates"),
        (["--predictions", "0"], "a number from 1"),
        (["--timeout", "nan"], "give seconds"),
        (["--python", "/etc/passwd"], "ENV/bin/python"),
        (["--input", "/etc/passwd"], "this is no JSON"),
        (["--input", "/dev/zero"], "a few rows will do"),
    ],
)
def test_an_option_that_means_nothing_is_refused(
    model: Path, options: list[str], says: str
) -> None:
    done = modelarmor("generate", model, *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stdout == ""
