"""A served model on the cluster, from typed objects: no text template anywhere.

One revision is one model with one policy, one image and one way to start. Its digest is in the
names of its policies and in the label by which they select pods, and a Deployment keeps its name.
So a rolling update starts pods of the new revision under the new policy while those of the old one
stay under theirs, and `kubectl rollout undo` leads back to both. The same input gives the same
bytes.

No code of the model runs unconfined: the init container reads files and hashes them, and the server
starts behind the canary (`modelarmor.cluster.canary`), after the policy was seen to deny.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml
from kubernetes.aio.client import models as k8s

from modelarmor import profiles
from modelarmor.cluster import canary, confining, objects
from modelarmor.generate.artifact.tree import TreeDigest
from modelarmor.generate.evidence import Evidence
from modelarmor.generate.observe.cage import serving_variables
from modelarmor.generate.workload import egress_of
from modelarmor.policy import document
from modelarmor.policy.model import Policy, Posture
from modelarmor.sandbox.network import EgressRule
from modelarmor.sandbox.resources import Resources

MODEL_LABEL: Final = "modelarmor.io/model"
REVISION_LABEL: Final = "modelarmor.io/revision"
MODEL: Final = "/model"
TMP: Final = "/tmp"
#: whose credentials the policy keeps out of reach, should the image have some
HOME: Final = "/home/model"
PORT: Final = 8080

_CONTROL, _PLAN, _SOURCE = (f"{canary.FILES}/{name}" for name in ("control", "plan", "source"))
_SCRATCH: Final = f"{TMP}/fetched"
_OPENED: Final = f"{_CONTROL}/control"
_DENIED_FILES: Final = {
    "rule": f"{confining.DENIED}/denied",
    "posture": f"{confining.UNNAMED}/unnamed",
}
_MESSAGE: Final = "/dev/termination-log"
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
#: of a ConfigMap, with room for the rest of it
_MAX_PLAN = 900_000
#: what a prune must not take before the pods that it confines are gone
_LAST: Final = {
    "argocd.argoproj.io/sync-options": "PruneLast=true",
    "helm.sh/resource-policy": "keep",
}


class DeployError(ValueError):
    """A model that would not be confined as its policy says, or cannot be deployed; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How a model is to be served.

    Attributes:
        name: of the Deployment and its Service; a DNS label of at most 40 characters.
        namespace: of everything.
        image: with MLflow and what the model needs; name it by its digest.
        prefix: directory of the Python environment in the image.
        interpreter: the real file behind ``PREFIX/bin/python`` in the image, since KubeArmor
            matches no links.
        pull_secret: a Secret for the image's registry.
        claim: a PersistentVolumeClaim with the model's files, instead of fetching them.
        claim_path: where in the claim.
        tracking_uri: of the MLflow server that the files are fetched from.
        fetch_secret: a Secret with variables for fetching; the server does not get them.
        fetch_egress: ``CIDR:PORT`` that the pod may reach for it. A NetworkPolicy knows no
            containers, so the server may then reach them too.
        replicas, most: pods at least and at most.
        user: number of the user that it runs as.
        limits: resources beside those of the evidence, such as ``nvidia.com/gpu``.
        clients: labels of the pods that may ask it; empty: any pod of the namespace.
        canary_seconds: for how long the policy may take to be in force.
        kserve: an InferenceService instead of Deployment, Service and autoscaler.
    """

    name: str
    namespace: str
    image: str
    prefix: str = "/usr/local"
    interpreter: str = "/usr/local/bin/python3.11"
    pull_secret: str = ""
    claim: str = ""
    claim_path: str = ""
    tracking_uri: str = ""
    fetch_secret: str = ""
    fetch_egress: Sequence[str] = ()
    replicas: int = 1
    most: int = 4
    user: int = 1000
    limits: Mapping[str, str] = field(default_factory=dict)
    clients: Mapping[str, str] = field(default_factory=dict)
    canary_seconds: float = 60.0
    kserve: bool = False

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("namespace", self.namespace)):
            if not _NAME.fullmatch(text):
                raise DeployError(f"{what} {text!r:.80}: should be a DNS label of 40 characters")
        for what, text in (("prefix", self.prefix), ("interpreter", self.interpreter)):
            if not text.startswith("/") or text.endswith("/") or ".." in text.split("/"):
                raise DeployError(f"{what} {text!r}: should be an absolute path in the image")
        if self.user < 1 or not 1 <= self.replicas <= self.most:
            raise DeployError("a user is not root, and there is at least one pod, at most `most`")
        if bool(self.claim) == bool(self.tracking_uri):
            raise DeployError("the files come from a claim or from a tracking server: name one")
        if self.tracking_uri and not self.fetch_egress:
            raise DeployError(
                "fetching from a tracking server needs --fetch-egress CIDR:PORT for the server and"
                " the store of its files; with --claim the pod needs no network at all"
            )


@dataclass(frozen=True, slots=True)
class Guard:
    """What runs in front of a model, in its process.

    Attributes:
        files: its programs and what they read, by name.
        program: the one of them that serves; it is given the port.
    """

    files: Mapping[str, str]
    program: str


def manifests(
    evidence: Evidence, target: Target, uri: str = "", guard: Guard | None = None
) -> list[dict[str, Any]]:
    """Everything that serves one model under its policy, in the order in which to apply it.

    Args:
        evidence: with the policy that was approved.
        target: how it is to be served.
        uri: of the model, exact (``models:/iris/3``), where it is fetched.
        guard: in front of the model; without one MLflow's server takes every request.

    Raises:
        DeployError: the policy would not hold on the cluster, or the files are not all known.
    """
    files = _files(evidence)
    plan = json.dumps(
        {
            "claim": _SOURCE if target.claim else "",
            "uri": uri,
            "scratch": _SCRATCH,
            "target": MODEL,
            "files": files,
        },
        sort_keys=True,
    )
    if len(plan) + sum(map(len, guard.files.values() if guard else ())) > _MAX_PLAN:
        raise DeployError(f"{len(files)} files are more than a ConfigMap can name: pack them")
    # The digest is of everything but itself, so whatever changes is a revision of its own.
    draft = _all(evidence, target, plan, guard, "0" * 16)
    digest = hashlib.sha256(json.dumps(draft, sort_keys=True).encode()).hexdigest()
    return _all(evidence, target, plan, guard, digest[:16])


def _files(evidence: Evidence) -> dict[str, tuple[int, str]]:
    digest = TreeDigest()
    for file in evidence.artifact.files:
        digest.add(file.path, file.sha256)
    if not evidence.artifact.files or digest.hexdigest() != evidence.artifact.digest:
        raise DeployError(
            "the evidence does not name every file of the model, so a pod could not tell the"
            f" approved ones ({evidence.artifact.digest or 'no digest'})"
        )
    return {file.path: (file.size, file.sha256) for file in evidence.artifact.files}


def _all(
    evidence: Evidence, target: Target, plan: str, guard: Guard | None, revision: str
) -> list[dict[str, Any]]:
    labels = objects.MANAGED | {MODEL_LABEL: target.name, REVISION_LABEL: revision}
    annotations = {
        "modelarmor.io/artifact-digest": evidence.artifact.digest,
        "modelarmor.io/policy-digest": evidence.policy_digest,
    }
    name = f"{target.name}-{revision}"

    def meta(own: str, *, kept: bool = False) -> k8s.V1ObjectMeta:
        return k8s.V1ObjectMeta(
            name=own,
            namespace=target.namespace,
            labels=dict(labels),
            annotations=annotations | (_LAST if kept else {}),
        )

    policy = policy_for(_filled(evidence.policy, target), name, target.namespace, labels)
    written: dict[str, Any] = yaml.safe_load(document.dump([policy]))
    written["metadata"] |= {"labels": dict(labels), "annotations": annotations | _LAST}
    pods = _pod(evidence, target, guard, name)
    data = {"control": "x", "denied": "x", "unnamed": "x", "plan.json": plan}
    made: list[Any] = [
        k8s.V1ConfigMap(
            api_version="v1",
            kind="ConfigMap",
            metadata=meta(name, kept=True),
            immutable=True,
            data=data | dict(guard.files if guard else {}),
        ),
        written,
        _network(evidence, target, meta(name, kept=True), labels),
    ]
    if target.kserve:
        made.append(_inference_service(target, meta(target.name), labels, annotations, pods))
    else:
        made += [
            _deployment(target, meta(target.name), labels, annotations, pods),
            _service(target, meta(target.name)),
            _autoscaler(target, meta(target.name)),
        ]
    return [plain(item) for item in made]


# --- the policy


def policy_for(
    parts: Sequence[Policy], name: str, namespace: str, labels: Mapping[str, str]
) -> Policy:
    """Policies as one document for exactly one revision, with the canary's rules.

    Raises:
        DeployError: the linter finds an error in it for KubeArmor's enforcer, or it would not deny
            the canary.
    """
    selected = {key: labels[key] for key in (MODEL_LABEL, REVISION_LABEL)}
    policy, posture = confining.confining(parts, name, namespace, selected, _OPENED), Posture()
    wrong = confining.faults(policy, posture, _OPENED)
    if confining.denied_files(policy, posture) != _DENIED_FILES:
        wrong.append("it opens what no rule should name, so nothing would prove its posture")
    if wrong:
        raise DeployError("this policy cannot confine a pod: " + "; ".join(wrong))
    return policy


def _filled(policy: str, target: Target) -> tuple[Policy, ...]:
    """The approved policy for the image; what is on this machine says nothing of that."""
    values = {"PREFIX": target.prefix, "MODEL": MODEL, "TMP": TMP, "HOME": HOME, "WORKSPACE": TMP}
    links = {f"{target.prefix}/bin/{name}": target.interpreter for name in ("python", "python3")}
    try:
        parts = profiles.fill_elsewhere(
            policy, name="<approved policy>", values=values, links=links
        )
    except (profiles.ProfileError, document.PolicyError) as error:
        raise DeployError(f"the policy in the evidence cannot be used: {error}") from None
    if not parts:
        raise DeployError("the evidence has no policy; generate it again")
    return parts


# --- the pod


def _pod(evidence: Evidence, target: Target, guard: Guard | None, config: str) -> k8s.V1PodSpec:
    mount = k8s.V1VolumeMount
    python = f"{target.prefix}/bin/python"
    # not `mlflow models serve`, which starts a shell that the policy refuses
    server = [python, "-I", "-B", "-m", "uvicorn", "mlflow.pyfunc.scoring_server.app:app",
              "--host", "0.0.0.0", "--port", str(PORT)]  # fmt: skip
    if guard is not None:
        server = [python, "-I", "-B", f"{_CONTROL}/{guard.program}", str(PORT)]
    variables = serving_variables(Path(TMP)) | {
        "HOME": f"{TMP}/home",
        "TMPDIR": TMP,
        "__pyfunc_model_path__": MODEL,
    }
    serve = k8s.V1Container(
        name="kserve-container" if target.kserve else "server",
        image=target.image,
        command=behind_canary(python, target.canary_seconds, server),
        env=objects.variables(dict(sorted(variables.items()))),
        ports=[k8s.V1ContainerPort(container_port=PORT, name="http1", protocol="TCP")],
        resources=_resources(evidence, target),
        security_context=unprivileged(),
        termination_message_path=_MESSAGE,
        startup_probe=_probe(failures=90),
        readiness_probe=_probe(failures=3),
        liveness_probe=_probe(failures=6),
        volume_mounts=[
            *CANARY_MOUNTS,
            mount(name="model", mount_path=MODEL, read_only=True),
            mount(name="tmp", mount_path=TMP),
            mount(name="shm", mount_path="/dev/shm"),
        ],
    )
    return k8s.V1PodSpec(
        automount_service_account_token=False,
        enable_service_links=False,
        security_context=k8s.V1PodSecurityContext(
            run_as_non_root=True,
            run_as_user=target.user,
            run_as_group=target.user,
            fs_group=target.user,
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        image_pull_secrets=pulled_with(target.pull_secret),
        init_containers=[_fetching(evidence, target, python)],
        containers=[serve],
        volumes=_volumes(evidence, target, guard, config),
    )


def pulled_with(secret: str) -> list[k8s.V1LocalObjectReference] | None:
    """How a pod says which Secret opens its image's registry; empty: none."""
    return [k8s.V1LocalObjectReference(name=secret)] if secret else None


