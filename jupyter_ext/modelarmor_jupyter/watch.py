"""What the server keeps of one confined kernel while it lives: its cells, and its doorbell.

Alerts arrive on a thread of the sandbox; everything here but `_ring` happens on the server's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, cast

import zmq
from jupyter_client.ioloop.manager import AsyncIOLoopKernelManager
from jupyter_client.session import Session
from zmq.eventloop.zmqstream import ZMQStream

from modelarmor.alerts import Alert, Page
from modelarmor.visible import escaped
from modelarmor_jupyter.attribution import Executions
from modelarmor_jupyter.confined import Confined
from modelarmor_jupyter.expected import expected

#: the doorbell rings at most once in this time, in seconds
RING_INTERVAL: Final = 0.1
#: how long an alert waits for the kernel to say which cell it was executing, in seconds
SETTLE_SECONDS: Final = 0.02
#: the same where no cell was executing, as far as it has said: on a busy machine it says so late
_SETTLE_IDLE_SECONDS: Final = 0.5
_SETTLE_POLL_SECONDS: Final = 0.002
_SUMMARY_LENGTH: Final = 200
_RECONNECT_MILLISECONDS: Final = 10

Emit = Callable[[dict[str, Any]], None]

_log = logging.getLogger(__name__)


class KernelWatch:
    """Listens to a confined kernel's iopub socket and to its record, until `close`.

    Parameters
    ----------
    kernel_id
        The kernel.
    manager
        Its kernel manager, whose provisioner is `Confined`.
    emit
        Called on the loop with the data of a ``violation`` event.
    """

    def __init__(self, kernel_id: str, manager: AsyncIOLoopKernelManager, emit: Emit) -> None:
        provisioner: object = manager.provisioner
        assert isinstance(provisioner, Confined)
        self.kernel_id = kernel_id
        self.provisioner = provisioner
        self._manager = manager
        self._emit = emit
        self._executions = Executions()
        self._stream: ZMQStream | None = None
        self._session: Session | None = None
        self._loop = asyncio.get_running_loop()
        self._ringing = False
        self._rang = 0.0
        self._heard = 0
        #: when the kernel said the newest thing that was heard, in seconds since 1970
        self._said = 0.0
        self.connect()
        self._unsubscribe = self.provisioner.recorder.subscribe(self._ring)
        if self.provisioner.recorder.last:
            self._schedule()

    def connect(self) -> None:
        """Listen to the kernel's socket; again after a restart, which may have moved it."""
        self._disconnect()
        self._executions.restarted(self.provisioner.started_at)
        # a session of its own: one that is shared takes a message heard twice for a replay
        session = self._manager.session
        self._session = Session(config=session.config, key=session.key)
        self._stream = ZMQStream(_iopub(self._manager.get_connection_info()))
        self._stream.on_recv(self._on_iopub)

    def close(self) -> None:
        """Stop listening."""
        self._unsubscribe()
        self._disconnect()

    async def alerts(self, after: int, limit: int) -> dict[str, Any]:
        """A page of the kernel's record as JSON, each alert with the cell that it fell into."""
        page: Page = self.provisioner.recorder.after(after, limit)
        if page.alerts:
            await self._heard_until(_moment(page.alerts[-1][1]))
        return {
            "kernel_id": self.kernel_id,
            "last": page.last,
            "missed": page.missed,
            "counts": self.provisioner.recorder.counts.to_json(),
            "alerts": [self._line(seq, alert) for seq, alert in page.alerts],
        }

    async def _heard_until(self, moment: float) -> None:
        """Wait until the kernel has said what it did at `moment`, or had the time to.

        An alert can overtake the message that its cell has begun: the helper is quicker than the
        kernel's thread for messages.
        """
        now, clock = self._loop.time(), time.time()
        while self._stream is not None and not self._stream.closed():
            self._stream.flush(zmq.POLLIN)  # also what this loop had no time to hear
            running = self._executions.at(moment).how == "time"
            most = SETTLE_SECONDS if running else _SETTLE_IDLE_SECONDS
            deadline = now + min(most, moment + most - clock)  # clocks may differ
            if self._said >= moment or self._loop.time() >= deadline:
                return
            await asyncio.sleep(_SETTLE_POLL_SECONDS)

    def _line(self, seq: int, alert: Alert) -> dict[str, Any]:
        attribution = self._executions.at(_moment(alert))
        line = {"seq": seq, "cell": attribution.to_json(), "alert": alert.to_json()}
        if why := expected(alert, attribution.how):
            line["expected"] = why
        return line

    def _disconnect(self) -> None:
        if self._stream is not None and not self._stream.closed():
            self._stream.close()
        self._stream = None

    # --- what the kernel says

    def _on_iopub(self, parts: list[bytes]) -> None:
        assert self._session is not None
        try:
            _, message = self._session.feed_identities(parts)
            header = cast(bytes, message[1])
            # outputs may be large, and are none of our business
            if b'"status"' not in header and b'"execute_input"' not in header:
                return
            self._note(self._session.deserialize(message))
        except Exception as error:  # a kernel may send anything
            _log.debug("kernel %s sent a message that cannot be read: %s", self.kernel_id, error)

    def _note(self, message: dict[str, Any]) -> None:
        parent, content = message["parent_header"], message["content"]
        if not parent or parent.get("msg_type") != "execute_request":
            return
        msg_id = parent["msg_id"]
        at = min(_seconds(message["header"]["date"]) or time.time(), time.time())
        self._said = max(self._said, at)
        if not isinstance(msg_id, str) or not msg_id:
            return
        if message["msg_type"] == "execute_input":
            count = content["execution_count"]
            if isinstance(count, int):
                self._executions.counted(msg_id, count, at)
        elif content["execution_state"] == "busy":
            self._executions.started(msg_id, at)
        elif content["execution_state"] == "idle":
            self._executions.ended(msg_id, at)

    # --- the doorbell

    def _ring(self, seq: int, alert: Alert) -> None:
        # On the sandbox's thread, for every alert of a flood: no more than this while one is due.
        if not self._ringing:
            self._ringing = True
            with contextlib.suppress(RuntimeError):  # the server's loop has ended
                self._loop.call_soon_threadsafe(self._schedule)

    def _schedule(self) -> None:
        self._ringing = True
        due = self._rang + RING_INTERVAL - self._loop.time()
        if due > 0:
            self._loop.call_later(due, self._announce)
        else:
            self._announce()

    def _announce(self) -> None:
        self._ringing = False  # first: an alert from now on rings again
        self._rang = self._loop.time()
        recorder = self.provisioner.recorder
        newest = recorder.after(max(0, recorder.last - 1), 1).alerts
        if not newest or newest[0][0] <= self._heard:
            return
        self._heard, alert = newest[0]
        self._emit(
            {
                "kernel_id": self.kernel_id,
                "seq": self._heard,
                "time": alert.UpdatedTime,
                "action": alert.Action,
                "severity": alert.Severity,
                "summary": summary(alert),
            }
        )


