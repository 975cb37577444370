"""A model with code in its pickle, registered and served: found, not promoted, and harmless."""

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
import urllib.request
import zipfile
from pathlib import Path

import pytest
from modelarmor_mlflow import names

from .support import Server, free_port, refused

pytestmark = pytest.mark.timeout(600)

PATIENCE = 300.0  # seconds; torch is imported, watched and served
EARNEST = {"worker": {"generator": "modelarmor.generate.pipeline:generate", "lease_seconds": 60}}
# In a process of its own: MLflow warns of much, and warnings are errors here.
HONEST = """
import sys, mlflow, numpy as np, torch
from mlflow.models import infer_signature
model, rows = torch.nn.Linear(2, 1), np.zeros((1, 2), dtype=np.float32)
mlflow.pytorch.save_model(
    model, sys.argv[1], signature=infer_signature(rows, rows[:, :1]), input_example=rows,
    pip_requirements=["torch"], serialization_format="pickle",
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


@pytest.fixture(scope="module")
def injected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and the directory in which its code leaves what it could do."""
    pytest.importorskip("torch")
    place = tmp_path_factory.mktemp("injected")
    model, loot = place / "model", place / "loot"
    loot.mkdir()
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HONEST, str(model)],
        check=True, capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    inject(
        model,
        textwrap.dedent(f"""
            import os
            for act in (lambda: open({str(loot / "written")!r}, "w"),
                        lambda: os.system("touch {loot / "by-a-shell"}")):
                try:
                    act()
                except OSError:
                    pass
            """),
    )
    return model, loot


def test_it_does_harm_where_nothing_confines_it(injected: tuple[Path, Path]) -> None:
    model, loot = injected
    load = f"import torch; torch.load({str(model / 'data' / 'model.pth')!r}, weights_only=False)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", load], check=True, timeout=PATIENCE)
    assert {file.name for file in loot.iterdir()} == {"written", "by-a-shell"}
    shutil.rmtree(loot)
    loot.mkdir()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    """One that makes policies as it does for users; the other tests' makes none in earnest."""
    with Server(tmp_path_factory.mktemp("earnest"), config=EARNEST) as running:
        yield running


def test_it_is_found_not_promoted_and_served_without_harm(
    server, name: str, injected: tuple[Path, Path], tmp_path: Path
) -> None:
    model, loot = injected
    run = server.client.create_run("0").info
    server.client.log_artifacts(run.run_id, str(model), "model")
    version = server.register_source(name, f"{run.artifact_uri}/model", run.run_id)

    tags = server.client.get_model_version(name, version.version).tags
    assert json.loads(tags[names.FINDINGS])["critical"]
    with refused("1 more approval"):
        server.client.set_registered_model_alias(name, "champion", version.version)

    ready, port = tmp_path / "ready", free_port()
    alerts = tmp_path / "alerts.jsonl"
    served = subprocess.Popen(
        [sys.executable, "-m", "modelarmor", "serve", "-m", f"models:/{name}/{version.version}",
         "--unreviewed", "--port", str(port), "--ready-file", str(ready), "--alerts", str(alerts)],
        env={**os.environ, "MLFLOW_TRACKING_URI": server.uri, "HOME": str(tmp_path)},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while not ready.exists():
            assert served.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        url = json.loads(ready.read_text())["url"]
        asked = urllib.request.Request(
            f"{url}/invocations",
            json.dumps({"inputs": [[0.0, 0.0]]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            assert len(json.load(answer)["predictions"]) == 1
    finally:
        served.send_signal(signal.SIGTERM)
        served.wait(60)
    assert list(loot.iterdir()) == []
    tried = [json.loads(line) for line in alerts.read_text().splitlines()]
    assert any(str(loot / "written") in alert["Resource"] for alert in tried)
    assert any(alert["Operation"] == "Process" for alert in tried)