def _fetching(evidence: Evidence, target: Target, python: str) -> k8s.V1Container:
    mount = k8s.V1VolumeMount
    source = mount(
        name="source", mount_path=_SOURCE, read_only=True, sub_path=target.claim_path or None
    )
    variables = {"HOME": f"{TMP}/home", "TMPDIR": TMP, "MLFLOW_DISABLE_TELEMETRY": "true"}
    if target.tracking_uri:
        variables["MLFLOW_TRACKING_URI"] = target.tracking_uri
    secret = k8s.V1SecretEnvSource(name=target.fetch_secret)
    return k8s.V1Container(
        name="fetch",
        image=target.image,
        command=objects.literal([python, "-I", "-c", _program("fetch.py"), f"{_PLAN}/plan.json"]),
        env=objects.variables(dict(sorted(variables.items()))),
        env_from=[k8s.V1EnvFromSource(secret_ref=secret)] if target.fetch_secret else None,
        resources=_resources(evidence, replace(target, limits={})),
        security_context=unprivileged(),
        termination_message_policy="FallbackToLogsOnError",
        volume_mounts=[
            mount(name="plan", mount_path=_PLAN, read_only=True),
            mount(name="model", mount_path=MODEL),
            mount(name="fetching", mount_path=TMP),  # what it leaves is not the server's to read
            *([source] if target.claim else []),
        ],
    )


