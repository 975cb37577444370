"""One stream of alerts for all workloads of a server.

The relay sends every alert of the cluster to each of its clients, without sequence numbers, and
forgets. So there is one client a server; it hands each alert to the workload whose pod it names,
drops all others unread, and whenever the stream was broken it says so in every record: nobody can
know what was lost, only from when until when.

Nothing is queued here. A record is bounded, and what is not read in time waits in the relay, which
drops it when its own queue is full.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import grpc.aio

from modelarmor.alerts import Alert, Recorder
from modelarmor.cluster.relay import wire
from modelarmor.cluster.relay.connection import Connection, Relay, RelayError, RelayRefused
from modelarmor.cluster.relay.meaning import GAP, understood

_log = logging.getLogger(__name__)

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0


@dataclass(frozen=True, slots=True)
class State:
    """How the stream is.

    ``refused`` is tried again as well: rights are granted later, and certificates renewed.
    """

    kind: Literal["stopped", "connecting", "connected", "refused", "broken"] = "stopped"
    #: what happened, for the user
    reason: str = ""


@dataclass(slots=True)
class _Route:
    recorder: Recorder
    #: since when nothing of this workload can be heard, in seconds since 1970; None: it can
    deaf: float | None


class Feed:
    """The alerts of KubeArmor's relay, each to the record of its workload.

    It belongs to the event loop on which it was started.

    Args:
        relay: where from.
        patience: seconds within which the relay answers.
        heartbeat: seconds between two questions whether it is still there.
        waits: seconds before the first and, at most, before a later attempt to connect again.
    """

    def __init__(
        self,
        relay: Relay,
        *,
        patience: float = 10.0,
        heartbeat: float = 20.0,
        waits: tuple[float, float] = (_FIRST_WAIT, _LONGEST_WAIT),
    ) -> None:
        self._relay = relay
        self._patience = patience
        self._heartbeat = heartbeat
        self._waits = waits
        self._routes: dict[tuple[str, str], _Route] = {}
        self._task: asyncio.Task[None] | None = None
        self._state = State()
        self._changed = asyncio.Event()
        #: alerts that arrived, and those of them that were of no workload of this server
        self.received = 0
        self.foreign = 0

    @property
    def state(self) -> State:
        """How the stream is now."""
        return self._state

    def route(self, namespace: str, pod: str, recorder: Recorder) -> Callable[[], None]:
        """Have the alerts of one pod recorded from now on.

        Call it before the pod is made. Names are compared whole, and both are the server's own
        choice: nothing that a user or a workload says leads an alert anywhere.

        Returns a function that ends it; calling it twice is harmless.

        Raises:
            ValueError: a name is empty, or the pod has a record already.
        """
        if not namespace or not pod:
            raise ValueError("alerts are routed by namespace and name of a pod: one is empty")
        if (namespace, pod) in self._routes:
            raise ValueError(f"the alerts of pod {namespace}/{pod} are recorded already")
        deaf = None if self._state.kind == "connected" else time.time()
        route = self._routes[namespace, pod] = _Route(recorder, deaf)

        def end() -> None:
            if self._routes.get((namespace, pod)) is route:
                del self._routes[namespace, pod]

        return end

    def start(self) -> None:
        """Begin, on the running event loop; connecting goes on in the background."""
        if self._task is None:
            self._become(State("connecting"))
            self._task = asyncio.create_task(self._run(), name="modelarmor-relay")

    async def close(self) -> None:
        """End the stream. What was recorded stays."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._become(State("stopped"))

    async def __aenter__(self) -> Feed:
        self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def connected(self, seconds: float) -> None:
        """Wait until alerts can be heard.

        Raises:
            RelayRefused: the relay says no.
            RelayError: it takes longer; with what the last attempt failed of.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._state.kind not in ("connected", "refused"):
                    self._changed.clear()
                    await self._changed.wait()
        if self._state.kind == "refused":
            raise RelayRefused(self._state.reason)
        if self._state.kind != "connected":
            why = self._state.reason or "no answer yet"
            raise RelayError(f"no alerts from {self._relay.target} after {seconds:g} s: {why}")

    async def _run(self) -> None:
        first, most = self._waits
        wait = first
        while True:
            began = time.monotonic()
            try:
                await self._listen()
                reason = f"the relay {self._relay.target} ended the stream"
                self._become(State("broken", reason))
            except RelayRefused as error:
                self._become(State("refused", str(error)))
            except RelayError as error:
                self._become(State("broken", str(error)))
            except Exception as error:  # a bug must not leave every kernel without alerts for good
                _log.exception("reading alerts from %s failed", self._relay.target)
                self._become(State("broken", f"an error of our own: {error!r:.200}"))
            # only a stream that lasted earns a quick return: one that breaks each time is let be
            wait = first if time.monotonic() - began > most else min(wait * 2, most)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))

    async def _listen(self) -> None:
        connection = self._relay.open()
        try:
            await connection.alive(self._patience)
            call = connection.alerts()
            pulse = asyncio.create_task(self._pulse(connection, call))
            self._become(State("connected"))
            try:
                async for data in call:
                    self._take(data)
            except grpc.aio.AioRpcError as error:
                raise connection.explained(error) from None
            except asyncio.CancelledError:
                if pulse.done() and not pulse.cancelled() and (dead := pulse.exception()):
                    raise dead from None
                raise
            except wire.MalformedError as error:
                raise RelayError(f"the relay {self._relay.target} sent {error}") from None
            finally:
                pulse.cancel()
                await asyncio.gather(pulse, return_exceptions=True)
                call.cancel()
        finally:
            await connection.close()

    async def _pulse(self, connection: Connection, call: grpc.aio.Call) -> None:
        """Ask again and again; a relay that no longer answers has lost the stream too."""
        while True:
            await asyncio.sleep(self._heartbeat)
            try:
                await connection.alive(self._patience)
            except RelayError:
                call.cancel()
                raise

    def _take(self, data: bytes) -> None:
        self.received += 1
        received = wire.Received(data)
        route = self._routes.get(received.pod)
        if route is None:
            self.foreign += 1
            return
        route.recorder.append(understood(received.alert()))

    def _become(self, state: State) -> None:
        before, self._state = self._state, state
        if state.reason and state != before:
            _log.warning("%s", state.reason)
        if before.kind == "connected" and state.kind != "connected":
            self._lost(state.reason or "this server no longer listens")
        elif state.kind == "connected":
            self._heard()
        self._changed.set()

    def _lost(self, reason: str) -> None:
        now = time.time()
        for (namespace, pod), route in list(self._routes.items()):
            route.deaf = now
            message = f"alerts are not received from now on: {reason}"
            route.recorder.append(_mark(namespace, pod, message, now))

    def _heard(self) -> None:
        now = time.time()
        for (namespace, pod), route in list(self._routes.items()):
            if route.deaf is None:
                continue
            since, route.deaf = route.deaf, None
            message = (
                f"alerts are received again; what happened since {_instant(since)} is not known"
            )
            route.recorder.append(_mark(namespace, pod, message, now))


def _mark(namespace: str, pod: str, message: str, now: float) -> Alert:
    return Alert(
        Timestamp=int(now),
        UpdatedTime=_instant(now),
        NamespaceName=namespace,
        PodName=pod,
        Type="SystemEvent",
        Operation=GAP,
        Message=message[:1000],
        Enforcer="ModelArmor",
    )


def _instant(seconds: float) -> str:
    return (
        datetime.fromtimestamp(seconds, UTC)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "Z")
    )
