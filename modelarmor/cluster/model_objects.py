"""The objects of one served model on a cluster, of all of its revisions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kubernetes.aio.client.exceptions import ApiException

from modelarmor.cluster.client import Cluster, ClusterError
from modelarmor.cluster.models import MODEL_LABEL, REVISION_LABEL

Object = Mapping[str, Any]

_MANAGER: Final = "modelarmor"
_CALL_SECONDS: Final = 60.0
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
#: what brings a kind
_SINCE: Final = {
    "HorizontalPodAutoscaler": "it takes Kubernetes 1.23 or later",
    "InferenceService": "KServe brings it",
}
#: named by the revision, and gone with its pods
CONFINING: Final = (
    ("security.kubearmor.com/v1", "KubeArmorPolicy"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("v1", "ConfigMap"),
)


class ModelObjects:
    """Reads, applies and deletes what one model has in one namespace.

    Every method raises `ClusterError` where the cluster refuses, or cannot be reached.
    """

    def __init__(self, cluster: Cluster, namespace: str, model: str) -> None:
        self._cluster, self.namespace, self.model = cluster, namespace, model

    async def pods(self) -> list[Object]:
        """The model's pods, of every revision."""
        return await self.of_kind("v1", "Pod")

    async def of_kind(self, version: str, kind: str) -> list[Object]:
        """What there is of a kind, of every revision of the model."""
        about = {
            "apiVersion": version,
            "kind": kind,
            "metadata": {"namespace": self.namespace, "name": ""},
        }
        query = [("labelSelector", f"{MODEL_LABEL}={self.model},{REVISION_LABEL}")]
        found = await self._send("GET", about, query=query)
        return [{"apiVersion": version, "kind": kind, **item} for item in found["items"]]

    async def read(self, item: Object) -> Object | None:
        """What has this kind and name; None where there is none.

        A kind that the cluster does not have is an error, before anything relies on it.
        """
        try:
            found: Object = await self._send("GET", item)
        except ClusterError as error:
            if error.status != 404:
                raise
            if f'"{item["metadata"]["name"]}" not found' in str(error):
                return None
            raise _unknown(item) from error
        return {"apiVersion": item["apiVersion"], "kind": item["kind"], **found}

    async def apply(self, item: Object) -> Any:
        """Apply an object, as the one who says what is in it."""
        # by force: fields that somebody else has set since are taken over
        query = (("fieldManager", _MANAGER), ("force", "true"))
        return await self._send("PATCH", item, body=item, query=query)

    async def delete(self, item: Object) -> None:
        """Delete an object; one that is not there is no error."""
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
                f"{what} {named(item)}",
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
                if f'namespaces "{self.namespace}" not found' in str(error):
                    raise
                raise _unknown(item) from error
            raise


def _unknown(item: Object) -> ClusterError:
    kind, version = item["kind"], item["apiVersion"]
    cure = _SINCE.get(kind, "`modelarmor doctor --cluster` says what is missing")
    return ClusterError(f"the cluster does not know {kind} of {version}; {cure}", status=404)


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


def named(item: Object) -> str:
    name = item["metadata"]["name"]
    return f"{item['kind']} {name}" if name else f"{_PLURALS[item['kind']]}"


def confines(item: Object) -> bool:
    return (item["apiVersion"], item["kind"]) in CONFINING


def revision_of(item: Object | None) -> str:
    labels = ((item or {}).get("metadata") or {}).get("labels") or {}
    return str(labels.get(REVISION_LABEL) or "")


def template_of(item: Object | None) -> Object:
    """What says how a workload's pods are labelled; `kubectl rollout undo` changes it alone."""
    found = item or {}
    return (found.get("spec") or {}).get("template") or found


def rolled_out(item: Object, generation: int) -> bool:
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
