"""A stand-in for the Kubernetes API server: its protocol, over a real socket.

What it has of the real one: objects with versions, lists and watches by label, 404, 409, 410, merge
patches, apply by one manager, graceful deletion of pods, deletion with the owner. What it has not:
validation beyond names, authorisation, TLS. Faults are asked for by tests.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from tests.cluster.apiserver.store import Conflict, Gone, Resource, Store

_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?"
)


@dataclass
class Fault:
    """What a test has some requests answered with."""

    method: str
    plural: str
    status: int
    message: str
    times: int
    headers: dict[str, str] = field(default_factory=dict)


class ApiServer:
    """The server; `start` gives it a socket."""

    def __init__(self) -> None:
        self.store = Store()
        self.faults: list[Fault] = []
        #: every request, as (method, path)
        self.requests: list[tuple[str, str]] = []
        self.url = ""
        #: kinds that are not installed, such as KubeArmor's
        self.absent: set[str] = set()
        #: handlers of subresources such as a pod's ``portforward``
        self.subresources: dict[str, Any] = {}
        #: called when a request was carried out and before it is answered, watches excepted
        self.carried_out: Callable[[str, str], None] = lambda _method, _path: None
        self._away = False
        self._open: dict[int, web.Request] = {}
        self._watches: set[web.StreamResponse] = set()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner is not None
        self.break_connections()
        await self._runner.cleanup()

    def kubeconfig(self, file: Path, namespace: str = "default") -> Path:
        """Write the file that a client connects by."""
        named = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": self.url}}],
            "users": [{"name": "me", "user": {"token": "a token"}}],
            "contexts": [
                {"name": "it", "context": {"cluster": "here", "user": "me", "namespace": namespace}}
            ],
            "current-context": "it",
        }
        file.write_text(yaml.safe_dump(named))
        return file

    def namespace(self, name: str, annotations: dict[str, str] | None = None) -> None:
        """Make a namespace."""
        body = {"metadata": {"name": name, "annotations": annotations or {}}}
        self.store.create(("", "namespaces"), "", {"apiVersion": "v1", "kind": "Namespace"} | body)

    def fail(
        self,
        method: str,
        plural: str,
        status: int,
        message: str = "",
        *,
        times: int = 1,
        **headers: str,
    ) -> None:
        """Have the next requests of a kind refused; status 0 breaks the connection."""
        self.faults.append(Fault(method, plural, status, message, times, headers))

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody answers meanwhile, and open watches break."""
        self._away = True
        self.break_connections()
        try:
            yield
        finally:
            self._away = False

    def break_connections(self) -> None:
        """Cut every open connection."""
        for request in list(self._open.values()):
            if request.transport is not None:
                request.transport.abort()

    async def babble(self, line: bytes) -> None:
        """Say something in every open watch."""
        for watch in list(self._watches):
            await watch.write(line + b"\n")

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._open[id(request)] = request
        try:
            if self._away:
                assert request.transport is not None
                request.transport.abort()
                return web.Response(status=503)
            self.requests.append((request.method, request.path))
            answer = await self._answer(request)
            if not request.query.get("watch"):
                self.carried_out(request.method, request.path)
            return answer
        finally:
            self._open.pop(id(request), None)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        match = _PATH.fullmatch(request.path)
        if match is None or match["plural"] in self.absent:
            return web.Response(status=404, text="404 page not found\n")
        plural = match["plural"]
        for fault in self.faults:
            if fault.method == request.method and fault.plural == plural and fault.times > 0:
                fault.times -= 1
                if not fault.status:
                    assert request.transport is not None
                    request.transport.abort()
                return _status(fault.status or 503, fault.message, fault.headers)
        resource, namespace = (match["group"] or "", plural), match["namespace"] or ""
        makes = request.method in ("POST", "PATCH")
        if makes and namespace and ("", namespace) not in self.store.objects["", "namespaces"]:
            return _status(404, f'namespaces "{namespace}" not found')
        if match["sub"] in self.subresources:
            answer: web.StreamResponse = await self.subresources[match["sub"]](
                request, namespace, match["name"]
            )
            return answer
        if match["name"] is None:
            return await self._collection(request, resource, namespace)
        return await self._one(request, resource, namespace, match["name"])

    async def _collection(
        self, request: web.Request, resource: Resource, namespace: str
    ) -> web.StreamResponse:
        selector = request.query.get("labelSelector", "")
        if request.method == "POST":
            try:
                made = self.store.create(resource, namespace, await request.json())
            except Conflict as error:
                return _status(409, str(error))
            return web.json_response(made, status=201)
        if request.method != "GET":
            return _status(405, "not here")
        if request.query.get("watch") in ("true", "True", "1"):
            return await self._watch(request, resource, namespace, selector)
        items = self.store.list(resource, namespace, selector)
        return web.json_response(
            {
                "kind": "List",
                "metadata": {"resourceVersion": str(self.store.version)},
                "items": items,
            }
        )

    async def _watch(
        self, request: web.Request, resource: Resource, namespace: str, selector: str
    ) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        since = int(request.query.get("resourceVersion") or 0)
        self._watches.add(answer)
        try:
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", 3600))):
                async for kind, item in self.store.watch(resource, namespace, selector, since):
                    await answer.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")
        except Gone:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
            await answer.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self._watches.discard(answer)
        with suppress(ConnectionError):
            await answer.write_eof()
        return answer

    async def _one(
        self, request: web.Request, resource: Resource, namespace: str, name: str
    ) -> web.StreamResponse:
        try:
            if request.method == "GET":
                return web.json_response(self.store.objects[resource][namespace, name])
            if request.method == "PATCH":
                patch = await request.json()
                if request.content_type == "application/apply-patch+yaml":
                    if keyless := _keyless(resource[1], patch):
                        return _status(500, keyless)
                    return web.json_response(self.store.apply(resource, namespace, patch))
                return web.json_response(self.store.patch(resource, namespace, name, patch))
            if request.method == "PUT":
                body = await request.json()
                return web.json_response(self.store.replace(resource, namespace, body))
            if request.method == "DELETE":
                return web.json_response(self.store.delete(resource, namespace, name))
        except KeyError:
            kind = f"{resource[1]}.{resource[0]}".removesuffix(".")
            return _status(404, f'{kind} "{name}" not found')
        except Conflict as error:
            return _status(409, str(error))
        return _status(405, "not here")


def _keyless(plural: str, patch: Any) -> str:
    """Why the fields of an applied object cannot be told apart; empty where they can."""
    ports = patch["spec"]["ports"] if plural == "services" else ()
    if all("protocol" in port for port in ports):
        return ""
    return (
        "failed to create typed patch object: .spec.ports: element 0: associative list with keys"
        ' has an element that omits key field "protocol" (and doesn\'t have default value)'
    )


def _status(code: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    reasons = {403: "Forbidden", 404: "NotFound", 409: "AlreadyExists", 410: "Expired"}
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reasons.get(code, ""),
        "code": code,
    }
    return web.json_response(body, status=code, headers=headers)
