"""What the cluster makes of our objects on the way is noticed, and nothing runs under it."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelarmor.cluster.admitted import changes
from modelarmor.cluster.apply import RolloutError
from modelarmor.cluster.client import ClusterError
from modelarmor.cluster.launch import LaunchError
from modelarmor.generate.evidence import Evidence
from tests.cluster import test_apply
from tests.cluster.conftest import Here, cluster, manager_of
from tests.cluster.test_apply import evidence

__all__ = ["evidence"]  # a fixture

_POD: dict[str, Any] = {
    "kind": "Pod",
    "metadata": {"labels": {"a": "b"}},
    "spec": {
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "kernel",
                "image": "a/notebook:1",
                "command": ["python3", "canary"],
                "env": [{"name": "EMPTY", "value": ""}],
                "resources": {"limits": {"memory": "1073741824"}},
                "securityContext": {"capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1073741824"}}],
    },
}


def container(pod: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pod["spec"]["containers"][0]
    return found


def filled_in(pod: dict[str, Any]) -> None:
    """What API server, limit ranges and mirrors do."""
    pod["metadata"]["labels"]["more"] = "c"
    pod["spec"] |= {"tolerations": [{"key": "x"}], "nodeName": "node-1", "hostNetwork": False}
    container(pod)["env"] = [{"name": "PROXY", "value": "p"}, {"name": "EMPTY"}]
    container(pod)["resources"] = {"limits": {"memory": "512Mi"}, "requests": {"cpu": "1"}}
    container(pod)["image"] = "mirror.example/a/notebook@sha256:0"
    container(pod)["imagePullPolicy"] = "Always"
    container(pod)["securityContext"]["appArmorProfile"] = {"type": "Localhost"}
    pod["spec"]["volumes"][0]["emptyDir"]["sizeLimit"] = "1Gi"


def of(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda pod: pod["spec"].__setitem__(key, value)


def of_container(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda pod: container(pod).__setitem__(key, value)


def sidecar(pod: dict[str, Any]) -> None:
    pod["spec"]["containers"].append({"name": "proxy"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _pod: None, ""),
        (filled_in, ""),
        (lambda pod: pod["metadata"]["labels"].update(a="c"), "the label a"),
        (of_container("command", ["python3"]), "spec.containers[kernel].command"),
        (of("automountServiceAccountToken", True), "spec.automountServiceAccountToken"),
        (of("automountServiceAccountToken", None), "spec.automountServiceAccountToken"),
        (of("hostPID", True), "spec.hostPID"),
        (of("containers", []), "spec.containers[kernel]"),
        (sidecar, "the container proxy"),
        (of("initContainers", [{"name": "first"}]), "the container first"),
        (
            of_container("securityContext", {"capabilities": {"drop": ["ALL"], "add": ["KILL"]}}),
            "capabilities of the container kernel",
        ),
        (
            of_container("securityContext", {"capabilities": {}, "procMount": "Unmasked"}),
            "spec.containers[kernel].securityContext.capabilities.drop,"
            " procMount of the container kernel",
        ),
        (
            lambda pod: container(pod)["volumeMounts"].append({"name": "t", "mountPath": "/token"}),
            "the mount /token of the container kernel",
        ),
        (of("volumes", [{"name": "tmp", "hostPath": {"path": "/"}}]), "spec.volumes[tmp].emptyDir"),
    ],
)  # fmt: skip
def test_a_pod_that_was_changed_is_told_from_one_that_was_filled_in(
    change: Callable[[dict[str, Any]], None], said: str
) -> None:
    made = copy.deepcopy(_POD)
    change(made)
    assert changes(_POD, made) == said


def test_an_image_by_digest_stays_that_image() -> None:
    asked, made = copy.deepcopy(_POD), copy.deepcopy(_POD)
    container(asked)["image"] = "a/notebook@sha256:1"
    container(made)["image"] = "mirror.example/notebook@sha256:1"
    assert changes(asked, made) == ""
    container(made)["image"] = "a/notebook:1"
    assert changes(asked, made) == "spec.containers[kernel].image"


def test_a_policy_is_as_it_was_sent_or_is_none() -> None:
    asked = {"kind": "KubeArmorPolicy", "metadata": {}, "spec": {"file": {"matchPaths": [1, 2]}}}
    for spec in ({"file": {"matchPaths": [1]}}, {}, {"action": "Audit", **asked["spec"]}):
        assert changes(asked, asked | {"spec": spec})
    assert changes(asked, copy.deepcopy(asked)) == ""


def test_many_changes_are_not_all_told() -> None:
    asked = {"kind": "Pod", "metadata": {}, "spec": {f"{n}": n + 1 for n in range(9)}}
    said = changes(asked, asked | {"spec": {}})
    assert said == "spec.0, spec.1, spec.2, spec.3, spec.4 and 4 more"


def _prune(resource: tuple[str, str], made: dict[str, Any]) -> None:
    """What an API server does with fields that the CRD of an older KubeArmor does not name."""
    if resource[1] == "kubearmorpolicies":
        del made["spec"]["file"]["matchDirectories"]


def _uncanny(resource: tuple[str, str], made: dict[str, Any]) -> None:
    """No canary any more."""
    if resource[1] == "pods":
        command = container(made)["command"]
        container(made)["command"] = command[command.index("-m") - 1 :]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_prune, "changed the KubeArmorPolicy (spec.file.matchDirectories)"),
        (_uncanny, "changed the Pod (spec.containers[kernel].command)"),
    ],
)
def test_a_kernel_does_not_start_in_what_the_cluster_changed(
    tmp_path: Path, change: Callable[..., None], said: str
) -> None:
    async def body() -> None:
        async with cluster(tmp_path) as here:
            here.server.store.admission = change
            manager = manager_of(here, tmp_path)
            with pytest.raises(LaunchError) as error:
                await manager.start_kernel(kernel_id=str(uuid.uuid4()))
            assert said in str(error.value)
            await _empty(here)

    asyncio.run(body())


async def _empty(here: Here) -> None:
    async with asyncio.timeout(60.0):
        while here.left():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("resource", "said"),
    [
        ("kubearmorpolicies", "changed the KubeArmorPolicy (spec.file."),
        ("pods", "changed the Pod (spec.hostNetwork)"),
    ],
)
def test_a_model_is_not_served_in_what_the_cluster_changed(
    tmp_path: Path, evidence: Evidence, resource: str, said: str
) -> None:
    def change(of: tuple[str, str], made: dict[str, Any]) -> None:
        if of[1] == resource == "pods":
            made["spec"]["hostNetwork"] = True
        elif of[1] == resource:
            made["spec"]["file"].popitem()

    async def body() -> None:
        async with test_apply.cluster(tmp_path) as here:
            here.server.store.admission = change
            with pytest.raises(RolloutError) as error:
                await here.deploy(evidence)
            assert said in str(error.value) and "nothing of it is left" in str(error.value)

    asyncio.run(body())


@pytest.mark.parametrize(
    ("message", "cure"),
    [
        ('pods is forbidden: User "u" cannot create resource "pods" in API group', "may not"),
        ("pods is forbidden: maximum cpu usage per Container is 1, but limit is 2", "a rule of"),
        ("forbidden: namespace kernels because it is being terminated", "is being deleted"),
        ("pods is forbidden: exceeded quota: none, requested: pods=1", "quota is used up"),
    ],
)
def test_a_refusal_is_told_from_a_right_that_is_missing(
    tmp_path: Path, message: str, cure: str
) -> None:
    async def body() -> None:
        async with cluster(tmp_path) as here:
            here.server.fail("POST", "pods", 403, message)
            manager = manager_of(here, tmp_path)
            with pytest.raises(ClusterError, match=cure):
                await manager.start_kernel(kernel_id=str(uuid.uuid4()))
            await _empty(here)

    asyncio.run(body())
