"""MLflow's deployments target on a cluster: `mlflow deployments … -C enforcer=kubernetes`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

pytest.importorskip("mlflow")

from mlflow.exceptions import MlflowException
from modelarmor_mlflow.deployments import Client

from modelarmor.generate.evidence import Evidence
from tests.cluster.test_apply import (
    _POLICIES,
    _UNPULLED,
    NAMESPACE,
    TARGET,
    Here,
    _mend,
    cluster,
    evidence,
)

__all__ = ["evidence"]  # a fixture
_T = TypeVar("_T")


class Target:
    """The client of a user, called beside the cluster's loop."""

    def __init__(self, here: Here, evidence: Evidence) -> None:
        file = here.kubeconfig.parent / "evidence.json"
        file.write_text(evidence.dumps())
        self.client = Client("modelarmor")
        self.config = {
            "enforcer": "kubernetes", "kubeconfig": str(here.kubeconfig), "namespace": NAMESPACE,
            "image": TARGET.image, "claim": "files", "unreviewed": "true", "evidence": str(file),
            "timeout": "60",
        }  # fmt: skip

    async def create(self, **more: str) -> Any:
        config = self.config | more
        return await self.do(lambda: self.client.create_deployment("iris", "./iris", config=config))

    async def get(self) -> Any:
        return await self.do(lambda: self.client.get_deployment("iris"))

    async def do(self, act: Callable[[], _T]) -> _T:
        return await asyncio.to_thread(act)

    async def refused(self, act: Callable[[], Any]) -> str:
        with pytest.raises(MlflowException) as caught:
            await self.do(act)
        return str(caught.value)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def on_a_cluster(test: Callable[[Here, Target], Any]) -> Callable[..., None]:
    def run(tmp_path: Path, evidence: Evidence) -> None:
        async def body() -> None:
            async with cluster(tmp_path) as here:
                await test(here, Target(here, evidence))

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


@on_a_cluster
async def test_a_deployment_from_creation_to_deletion(here: Here, target: Target) -> None:
    made = await target.create()
    assert made["url"] == f"http://iris.{NAMESPACE}.svc"
    state = await target.get()
    (revision,) = here.revisions()
    assert (state["state"], state["revision"], state["pods"]) == ("serves", revision, 1)
    assert state["artifact"].startswith("sha256:")
    (listed,) = await target.do(target.client.list_deployments)
    assert (listed["name"], listed["state"]) == ("iris", "serves")

    said = await target.refused(lambda: target.client.create_deployment("iris", "./iris"))
    assert "there is a deployment" in said
    assert "port-forward" in await target.refused(lambda: target.client.predict("iris", {}))

    config = {"gpus": "1"}
    await target.do(lambda: target.client.update_deployment("iris", config=config))
    assert (await target.get())["revision"] != revision

    await target.do(lambda: target.client.delete_deployment("iris"))
    left = {kind[1] for kind, items in here.server.store.objects.items() if items}
    assert left == {"namespaces"}
    gone = here.controller.log.index(("DELETED", "pods", "iris-2"))
    policies = [n for n, entry in enumerate(here.controller.log) if entry[1] == _POLICIES[1]]
    assert max(policies) > gone  # until then they confined it
    assert await target.do(target.client.list_deployments) == []
    await target.do(lambda: target.client.delete_deployment("iris"))  # as often as one likes


@on_a_cluster
async def test_what_does_not_come_up_leaves_nothing_or_the_former(
    here: Here, target: Target
) -> None:
    here.controller.broken = _UNPULLED
    said = await target.refused(
        lambda: target.client.create_deployment("iris", "./iris", config=target.config)
    )
    assert "no such image" in said
    assert await target.do(target.client.list_deployments) == []

    here.controller.broken = None
    await target.create()
    (first,) = here.revisions()
    here.controller.broken = _UNPULLED

    here.server.store.listeners.append(lambda *_: _mend(here, first))
    said = await target.refused(
        lambda: target.client.update_deployment("iris", config={"gpus": "1"})
    )
    assert "the former revision serves again" in said
    state = await target.get()
    assert (state["revision"], state["config"].get("gpus")) == (first, None)


@on_a_cluster
async def test_the_state_is_the_clusters_word(here: Here, target: Target) -> None:
    await target.create()
    (policy,) = here.names(*_POLICIES)
    here.server.store.delete(_POLICIES, NAMESPACE, policy)
    state = await target.get()
    assert state["state"] == "unconfined"
    here.server.fail("GET", "deployments", 403, "forbidden to you")
    assert (await target.get())["state"] == "unknown"
    here.server.store.delete(("apps", "deployments"), NAMESPACE, "iris")
    assert (await target.get())["state"] == "ended"


@on_a_cluster
async def test_what_is_there_and_was_not_made_here_is_left_alone(
    here: Here, target: Target
) -> None:
    await target.create()
    await target.do(lambda: (here.kubeconfig.parent / "state").rename(here.kubeconfig.parent / "s"))
    said = await target.refused(
        lambda: target.client.create_deployment("iris", "./iris", config=target.config)
    )
    assert "already" in said
    await target.do(lambda: target.client.delete_deployment("iris"))
    assert here.names("apps", "deployments") == ["iris"]


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("iris", {}, "needs an image"),
        ("iris", {"image": "x", "port": "80"}, "no 'port' to configure on a cluster"),
        ("iris", {"image": "x", "unreviewed": "maybe"}, "true or false"),
        ("Iris.1", {"image": "x"}, "DNS label"),
    ],
)
def test_what_cannot_be_is_refused_before_a_cluster_is_asked(
    name: str, config: dict[str, str], said: str
) -> None:
    with pytest.raises(MlflowException, match=said):
        Client("modelarmor").create_deployment(
            name, "./iris", config={"enforcer": "kubernetes", **config}
        )
