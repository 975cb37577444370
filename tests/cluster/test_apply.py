"""A revision of a model on the cluster: in its order, as a whole, or as it was before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from modelarmor.cli import main
from modelarmor.cluster import models
from modelarmor.cluster.apply import RolloutError, apply
from modelarmor.cluster.client import Cluster, ClusterError
from modelarmor.cluster.deployed import look, remove
from modelarmor.generate.evidence import Evidence
from modelarmor.generate.pipeline import generate
from tests.cluster.apiserver.deployments import Deployments
from tests.cluster.apiserver.server import ApiServer

NAMESPACE = "models"
TARGET = models.Target(
    name="iris", namespace=NAMESPACE, image="an/image@sha256:" + "0" * 64, claim="files"
)
_POLICIES = ("security.kubearmor.com", "kubearmorpolicies")
_UNPULLED = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
_CANARY = {
    "terminated": {"exitCode": 78, "message": json.dumps({"canary": {"rule": "open"}})},
}


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    place = tmp_path_factory.mktemp("models") / "iris"
    place.mkdir()
    (place / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: iris\n")
    return generate(str(place), run=False)


@dataclass
class Here:
    """The cluster, and what a deployment said."""

    server: ApiServer
    cluster: Cluster
    controller: Deployments
    kubeconfig: Path
    said: list[str] = field(default_factory=list)

    async def deploy(self, evidence: Evidence, seconds: float = 20.0, **more: Any) -> str:
        """Deploy; the revision."""
        items = models.manifests(evidence, replace(TARGET, **more))
        self.controller.log.clear()
        await apply(self.cluster, items, seconds, self.said.append)
        return str(items[0]["metadata"]["labels"][models.REVISION_LABEL])

    def names(self, group: str, plural: str) -> list[str]:
        return sorted(name for _, name in self.server.store.objects[group, plural])

    def revisions(self) -> list[str]:
        """Those of the pods."""
        return [
            pod["metadata"]["labels"][models.REVISION_LABEL]
            for pod in self.server.store.objects["", "pods"].values()
        ]

    def when(self, kind: str, plural: str, name: str = "") -> int:
        """When something first happened."""
        return next(
            at
            for at, (what, of, named) in enumerate(self.controller.log)
            if (what, of) == (kind, plural) and named.startswith(name)
        )

    def command(self, evidence: Evidence, *more: str) -> int:
        """Run `modelarmor deploy` for it; the exit status."""
        file = self.kubeconfig.parent / "evidence.json"
        file.write_text(evidence.dumps())
        words = ["deploy", "./iris", "--unreviewed", "--evidence", str(file), "-n", NAMESPACE]
        words += ["--image", TARGET.image, "--claim", "files"]
        return main([*words, "--kubeconfig", str(self.kubeconfig), *more])


@asynccontextmanager
async def cluster(directory: Path) -> AsyncIterator[Here]:
    server = ApiServer()
    await server.start()
    server.namespace(NAMESPACE)
    controller = Deployments(server)
    file = server.kubeconfig(directory / "kubeconfig")
    there = await Cluster.connect(str(file))
    try:
        yield Here(server, there, controller, file)
    finally:
        await there.close()
        await server.stop()


def on_a_cluster(test: Callable[[Here, Evidence], Any]) -> Callable[..., None]:
    def run(tmp_path: Path, evidence: Evidence) -> None:
        async def body() -> None:
            async with cluster(tmp_path) as here:
                await test(here, evidence)

        asyncio.run(body())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@on_a_cluster
async def test_policies_are_there_before_the_deployment(here: Here, evidence: Evidence) -> None:
    revision = await here.deploy(evidence)
    made = here.when("ADDED", "deployments")
    for plural in ("configmaps", "kubearmorpolicies", "networkpolicies"):
        assert here.when("ADDED", plural) < made
    assert here.revisions() == [revision]
    assert here.said[-1] == f"iris serves revision {revision}"
    assert here.names("autoscaling", "horizontalpodautoscalers") == ["iris"]


@on_a_cluster
async def test_the_same_again_changes_nothing(here: Here, evidence: Evidence) -> None:
    await here.deploy(evidence)
    before = {*here.server.store.objects["", "pods"]}
    await here.deploy(evidence)
    assert {*here.server.store.objects["", "pods"]} == before
    assert len(here.names(*_POLICIES)) == 1


@on_a_cluster
async def test_what_confined_a_revision_goes_after_its_pods_and_the_former_can_come_back(
    here: Here, evidence: Evidence
) -> None:
    first = await here.deploy(evidence)
    second = await here.deploy(evidence, user=1001)
    # one revision back, `kubectl rollout undo` must find a policy
    assert here.names(*_POLICIES) == sorted([f"iris-{first}", f"iris-{second}"])
    third = await here.deploy(evidence, user=1002)
    assert here.names(*_POLICIES) == sorted([f"iris-{second}", f"iris-{third}"])
    gone = here.when("DELETED", "pods")
    assert gone < here.when("DELETED", "kubearmorpolicies", f"iris-{first}")
    assert here.revisions() == [third]
    for group, plural in (("networking.k8s.io", "networkpolicies"), ("", "configmaps")):
        assert here.names(group, plural) == sorted([f"iris-{second}", f"iris-{third}"])


@on_a_cluster
async def test_after_an_undo_the_revision_of_the_pods_counts(
    here: Here, evidence: Evidence
) -> None:
    first = await here.deploy(evidence)
    about = (("apps", "deployments"), NAMESPACE, "iris")
    template = here.server.store.objects[about[0]][about[1:]]["spec"]["template"]
    second = await here.deploy(evidence, user=1001)
    # `kubectl rollout undo` changes the template alone
    here.server.store.patch(*about, {"spec": {"template": template}})
    async with asyncio.timeout(60.0):
        while here.revisions() != [first]:
            await asyncio.sleep(0.05)
    there = await look(here.cluster, NAMESPACE, "iris")
    assert there is not None and (there.state, there.revision) == ("serves", first)
    third = await here.deploy(evidence, user=1002)
    assert second not in (first, third)
    assert here.names(*_POLICIES) == sorted([f"iris-{first}", f"iris-{third}"])


@on_a_cluster
async def test_what_has_a_pod_keeps_its_policy(here: Here, evidence: Evidence) -> None:
    first = await here.deploy(evidence)
    (pod,) = here.server.store.objects["", "pods"].values()
    await here.deploy(evidence, user=1001)
    # a pod of the first revision that somebody started, or that does not end
    labels = pod["metadata"]["labels"]
    left = {"metadata": {"name": "left", "labels": labels}}
    here.server.store.create(("", "pods"), NAMESPACE, left)
    with pytest.raises(RolloutError, match="former revision are still there"):
        await here.deploy(evidence, 1.5, user=1002)
    assert f"iris-{first}" in here.names(*_POLICIES)


@on_a_cluster
async def test_pods_that_do_not_come_up_bring_the_former_revision_back(
    here: Here, evidence: Evidence
) -> None:
    first = await here.deploy(evidence)
    here.controller.broken = _UNPULLED
    here.server.store.listeners.append(lambda *_: _mend(here, first))
    with pytest.raises(RolloutError, match=r"no such image.*the former revision serves again"):
        await here.deploy(evidence, user=1001)
    deployment = here.server.store.objects["apps", "deployments"][NAMESPACE, "iris"]
    template = deployment["spec"]["template"]
    assert template["metadata"]["labels"][models.REVISION_LABEL] == first
    assert template["spec"]["securityContext"]["runAsUser"] == 1000
    assert here.revisions() == [first]
    assert here.names(*_POLICIES) == [f"iris-{first}"]


def _mend(here: Here, first: str) -> None:
    """The former revision's image is there, once it is asked for again."""
    item = here.server.store.objects["apps", "deployments"][NAMESPACE, "iris"]
    again = item["metadata"]["labels"][models.REVISION_LABEL] == first
    if again and {*here.revisions()} - {first}:
        here.controller.broken = None


