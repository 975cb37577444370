"""Which execution of a cell an alert fell into.

The server hears on a kernel's iopub socket when an execution starts and ends, and the enforcer
stamps each alert with the time of the operation. Both clocks are the host's, so comparing the two
attributes an alert to a cell. The start and the end are the *kernel's* claims, and a confined
kernel may lie: an attribution helps a person to find the code, and decides nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Final, Literal

#: how many executions are remembered of each kernel
CAPACITY: Final = 2_000
#: how far back executions are looked for that ran at the same time
_MAX_OVERLAP: Final = 10
_MAX_ID: Final = 200
#: stands among the executions where the kernel started; no client's request has this id
_START: Final = ""

How = Literal["time", "after", "startup", "unknown"]


@dataclass(slots=True)
class Execution:
    """One execution of a cell: the request, its ``[n]``, and when it ran (seconds since 1970)."""

    msg_id: str
    started: float
    ended: float | None = None
    execution_count: int | None = None


@dataclass(frozen=True, slots=True)
class Attribution:
    """What is known of where an alert came from.

    ``how`` is ``"time"`` when it happened while `execution` ran (``others`` ran at the same time),
    ``"after"`` when nothing ran and `execution` was the last to (a thread that it left behind),
    ``"startup"`` before the first execution since the kernel started, and ``"unknown"`` where that
    is no longer remembered.
    """

    how: How
    execution: Execution | None = None
    others: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The attribution as a JSON object."""
        answer: dict[str, Any] = {"attributed": self.how}
        if self.execution is not None:
            answer["msg_id"] = self.execution.msg_id
            answer["execution_count"] = self.execution.execution_count
        if self.others:
            answer["others"] = list(self.others)
        return answer


class Executions:
    """The executions of one kernel, oldest first; only the newest `capacity` are remembered."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._by_id: dict[str, Execution] = {}
        # in the order of their starts, which `started` keeps even for a kernel that lies
        self._order: list[Execution] = []
        self._forgotten_until = 0.0
        self.restarted(0.0)

    def started(self, msg_id: str, at: float) -> None:
        """The kernel says that it began to execute the request `msg_id`."""
        known = self._by_id.get(msg_id)
        # ids are unique in a client's session, and a client may begin its session again
        if (known is not None and known.ended is None) or len(msg_id) > _MAX_ID:
            return
        if self._order:
            at = max(at, self._order[-1].started)
        self._by_id[msg_id] = execution = Execution(msg_id, at)
        self._order.append(execution)
        if len(self._order) > self._capacity:
            self._forget(self._capacity // 10 + 1)

    def counted(self, msg_id: str, execution_count: int, at: float) -> None:
        """The kernel says which ``[n]`` the request is; it may be the first we hear of it."""
        if msg_id not in self._by_id:
            self.started(msg_id, at)
        if execution := self._by_id.get(msg_id):
            execution.execution_count = execution_count

    def ended(self, msg_id: str, at: float) -> None:
        """The kernel says that it is done with the request.

        Where its start was not heard, it is taken to have begun when the one before it ended.
        """
        if msg_id not in self._by_id:
            previous = self._order[-1] if self._order else None
            self.started(msg_id, at if previous is None else previous.ended or previous.started)
        execution = self._by_id.get(msg_id)
        if execution is not None and execution.ended is None:
            execution.ended = max(at, execution.started)

    def restarted(self, at: float) -> None:
        """The kernel starts, for the first time or again: what it executed before has ended."""
        for execution in self._by_id.values():
            if execution.ended is None:
                execution.ended = max(at, execution.started)
        self.started(_START, at)
        self.ended(_START, at)

    def at(self, moment: float) -> Attribution:
        """Where something that happened at `moment` (seconds since 1970) came from."""
        if moment <= self._forgotten_until:
            return Attribution("unknown")
        end = bisect_right(self._order, moment, key=lambda item: item.started)
        recent = self._order[max(0, end - _MAX_OVERLAP) : end][::-1]
        running = [item for item in recent if item.ended is None or moment <= item.ended]
        if running:
            return Attribution("time", running[0], tuple(item.msg_id for item in running[1:]))
        if not recent:
            return Attribution("unknown")
        last = max(recent, key=lambda item: item.ended or 0.0)
        return Attribution("startup") if last.msg_id == _START else Attribution("after", last)

    def _forget(self, n: int) -> None:
        for execution in self._order[:n]:
            if self._by_id.get(execution.msg_id) is execution:
                del self._by_id[execution.msg_id]
        self._forgotten_until = self._order[n - 1].started
        del self._order[:n]
