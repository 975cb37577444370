"""Models on a real cluster: rolled out, rolled back, and gone, as deploy/models has it.

In the pods a small server stands for MLflow's, so that any image with a Python does; and the files
come from a ConfigMap instead of a claim, which not every cluster can make.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from modelarmor.cluster import models
from modelarmor.cluster.apply import RolloutError, apply
from modelarmor.cluster.client import Cluster, ClusterError
from modelarmor.cluster.deployed import look, remove
from modelarmor.cluster.model_objects import ModelObjects, Object
from modelarmor.generate.evidence import Evidence
from modelarmor.generate.pipeline import generate
from tests.cluster.real import stand_in
from tests.cluster.real.conftest import Known
from tests.cluster.real.places import IMAGE, INTERPRETER, Place, place, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

_SECONDS = 240.0
_PREFIX = "/opt/conda"
_MLMODEL = "flavors:\n  python_function:\n    loader_module: iris\n"
_SERVER = """\
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(open("/model/MLmodel", "rb").read())
http.server.HTTPServer(("", 8080), Answer).serve_forever()
"""


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    directory = tmp_path_factory.mktemp("models") / "iris"
    directory.mkdir()
    (directory / "MLmodel").write_text(_MLMODEL)
    return generate(str(directory), run=False)


@dataclass
class Deployer:
    """Deploys, as the account that may."""

    there: Place
    cluster: Cluster
    known: Known
    evidence: Evidence
    said: list[str] = field(default_factory=list)

    async def deploy(self, seconds: float = _SECONDS, *, scaled: bool = False, **more: Any) -> str:
        """Deploy a revision; which."""
        target = models.Target(
            name="iris", namespace=self.there.name, image=IMAGE, prefix=_PREFIX,
            interpreter=INTERPRETER, claim="files",
        )  # fmt: skip
        items = models.manifests(self.evidence, replace(target, **more))
        if not scaled:  # it takes autoscaling/v2, and is tried on its own
            items = [item for item in items if item["kind"] != "HorizontalPodAutoscaler"]
        for item in items:
            if item["kind"] == "Deployment":
                self._adapt(item["spec"]["template"]["spec"])
        await apply(self.cluster, items, seconds, self.said.append)
        return str(items[0]["metadata"]["labels"][models.REVISION_LABEL])

    def _adapt(self, pod: dict[str, Any]) -> None:
        (server,) = pod["containers"]
        server["command"][5:] = [f"{_PREFIX}/bin/python", "-I", "-c", _SERVER]
        if not self.known.enforces:
            server["command"] = stand_in.in_front(server["command"])
        (source,) = (volume for volume in pod["volumes"] if volume["name"] == "source")
        del source["persistentVolumeClaim"]
        source["configMap"] = {"name": "files"}

    async def revisions(self, kind: str = "Pod") -> list[str]:
        """Those of the pods, or of what confines them."""
        version = {"Pod": "v1", "KubeArmorPolicy": "security.kubearmor.com/v1"}[kind]
        found = await ModelObjects(self.there.admin, self.there.name, "iris").of_kind(version, kind)
        return sorted(item["metadata"]["labels"][models.REVISION_LABEL] for item in found)

    async def served(self) -> str:
        """What the one pod answers."""
        (pod,) = await ModelObjects(self.there.admin, self.there.name, "iris").pods()
        answer: str = await self.there.admin.core.connect_get_namespaced_pod_proxy_with_path(
            f"{pod['metadata']['name']}:8080", self.there.name, "ping"
        )
        return answer


@asynccontextmanager
async def deployer(directory: Path, known: Known, evidence: Evidence) -> AsyncIterator[Deployer]:
    async with place(directory, "models", "deployer") as there:
        files = {"metadata": {"name": "files"}, "data": {"MLmodel": _MLMODEL}}
        await there.admin.core.create_namespaced_config_map(there.name, files)
        cluster = await Cluster.connect(str(there.kubeconfig))
        try:
            yield Deployer(there, cluster, known, evidence)
        finally:
            await cluster.close()


def on_a_cluster(test: Callable[[Deployer], Awaitable[None]]) -> Callable[..., None]:
    def run(tmp_path: Path, known: Known, kinds: None, evidence: Evidence) -> None:
        async def body() -> None:
            async with deployer(tmp_path, known, evidence) as here:
                await test(here)

        asyncio.run(body())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@on_a_cluster
async def test_a_model_is_served_rolled_over_taken_back_and_removed(here: Deployer) -> None:
    first = await here.deploy()
    assert await here.revisions() == [first]
    assert await here.served() == _MLMODEL
    assert here.said[-1] == f"iris serves revision {first}"

    # the same again is no new revision, and no new pod
    before = [item["metadata"]["uid"] for item in await _pods(here)]
    await here.deploy()
    assert [item["metadata"]["uid"] for item in await _pods(here)] == before

    second = await here.deploy(user=1001)
    assert await here.revisions() == [second]
    assert await here.revisions("KubeArmorPolicy") == sorted([first, second])
    there = await look(here.cluster, here.there.name, "iris")
    assert there is not None and (there.state, there.revision) == ("serves", second)

    # a revision that cannot start takes nothing with it
    with pytest.raises(RolloutError, match=r"cannot be pulled.*the former revision serves again"):
        await here.deploy(image="registry.invalid/absent:1")
    assert await here.served() == _MLMODEL
    assert await here.revisions("KubeArmorPolicy") == sorted([first, second])

    await remove(here.cluster, here.there.name, "iris", _SECONDS)
    assert await here.revisions() == await here.revisions("KubeArmorPolicy") == []


async def _pods(here: Deployer) -> list[Object]:
    return await ModelObjects(here.there.admin, here.there.name, "iris").pods()


@on_a_cluster
async def test_files_that_are_not_the_approved_ones_are_not_served(here: Deployer) -> None:
    core = here.there.admin.core
    await core.patch_namespaced_config_map(
        "files", here.there.name, {"data": {"MLmodel": _MLMODEL.replace("iris", "evil")}}
    )
    with pytest.raises(RolloutError, match="is not what was approved"):
        await here.deploy()

    async def gone() -> bool:
        return not await _pods(here)

    await until("no pod is left", gone)


@on_a_cluster
async def test_a_model_scales_or_the_cluster_is_too_old_for_it(here: Deployer) -> None:
    groups = await here.there.admin.api.call_api(
        *await here.there.admin.api.param_serialize(
            method="GET", resource_path="/apis/autoscaling", auth_settings=["BearerToken"],
            header_params={"Accept": "application/json"},
        )
    )  # fmt: skip
    found = json.loads(await groups.read())
    if "v2" in {item["version"] for item in found["versions"]}:
        await here.deploy(scaled=True)
    else:
        with pytest.raises(ClusterError, match=r"autoscaling/v2; it takes Kubernetes 1\.23"):
            await here.deploy(scaled=True)
        assert await here.revisions("KubeArmorPolicy") == []


def test_a_model_that_nothing_confines_is_not_served(
    tmp_path: Path, known: Known, kinds: None, evidence: Evidence
) -> None:
    if known.enforces:
        pytest.skip("KubeArmor enforces policies on this cluster")

    async def body() -> None:
        async with deployer(tmp_path, replace(known, enforces=True), evidence) as here:
            with pytest.raises(RolloutError, match=r"not enforced in a new pod.*nothing of it is"):
                await here.deploy(canary_seconds=1.0)

    asyncio.run(body())