@on_a_cluster
async def test_a_first_revision_that_is_not_confined_leaves_nothing(
    here: Here, evidence: Evidence
) -> None:
    here.controller.broken = _CANARY
    with pytest.raises(RolloutError, match=r"not enforced.*nothing of it is left"):
        await here.deploy(evidence)
    left = [found for (_, plural), found in here.server.store.objects.items()
            if plural != "namespaces"]  # fmt: skip
    assert not any(left)


@on_a_cluster
async def test_files_that_are_not_the_approved_ones_are_no_reason_to_wait(
    here: Here, evidence: Evidence
) -> None:
    here.controller.unfetched = "MLmodel is not what was approved"
    with pytest.raises(RolloutError, match=r"is not what was approved; nothing of it is left"):
        await here.deploy(evidence, 600.0)


@on_a_cluster
async def test_a_deadline_passes_with_the_reason(here: Here, evidence: Evidence) -> None:
    here.controller.broken = {"waiting": {"reason": "ErrImagePull", "message": "slow registry"}}
    with pytest.raises(RolloutError, match=r"not ready in time: .*slow registry"):
        await here.deploy(evidence, 1.5)


@on_a_cluster
async def test_an_object_that_is_refused_leaves_nothing(here: Here, evidence: Evidence) -> None:
    here.server.fail("PATCH", "deployments", 403, "exceeded quota: models")
    with pytest.raises(ClusterError, match="exceeded quota"):
        await here.deploy(evidence)
    assert here.names(*_POLICIES) == []


