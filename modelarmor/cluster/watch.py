"""A cache of the objects of one kind, fed by one watch, whoever asks.

`get` answers from the cache: a kernel manager polls every tenth of a second, and a server has many
kernels. The watch survives what a cluster does to it: it ends, its version expires (410), the API
server restarts or is away. After anything but a plain end, everything is listed anew, so that no
change is missed; while nobody answers, the cache keeps what was known.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from typing import Any, Final

import aiohttp
from kubernetes.aio.client.exceptions import ApiException

from modelarmor.cluster.client import CALL_SECONDS, Cluster, ClusterError

_log = logging.getLogger(__name__)

#: a watch is asked for again this often, so a connection that died unnoticed is not trusted long
_WATCH_SECONDS: Final = 60
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 10.0

Object = dict[str, Any]


class _Expired(Exception):
    """The version to go on from is no longer known."""


class Watch:
    """The objects with a label, by name.

    Args:
        cluster: where.
        call: the list method of an API, such as ``core.list_namespaced_pod``, up to its suffix.
        stream: the same, which gives the answer unread.
        arguments: of both, the selector included.
        what: the objects in words, for messages.
    """

    def __init__(
        self, cluster: Cluster, call: Any, stream: Any, arguments: dict[str, Any], what: str
    ) -> None:
        self._cluster, self._call, self._stream = cluster, call, stream
        self._arguments, self._what = arguments, what
        self._items: dict[str, Object] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: called with the name and the object, None where it has gone
        self.listeners: list[Callable[[str, Object | None], None]] = []

    async def start(self, seconds: float) -> None:
        """List, and watch from there on.

        Raises:
            ClusterError: the API server refuses, or does not answer within ``seconds``.
        """
        version = await self._list(seconds)
        self._task = asyncio.create_task(self._run(version))

    async def stop(self) -> None:
        """Watch no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def get(self, name: str) -> Object | None:
        """The object of that name, as it was seen last."""
        return self._items.get(name)

    def put(self, item: Object) -> None:
        """Take in what a call answered, unless the watch was quicker."""
        name = item["metadata"]["name"]
        known = self._items.get(name)
        if known is None or known["metadata"]["uid"] != item["metadata"]["uid"]:
            self._set(name, item)

    async def changed(self, seconds: float) -> None:
        """Wait for the next change, at most so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)

    async def _list(self, seconds: float) -> str:
        answer = await self._cluster.call(
            f"list {self._what}", self._call, seconds=seconds, **self._arguments
        )
        found = self._cluster.api.sanitize_for_serialization(answer)
        items = {item["metadata"]["name"]: item for item in found["items"]}
        for name in [*self._items.keys() - items.keys(), *items]:
            self._set(name, items.get(name))
        return str(found["metadata"]["resourceVersion"])

    async def _run(self, version: str | None) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                if version is None:
                    version = await self._list(CALL_SECONDS)
                version = await self._follow(version)
                pause = _FIRST_PAUSE
                continue
            except _Expired:
                version = None
                continue
            except (
                ClusterError,
                ApiException,
                aiohttp.ClientError,
                TimeoutError,
                OSError,
            ) as error:
                _log.warning("watching %s: %s; listing them again", self._what, error)
            except Exception:  # no answer may freeze what is known of every kernel
                _log.exception("watching %s: an answer makes no sense", self._what)
            version = None
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _follow(self, version: str) -> str:
        """Take changes in until the watch ends; the version to go on from."""
        answer = await self._stream(
            **self._arguments,
            watch=True,
            resource_version=version,
            timeout_seconds=_WATCH_SECONDS,
            allow_watch_bookmarks=True,
            _request_timeout=float(_WATCH_SECONDS + CALL_SECONDS),
        )
        async with answer:
            if answer.status == 410:
                raise _Expired
            if answer.status != 200:
                raise ClusterError(f"the API server answered {answer.status}")
            async for line in answer.content:
                version = self._take(json.loads(line)) or version
        return version

    def _take(self, event: Object) -> str:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            if item.get("code") == 410:
                raise _Expired
            raise ClusterError(str(item.get("message"))[:200])
        if kind == "DELETED":
            # `put` may have been quicker with what took its name
            known = self._items.get(item["metadata"]["name"])
            if known is not None and known["metadata"]["uid"] == item["metadata"]["uid"]:
                self._set(item["metadata"]["name"], None)
        elif kind != "BOOKMARK":
            self._set(item["metadata"]["name"], item)
        return str(item["metadata"]["resourceVersion"])

    def _set(self, name: str, item: Object | None) -> None:
        if item is None:
            self._items.pop(name, None)
        else:
            self._items[name] = item
        news, self._news = self._news, asyncio.Event()
        news.set()
        for listener in self.listeners:
            listener(name, item)
