"""Models with code in them, registered and served: found, not promoted, and harmless."""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from modelarmor_mlflow import deciding, names

from tests.ports import free_port

from .support import Server, refused

pytestmark = pytest.mark.timeout(600)

PATIENCE = 300.0  # seconds; torch or TensorFlow is imported, watched and served
EARNEST = {"worker": {"generator": "modelarmor.generate.pipeline:generate", "lease_seconds": 60}}
# In processes of their own: MLflow warns of much, and warnings are errors here.
HONEST = """
import sys, mlflow, numpy as np, torch
from mlflow.models import infer_signature
model, rows = torch.nn.Linear(2, 1), np.zeros((1, 2), dtype=np.float32)
mlflow.pytorch.save_model(
    model, sys.argv[1], signature=infer_signature(rows, rows[:, :1]), input_example=rows,
    pip_requirements=["torch"], serialization_format="pickle",
)
"""
# A layer with code, in both of Keras's formats, and what who serves it has to write: no safe mode.
LAYERS = """
import sys, keras, mlflow, numpy as np
from mlflow.models import infer_signature
from pathlib import Path
place, code = Path(sys.argv[1]), sys.argv[2]
shape = keras.Input((2,))
model = keras.Model(shape, keras.layers.Lambda(lambda x: x)(keras.layers.Dense(1)(shape)))
model.layers[-1].function = eval(f"lambda inputs: exec({code!r}) or inputs")
files = {kind: str(place / f"model.{kind}") for kind in ("keras", "h5")}
for file in files.values():
    model.save(file)
(place / "serving.py").write_text('''
import keras, mlflow
class Model(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        files = context.artifacts.values()
        self.models = [keras.saving.load_model(file, safe_mode=False) for file in files]
    def predict(self, context, model_input, params=None):
        return sum(model(model_input).numpy() for model in self.models)
mlflow.models.set_model(Model())
''')
rows = np.zeros((1, 2), dtype=np.float32)
mlflow.pyfunc.save_model(
    place / "model", python_model=str(place / "serving.py"), artifacts=files,
    signature=infer_signature(rows, rows[:, :1]), input_example=rows,
    pip_requirements=["keras", "tensorflow-cpu"],
)
"""
# A graph that writes a file, or answers with another one's content.
GRAPH = """
import sys, mlflow, numpy as np, tensorflow as tf
from mlflow.models import infer_signature
from pathlib import Path
place, written, secret = map(Path, sys.argv[1:])
class Model(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 2])])
    def __call__(self, x):
        def read():
            return tf.io.read_file(str(secret))
        def write():
            with tf.control_dependencies([tf.io.write_file(str(written), "by a graph")]):
                return tf.constant("done")
        return tf.cond(tf.reduce_sum(x) > 0, read, write)
rows = np.zeros((1, 2), dtype=np.float32)
mlflow.tensorflow.save_model(
    Model(), place / "model", signature=infer_signature(rows), pip_requirements=["tensorflow-cpu"],
)
"""


def inject(model: Path, code: str) -> None:
    """Have `code` run when the model's weights are unpickled, which then are what they were."""
    arguments = pickletools.optimize(pickle.dumps((code,), protocol=0))
    prefix = b"cbuiltins\nexec\n" + arguments[:-1] + b"R0"
    weights = model / "data" / "model.pth"
    honest = weights.rename(weights.with_suffix(".honest"))
    with zipfile.ZipFile(honest) as before, zipfile.ZipFile(weights, "w") as after:
        for entry in before.infolist():
            content = before.read(entry)
            hostile = entry.filename.endswith("/data.pkl")
            after.writestr(entry, prefix + content if hostile else content)
    honest.unlink()


def harm(loot: Path) -> str:
    """Code that leaves a file, and one by a shell, where it can."""
    return textwrap.dedent(f"""
        import os
        for act in (lambda: open({str(loot / "written")!r}, "w"),
                    lambda: os.system("touch {loot / "by-a-shell"}")):
            try:
                act()
            except OSError:
                pass
        """)


def python(code: str, *arguments: str) -> str:
    """Run Python in a process of its own; returns what it printed."""
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        command, check=False, capture_output=True, timeout=PATIENCE, env=environment
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture(scope="module")
def injected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and the directory in which its code leaves what it could do."""
    pytest.importorskip("torch")
    place = tmp_path_factory.mktemp("injected")
    model, loot = place / "model", place / "loot"
    loot.mkdir()
    python(HONEST, str(model))
    inject(model, harm(loot))
    return model, loot


def test_it_does_harm_where_nothing_confines_it(injected: tuple[Path, Path]) -> None:
    model, loot = injected
    weights = str(model / "data" / "model.pth")
    python(f"import torch; torch.load({weights!r}, weights_only=False)")
    assert {file.name for file in loot.iterdir()} == {"written", "by-a-shell"}
    shutil.rmtree(loot)
    loot.mkdir()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    """One that makes policies as it does for users; the other tests' makes none in earnest."""
    with Server(tmp_path_factory.mktemp("earnest"), config=EARNEST) as running:
        yield running