@on_a_cluster
async def test_a_cluster_without_kubearmor_is_named_and_nothing_is_left(
    here: Here, evidence: Evidence
) -> None:
    here.server.absent.add("kubearmorpolicies")
    with pytest.raises(
        ClusterError, match=r"does not know KubeArmorPolicy of security\.kubearmor\.com"
    ):
        await here.deploy(evidence)
    assert here.names("", "configmaps") == []


@on_a_cluster
async def test_a_deployment_of_somebody_else_is_left_alone(here: Here, evidence: Evidence) -> None:
    theirs = {"metadata": {"name": "iris", "labels": {}}, "spec": {"template": {"metadata": {}}}}
    here.server.store.create(("apps", "deployments"), NAMESPACE, theirs)
    with pytest.raises(ClusterError, match="not made by `modelarmor deploy`"):
        await here.deploy(evidence)
    assert here.names(*_POLICIES) == []


@on_a_cluster
async def test_a_way_back_that_is_refused_says_so(here: Here, evidence: Evidence) -> None:
    await here.deploy(evidence)
    here.controller.broken = _UNPULLED
    refuse_later = True

    def refuse(kind: str, resource: tuple[str, str], _item: object) -> None:
        nonlocal refuse_later
        if refuse_later and (kind, resource[1]) == ("ADDED", "pods"):
            refuse_later = False
            here.server.fail("PATCH", "deployments", 403, "not any more")

    here.server.store.listeners.append(refuse)
    with pytest.raises(RolloutError, match=r"no such image.*is not there again.*not any more"):
        await here.deploy(evidence, user=1001)


@on_a_cluster
async def test_the_command_deploys_and_says_what_it_waits_for(
    here: Here, evidence: Evidence
) -> None:
    assert await asyncio.to_thread(here.command, evidence) == 0
    (first,) = here.revisions()
    here.controller.broken = _UNPULLED
    here.server.store.listeners.append(lambda *_: _mend(here, first))
    assert await asyncio.to_thread(here.command, evidence, "--gpus", "1", "--timeout", "30") == 1
    assert here.names(*_POLICIES) == [f"iris-{first}"]


@on_a_cluster
async def test_a_cluster_that_is_too_old_is_named_before_anything_is_applied(
    here: Here, evidence: Evidence
) -> None:
    here.server.absent.add("horizontalpodautoscalers")
    with pytest.raises(ClusterError, match=r"HorizontalPodAutoscaler of autoscaling/v2.*1\.23"):
        await here.deploy(evidence)
    assert not any(method == "PATCH" for method, _ in here.server.requests)
    await remove(here.cluster, NAMESPACE, "iris", 20.0)
