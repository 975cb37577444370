"""Models attacked in the sandbox, honest ones and hostile ones."""

from __future__ import annotations

import json
import pickle
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from modelarmor import cli
from modelarmor.generate.evidence import Evidence, EvidenceError, Measure, Robustness
from modelarmor.generate.pipeline import generate
from modelarmor.generate.review import as_json, as_text, review
from modelarmor.redteam import data, measure, render
from modelarmor.redteam.measure import Options, RedTeamError

pytestmark = pytest.mark.timeout(400)

_DIGITS = load_digits()
INPUTS, LABELS = (_DIGITS.images / 16).astype("float32"), _DIGITS.target
TRAINED = 1200


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits that no model here was trained on, as images and as rows."""
    place = tmp_path_factory.mktemp("redteam")
    images, labels = INPUTS[TRAINED:], LABELS[TRAINED:]
    numpy.savez(place / "images.npz", x=images, y=labels)
    numpy.savez(place / "rows.npz", x=images.reshape(-1, 64), y=labels)
    return place


@pytest.fixture(scope="session")
def linear(place: Path) -> Path:
    model = LogisticRegression(max_iter=300).fit(INPUTS[:TRAINED].reshape(-1, 64), LABELS[:TRAINED])
    joblib.dump(model, place / "linear.joblib")
    return place / "linear.joblib"


def rows(place: Path, samples: int = 60) -> data.Labelled:
    return data.read(place / "rows.npz", samples=samples, limits=(0, 1))


def accuracies(found: Robustness, attack: str) -> list[float]:
    return [one.accuracy for one in found.measures if one.attack == attack]


# ---- honest models


def test_a_network_recognises_less_the_further_it_is_attacked(place: Path, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
    )
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    inputs, labels = torch.tensor(INPUTS[:TRAINED]), torch.tensor(LABELS[:TRAINED])
    for _ in range(120):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
    torch.save(net, tmp_path / "net.pt")

    given = data.read(place / "images.npz", samples=60)
    report = measure.measure(tmp_path / "net.pt", given, Options(nearest=4))
    found = report.robustness
    assert found.accuracy > 0.85
    assert [one.epsilon for one in found.measures if one.attack == "pgd"] == [0.01, 0.03, 0.1, 0.3]
    for attack in ("fgsm", "pgd", "hopskipjump"):
        falling = accuracies(found, attack)
        assert falling == sorted(falling, reverse=True)
        assert falling[-1] < 0.2
    assert accuracies(found, "noise")[-1] > 0.6
    assert accuracies(found, "pgd")[2] <= accuracies(found, "fgsm")[2] < found.accuracy - 0.2
    assert all(one.queries for one in found.measures if one.attack != "noise")
    # Whatever the process inside crafts, it is no further away than was agreed.
    for item in report.crafted:
        near = given.units[: len(item.units)]
        assert numpy.abs(item.units - near).max() <= item.epsilon + 1e-6
        assert 0 <= item.units.min() <= item.units.max() <= 1
    page = render.as_html(report)
    assert page.count("data:image/png;base64,") == 4 * 5
    assert page.count("<polyline") == 4
    assert "<script" not in page


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "library", ["pytorch", pytest.param("tensorflow", marks=pytest.mark.thorough)]
)
def test_mlflows_networks_are_attacked_by_their_gradients(
    library: str, place: Path, tmp_path: Path
) -> None:
    import mlflow.pytorch
    import mlflow.tensorflow
    from mlflow.models import infer_signature

    target = str(tmp_path / "model")
    signature = infer_signature(INPUTS[:2], numpy.zeros((2, 10), "float32"))
    options: dict[str, Any] = {"signature": signature, "pip_requirements": []}
    if library == "pytorch":
        import torch

        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        mlflow.pytorch.save_model(net, target, input_example=INPUTS[:2], **options)
    else:
        import keras

        layers = [keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Dense(10)]
        mlflow.tensorflow.save_model(keras.Sequential(layers), target, **options)
    given = data.read(place / "images.npz", samples=100)
    how = Options(attacks=("fgsm",), epsilons=(0.1,))
    found = measure.measure(target, given, how).robustness
    assert found.not_tried == ()
    assert found.measures[0].queries > 0


def test_the_same_seed_gives_the_same_evidence(place: Path, linear: Path) -> None:
    first, again, other = (
        measure.measure(
            linear,
            rows(place, 20),
            Options(attacks=("fgsm", "pgd", "hopskipjump"), nearest=1, seed=seed),
        ).robustness
        for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_a_model_without_gradients_is_attacked_by_its_answers(place: Path, tmp_path: Path) -> None:
    forest = RandomForestClassifier(20, random_state=0)
    names = numpy.array([f"digit {label}" for label in LABELS])
    forest.fit(INPUTS[:TRAINED].reshape(-1, 64), names[:TRAINED])
    joblib.dump(forest, tmp_path / "forest.joblib")
    numpy.savez(tmp_path / "named.npz", x=INPUTS[TRAINED:].reshape(-1, 64), y=names[TRAINED:])
    given = data.read(tmp_path / "named.npz", samples=40)
    found = measure.measure(tmp_path / "forest.joblib", given, Options(nearest=3)).robustness
    assert [reason.partition(":")[0] for reason in found.not_tried] == ["fgsm", "pgd"]
    assert found.accuracy > 0.8
    assert accuracies(found, "hopskipjump")[-1] < found.accuracy - 0.3


def test_a_table_of_numbers_is_data_too(place: Path, tmp_path: Path) -> None:
    frame = [f"{a},{b},{'high' if a + b > 10 else 'low'}" for a in range(10) for b in range(10)]
    (tmp_path / "table.csv").write_text("\n".join(["first,second,kind", *frame]))
    given = data.read(tmp_path / "table.csv", samples=1000)
    assert given.units.shape == (100, 2)
    assert set(given.labels) == {"high", "low"}
    assert given.low.tolist() == [0, 0]
    assert given.span.tolist() == [9, 9]
    with pytest.raises(data.DataError, match="no column 'sort'"):
        data.read(tmp_path / "table.csv", samples=10, label="sort")


# ---- the command, the evidence and the review


def test_the_result_is_part_of_the_evidence_and_fails_the_review(
    place: Path, linear: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "linear.evidence.json"
    made = generate(linear)
    file.write_text(made.dumps())
    command = [
        "redteam", str(linear), "--data", str(place / "rows.npz"), "--range", "0", "1",
        "--samples", "60", "--attacks", "noise,fgsm", "--evidence", str(file), "-q",
        "--format", "json", "--epsilon", "0.2",
    ]  # fmt: skip
    assert cli.main([*command, "--least-accuracy", "0.6"]) == 1
    told = json.loads(capsys.readouterr().out)
    # What the policy of the model refuses while it is attacked is what it refuses at work.
    assert {item["operation"] for item in told["refused"]} <= {"Process", "Network", "File"}
    kept = Evidence.loads(file.read_text())
    assert kept.robustness is not None
    assert kept.policy_digest == made.policy_digest
    assert replace(kept, robustness=None) == made
    assert kept.robustness.accuracy == told["accuracy"]
    assert [one.severity for one in kept.findings if one.rule == "not-robust"] == ["high"]
    assert "It is less robust" in as_text(review(kept))
    assert "FGSM (one step" in as_text(review(kept))
    assert json.loads(as_json(review(kept)))["robustness"]["least_accuracy"] == 0.6

    assert cli.main([*command, "--least-accuracy", "0.0"]) == 0
    kept = Evidence.loads(file.read_text())
    assert kept.findings == made.findings

    assert cli.main([*command[:2], "--data", str(place / "nothing.npz"), "-q"]) == 2


def test_evidence_of_other_bytes_confines_nothing(place: Path, linear: Path) -> None:
    made = generate(linear, run=False)
    other = replace(made, artifact=replace(made.artifact, digest="sha256:" + "0" * 64))
    with pytest.raises(RedTeamError, match="the evidence is about"):
        measure.measure(linear, rows(place), evidence=other)


def test_noise_alone_is_no_attack_and_meets_no_demand() -> None:
    noise = Measure(attack="noise", epsilon=0.1, samples=10, recognised=10)
    found = Robustness(data="", samples=10, recognised=10, measures=(noise,))
    assert "no attack was tried" in found.shortfall(0.5, 0.1)
    attacked = Measure(attack="fgsm", epsilon=0.2, samples=10, recognised=6)
    found = replace(found, measures=(noise, attacked))
    assert found.shortfall(0.6, 0.1) == ""  # who bears more bears less
    assert found.shortfall(0.7, 0.1)
    assert "no attack was tried" in found.shortfall(0.1, 0.3)


def test_attacks_that_do_less_than_noise_are_pointed_out() -> None:
    measures = (
        Measure(attack="noise", epsilon=0.1, samples=100, recognised=40),
        Measure(attack="pgd", epsilon=0.1, samples=100, recognised=90),
    )
    robustness = Robustness(data="", samples=100, recognised=95, measures=measures)
    made = generate_nothing(robustness)
    points = [point for point in review(made).points if point.section == "robustness"]
    assert [point.severity for point in points] == ["medium"]


@pytest.mark.parametrize(
    "change",
    [
        {"recognised": 11}, {"recognised": -1}, {"epsilon": 0.0}, {"epsilon": float("nan")},
        {"queries": -1}, {"attack": "magic"}, {"samples": 0},
    ],
)  # fmt: skip
def test_evidence_with_impossible_figures_is_refused(change: dict[str, Any]) -> None:
    one = Measure(attack="fgsm", epsilon=0.1, samples=10, recognised=5)
    body = json.loads(generate_nothing(Robustness(data="", samples=10, recognised=9,
                                                  measures=(one,))).dumps())  # fmt: skip
    body["robustness"]["measures"][0].update(change)
    with pytest.raises(EvidenceError):
        Evidence.loads(json.dumps(body))


def generate_nothing(robustness: Robustness) -> Evidence:
    """Evidence with no more than a measurement."""
    from modelarmor.generate.evidence import Artifact

    return Evidence(artifact=Artifact(source="m", flavour="sklearn"), robustness=robustness)


# ---- hostile models


class _Hostile:
    """A pickle that makes what `code` calls `model`, where it is loaded."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> Any:
        return eval, (f"[g := {{}}, exec({self._code!r}, g), g['model']][2]",)