def register(server: Server, name: str, model: Path) -> Any:
    """Have the server look at a model; returns the version, which nobody may promote."""
    run = server.client.create_run("0").info
    server.client.log_artifacts(run.run_id, str(model), "model")
    version = server.register_source(name, f"{run.artifact_uri}/model", run.run_id)
    with refused("1 more approval"):
        server.client.set_registered_model_alias(name, "champion", version.version)
    return version


def found(server: Server, version: Any) -> set[tuple[str, str]]:
    """Rule and file of each finding that somebody has to answer for."""
    uri = f"models:/{version.name}/{version.version}"
    evidence = deciding.Case.open(uri, server.uri).evidence
    return {
        (finding.rule, Path(finding.location.partition("!")[0]).name)
        for finding in evidence.findings
        if finding.severity in ("critical", "high")
    }


@contextmanager
def serving(server: Server, version: Any, place: Path) -> Iterator[Callable[..., Any]]:
    """Serve a version confined; gives a function that asks it and returns status and answer."""
    ready = place / "ready"
    served = subprocess.Popen(
        [sys.executable, "-m", "modelarmor", "serve", "-m",
         f"models:/{version.name}/{version.version}", "--unreviewed", "--port", str(free_port()),
         "--ready-file", str(ready), "--alerts", str(place / "alerts.jsonl")],
        env={**os.environ, "MLFLOW_TRACKING_URI": server.uri, "HOME": str(place)},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while not ready.exists():
            assert served.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        url = json.loads(ready.read_text())["url"] + "/invocations"

        def ask(*row: float) -> tuple[int, str]:
            body = json.dumps({"inputs": [row]}).encode()
            asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        yield ask
    finally:
        served.send_signal(signal.SIGTERM)
        served.wait(60)


def alerts(place: Path) -> list[dict[str, Any]]:
    """What was refused while it was served."""
    return [json.loads(line) for line in (place / "alerts.jsonl").read_text().splitlines()]


def test_it_is_found_not_promoted_and_served_without_harm(
    server: Server, name: str, injected: tuple[Path, Path], tmp_path: Path
) -> None:
    model, loot = injected
    version = register(server, name, model)
    tags = server.client.get_model_version(name, version.version).tags
    assert json.loads(tags[names.FINDINGS])["critical"]
    assert "model.pth" in {file for _, file in found(server, version)}
    serve_without_harm(server, version, loot, tmp_path)


def serve_without_harm(server: Server, version: Any, loot: Path, place: Path) -> None:
    """It answers, its code leaves nothing, and both attempts are alerts."""
    with serving(server, version, place) as ask:
        status, answer = ask(0.0, 0.0)
    assert status == 200, answer
    assert len(json.loads(answer)["predictions"]) == 1
    assert list(loot.iterdir()) == []
    tried = alerts(place)
    assert any(str(loot / "written") in alert["Resource"] for alert in tried)
    assert any(alert["Operation"] == "Process" for alert in tried)


@pytest.mark.thorough
def test_a_layer_with_code_is_found_not_promoted_and_served_without_harm(
    server: Server, name: str, tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow")
    loot = tmp_path / "loot"
    loot.mkdir()
    python(LAYERS, str(tmp_path), harm(loot))
    load = "import keras, sys; keras.saving.load_model(sys.argv[1], safe_mode=False)"
    for kind in ("keras", "h5"):
        python(load, str(tmp_path / f"model.{kind}"))
        assert {file.name for file in loot.iterdir()} == {"written", "by-a-shell"}, kind
        for file in loot.iterdir():
            file.unlink()

    version = register(server, name, tmp_path / "model")
    formats = {("keras-lambda", "model.keras"), ("keras-lambda", "model.h5")}
    assert formats <= found(server, version)
    serve_without_harm(server, version, loot, tmp_path)


@pytest.mark.thorough
def test_a_graph_with_file_operations_is_found_not_promoted_and_refused(
    server: Server, name: str, tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow")
    written, secret = tmp_path / "written", tmp_path / "secret"
    secret.write_text("hunter2")
    python(GRAPH, str(tmp_path), str(written), str(secret))
    ask_it = "import mlflow, numpy, sys; m = mlflow.tensorflow.load_model(sys.argv[1])\n"
    ask_it += "for n in (0, 1): print(m(numpy.full((1, 2), n, 'float32')).numpy())"
    assert "hunter2" in python(ask_it, str(tmp_path / "model"))
    written.unlink()

    version = register(server, name, tmp_path / "model")
    operations = {("tf-write-op", "saved_model.pb"), ("tf-read-op", "saved_model.pb")}
    assert operations <= found(server, version)
    with serving(server, version, tmp_path) as ask:
        for row in ((0.0, 0.0), (1.0, 1.0)):
            status, answer = ask(*row)
            assert status >= 400, answer
            assert "hunter2" not in answer
    assert not written.exists()
    for file in (written, secret):
        assert any(str(file) in alert["Resource"] for alert in alerts(tmp_path)), file
