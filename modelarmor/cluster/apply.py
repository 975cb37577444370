"""A revision of a model on the cluster, or as it was before.

Objects are applied by the API server (server-side apply), the policies before the workload that
they confine. Then the rollout is watched until the old pods are gone; only then what confined them
goes, except for the revision before, to which ``kubectl rollout undo`` leads back. Where the new
pods do not come up in time, what was there is applied again, and the new policies go when the last
of their pods has.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from kubernetes.aio.client.exceptions import ApiException

from modelarmor.cluster.client import Cluster, ClusterError
from modelarmor.cluster.models import MODEL_LABEL, REVISION_LABEL
from modelarmor.cluster.pods import PodState, state_of

Object = Mapping[str, Any]
Tell = Callable[[str], None]

_MANAGER: Final = "modelarmor"
_LOOK_SECONDS: Final = 1.0
_CALL_SECONDS: Final = 60.0
#: for how long pods may take to end, after which what confines them stays
_END_SECONDS: Final = 180.0
_PLURALS: Final = {
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "InferenceService": "inferenceservices",
    "KubeArmorPolicy": "kubearmorpolicies",
    "NetworkPolicy": "networkpolicies",
    "Pod": "pods",
    "Service": "services",
}
_WORKLOADS: Final = ("Deployment", "InferenceService")
#: named by the revision, and gone with its pods
_CONFINING: Final = (
    ("security.kubearmor.com/v1", "KubeArmorPolicy"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("v1", "ConfigMap"),
)


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
        self._cluster, self._items, self._tell = cluster, items, tell
        (self._workload,) = (item for item in items if item["kind"] in _WORKLOADS)
        labels = self._workload["metadata"]["labels"]
        self._namespace = str(self._workload["metadata"]["namespace"])
        self._model, self._revision = str(labels[MODEL_LABEL]), str(labels[REVISION_LABEL])

    async def run(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        # what has the model's name outlives revisions; what has a revision's does not change
        lasting = [item for item in self._items if not _confines(item)]
        before = [(item, await self._read(item)) for item in lasting]
        former = next(found for item, found in before if item is self._workload)
        self._check(before)
        try:
            for item in self._items:
                self._tell(f"applying {_named(item)}")
                applied = await self._apply(item)
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
        await self._tidy({self._revision, _revision_of(former)})
        self._tell(f"{self._model} serves revision {self._revision}")

    def _check(self, before: Sequence[tuple[Object, Object | None]]) -> None:
        """What has our names and is not ours is nobody's to be replaced."""
        for item, found in before:
            if found is not None and not _revision_of(found):
                raise ClusterError(
                    f"{_named(item)} is there and was not made by `modelarmor deploy`: choose"
                    " another --name, or delete it",
                    status=409,
                )

    # --- forth

    async def _ready(self, generation: int, deadline: float) -> None:
        said = ""
        while True:
            now = await self._read(self._workload)
            if now is None:
                raise RolloutError(f"{_named(self._workload)} was deleted while it was rolled out")
            pods = await self._pods()
            mine = [pod for pod in pods if _revision_of(pod) == self._revision]
            new, old = [state_of(dict(pod)) for pod in mine], len(pods) - len(mine)
            if _rolled_out(now, generation) and new and not old:
                return
            _refuse_hopeless(new)
            why = next(filter(None, map(_fetching, mine)), "") or _why(new, old)
            if why != said:
                said = why
                self._tell(said)
            if time.monotonic() > deadline:
                raise RolloutError(f"revision {self._revision} is not ready in time: {why}")
            await asyncio.sleep(_LOOK_SECONDS)

    async def _tidy(self, kept: set[str]) -> None:
        """Delete what confined revisions that have no pod, and to which nothing leads back."""
        kept |= {_revision_of(pod) for pod in await self._pods()}
        for version, kind in _CONFINING:
            for item in await self._list(version, kind):
                if _revision_of(item) not in kept:
                    self._tell(f"deleting {_named(item)}: its pods are gone")
                    await self._delete(item)

    # --- back

    async def _back(
        self, before: Sequence[tuple[Object, Object | None]], former: Object | None
    ) -> None:
        self._tell("going back to the former revision" if former else "deleting what was made")
        for item, found in before:
            if found is None:
                await self._delete(item)
            else:
                await self._apply(_again(found))
        if _revision_of(former) != self._revision and await self._gone():
            for item in filter(_confines, self._items):
                await self._delete(item)

    async def _gone(self) -> bool:
        """Wait until no pod of the new revision is left: till then its policies stay."""
        deadline = time.monotonic() + _END_SECONDS
        while any(_revision_of(pod) == self._revision for pod in await self._pods()):
            if time.monotonic() > deadline:
                self._tell("pods of the new revision are still there, so its policies stay")
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True

    # --- calls

    async def _pods(self) -> list[Object]:
        return await self._list("v1", "Pod")

    async def _list(self, version: str, kind: str) -> list[Object]:
        about = {
            "apiVersion": version,
            "kind": kind,
            "metadata": {"namespace": self._namespace, "name": ""},
        }
        query = [("labelSelector", f"{MODEL_LABEL}={self._model},{REVISION_LABEL}")]
        found = await self._send("GET", about, query=query)
        return [{"apiVersion": version, "kind": kind, **item} for item in found["items"]]

    async def _read(self, item: Object) -> Object | None:
        try:
            found: Object = await self._send("GET", item)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise
        return {"apiVersion": item["apiVersion"], "kind": item["kind"], **found}

    async def _apply(self, item: Object) -> Any:
        # by force: fields that somebody else has set since are taken over
        query = (("fieldManager", _MANAGER), ("force", "true"))
        return await self._send("PATCH", item, body=item, query=query)

    async def _delete(self, item: Object) -> None:
        try:
            await self._send("DELETE", item, query=[("propagationPolicy", "Background")])
        except ClusterError as error:
            if error.status != 404:
                raise

    async def _send(
        self,
        method: str,
        item: Object,
        *,
        body: Object | None = None,
        query: Sequence[tuple[str, str]] = (),
    ) -> Any:
        what = {"PATCH": "apply", "GET": "read", "DELETE": "delete"}[method]
        try:
            return await self._cluster.call(
                f"{what} {_named(item)}",
                _request,
                self._cluster.api,
                method,
                _path(item),
                body,
                query,
                seconds=_CALL_SECONDS,
            )
        except ClusterError as error:
            if error.status == 404 and method == "PATCH":
                raise ClusterError(
                    f"the cluster does not know {item['kind']}, or has no namespace"
                    f" {self._namespace}; `modelarmor doctor --cluster` says what is missing",
                    status=404,
                ) from error
            raise