#: where the canary's files are in a container
CANARY_MOUNTS: Final = tuple(
    k8s.V1VolumeMount(name=name, mount_path=f"{canary.FILES}/{name}", read_only=True)
    for name in ("control", "denied", "unnamed")
)


def behind_canary(python: str, seconds: float, command: Sequence[str]) -> list[str]:
    """A container's command that waits until the policy is in force, and then becomes another."""
    settings = {
        "control": _OPENED,
        "denied": _DENIED_FILES,
        "seconds": seconds,
        "message": _MESSAGE,
        "directories": [f"{TMP}/home"],
    }
    words = [python, "-I", "-c", _program("canary.py"), json.dumps(settings), *command]
    return objects.literal(words)


def _program(name: str) -> str:
    return resources.files("modelarmor.cluster").joinpath(name).read_text(encoding="utf-8")


def unprivileged() -> k8s.V1SecurityContext:
    return k8s.V1SecurityContext(
        allow_privilege_escalation=False,
        privileged=False,
        read_only_root_filesystem=True,
        run_as_non_root=True,
        capabilities=k8s.V1Capabilities(drop=["ALL"]),
    )


def _probe(failures: int) -> k8s.V1Probe:
    return k8s.V1Probe(
        http_get=k8s.V1HTTPGetAction(path="/ping", port=PORT),
        period_seconds=10,
        timeout_seconds=5,
        failure_threshold=failures,
    )


