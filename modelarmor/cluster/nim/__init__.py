"""NVIDIA NIM under a policy: a container that brings its own server, for weights in a claim.

The policies beside this file are for images whose Python is 3.10 and whose server lies below
``/opt/nim``; ``host.yaml`` is for the nodes. They were checked by the linter and the decision
table, and never against an image of NVIDIA's: docs/kubernetes-models.md says how to try them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Final

import yaml
from kubernetes.aio.client import models as k8s

from modelarmor.cluster import models, objects
from modelarmor.cluster.models import MODEL_LABEL, REVISION_LABEL, DeployError
from modelarmor.policy import document

PORT: Final = 8000
CACHE: Final = "/opt/nim/.cache"
_PYTHON: Final = "/usr/bin/python3.10"
_START: Final = ("/opt/nvidia/nvidia_entrypoint.sh", "/opt/nim/start-server.sh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nim:
    """How a NIM container is to be served.

    Attributes:
        name, namespace: of the Deployment; DNS labels.
        image: of NVIDIA's registry, or a mirror of it; name it by its digest.
        claim: a PersistentVolumeClaim with the weights, filled beforehand, so that the pod needs
            no network.
        pull_secret: a Secret for the registry.
        gpus: of each pod.
        replicas: pods.
        clients: labels of the pods that may ask it; empty: any pod of the namespace.
    """

    name: str
    namespace: str
    image: str
    claim: str
    pull_secret: str = ""
    gpus: int = 1
    replicas: int = 1
    clients: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not objects._LABEL.fullmatch(self.name) or not objects._LABEL.fullmatch(self.namespace):
            raise DeployError(f"{self.namespace!r}/{self.name!r}: should be two DNS labels")
        if self.gpus < 1 or self.replicas < 1 or not self.claim:
            raise DeployError("NIM needs a GPU, a pod and a claim with the weights")


def policy_text(name: str = "policy.yaml") -> str:
    """The policies of the container, or with ``host.yaml`` those of its nodes."""
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def manifests(nim: Nim) -> list[dict[str, Any]]:
    """Everything that serves a NIM container under its policy, in the order in which to apply it.

    Raises:
        DeployError: the policy would not hold.
    """
    draft = _all(nim, "0" * 16)
    digest = hashlib.sha256(json.dumps(draft, sort_keys=True).encode()).hexdigest()
    return _all(nim, digest[:16])


def _all(nim: Nim, revision: str) -> list[dict[str, Any]]:
    labels = objects.MANAGED | {MODEL_LABEL: nim.name, REVISION_LABEL: revision}
    name = f"{nim.name}-{revision}"

    def meta(own: str) -> k8s.V1ObjectMeta:
        return k8s.V1ObjectMeta(name=own, namespace=nim.namespace, labels=dict(labels))

    policies = document.load(policy_text(), name="NIM's policies")
    policy = models.policy_for(policies, name, nim.namespace, labels)
    written: dict[str, Any] = yaml.safe_load(document.dump([policy]))
    written["metadata"]["labels"] = dict(labels)
    made: list[Any] = [
        k8s.V1ConfigMap(
            api_version="v1",
            kind="ConfigMap",
            metadata=meta(name),
            immutable=True,
            data={"control": "x", "denied": "x", "unnamed": "x"},
        ),
        written,
        _network(nim, meta(name), labels),
        k8s.V1Deployment(
            api_version="apps/v1",
            kind="Deployment",
            metadata=meta(nim.name),
            spec=k8s.V1DeploymentSpec(
                replicas=nim.replicas,
                revision_history_limit=5,
                # accelerators are seldom free twice, so the old pod goes first
                strategy=k8s.V1DeploymentStrategy(type="Recreate"),
                selector=k8s.V1LabelSelector(match_labels={MODEL_LABEL: nim.name}),
                template=k8s.V1PodTemplateSpec(
                    metadata=k8s.V1ObjectMeta(labels=dict(labels)), spec=_pod(nim, name)
                ),
            ),
        ),
        k8s.V1Service(
            api_version="v1",
            kind="Service",
            metadata=meta(nim.name),
            spec=k8s.V1ServiceSpec(
                selector={MODEL_LABEL: nim.name},
                ports=[k8s.V1ServicePort(name="http", port=80, protocol="TCP", target_port=PORT)],
            ),
        ),
    ]
    return [models.plain(item) for item in made]


def _pod(nim: Nim, config: str) -> k8s.V1PodSpec:
    mount = k8s.V1VolumeMount
    claim = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=nim.claim)
    ready = k8s.V1HTTPGetAction(path="/v1/health/ready", port=PORT)
    server = k8s.V1Container(
        name="nim",
        image=nim.image,
        command=models.behind_canary(_PYTHON, 60, _START),
        env=[
            k8s.V1EnvVar(name="HOME", value="/tmp/home"),
            k8s.V1EnvVar(name="NIM_CACHE_PATH", value=CACHE),
        ],
        ports=[k8s.V1ContainerPort(container_port=PORT, name="http", protocol="TCP")],
        resources=k8s.V1ResourceRequirements(limits={"nvidia.com/gpu": str(nim.gpus)}),
        security_context=models.unprivileged(),
        startup_probe=k8s.V1Probe(http_get=ready, period_seconds=10, failure_threshold=360),
        readiness_probe=k8s.V1Probe(http_get=ready, period_seconds=10),
        volume_mounts=[
            *models.CANARY_MOUNTS,
            mount(name="cache", mount_path=CACHE),
            mount(name="tmp", mount_path="/tmp"),
            mount(name="shm", mount_path="/dev/shm"),
        ],
    )
    empty = k8s.V1EmptyDirVolumeSource
    return k8s.V1PodSpec(
        automount_service_account_token=False,
        enable_service_links=False,
        image_pull_secrets=models.pulled_with(nim.pull_secret),
        security_context=k8s.V1PodSecurityContext(
            run_as_non_root=True,
            run_as_user=1000,
            run_as_group=1000,
            fs_group=1000,
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        containers=[server],
        volumes=[
            *(models.part(config, name, name) for name in ("control", "denied", "unnamed")),
            k8s.V1Volume(name="cache", persistent_volume_claim=claim),
            k8s.V1Volume(name="tmp", empty_dir=empty()),
            k8s.V1Volume(name="shm", empty_dir=empty(medium="Memory")),
        ],
    )


def _network(nim: Nim, meta: k8s.V1ObjectMeta, labels: Mapping[str, str]) -> k8s.V1NetworkPolicy:
    clients = k8s.V1NetworkPolicyPeer(
        pod_selector=k8s.V1LabelSelector(match_labels=dict(nim.clients))
    )
    return k8s.V1NetworkPolicy(
        api_version="networking.k8s.io/v1",
        kind="NetworkPolicy",
        metadata=meta,
        spec=k8s.V1NetworkPolicySpec(
            pod_selector=k8s.V1LabelSelector(
                match_labels={key: labels[key] for key in (MODEL_LABEL, REVISION_LABEL)}
            ),
            policy_types=["Ingress", "Egress"],
            ingress=[
                k8s.V1NetworkPolicyIngressRule(
                    _from=[clients], ports=[k8s.V1NetworkPolicyPort(port=PORT, protocol="TCP")]
                )
            ],
            egress=[],
        ),
    )