_RIGHT = """
import numpy, os, types, sys

class Model:
    classes_ = numpy.arange(10)

    def predict_proba(self, x):
        self.act(x)
        scores = numpy.zeros((len(x), 10), "float32")
        scores[:, (x[:, 20] * 9).astype(int).clip(0, 9)] = 1
        return scores

    def predict(self, x):
        return self.predict_proba(x).argmax(axis=1)

    def act(self, x):
        pass

model = Model()
"""


def hostile(tmp_path: Path, code: str) -> Path:
    file = tmp_path / "hostile.joblib"
    file.write_bytes(pickle.dumps(_Hostile(_RIGHT + code)))
    return file


def test_a_model_reaches_nothing_while_it_is_attacked(place: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    target = tmp_path / "target.txt"
    code = f"""
def act(self, x):
    for what in (
        lambda: open({str(secret)!r}).read(), lambda: open({str(target)!r}, "w").write("x"),
        lambda: os.execv("/bin/sh", ["sh", "-c", "true"]),
    ):
        try:
            what()
        except OSError:
            continue
        raise SystemExit("it was let out")
Model.act = act
"""
    options = Options(attacks=("noise", "hopskipjump"), nearest=1, epsilons=(0.1,))
    report = measure.measure(hostile(tmp_path, code), rows(place, 10), options)
    assert not target.exists()
    assert "File" in {operation for operation, _ in report.refused}
    assert "Process" in {operation for operation, _ in report.refused}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        # Another directory where the result is expected.
        ("os.rename('made', 'was'); os.mkdir('made')", "cannot be read"),
        ("os.rename('made', 'was'); os.symlink('/etc', 'made')", "Permission denied"),
        ("os.symlink('/etc/passwd', 'made/answers.i32')", "cannot be read|Permission denied"),
        ("os.write(1, b'x' * 1000)\nos._exit(0)", "it ended with 0"),
        ("raise ValueError('no \\x1b[31m model')", r"ValueError: no \\x1b\[31m model"),
        (
            "bomb = bytearray(3 << 30)\nfor i in range(0, 3 << 30, 4096): bomb[i] = 1",
            "ended|Memory",
        ),
        ("model = 5", "AttributeError"),
    ],
)
def test_what_a_hostile_model_does_to_the_result_is_an_error(
    place: Path, tmp_path: Path, code: str, said: str
) -> None:
    options = Options(attacks=("noise",), epsilons=(0.1,), memory=2 << 30)
    with pytest.raises(RedTeamError, match=said):
        measure.measure(hostile(tmp_path, code), rows(place, 10), options)


