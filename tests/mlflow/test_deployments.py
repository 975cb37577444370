"""The deployments target, with real servers in the background."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlflow")

import pandas as pd
from mlflow.deployments import get_deploy_client
from mlflow.deployments import interface as deploy
from mlflow.exceptions import MlflowException
from modelarmor_mlflow.deployments import Client

from modelarmor.generate.evidence import Evidence
from modelarmor.sandbox.probe import probe
from tests.ports import free_port

from .serving.conftest import evidence, honest, write_model

__all__ = ["evidence", "honest"]  # fixtures
pytestmark = [
    pytest.mark.skipif(not probe().can_confine, reason="nothing can be confined here"),
    pytest.mark.timeout(300),
]
ROW = pd.DataFrame({"a": [1.0], "b": [2.0]})


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A user with no deployments; afterwards there are none again."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    client = Client("modelarmor")
    yield client
    for each in client.list_deployments():
        client.delete_deployment(each["name"])


@pytest.fixture(scope="module")
def config(evidence: Evidence, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Serve it unreviewed, with the policy that was made for it."""
    file = tmp_path_factory.mktemp("evidence") / "evidence.json"
    file.write_text(evidence.dumps())
    return {"unreviewed": "true", "evidence": str(file)}


def _told(act: Callable[[], Any]) -> str:
    with pytest.raises(MlflowException) as caught:
        act()
    return str(caught.value)


def test_a_deployment_from_creation_to_deletion(
    client: Client, honest: Path, config: dict[str, str]
) -> None:
    made = client.create_deployment("adder", str(honest), config=config)
    assert made["name"] == "adder"
    assert client.predict("adder", ROW)["predictions"] == [3.0]
    assert client.predict("adder", {"dataframe_records": [{"a": 4, "b": 5}]})["predictions"] == [9]

    state = client.get_deployment("adder")
    assert state["state"] == "running"
    assert state["artifact"].startswith("sha256:")
    assert state["approved_by"] == []
    assert [each["name"] for each in client.list_deployments()] == ["adder"]
    assert "there is a deployment" in _told(
        lambda: client.create_deployment("adder", str(honest), config=config)
    )
    assert "column 'b' is missing" in _told(lambda: client.predict("adder", ROW[["a"]]))

    client.delete_deployment("adder")
    assert client.list_deployments() == []
    assert not Path(f"/proc/{state['pid']}").exists() or _is_zombie(state["pid"])
    assert not Path(state["log"]).exists()
    client.delete_deployment("adder")  # as often as one likes


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_an_update_that_does_not_come_up_leaves_the_old_one_serving(
    client: Client, honest: Path, config: dict[str, str], tmp_path: Path
) -> None:
    client.create_deployment("adder", str(honest), config=config)
    url = client.get_deployment("adder")["url"]
    broken = write_model(tmp_path / "broken", "return undefined_name")
    told = _told(lambda: client.update_deployment("adder", str(broken)))
    assert "evidence" in told  # that of another model
    assert client.predict("adder", ROW)["predictions"] == [3.0]
    assert client.get_deployment("adder")["url"] == url
    assert client.get_deployment("adder")["model_uri"] == str(honest)

    client.update_deployment("adder", config={"audit": "true"})
    assert client.get_deployment("adder")["audit"] is True
    assert client.get_deployment("adder")["url"] == url


def test_what_nobody_approved_is_not_deployed_and_leaves_nothing(
    client: Client, honest: Path
) -> None:
    told = _told(lambda: client.create_deployment("adder", str(honest)))
    assert "--unreviewed" in told
    assert client.list_deployments() == []
    assert "there is no deployment" in _told(lambda: client.get_deployment("adder"))


