"""The objects of a kernel on the cluster, from typed values: no text template anywhere.

One Secret owns everything else, so that deleting it deletes all. It is made first, and it holds
what nobody but the kernel and its server may know. Names and labels come from the kernel's
identifier alone, which the server drew; nothing that a client says is part of them.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Final

import yaml
from kubernetes.aio.client import models as k8s

from modelarmor.cluster import canary, confining
from modelarmor.policy import document
from modelarmor.policy.decide import Operation, Table
from modelarmor.policy.model import (
    PathRule,
    Policy,
)
from modelarmor.profiles import Profile
from modelarmor.sandbox.resources import Resources

KERNEL_LABEL: Final = "modelarmor.io/kernel"
SERVER_LABEL: Final = "modelarmor.io/server"
PROFILE_LABEL: Final = "modelarmor.io/profile"
MANAGED: Final = {"app.kubernetes.io/managed-by": "modelarmor"}
CONTAINER: Final = "kernel"
PORT_NAMES: Final = ("shell_port", "iopub_port", "stdin_port", "hb_port", "control_port")

#: where the Secret's parts lie in the container
CONNECTION: Final = f"{canary.FILES}/connection"
_OPENED: Final = f"{CONNECTION}/connection.json"
_MESSAGE: Final = "/dev/termination-log"

_REQUESTED_MEMORY: Final = 1 << 29
_REQUESTED_DISK: Final = 1 << 30

_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class PolicyRefused(ValueError):
    """A profile that would not confine a pod as it says; names each reason."""


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What the administrator decides about every kernel's pod.

    Attributes:
        namespace: of everything that is made.
        server: this server's label; two servers of a namespace need two.
        image: of the container.
        python: the image's Python.
        workspace, tmp, home: directories in the container; the first two are volumes.
        claim: a PersistentVolumeClaim for the workspace; empty is an emptyDir.
        claim_path: the directory of the claim that is mounted.
        user, group: numeric identifiers, never 0.
        requests, limits: resources beside the profile's, such as ``nvidia.com/gpu``.
        runtime_class: such as ``gvisor``.
        node_selector: labels that a node must have.
        pull_secrets: names of Secrets for the image's registry.
        canary_seconds: for how long the policy may take to be in force.
        server_pods: labels of the pods that may connect to a kernel; empty: any pod of the
            server's namespace, which without the kernel's keys gets no answer.
        server_namespace: where those are; empty is `namespace`.
    """

    namespace: str
    server: str
    image: str
    python: str = "python3"
    workspace: str = "/workspace"
    tmp: str = "/tmp"
    home: str = "/home/jovyan"
    claim: str = ""
    claim_path: str = ""
    user: int = 1000
    group: int = 100
    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    runtime_class: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    pull_secrets: Sequence[str] = ()
    canary_seconds: float = 30.0
    server_pods: Mapping[str, str] = field(default_factory=dict)
    server_namespace: str = ""


def connection_file(tmp: str) -> str:
    """Where the kernel finds its connection file."""
    return f"{tmp}/connection.json"


def name_of(kernel_id: str) -> str:
    """The name of a kernel's objects.

    Raises:
        ValueError: the identifier is no UUID; whoever chose another could choose another's name.
    """
    return f"kernel-{uuid.UUID(kernel_id)}"


def labels_of(kernel_id: str, profile: str, settings: PodSettings) -> dict[str, str]:
    """What every object of a kernel is found by."""
    if not _LABEL.fullmatch(settings.server):
        raise ValueError(f"{settings.server!r} is no label; set c.KernelPods.server_name")
    return MANAGED | {
        KERNEL_LABEL: str(uuid.UUID(kernel_id)),
        SERVER_LABEL: settings.server,
        PROFILE_LABEL: profile,
    }


def secret(
    kernel_id: str, labels: Mapping[str, str], connection: Mapping[str, Any]
) -> k8s.V1Secret:
    """The owner of everything: the connection file, and the files that must stay shut."""
    return k8s.V1Secret(
        api_version="v1",
        kind="Secret",
        metadata=k8s.V1ObjectMeta(name=name_of(kernel_id), labels=dict(labels)),
        immutable=True,
        type="Opaque",
        string_data={"connection.json": json.dumps(connection), "denied": "x", "unnamed": "x"},
    )


def owned_by(owner: k8s.V1Secret) -> k8s.V1OwnerReference:
    """The reference by which an object goes when its owner does."""
    assert owner.metadata is not None
    return k8s.V1OwnerReference(
        api_version="v1",
        kind="Secret",
        name=str(owner.metadata.name),
        uid=str(owner.metadata.uid),
        controller=True,
        block_owner_deletion=False,
    )


def rules_beside(policies: Sequence[Policy]) -> tuple[PathRule, ...]:
    """What a kernel's policy has beside its profile's own."""
    return confining.rules_beside(policies, _OPENED)


