"""The objects of the stand-in API server: versions, events, and what is deleted with its owner."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
#: a resource: its group ("" for the core) and its plural
Resource = tuple[str, str]


class Conflict(Exception):
    """The name is taken, or the object has changed."""


class Gone(Exception):
    """The version that a watch wants to begin at is no longer known."""


class Store:
    """Everything that the API server knows."""

    def __init__(self) -> None:
        self.version = 0
        self.objects: dict[Resource, dict[tuple[str, str], Object]] = defaultdict(dict)
        self._events: list[tuple[int, Resource, str, Object]] = []
        self._oldest = 0
        self._news = asyncio.Event()
        #: changes an object that is made, as admission webhooks do
        self.admission: Callable[[Resource, Object], None] = lambda _resource, _made: None
        #: called with each change: kind of event, resource, object
        self.listeners: list[Callable[[str, Resource, Object], None]] = []

    def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        name = body["metadata"]["name"]
        if (namespace, name) in self.objects[resource]:
            raise Conflict(f'{resource[1]} "{name}" already exists')
        made = copy.deepcopy(body)
        self.admission(resource, made)
        made["metadata"] |= {
            "uid": str(uuid.uuid4()),
            "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "generation": 1,
        }
        if namespace:
            made["metadata"]["namespace"] = namespace
        self.objects[resource][namespace, name] = made
        self._tell("ADDED", resource, made)
        return made

    def replace(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Put an object in the place of the one of its name.

        Raises
        ------
        KeyError, Conflict
        """
        name = body["metadata"]["name"]
        old = self.objects[resource][namespace, name]
        given = body["metadata"].get("resourceVersion")
        if given and given != old["metadata"]["resourceVersion"]:
            raise Conflict("the object has been modified")
        made = copy.deepcopy(body)
        made["metadata"]["uid"] = old["metadata"]["uid"]
        made["metadata"]["generation"] = old["metadata"].get("generation", 1) + (
            _meant(made) != _meant(old)
        )
        self.objects[resource][namespace, name] = made
        self._tell("MODIFIED", resource, made)
        return made

    def patch(self, resource: Resource, namespace: str, name: str, patch: Object) -> Object:
        """Merge, as RFC 7386 has it."""
        made = _merge(copy.deepcopy(self.objects[resource][namespace, name]), patch)
        made["metadata"].pop("resourceVersion", None)
        return self.replace(resource, namespace, made)

    def apply(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Server-side apply of one manager: its spec is what it says, and a new object is made."""
        old = self.objects[resource].get((namespace, body["metadata"]["name"]))
        if old is None:
            return self.create(resource, namespace, body)
        made = {**copy.deepcopy(old), **copy.deepcopy(body)}
        made["metadata"] = {**old["metadata"], **body["metadata"]}
        made["metadata"].pop("resourceVersion", None)
        return self.replace(resource, namespace, made)

    def remove(self, resource: Resource, namespace: str, name: str) -> Object:
        """Delete at once, and whatever it owns."""
        gone = self.objects[resource].pop((namespace, name))
        self._tell("DELETED", resource, gone)
        self.collect(gone["metadata"]["uid"])
        return gone

    def collect(self, uid: str) -> None:
        """Delete what has this owner."""
        for resource, found in list(self.objects.items()):
            for (namespace, name), item in list(found.items()):
                owners = item["metadata"].get("ownerReferences") or []
                if any(owner["uid"] == uid for owner in owners):
                    self.delete(resource, namespace, name)

    def delete(self, resource: Resource, namespace: str, name: str) -> Object:
        """Delete; a pod is only marked, its kubelet ends it."""
        item = self.objects[resource][namespace, name]
        if resource != ("", "pods"):
            return self.remove(resource, namespace, name)
        if "deletionTimestamp" not in item["metadata"]:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            item = self.patch(resource, namespace, name, {"metadata": {"deletionTimestamp": now}})
        return item

    def list(self, resource: Resource, namespace: str, selector: str) -> list[Object]:
        return [
            item
            for (there, _), item in self.objects[resource].items()
            if (not namespace or there == namespace) and selected(item, selector)
        ]

    def forget(self) -> None:
        """Forget every event so far: each watch, open or asked for from before, gets 410 Gone."""
        self._events.clear()
        self.version += 1
        self._oldest = self.version
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def watch(self, resource: Resource, namespace: str, selector: str, since: int) -> Any:
        """The events after a version, as they come.

        Raises
        ------
        Gone
        """
        while True:
            if since < self._oldest:
                raise Gone
            news = self._news
            for version, of, kind, item in list(self._events):
                if version <= since:
                    continue
                since = version
                there = item["metadata"].get("namespace", "")
                inside = of == resource and (not namespace or there == namespace)
                if inside and selected(item, selector):
                    yield kind, item
            await news.wait()

    def _tell(self, kind: str, resource: Resource, item: Object) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self._events.append((self.version, resource, kind, copy.deepcopy(item)))
        news, self._news = self._news, asyncio.Event()
        news.set()
        for listener in self.listeners:
            listener(kind, resource, copy.deepcopy(item))


def _meant(item: Object) -> Object:
    """What somebody wants of it: a change of that is a new generation."""
    return {key: value for key, value in item.items() if key not in ("metadata", "status")}


def selected(item: Object, selector: str) -> bool:
    """Whether an object has the labels of ``a=b,c=d,e``."""
    labels = item["metadata"].get("labels") or {}
    return all(
        labels.get(key) == value if separator else key in labels
        for key, separator, value in _terms(selector)
    )


def _terms(selector: str) -> Iterator[tuple[str, str, str]]:
    for term in filter(None, selector.split(",")):
        key, separator, value = term.replace("==", "=").partition("=")
        yield key, separator, value


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    target = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = _merge(target.get(key), value)
    return target
