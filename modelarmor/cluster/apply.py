"""A revision of a model on the cluster, or as it was before.

Objects are applied by the API server (server-side apply), the policies before the workload that
they confine. Then the rollout is watched until the old pods are gone; only then what confined them
goes, except for the revision before, to which ``kubectl rollout undo`` leads back. Where the new
pods do not come up in time, what was there is applied again, and the new policies go when the last
of their pods has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from modelarmor.cluster.admitted import changed_by_the_cluster, changes
from modelarmor.cluster.client import Cluster, ClusterError
from modelarmor.cluster.fetch import NOT_APPROVED
from modelarmor.cluster.model_objects import (
    CONFINING,
    ModelObjects,
    Object,
    confines,
    named,
    revision_of,
    rolled_out,
    template_of,
)
from modelarmor.cluster.models import MODEL_LABEL, REVISION_LABEL
from modelarmor.cluster.pods import PodState, state_of
from modelarmor.visible import escaped

Tell = Callable[[str], None]

_LOOK_SECONDS: Final = 1.0
#: for how long pods may take to end, after which what confines them stays
_END_SECONDS: Final = 180.0
_WORKLOADS: Final = ("Deployment", "InferenceService")


class RolloutError(RuntimeError):
    """A revision that did not come up; says why, and what is there now."""


async def apply(
    cluster: Cluster, items: Sequence[Object], seconds: float, tell: Tell = lambda _: None
) -> None:
    """Put a revision in the place of the former one.

    Args:
        cluster: where.
        items: all of its manifests, in their order (`modelarmor.cluster.models.manifests`).
        seconds: within which the new pods are ready and the old ones gone.
        tell: is given each thing that is waited for.

    Raises:
        RolloutError: the new pods did not come up; what was there before is there again.
        ClusterError: the cluster refuses an object, or cannot be reached.
    """
    await _Rollout(cluster, items, tell).run(seconds)


class _Rollout:
    def __init__(self, cluster: Cluster, items: Sequence[Object], tell: Tell) -> None:
        self._items, self._tell = items, tell
        (self._workload,) = (item for item in items if item["kind"] in _WORKLOADS)
        labels = self._workload["metadata"]["labels"]
        self._model, self._revision = str(labels[MODEL_LABEL]), str(labels[REVISION_LABEL])
        self._there = ModelObjects(
            cluster, str(self._workload["metadata"]["namespace"]), self._model
        )

    async def run(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        # what has the model's name outlives revisions; what has a revision's does not change
        lasting = [item for item in self._items if not confines(item)]
        before = [(item, await self._there.read(item)) for item in lasting]
        former = next(found for item, found in before if item is self._workload)
        self._check(before)
        try:
            for item in self._items:
                self._tell(f"applying {named(item)}")
                applied = await self._there.apply(item)
                _refuse_changed(item, applied)
                if item is self._workload:
                    generation = int(applied["metadata"].get("generation") or 0)
            await self._ready(generation, deadline)
        except BaseException as error:
            # shielded: who gives up must not leave half of a revision behind
            try:
                await asyncio.shield(asyncio.ensure_future(self._back(before, former)))
            except ClusterError as second:
                raise RolloutError(
                    f"{error}; and what was there before is not there again: {second}; run the same"
                    " command for the former revision"
                ) from error
            if isinstance(error, RolloutError):
                what = "the former revision serves again" if former else "nothing of it is left"
                raise RolloutError(f"{error}; {what}") from None
            raise
        await self._tidy({self._revision, revision_of(template_of(former))})
        self._tell(f"{self._model} serves revision {self._revision}")

    def _check(self, before: Sequence[tuple[Object, Object | None]]) -> None:
        """What has our names and is not ours is nobody's to be replaced."""
        for item, found in before:
            if found is not None and not revision_of(found):
                raise ClusterError(
                    f"{named(item)} is there and was not made by `modelarmor deploy`: choose"
                    " another --name, or delete it",
                    status=409,
                )

    # --- forth

    async def _ready(self, generation: int, deadline: float) -> None:
        said = ""
        while True:
            now = await self._there.read(self._workload)
            if now is None:
                raise RolloutError(f"{named(self._workload)} was deleted while it was rolled out")
            pods = await self._there.pods()
            mine = [pod for pod in pods if revision_of(pod) == self._revision]
            new, old = [state_of(dict(pod)) for pod in mine], len(pods) - len(mine)
            for pod in mine:
                _refuse_changed(self._pod(), pod)
            if rolled_out(now, generation) and new and not old:
                return
            _refuse_hopeless(new)
            _refuse_unapproved(mine)
            why = next(filter(None, map(_fetching, mine)), "") or _why(new, old)
            if why != said:
                said = why
                self._tell(said)
            if time.monotonic() > deadline:
                raise RolloutError(f"revision {self._revision} is not ready in time: {why}")
            await asyncio.sleep(_LOOK_SECONDS)

    def _pod(self) -> Object:
        """What each new pod was asked to be; KServe makes its own of what it is given."""
        template = self._workload["spec"].get("template")
        return {"kind": "Pod", **template} if template else self._workload

    async def _tidy(self, kept: set[str]) -> None:
        """Delete what confined revisions that have no pod, and to which nothing leads back."""
        kept |= {revision_of(pod) for pod in await self._there.pods()}
        for version, kind in CONFINING:
            for item in await self._there.of_kind(version, kind):
                if revision_of(item) not in kept:
                    self._tell(f"deleting {named(item)}: its pods are gone")
                    await self._there.delete(item)

    # --- back

    async def _back(
        self, before: Sequence[tuple[Object, Object | None]], former: Object | None
    ) -> None:
        self._tell("going back to the former revision" if former else "deleting what was made")
        for item, found in before:
            if found is None:
                await self._there.delete(item)
            else:
                await self._there.apply(_again(found))
        if revision_of(template_of(former)) != self._revision and await self._gone():
            for item in filter(confines, self._items):
                await self._there.delete(item)

    async def _gone(self) -> bool:
        """Wait until no pod of the new revision is left: till then its policies stay."""
        deadline = time.monotonic() + _END_SECONDS
        while any(revision_of(pod) == self._revision for pod in await self._there.pods()):
            if time.monotonic() > deadline:
                self._tell("pods of the new revision are still there, so its policies stay")
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True


