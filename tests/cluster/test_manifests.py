"""Everything that is sent to Kubernetes is what its own definitions (OpenAPI) say it may be."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import kubernetes_validate
import pytest

from modelarmor.cluster import models, nim, objects
from modelarmor.generate.evidence import Evidence
from modelarmor.generate.pipeline import generate
from tests.cluster.test_deploy_examples import DEPLOY, EXAMPLES, built
from tests.cluster.test_kernel_objects import of_the_image, plain

#: the oldest and the newest that the definitions are at hand for
_VERSIONS = ("1.35", "1.37")
#: groups that Kubernetes does not define; tests of their own know KubeArmor's
_OTHERS = ("security.kubearmor.com/v1", "serving.kserve.io/v1beta1")
_ID = str(uuid.UUID(int=7))
_PLAIN = objects.PodSettings("kernels", "server-1", "an/image")
_ALL = replace(
    _PLAIN,
    claim="notebooks",
    claim_path="ada",
    requests={"cpu": "500m", "memory": "1Gi"},
    limits={"nvidia.com/gpu": "1"},
    runtime_class="gvisor",
    node_selector={"kubearmor.io/enforcer": "bpf"},
    pull_secrets=["registry"],
    server_pods={"app.kubernetes.io/name": "jupyterlab"},
)
_MODEL = models.Target(name="iris", namespace="models", image="an/image", claim="files")


def check(items: Iterable[dict[str, Any]]) -> list[str]:
    """Check each against Kubernetes' definitions, unknown fields included; their kinds."""
    kinds = []
    for item in items:
        if item["apiVersion"] not in _OTHERS:
            for version in _VERSIONS:
                kubernetes_validate.validate(item, version, strict=True)
            kinds.append(item["kind"])
    return kinds


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    place = tmp_path_factory.mktemp("models") / "iris"
    place.mkdir()
    (place / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: iris\n")
    return generate(str(place), run=False)


@pytest.mark.parametrize("settings", [_PLAIN, _ALL], ids=["plain", "all"])
@pytest.mark.parametrize("name", ["notebook", "notebook-online", "untrusted-model", "gpu"])
def test_of_a_kernel(name: str, settings: objects.PodSettings) -> None:
    chosen = of_the_image(name)
    labels = objects.labels_of(_ID, name, settings)
    secret = objects.secret(_ID, labels, {"key": "k"})
    assert secret.metadata is not None
    secret.metadata.uid = "the-owner"
    owner = objects.owned_by(secret)
    policy = objects.policy(_ID, chosen, "kernels")
    env, command = {"HOME": "/tmp/home"}, ["python3"]
    made = plain(
        lambda: [
            secret,
            objects.network_policy(_ID, labels, owner, chosen, [20_001], settings),
            objects.pod(_ID, labels, owner, chosen, policy, command, env, settings),
        ]
    )
    assert check(made) == ["Secret", "NetworkPolicy", "Pod"]


@pytest.mark.parametrize(
    "target",
    [
        _MODEL,
        replace(
            _MODEL,
            claim_path="iris/3",
            pull_secret="registry",
            limits={"nvidia.com/gpu": "1"},
            clients={"a": "b"},
        ),
        replace(
            _MODEL,
            claim="",
            tracking_uri="http://mlflow:5000",
            fetch_secret="credentials",
            fetch_egress=["10.0.0.7/32:5000"],
        ),
    ],
    ids=["claim", "all", "fetched"],
)
def test_of_a_served_model(evidence: Evidence, target: models.Target) -> None:
    kinds = check(models.manifests(evidence, target, "models:/iris/3"))
    assert kinds == [
        "ConfigMap", "NetworkPolicy", "Deployment", "Service", "HorizontalPodAutoscaler",
    ]  # fmt: skip


def test_the_pods_of_an_inference_service(evidence: Evidence) -> None:
    """KServe's predictor is a pod's spec with fields of its own."""
    made = models.manifests(evidence, replace(_MODEL, kserve=True))
    (service,) = (item for item in made if item["kind"] == "InferenceService")
    known = ("minReplicas", "maxReplicas", "labels", "annotations")
    spec = {key: value for key, value in service["spec"]["predictor"].items() if key not in known}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": service["metadata"], "spec": spec}
    assert check([pod]) == ["Pod"]


def test_of_nim() -> None:
    made = nim.manifests(
        nim.Nim(name="llm", namespace="nim", image="an/image", claim="w", pull_secret="registry")
    )
    assert {"Deployment", "Service", "NetworkPolicy"} <= {*check(made)}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl builds what is in deploy/")
@pytest.mark.parametrize("name", EXAMPLES)
def test_of_the_examples(name: str) -> None:
    items = built(name)
    assert len(check(items)) == len(items) > 0


def test_a_field_that_kubernetes_does_not_know_is_found(evidence: Evidence) -> None:
    made = models.manifests(evidence, _MODEL)
    (service,) = (item for item in made if item["kind"] == "Service")
    service["spec"]["ports"][0]["targetport"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="targetport"):
        check(made)


def test_no_example_is_left_out() -> None:
    there = {file.parent.name for file in DEPLOY.glob("*/kustomization.yaml")}
    assert there == {*EXAMPLES}
