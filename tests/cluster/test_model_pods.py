"""A model's pod as it is deployed: files are brought, the canary is denied, the guard guards."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

pytest.importorskip("mlflow")

from modelarmor.cli import main
from modelarmor.cluster import models
from modelarmor.generate.evidence import Evidence
from modelarmor.generate.pipeline import generate
from tests.cluster.apiserver.kubelet import Kubelet
from tests.cluster.apiserver.server import ApiServer
from tests.cluster.conftest import BLOCK
from tests.mlflow.serving.conftest import write_model
from tests.ports import free_port

NAMESPACE = "models"
_SECONDS = 60
_ROW = {"dataframe_records": [{"a": 1.0, "b": 2.0}]}
_RESOURCES = {
    "ConfigMap": ("", "configmaps"),
    "KubeArmorPolicy": ("security.kubearmor.com", "kubearmorpolicies"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "adds"
    return write_model(place, "return [float(row.sum()) for _, row in model_input.iterrows()]")


@pytest.fixture(scope="module")
def evidence(model: Path) -> Evidence:
    return generate(str(model), run=False)


@pytest.fixture
def deploy(
    model: Path,
    evidence: Evidence,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., list[dict[str, Any]]]:
    """What `modelarmor deploy` prints, for a port and directories that this machine has."""
    monkeypatch.setattr(models, "PORT", free_port())
    monkeypatch.setattr(models, "TMP", "/mnt/scratch")
    file = tmp_path / "evidence.json"
    file.write_text(evidence.dumps())

    def run(*more: str) -> list[dict[str, Any]]:
        words = ["deploy", str(model), "--unreviewed", "--evidence", str(file), "-n", NAMESPACE]
        words += ["--image", "an/image", "--claim", "files", "--dry-run=client"]
        words += ["--prefix", sys.prefix, "--interpreter", os.path.realpath(sys.executable)]
        assert main([*words, *more]) == 0
        return list(yaml.safe_load_all(capsys.readouterr().out))

    return run


def by_kind(items: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (item for item in items if item["kind"] == kind)
    return found


def limits_in(items: list[dict[str, Any]]) -> Any:
    return json.loads(by_kind(items, "ConfigMap")["data"]["guard.json"])


def installation(selector: Any) -> dict[str, Any]:
    """This machine's Python is an environment and what it was made from; an image's is in one."""
    directory = {"dir": f"{sys.base_prefix}/", "recursive": True}
    return {
        "metadata": {"name": "installation"},
        "apiVersion": "security.kubearmor.com/v1",
        "kind": "KubeArmorPolicy",
        "spec": {
            "action": "Allow",
            "selector": selector,
            "process": {"matchDirectories": [directory]},
            "file": {"matchDirectories": [directory | {"readOnly": True}]},
        },
    }


@asynccontextmanager
async def running(
    items: list[dict[str, Any]], files: Path, directory: Path
) -> AsyncIterator[Callable[[], str]]:
    """A pod of these manifests; gives its log."""
    server = ApiServer()
    await server.start()
    server.namespace(NAMESPACE, BLOCK)
    kubelet = Kubelet(server, directory / "node")
    kubelet.claims["files"] = files
    try:
        for item in items:
            if item["kind"] in _RESOURCES:
                server.store.create(_RESOURCES[item["kind"]], NAMESPACE, item)
        selector = by_kind(items, "KubeArmorPolicy")["spec"]["selector"]
        server.store.create(_RESOURCES["KubeArmorPolicy"], NAMESPACE, installation(selector))
        template = by_kind(items, "Deployment")["spec"]["template"]
        made = server.store.create(("", "pods"), NAMESPACE, {
            "metadata": {"name": "adds-1", **template["metadata"]}, "spec": template["spec"],
        })  # fmt: skip
        yield lambda: kubelet.output(made)
    finally:
        await kubelet.stop()
        await server.stop()


async def answered(path: str, log: Callable[[], str]) -> requests.Response:
    """The answer once there is one."""
    url = f"http://127.0.0.1:{models.PORT}{path}"
    try:
        async with asyncio.timeout(_SECONDS):
            while True:
                try:
                    return await asyncio.to_thread(requests.get, url, timeout=_SECONDS)
                except requests.ConnectionError:
                    await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(log()) from None


def test_a_pod_serves_behind_its_guard_whose_refusals_are_in_its_log_and_its_numbers(
    deploy: Callable[..., list[dict[str, Any]]], model: Path, tmp_path: Path
) -> None:
    items = deploy()

    def ask(body: Any) -> requests.Response:
        url = f"http://127.0.0.1:{models.PORT}/invocations"
        return requests.post(url, json=body, timeout=_SECONDS)

    async def body() -> None:
        async with running(items, model, tmp_path) as log:
            assert (await answered("/ping", log)).status_code == 200, log()
            good = await asyncio.to_thread(ask, _ROW)
            assert good.json() == {"predictions": [3.0]}
            wrong = await asyncio.to_thread(ask, {"dataframe_records": [{"a": "x", "b": 2.0}]})
            assert wrong.status_code == 400
            (said,) = (json.loads(line) for line in log().splitlines() if "InputGuard" in line)
            assert (said["Action"], said["Operation"]) == ("Block", "Request")
            assert said["Resource"] == "/invocations type"
            async with asyncio.timeout(_SECONDS):
                while 'requests_total{status="400"} 1' not in (
                    numbers := (await answered("/metrics", log)).text
                ):
                    await asyncio.sleep(0.2)
            assert 'modelarmor_requests_total{status="200"} 1' in numbers
            assert (
                'modelarmor_violations_total{policy="InputGuard",operation="Request",'
                'action="Block"} 1' in numbers
            )

    asyncio.run(body())


def test_the_limits_are_those_of_the_signature_or_of_a_file_and_in_the_manifest(
    deploy: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    own = deploy()
    assert [column["name"] for column in limits_in(own)["columns"]] == ["a", "b"]
    file = tmp_path / "guard.yaml"
    file.write_text("max_rows: 7\n")
    other = deploy("--guard", str(file))
    assert limits_in(other) == {"max_rows": 7}
    revisions = {by_kind(items, "KubeArmorPolicy")["metadata"]["name"] for items in (own, other)}
    assert len(revisions) == 2  # new limits are a new revision, and roll out as one
    plain = deploy("--no-guard")
    assert "guard.json" not in by_kind(plain, "ConfigMap")["data"]
