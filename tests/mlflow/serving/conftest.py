from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlflow")

from modelarmor_mlflow.serving.server import Server, Service

from modelarmor.generate.artifact import open_model
from modelarmor.generate.evidence import Evidence, Scan
from modelarmor.generate.observe import observe
from modelarmor.generate.synthesize import synthesize
from modelarmor.generate.workload import filled

PATIENCE = 90.0
ROW = {"dataframe_records": [{"a": 1.0, "b": 2.0}]}


# In a process of its own: MLflow warns of much, and warnings are errors here.
_SAVE = """
import sys, mlflow, pandas as pd
from mlflow.models import infer_signature
frame = pd.DataFrame({"a": [1.0], "b": [2.0]})
mlflow.pyfunc.save_model(
    sys.argv[1], python_model=sys.argv[2], signature=infer_signature(frame, [1.0]),
    input_example=frame, pip_requirements=["mlflow"],
)
"""


def write_model(directory: Path, predict: str) -> Path:
    """An MLflow model from code, whose ``predict`` has this body."""
    code = directory.with_suffix(".py")
    code.write_text(
        "import mlflow\n\n\nclass Model(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        + textwrap.indent(textwrap.dedent(predict), " " * 8)
        + "\n\n\nmlflow.models.set_model(Model())\n"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SAVE, str(directory), str(code)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=PATIENCE,
    )
    return directory


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that adds its columns."""
    place = tmp_path_factory.mktemp("honest") / "model"
    return write_model(place, "return [float(row.sum()) for _, row in model_input.iterrows()]")


@pytest.fixture(scope="session")
def evidence(honest: Path) -> Evidence:
    """What is known of it, and its policy."""
    with open_model(honest) as model:
        seen = observe(model)
        draft = synthesize(model.artifact, Scan(), seen)
        return Evidence(
            artifact=model.artifact,
            observation=seen,
            policy=draft.policy,
            network=draft.network,
            resources=draft.resources,
            reasons=draft.reasons,
            expected_denials=draft.expected_denials,
        )


@dataclass
class Served:
    """A server that runs in a thread of this process."""

    server: Server
    said: list[str]

    def get(self, path: str) -> tuple[int, bytes]:
        return answer_to(urllib.request.Request(self.server.url + path))

    def ask(self, body: Any = ROW) -> tuple[int, Any]:
        request = urllib.request.Request(
            self.server.url + "/invocations",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        status, answer = answer_to(request)
        return status, json.loads(answer)

    def resources(self, operation: str) -> list[str]:
        alerts = self.server.recorder.after(0, 10_000).alerts
        return [alert.Resource for _, alert in alerts if alert.Operation == operation]


def answer_to(request: urllib.request.Request) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


Serve = Callable[..., Any]


@pytest.fixture
def serve(evidence: Evidence) -> Serve:
    """Serve a model, under the honest one's policy unless another evidence is given."""

    @contextmanager
    def start(model: Path, *, known: Evidence | None = None, **options: Any) -> Iterator[Served]:
        said: list[str] = []
        known = known or evidence
        python = Path(sys.executable)
        service = Service(name="m/1", model=model, python=python, port=0, **options)
        with Server(
            service,
            lambda scratch: filled(known, model=model, prefix=Path(sys.prefix), tmp=scratch),
            said.append,
        ) as server:
            failed: list[BaseException] = []
            thread = threading.Thread(target=_run, args=(server, failed))
            thread.start()
            try:
                deadline = time.monotonic() + PATIENCE
                while not server.ready.wait(0.1):
                    assert thread.is_alive(), (failed, said)
                    assert time.monotonic() < deadline, said
                yield Served(server, said)
            finally:
                server.stop()
                thread.join(PATIENCE)
                assert not thread.is_alive()

    return start


def _run(server: Server, failed: list[BaseException]) -> None:
    try:
        server.run()
    except BaseException as error:
        failed.append(error)


def with_limits(evidence: Evidence, **resources: str) -> Evidence:
    return replace(evidence, resources={**evidence.resources, **resources})


@contextmanager
def command(*arguments: str, **env: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """``modelarmor serve`` in a process; the lines that it writes to stderr."""
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-m", "modelarmor", "serve", "-p", "0", *arguments],
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'mlflow_plugin'}", **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")))
    reader.start()
    try:
        yield process, lines
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        reader.join(PATIENCE)
        process.stderr.close()


def wait_for_line(process: subprocess.Popen[str], lines: list[str], text: str) -> str:
    deadline = time.monotonic() + PATIENCE
    while True:
        for line in list(lines):
            if text in line:
                return line
        assert process.poll() is None or any(text in line for line in lines), lines
        assert time.monotonic() < deadline, lines
        time.sleep(0.05)