def _resources(evidence: Evidence, target: Target) -> k8s.V1ResourceRequirements:
    given = Resources.from_kubernetes(evidence.resources)
    limits = {
        "cpu": given.cpu and f"{round(given.cpu * 1000)}m",
        "memory": given.memory and str(given.memory),
        "ephemeral-storage": given.disk and str(given.disk),
    }
    # an autoscaler reckons with requests; without them it does nothing
    requests = objects.requested(given, target.limits)
    return k8s.V1ResourceRequirements(
        limits={key: str(value) for key, value in limits.items() if value} | dict(target.limits),
        requests=requests,
    )


def part(config: str, name: str, *keys: str) -> k8s.V1Volume:
    """Keys of a ConfigMap as a volume."""
    return k8s.V1Volume(
        name=name,
        config_map=k8s.V1ConfigMapVolumeSource(
            name=config,
            default_mode=0o444,
            items=[k8s.V1KeyToPath(key=key, path=key) for key in keys],
        ),
    )


def _volumes(
    evidence: Evidence, target: Target, guard: Guard | None, config: str
) -> list[k8s.V1Volume]:
    def empty(name: str, size: int | None = None, medium: str | None = None) -> k8s.V1Volume:
        room = None if size is None else str(size)
        return k8s.V1Volume(
            name=name, empty_dir=k8s.V1EmptyDirVolumeSource(size_limit=room, medium=medium)
        )

    disk = Resources.from_kubernetes(evidence.resources).disk
    claim = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=target.claim, read_only=True)
    return [
        # beside the control, since the policy lets that be read
        part(config, "control", "control", *sorted(guard.files if guard else ())),
        *(part(config, name, name) for name in ("denied", "unnamed")),
        part(config, "plan", "plan.json"),
        empty("model"),
        empty("tmp", disk),
        empty("fetching"),
        empty("shm", medium="Memory"),
        *([k8s.V1Volume(name="source", persistent_volume_claim=claim)] if target.claim else []),
    ]


# --- around it


