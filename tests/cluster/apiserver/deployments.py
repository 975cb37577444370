"""The stand-in's controller of Deployments: pods of the new template, then none of the old.

Its pods are statuses alone; nothing runs.
"""

from __future__ import annotations

import asyncio
import copy
from typing import Any

from tests.cluster.apiserver.server import ApiServer
from tests.cluster.apiserver.store import Object, Resource

_POD: Resource = ("", "pods")
_DEPLOYMENT: Resource = ("apps", "deployments")
_END_SECONDS = 0.05


class Deployments:
    """Rolls Deployments out on the loop that it is made on."""

    def __init__(self, server: ApiServer) -> None:
        self._store = server.store
        self._loop = asyncio.get_running_loop()
        #: state of the container of each pod that is made from now on; None: it runs
        self.broken: Object | None = None
        #: why the init container ends, if it does not do its part
        self.unfetched = ""
        #: what happened, in order
        self.log: list[tuple[str, str, str]] = []
        self._made = 0
        self._store.listeners.append(self._changed)

    def _changed(self, kind: str, resource: Resource, item: Object) -> None:
        self.log.append((kind, resource[1], item["metadata"]["name"]))
        if resource != _DEPLOYMENT:
            return
        if kind == "DELETED":
            self._loop.call_soon(self._end_pods, item, "")
        elif (item.get("status") or {}).get("observedGeneration") != item["metadata"]["generation"]:
            self._loop.call_soon(self._roll_out, item)

    def _roll_out(self, item: Object) -> None:
        template, namespace = item["spec"]["template"], item["metadata"]["namespace"]
        self._made += 1
        name = f"{item['metadata']['name']}-{self._made}"
        body = {"metadata": {"name": name, **copy.deepcopy(template["metadata"])}}
        spec = {**template["spec"], "nodeName": "node-1"}
        self._store.create(_POD, namespace, body | {"spec": spec})
        state = self.broken or {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        first: Object = {"state": {"terminated": {"exitCode": 0}}}
        if self.unfetched:
            first = {"state": {"terminated": {"exitCode": 65, "message": self.unfetched}}}
        elif "waiting" in state:  # the image is pulled for the init container first
            first = {"state": state}
        if first["state"].get("terminated", {}).get("exitCode") != 0:
            state = {"waiting": {"reason": "PodInitializing"}}
        container = {"state": state, "restartCount": 0}
        phase = "Running" if "running" in state else "Pending"
        status: dict[str, Any] = {
            "phase": phase,
            "containerStatuses": [container],
            "initContainerStatuses": [first],
        }
        self._store.patch(_POD, namespace, name, {"status": status})
        up = int("running" in state)
        numbers = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": up}
        seen = {"observedGeneration": item["metadata"]["generation"], **numbers}
        if up:
            self._end_pods(item, name)
        self._store.patch(_DEPLOYMENT, namespace, item["metadata"]["name"], {"status": seen})

    def _end_pods(self, item: Object, but: str) -> None:
        namespace = item["metadata"]["namespace"]
        for pod in self._store.list(_POD, namespace, ""):
            name = pod["metadata"]["name"]
            if name != but and name.startswith(f"{item['metadata']['name']}-"):
                self._store.delete(_POD, namespace, name)
                self._loop.call_later(_END_SECONDS, self._end, namespace, name)

    def _end(self, namespace: str, name: str) -> None:
        if (namespace, name) in self._store.objects[_POD]:
            self._store.remove(_POD, namespace, name)
