"""What a cluster serves of a model that was deployed, and its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from modelarmor.cluster.client import Cluster, ClusterError
from modelarmor.cluster.model_objects import (
    CONFINING,
    ModelObjects,
    named,
    revision_of,
    rolled_out,
    template_of,
)
from modelarmor.cluster.pods import state_of

_LOOK_SECONDS: Final = 1.0
#: what has the model's name, in the order in which it ends: first nothing new is asked for
_LASTING: Final = (
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
)


@dataclass(frozen=True, slots=True)
class Deployed:
    """A served model at one moment.

    Attributes:
        state: ``serves``, ``rolls out``, or ``unconfined`` where the policy of its revision is not
            there (any more).
        why: what it waits for; empty where it serves.
        revision: of the pods that the Deployment makes now.
        artifact, policy: their digests.
        pods: how many there are, of every revision.
    """

    state: str
    why: str
    revision: str
    artifact: str
    policy: str
    pods: int


async def look(cluster: Cluster, namespace: str, model: str) -> Deployed | None:
    """How a model is served; None where `modelarmor deploy` has no Deployment of that name there.

    Raises:
        ClusterError: the cluster refuses, or does not answer.
    """
    there = ModelObjects(cluster, namespace, model)
    found = await there.read(_about("apps/v1", "Deployment", namespace, model))
    if found is None or not revision_of(found):
        return None
    template = template_of(found)
    revision = revision_of(template)
    policies = await there.of_kind(*CONFINING[0])
    pods = await there.pods()
    mine = [state_of(dict(pod)) for pod in pods if revision_of(pod) == revision]
    waits = [pod.why for pod in mine if pod.standing != "running"]
    notes = (template.get("metadata") or {}).get("annotations") or {}
    state, why = "serves", ""
    if not any(revision_of(policy) == revision for policy in policies):
        state, why = "unconfined", f"the KubeArmorPolicy of revision {revision} is not there"
    elif not rolled_out(found, int(found["metadata"].get("generation") or 0)):
        state, why = "rolls out", next(iter(waits), "waiting until it serves")
    return Deployed(
        state,
        why,
        revision,
        str(notes.get("modelarmor.io/artifact-digest") or ""),
        str(notes.get("modelarmor.io/policy-digest") or ""),
        len(pods),
    )


async def remove(
    cluster: Cluster,
    namespace: str,
    model: str,
    seconds: float,
    tell: Callable[[str], None] = lambda _: None,
) -> None:
    """End a model, and when its pods are gone, what confined them. What is not there is no error.

    Args:
        seconds: within which the pods are gone.
        tell: is given each thing that is done.

    Raises:
        ClusterError: the cluster refuses; or pods do not end, and what confines them stays.
    """
    deadline = time.monotonic() + seconds
    there = ModelObjects(cluster, namespace, model)
    for version, kind in _LASTING:
        item = _about(version, kind, namespace, model)
        if await _ours(there, item):
            tell(f"deleting {named(item)}")
            await there.delete(item)
    while left := await there.pods():
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{len(left)} pods of {model} do not end ({named(left[0])}); what confines them"
                " stays, delete the deployment again when they have"
            )
        await asyncio.sleep(_LOOK_SECONDS)
    for version, kind in CONFINING:
        for found in await there.of_kind(version, kind):
            tell(f"deleting {named(found)}: its pods are gone")
            await there.delete(found)


async def _ours(there: ModelObjects, item: dict[str, Any]) -> bool:
    """Whether it is there, and not somebody else's."""
    try:
        return bool(revision_of(await there.read(item)))
    except ClusterError as error:
        if error.status == 404:  # the cluster has none of this kind
            return False
        raise


def _about(version: str, kind: str, namespace: str, name: str) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"namespace": namespace, "name": name}}