def policy(kernel_id: str, profile: Profile, namespace: str) -> Policy:
    """The profile's policies as one document for exactly this pod, with the canary's rules.

    Raises:
        PolicyRefused: the linter finds an error in it for KubeArmor's enforcers, or it would not
            deny the canary.
    """
    labels = {KERNEL_LABEL: str(uuid.UUID(kernel_id))}
    merged = confining.confining(profile.policies, name_of(kernel_id), namespace, labels, _OPENED)
    if found := confining.faults(merged, profile.posture, _OPENED):
        raise PolicyRefused(f"the profile {profile.name} cannot confine a pod: " + "; ".join(found))
    return merged


def policy_document(
    policy: Policy, labels: Mapping[str, str], owner: k8s.V1OwnerReference
) -> dict[str, Any]:
    """The policy as the API server takes it."""
    text = document.dump([policy])
    body: dict[str, Any] = yaml.load(text, Loader=yaml.CSafeLoader)
    reference = {
        "apiVersion": owner.api_version,
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": owner.controller,
        "blockOwnerDeletion": owner.block_owner_deletion,
    }
    body["metadata"] |= {"labels": dict(labels), "ownerReferences": [reference]}
    return body


def network_policy(
    kernel_id: str,
    labels: Mapping[str, str],
    owner: k8s.V1OwnerReference,
    profile: Profile,
    ports: Sequence[int],
    settings: PodSettings,
) -> k8s.V1NetworkPolicy:
    """Nothing in but the server to the kernel's ports, nothing out but the profile's egress."""
    into = [
        k8s.V1NetworkPolicyIngressRule(
            _from=[
                k8s.V1NetworkPolicyPeer(
                    pod_selector=k8s.V1LabelSelector(match_labels=dict(settings.server_pods)),
                    namespace_selector=_elsewhere(settings),
                )
            ],
            ports=[k8s.V1NetworkPolicyPort(port=port, protocol="TCP") for port in ports],
        )
    ]
    return k8s.V1NetworkPolicy(
        api_version="networking.k8s.io/v1",
        kind="NetworkPolicy",
        metadata=_meta(kernel_id, labels, owner),
        spec=k8s.V1NetworkPolicySpec(
            pod_selector=k8s.V1LabelSelector(
                match_labels={KERNEL_LABEL: str(uuid.UUID(kernel_id))}
            ),
            policy_types=["Ingress", "Egress"],
            ingress=into,
            egress=[_egress(rule) for rule in profile.network.rules],
        ),
    )


def _elsewhere(settings: PodSettings) -> k8s.V1LabelSelector | None:
    """The server's namespace, if it is not the pod's."""
    name = settings.server_namespace
    if not name or name == settings.namespace:
        return None
    return k8s.V1LabelSelector(match_labels={"kubernetes.io/metadata.name": name})


def _egress(rule: Any) -> k8s.V1NetworkPolicyEgressRule:
    block = rule.cidr and k8s.V1IPBlock(
        cidr=str(rule.cidr), _except=[str(item) for item in rule.except_cidrs] or None
    )
    return k8s.V1NetworkPolicyEgressRule(
        to=[k8s.V1NetworkPolicyPeer(ip_block=block)] if block else None,
        ports=[
            k8s.V1NetworkPolicyPort(
                protocol=item.protocol.upper(),
                port=item.first,
                # only where it says more: Kubernetes before 1.21 applies nothing that has the field
                end_port=item.last if item.last != item.first else None,
            )
            for item in rule.ports
        ]
        or None,
    )


def pod(
    kernel_id: str,
    labels: Mapping[str, str],
    owner: k8s.V1OwnerReference,
    profile: Profile,
    policy: Policy,
    command: Sequence[str],
    env: Mapping[str, str],
    settings: PodSettings,
) -> k8s.V1Pod:
    """The pod, whose command is the canary and then the kernel."""
    return k8s.V1Pod(
        api_version="v1",
        kind="Pod",
        metadata=_meta(kernel_id, labels, owner),
        spec=k8s.V1PodSpec(
            automount_service_account_token=False,
            enable_service_links=False,  # variables that would tell of the cluster
            restart_policy="Always",  # in place: same address, same volumes, behind the canary
            termination_grace_period_seconds=5,
            runtime_class_name=settings.runtime_class or None,
            node_selector=dict(settings.node_selector) or None,
            image_pull_secrets=[
                k8s.V1LocalObjectReference(name=item) for item in settings.pull_secrets
            ]
            or None,
            security_context=k8s.V1PodSecurityContext(
                run_as_non_root=True,
                run_as_user=settings.user,
                run_as_group=settings.group,
                fs_group=settings.group,
                seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
            ),
            containers=[_container(profile, policy, command, env, settings)],
            volumes=_volumes(kernel_id, profile, settings),
        ),
    )