def _iopub(info: Mapping[str, Any]) -> zmq.SyncSocket:
    """A socket that hears what the kernel of this connection file publishes.

    Unlike the kernel manager's, it tries again quickly: the kernel binds its end some 300 ms from
    now, and the first cell may follow at once.
    """
    socket: zmq.SyncSocket = zmq.Context.instance().socket(zmq.SUB)
    socket.linger = 0
    socket.reconnect_ivl = _RECONNECT_MILLISECONDS
    if public := info.get("curve_publickey"):
        # jupyter_client gives the kernel and its clients one pair of keys
        secret = info["curve_secretkey"]
        socket.curve_publickey = socket.curve_serverkey = _bytes(public)
        socket.curve_secretkey = _bytes(secret)
    socket.subscribe(b"")
    separator = ":" if info["transport"] == "tcp" else "-"
    socket.connect(f"{info['transport']}://{info['ip']}{separator}{info['iopub_port']}")
    return socket


def _bytes(key: str | bytes) -> bytes:
    return key.encode("ascii") if isinstance(key, str) else key


def summary(alert: Alert) -> str:
    """An alert in one line of printable text, at most 200 characters."""
    program = alert.ProcessName.rpartition("/")[2]
    line = f"{alert.Action} {alert.Operation}: {alert.Resource} by {program} ({alert.PolicyName})"
    shown = escaped(line[: _SUMMARY_LENGTH + 1])
    return shown if len(shown) <= _SUMMARY_LENGTH else shown[: _SUMMARY_LENGTH - 1] + "…"


def _moment(alert: Alert) -> float:
    """When it happened, in seconds since 1970."""
    return _seconds(alert.UpdatedTime) or float(alert.Timestamp)


def _seconds(date: object) -> float | None:
    """A message's or an alert's date in seconds since 1970; None where it is none."""
    if isinstance(date, str):
        try:
            date = datetime.fromisoformat(date)
        except ValueError:
            return None
    return date.timestamp() if isinstance(date, datetime) else None