def _why(new: Sequence[PodState], old: int) -> str:
    if not new:
        return "no pod of the new revision is there yet"
    waits = [state.why for state in new if state.standing != "running"]
    if waits:
        return waits[0]
    return (
        f"{old} pods of the former revision are still there" if old else "waiting until it serves"
    )


def _fetching(pod: Object) -> str:
    """What the init container said that could not fetch the model; empty where it did not fail."""
    ended = _fetched(pod)
    if not ended.get("exitCode"):
        return ""
    said = escaped(str(ended.get("message") or "no details")[-400:])
    return f"fetching the model failed ({ended['exitCode']}): {said}"


def _fetched(pod: Object) -> Object:
    """How the init container ended last; empty where it has not."""
    for container in (pod.get("status") or {}).get("initContainerStatuses") or []:
        states = (container.get("state") or {}, container.get("lastState") or {})
        ended: Object = next((item["terminated"] for item in states if item.get("terminated")), {})
        if ended:
            return ended
    return {}


def _refuse_changed(asked: Object, made: Object) -> None:
    if asked["kind"] == "InferenceService":  # its controllers' to fill in
        return
    if changed := changes(asked, made):
        raise RolloutError(changed_by_the_cluster(asked["kind"], changed))


def _refuse_unapproved(pods: Sequence[Object]) -> None:
    """Another attempt would find the same files."""
    for pod in pods:
        if _fetched(pod).get("exitCode") == NOT_APPROVED:
            raise RolloutError(_fetching(pod))


def _refuse_hopeless(new: Sequence[PodState]) -> None:
    for state in new:
        if state.canary is not None:
            seen = ", ".join(f"{name}: {word}" for name, word in state.canary.items())
            raise RolloutError(
                f"the policy is not enforced in a new pod on {state.node or 'its node'} ({seen});"
                " `modelarmor doctor --cluster` says which link is missing"
            )
        if state.standing == "failed":
            raise RolloutError(f"a new pod cannot run: {state.why}")


def _again(former: Object) -> dict[str, Any]:
    """What was read, as it can be applied; how many pods there are is the autoscaler's to say."""
    meta = former["metadata"]
    kept = ("name", "namespace", "labels", "annotations")
    scaled = {"replicas"} if former["kind"] == "Deployment" else set()
    return {
        "apiVersion": former["apiVersion"],
        "kind": former["kind"],
        "metadata": {key: meta[key] for key in kept if key in meta},
        "spec": {key: value for key, value in former["spec"].items() if key not in scaled},
    }
