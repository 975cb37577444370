"""What the cases' manifests say of their workloads: namespace, labels, image.

The data names a deployment and its manifest, not what is in it. These are the facts of the
manifests below ``tests/`` and ``examples/`` of KubeArmor 1.7, and the one other thing that a case
takes from its surroundings: which layout an image has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

#: distributions that had not merged /bin into /usr/bin when the image was made; others have
_SPLIT_IMAGES: Final = ("kubearmor/ubuntu-w-utils", "wordpress:4.8", "mysql:5.6", "nginx:alpine")
_UBUNTU: Final = "kubearmor/ubuntu-w-utils"
#: container of docker-compose -> image
_COMPOSED: Final = {"wordpress-mysql": "wordpress:latest"}

#: deployment -> labels of its pods, wherever these differ from ``container: NAME``
_LABELS: Final[Mapping[str, Mapping[str, str]]] = {
    **{
        f"ubuntu-{n}-deployment": {"container": f"ubuntu-{n}", "group": f"group-{1 + n // 4}"}
        for n in range(1, 6)
    },
    "wordpress": {"app": "wordpress"},
    "mysql": {"app": "mysql"},
    "nginx-posture-deployment": {"app": "nginx-posture"},
    "unannotated-deployment": {"container": "unannotated"},
    "partialyannotated-deployment": {"container": "partialyannotated"},
    "fullyannotated-deployment": {"container": "fullyannotated"},
    "debian-app": {"app": "debian-app"},
    "nginx-later-deploy": {"app": "nginx", "deployment": "nginx-later"},
    "nginx1": {"app": "nginx", "deployment": "nginx-1"},
    "nginx2": {"app": "nginx", "deployment": "nginx-2"},
    "nginx-deployment": {"app": "nginx-replicaset", "pre-run-pod-test": "true"},
    "nginx-statefulset": {"app": "nginx-statefulset", "pre-run-pod-test": "true"},
    "multicontainer-deployment": {"container": "multicontainer"},
    "fileless": {"app": "fileless"},
    "caps-deployment": {"deployment": "caps"},
    "privileged-deployment": {"deployment": "privileged"},
}
#: in these manifests the same deployment has fewer labels
_FEWER_LABELS: Final = (
    "tests/k8s_env/syscalls/manifests/ubuntu-deployment.yaml",
    "tests/k8s_env/microservices/github/multiubuntu-deployment.yaml",
)


@dataclass(frozen=True)
class Workload:
    """Where a step runs, as a selector sees it. A host has a name and nothing else."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    container: str = ""
    image: str = ""
    hostname: str = ""

    @property
    def merged(self) -> bool:
        """Whether ``/bin`` is a link into ``/usr``."""
        return not self.image.startswith(_SPLIT_IMAGES)


def docker_words(argv: Sequence[str]) -> Sequence[str]:
    """The container and the command of ``docker exec [OPTION]... CONTAINER COMMAND...``."""
    words = list(argv[1:])
    while words and words[0].startswith("-"):
        words.pop(0)
    return words


def host(case: Mapping[str, Any]) -> Workload:
    """The host of a case. The older scenarios name it in their directory, ``NODE_test_NN``."""
    name, found, _ = str(case["id"]).rpartition("/")[2].rpartition("_test_")
    return Workload(hostname=name if found else "conformance")


def of_step(case: Mapping[str, Any], step: Mapping[str, Any]) -> Workload:
    """Where `step` of `case` runs.

    Raises
    ------
    LookupError
        when the step names a workload that is not known.
    """
    if step["op"] == "host_exec":
        return host(case)
    if step["op"] == "docker":
        name = docker_words(step["argv"])[0]
        return Workload(container=name, image=_COMPOSED.get(name, ""))
    deployments: Mapping[str, Any] = case["workloads"]
    if any(name.startswith("host") for name in deployments):
        return host(case)
    pod = str(step.get("pod") or step["source"])
    fits = [name for name in deployments if name.startswith(pod.rstrip("-"))]
    if not fits:  # of another manifest of the same suite
        fits = [name for name in _LABELS if name.startswith(pod.rstrip("-"))]
    if not fits:
        raise LookupError(f"the pod {pod} belongs to no workload that is known")
    return _pod(fits[0], deployments.get(fits[0], {}), case, step)


def _pod(
    name: str, facts: Mapping[str, Any], case: Mapping[str, Any], step: Mapping[str, Any]
) -> Workload:
    labels = dict(_LABELS.get(name, {"container": name.removesuffix("-deployment")}))
    if facts.get("manifest") in _FEWER_LABELS:
        labels.pop("group", None)
    containers = {each["name"]: each["image"] for each in facts.get("containers", ())}
    container = step.get("container") or next(iter(containers), name.removesuffix("-deployment"))
    image = containers.get(container) or facts.get("image") or _UBUNTU
    # The older scenarios run in the namespace that their policy is for.
    namespace = step.get("namespace") or next(
        (ns for policy in case["policies"] if (ns := policy["metadata"].get("namespace"))),
        "default",
    )
    return Workload(namespace, labels, container, image)