def _container(
    profile: Profile,
    policy: Policy,
    command: Sequence[str],
    env: Mapping[str, str],
    settings: PodSettings,
) -> k8s.V1Container:
    source = resources.files("modelarmor.cluster").joinpath("canary.py").read_text()
    told = {
        "control": _OPENED,
        "denied": confining.denied_files(policy, profile.posture),
        "seconds": settings.canary_seconds,
        "message": _MESSAGE,
        "copy": connection_file(settings.tmp),
        "directories": [env["HOME"], *_below(env, settings.tmp)],
    }
    mount = k8s.V1VolumeMount
    return k8s.V1Container(
        name=CONTAINER,
        image=settings.image,
        command=literal([settings.python, "-I", "-c", source, json.dumps(told), *command]),
        working_dir=settings.workspace,
        env=variables(env),
        resources=_resources(profile, settings),
        termination_message_path=_MESSAGE,
        security_context=k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            privileged=False,
            read_only_root_filesystem=True,
            run_as_non_root=True,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
        volume_mounts=[
            mount(name="connection", mount_path=CONNECTION, read_only=True),
            mount(name="denied", mount_path=confining.DENIED, read_only=True),
            mount(name="unnamed", mount_path=confining.UNNAMED, read_only=True),
            mount(
                name="workspace",
                mount_path=settings.workspace,
                sub_path=settings.claim_path or None,
                read_only=not _may_change(settings.workspace, policy, profile) or None,
            ),
            mount(name="tmp", mount_path=settings.tmp),
            mount(name="shm", mount_path="/dev/shm"),
        ],
    )


def _may_change(directory: str, policy: Policy, profile: Profile) -> bool:
    """Whether the policy lets anybody make files in a directory.

    Where it does not, the mount is to be read-only too: KubeArmor's ``readOnly`` stops writing to
    what is open, but neither unlink, rename nor truncate (lint MA312).
    """
    table = Table([policy], profile.posture)
    sources = {source for rule in policy.file for source in rule.from_source} | {""}
    made = (Operation("create", f"{directory}/a", source=source) for source in sources)
    return any(table.decide(operation).verdict == "allow" for operation in made)


def _below(env: Mapping[str, str], top: str) -> list[str]:
    names = ("TMPDIR", "IPYTHONDIR", "MPLCONFIGDIR")
    return [env[name] for name in names if env.get(name, "").startswith(top)]


def literal(words: Sequence[str]) -> list[str]:
    """Words in which Kubernetes finds no variable: it reads $(NAME), and $$ for $."""
    return [word.replace("$", "$$") for word in words]


def variables(values: Mapping[str, str]) -> list[k8s.V1EnvVar]:
    """The environment of a container, taken at its word."""
    return [
        k8s.V1EnvVar(name=name, value=value)
        for name, value in zip(values, literal([*values.values()]), strict=True)
    ]


def _resources(profile: Profile, settings: PodSettings) -> k8s.V1ResourceRequirements:
    given = profile.resources
    limits = {
        "cpu": given.cpu and f"{round(given.cpu * 1000)}m",
        "memory": given.memory and str(given.memory),
        "ephemeral-storage": given.disk and str(given.disk),
    }
    return k8s.V1ResourceRequirements(
        limits={key: value for key, value in limits.items() if value} | dict(settings.limits),
        requests=requested(given, settings.limits) | dict(settings.requests),
    )


def requested(limits: Resources, own: Mapping[str, str]) -> dict[str, str]:
    """What a pod asks for where nobody says so.

    Kubernetes takes a limit for the request where there is none, and would reserve for every idle
    notebook what it may use at most.

    Args:
        limits: of the profile.
        own: the administrator's limits; what these name is asked for as a whole.
    """
    wanted = {
        "cpu": f"{min(250, round((limits.cpu or 1.0) * 1000))}m",
        "memory": str(min(_REQUESTED_MEMORY, limits.memory or _REQUESTED_MEMORY)),
    }
    if limits.disk:
        wanted["ephemeral-storage"] = str(min(_REQUESTED_DISK, limits.disk))
    return {key: value for key, value in wanted.items() if key not in own}


def _volumes(kernel_id: str, profile: Profile, settings: PodSettings) -> list[k8s.V1Volume]:
    def part(name: str, key: str) -> k8s.V1Volume:
        return k8s.V1Volume(
            name=name,
            secret=k8s.V1SecretVolumeSource(
                secret_name=name_of(kernel_id),
                default_mode=0o440,
                items=[k8s.V1KeyToPath(key=key, path=key)],
            ),
        )

    room = str(profile.resources.disk) if profile.resources.disk else None
    empty = k8s.V1EmptyDirVolumeSource
    workspace = (
        k8s.V1Volume(
            name="workspace",
            persistent_volume_claim=k8s.V1PersistentVolumeClaimVolumeSource(
                claim_name=settings.claim
            ),
        )
        if settings.claim
        else k8s.V1Volume(name="workspace", empty_dir=empty(size_limit=room))
    )
    return [
        part("connection", "connection.json"),
        part("denied", "denied"),
        part("unnamed", "unnamed"),
        workspace,
        k8s.V1Volume(name="tmp", empty_dir=empty(size_limit=room)),
        k8s.V1Volume(name="shm", empty_dir=empty(medium="Memory")),
    ]


def _meta(
    kernel_id: str, labels: Mapping[str, str], owner: k8s.V1OwnerReference
) -> k8s.V1ObjectMeta:
    return k8s.V1ObjectMeta(name=name_of(kernel_id), labels=dict(labels), owner_references=[owner])