def test_a_model_that_does_not_answer_is_ended(place: Path, tmp_path: Path) -> None:
    code = "import time\ntime.sleep(10_000)"
    began = time.monotonic()
    with pytest.raises(RedTeamError, match="too long"):
        measure.measure(hostile(tmp_path, code), rows(place, 10), Options(seconds=8))
    assert time.monotonic() - began < 100


def test_labels_that_the_model_does_not_know_are_an_error(place: Path, linear: Path) -> None:
    given = replace(rows(place, 10), labels=("cat",) * 10)
    with pytest.raises(RedTeamError, match="none of the model's classes"):
        measure.measure(linear, given, Options(attacks=("noise",)))


def _huge(file: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1 << 40, 2), }"
    header = header.replace(b"1 << 40", str(1 << 40).encode()).ljust(117) + b"\n"
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


def _long(file: Path) -> None:
    file.write_text("a,label\n" + "1" * 200_000 + ",0\n")


def _latin(file: Path) -> None:
    file.write_bytes(b"a,label\n\xe9,0\n")


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("huge.npz", _huge, "too many"),
        ("long.csv", _long, "no table"),
        ("latin.csv", _latin, "no table in UTF-8"),
    ],
)
def test_data_that_is_no_data_is_refused_before_it_takes_memory(
    tmp_path: Path, name: str, make: Callable[[Path], None], says: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(data.DataError, match=says):
        data.read(tmp_path / name, samples=10)