async def _request(
    api: Any,
    method: str,
    path: str,
    body: Object | None,
    query: Sequence[tuple[str, str]],
    *,
    _request_timeout: float,
) -> Any:
    headers = {"Accept": "application/json"}
    if body is not None:
        headers["Content-Type"] = "application/apply-patch+yaml"
    request = await api.param_serialize(
        method=method,
        resource_path=path,
        query_params=list(query),
        header_params=headers,
        body=body,
        auth_settings=["BearerToken"],
    )
    answer = await api.call_api(*request, _request_timeout=_request_timeout)
    data = await answer.read()
    if not 200 <= answer.status <= 299:
        text = bytes(data or b"").decode("utf-8", "replace")
        raise ApiException(status=answer.status, reason=answer.reason, body=text)
    return json.loads(data)


def _path(item: Object) -> str:
    version, meta = str(item["apiVersion"]), item["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    path = f"{root}/namespaces/{meta['namespace']}/{_PLURALS[item['kind']]}"
    return f"{path}/{meta['name']}" if meta["name"] else path


def _named(item: Object) -> str:
    name = item["metadata"]["name"]
    return f"{item['kind']} {name}" if name else f"{_PLURALS[item['kind']]}"


def _confines(item: Object) -> bool:
    return (item["apiVersion"], item["kind"]) in _CONFINING


def _revision_of(item: Object | None) -> str:
    labels = ((item or {}).get("metadata") or {}).get("labels") or {}
    return str(labels.get(REVISION_LABEL) or "")


def _rolled_out(item: Object, generation: int) -> bool:
    status = item.get("status") or {}
    if int(status.get("observedGeneration") or 0) < generation:
        return False
    if item["kind"] == "InferenceService":
        conditions = status.get("conditions") or []
        return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
    wanted = int((item.get("spec") or {}).get("replicas") or 1)
    return all(
        int(status.get(name) or 0) == wanted
        for name in ("replicas", "updatedReplicas", "availableReplicas")
    )


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
    for container in (pod.get("status") or {}).get("initContainerStatuses") or []:
        states = (container.get("state") or {}, container.get("lastState") or {})
        ended: Object = next((item["terminated"] for item in states if item.get("terminated")), {})
        if ended.get("exitCode"):
            said = str(ended.get("message") or "no details")[-400:]
            printable = "".join(c if c.isprintable() else " " for c in said)
            return f"fetching the model failed ({ended['exitCode']}): {printable}"
    return ""


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