def test_a_process_number_that_another_process_got_is_left_alone(
    client: Client, honest: Path, config: dict[str, str], tmp_path: Path
) -> None:
    client.create_deployment("adder", str(honest), config=config)
    pid = client.get_deployment("adder")["pid"]
    os.killpg(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    said = ""
    while "does not answer" not in said:  # its sandbox ends a moment after it
        assert time.monotonic() < deadline
        try:
            client.predict("adder", ROW)
        except MlflowException as error:
            said = str(error)
    assert client.get_deployment("adder")["state"] == "ended"
    with subprocess.Popen(["sleep", "60"]) as bystander:
        file = tmp_path / "state" / "modelarmor" / "deployments" / "adder" / "deployment.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "pid": bystander.pid}))
        client.delete_deployment("adder")
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"ports": "1"}, "known are host, port"),
        ({"audit": "yes"}, "true or false"),
        ({"enforcer": "kubernetes"}, "needs an image"),
        ({"enforcer": "docker"}, "local or kubernetes"),
    ],
)
def test_a_configuration_that_means_nothing_is_refused(
    client: Client, honest: Path, config: dict[str, str], says: str
) -> None:
    assert says in _told(lambda: client.create_deployment("x", str(honest), config=config))
    assert client.list_deployments() == []


@pytest.mark.parametrize("name", ["", "..", "a/b", "-rf", "a b", "x" * 64, "ä"])
def test_a_name_that_is_none_is_refused(client: Client, honest: Path, name: str) -> None:
    assert "is no name" in _told(lambda: client.create_deployment(name, str(honest)))


def test_what_is_not_offered_says_what_to_do(client: Client) -> None:
    assert "no endpoints" in _told(lambda: client.create_endpoint("e"))
    assert "no endpoints" in _told(lambda: client.list_deployments(endpoint="e"))
    assert "explains no predictions" in _told(lambda: client.explain("x"))
    assert "python_function" in _told(lambda: client.create_deployment("x", "m", flavor="onnx"))


def test_mlflow_finds_the_target_and_its_help() -> None:
    assert isinstance(get_deploy_client("modelarmor"), Client)
    command = [
        str(Path(sys.executable).parent / "mlflow"),
        "deployments",
        "help",
        "-t",
        "modelarmor",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert "mlflow deployments create -t modelarmor" in done.stdout


def test_run_local_serves_until_it_is_ended(
    honest: Path, config: dict[str, str], client: Client
) -> None:
    port = str(free_port())
    code = f"from mlflow.deployments import interface; interface.run_local(" \
        f"'modelarmor', 'x', {str(honest)!r}, config={ {**config, 'port': port}!r})"  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        said = ""
        while f"http://127.0.0.1:{port}" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert "UNREVIEWED" in said
    assert "was not served" in _told(
        lambda: deploy.run_local("modelarmor", "x", str(honest), config={"port": port})
    )


# What a model may try of its user: it takes the socket that it was given, before the server does.
_ELSEWHERE = """
import os, socket, sys
sys.stderr.write("\\x1b]0;owned\\x07 and\\n")
sys.stderr.flush()
os.ftruncate(2, 0) if os.path.isfile("/proc/self/fd/2") else None
taken = socket.socket(fileno=os.dup(int(os.environ["MODELARMOR_SOCKET"])))
while True:
    client, _ = taken.accept()
    asked = client.recv(65536)
    if asked.startswith(b"GET /ping"):
        client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
    else:
        client.sendall(
            b"HTTP/1.1 302 Found\\r\\nLocation: http://127.0.0.1:PORT/stolen\\r\\n"
            b"Content-Length: 0\\r\\nConnection: close\\r\\n\\r\\n"
        )
    client.close()
"""


def test_a_model_sends_its_user_nowhere_and_rewrites_no_log(client: Client, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as outside:
        outside.settimeout(0.5)
        port = outside.getsockname()[1]
        model = write_model(tmp_path / "thief", "return [1.0]")
        code = next(model.glob("*.py"))
        code.write_text(
            code.read_text()
            + "\nimport os\nif 'MODELARMOR_SOCKET' in os.environ:\n"
            + textwrap.indent(_ELSEWHERE.replace("PORT", str(port)), "    ")
        )
        client.create_deployment("thief", str(model), config={"unreviewed": "true"})
        assert "points elsewhere (302)" in _told(lambda: client.predict("thief", ROW))
        with pytest.raises(TimeoutError):
            outside.accept()
    log = Path(client.get_deployment("thief")["log"]).read_text()
    assert "UNREVIEWED" in log
    assert "\\x1b]0;owned" in log
    assert "\x1b" not in log