def _network(
    evidence: Evidence, target: Target, meta: k8s.V1ObjectMeta, labels: Mapping[str, str]
) -> k8s.V1NetworkPolicy:
    egress = egress_of(evidence.network)
    reached = [_destination(text) for text in target.fetch_egress]
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
                    _from=[
                        k8s.V1NetworkPolicyPeer(
                            pod_selector=k8s.V1LabelSelector(match_labels=dict(target.clients))
                        )
                    ],
                    ports=[k8s.V1NetworkPolicyPort(port=PORT, protocol="TCP")],
                )
            ],
            egress=[objects._egress(rule) for rule in (*egress.rules, *reached)],
        ),
    )


def _destination(text: str) -> EgressRule:
    cidr, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        raise DeployError(f"--fetch-egress {text!r}: should be CIDR:PORT, as in 10.0.0.7/32:5000")
    return EgressRule(cidr, ports=[("tcp", int(port))])


def _deployment(
    target: Target,
    meta: k8s.V1ObjectMeta,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    pods: k8s.V1PodSpec,
) -> k8s.V1Deployment:
    return k8s.V1Deployment(
        api_version="apps/v1",
        kind="Deployment",
        metadata=meta,
        spec=k8s.V1DeploymentSpec(  # how many is the autoscaler's to say
            selector=k8s.V1LabelSelector(match_labels={MODEL_LABEL: target.name}),
            revision_history_limit=5,
            strategy=k8s.V1DeploymentStrategy(
                type="RollingUpdate",
                rolling_update=k8s.V1RollingUpdateDeployment(max_surge=1, max_unavailable=0),
            ),
            template=k8s.V1PodTemplateSpec(
                metadata=k8s.V1ObjectMeta(labels=dict(labels), annotations=dict(annotations)),
                spec=pods,
            ),
        ),
    )


def _service(target: Target, meta: k8s.V1ObjectMeta) -> k8s.V1Service:
    return k8s.V1Service(
        api_version="v1",
        kind="Service",
        metadata=meta,
        spec=k8s.V1ServiceSpec(
            selector={MODEL_LABEL: target.name},
            ports=[k8s.V1ServicePort(name="http", port=80, protocol="TCP", target_port=PORT)],
        ),
    )


def _autoscaler(target: Target, meta: k8s.V1ObjectMeta) -> k8s.V2HorizontalPodAutoscaler:
    return k8s.V2HorizontalPodAutoscaler(
        api_version="autoscaling/v2",
        kind="HorizontalPodAutoscaler",
        metadata=meta,
        spec=k8s.V2HorizontalPodAutoscalerSpec(
            scale_target_ref=k8s.V2CrossVersionObjectReference(
                api_version="apps/v1", kind="Deployment", name=target.name
            ),
            min_replicas=target.replicas,
            max_replicas=target.most,
            metrics=[
                k8s.V2MetricSpec(
                    type="Resource",
                    resource=k8s.V2ResourceMetricSource(
                        name="cpu",
                        target=k8s.V2MetricTarget(type="Utilization", average_utilization=80),
                    ),
                )
            ],
        ),
    )


def _inference_service(
    target: Target,
    meta: k8s.V1ObjectMeta,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    pods: k8s.V1PodSpec,
) -> dict[str, Any]:
    """KServe's own kind, for which there is no type here."""
    body: dict[str, Any] = plain(pods)
    written = plain(meta)
    # a plain Deployment below it; Knative's sidecar would stand before the canary
    written["annotations"]["serving.kserve.io/deploymentMode"] = "RawDeployment"
    body |= {
        "minReplicas": target.replicas,
        "maxReplicas": target.most,
        "labels": dict(labels),
        "annotations": dict(annotations),
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": written,
        "spec": {"predictor": body},
    }


def plain(value: Any) -> Any:
    """A typed object as the data that the API server takes, without what is not set."""
    if hasattr(value, "attribute_map"):
        return {
            key: plain(item)
            for name, key in value.attribute_map.items()
            if (item := getattr(value, name)) is not None
        }
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


class _Dumper(yaml.SafeDumper):
    """No anchors: other tools read them badly."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write(items: Sequence[Mapping[str, Any]]) -> str:
    """Manifests as YAML, the same bytes for the same objects."""
    return yaml.dump_all(items, Dumper=_Dumper, sort_keys=True, width=10**6)
