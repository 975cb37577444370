"""The record of one workload's alerts: numbered, bounded, and exact in its counts.

An event stream forgets whoever was not listening. A record can be read again: a reader keeps the
number of the last alert that it saw and asks for what came after. The record holds the newest
`capacity` alerts; what fell out is missing from the list, never from the counts, and a reader is
told how many it missed.

Appending is on the path of a flood (a workload may try 100,000 refused opens in a second), so it
does no formatting and takes one uncontended lock.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final

from modelarmor.alerts.alert import Alert

#: how many alerts one `Recorder.after` returns at most
MAX_PAGE: Final = 10_000

Stamp = Callable[[Alert], Mapping[str, str]]
Listener = Callable[[int, Alert], None]

_log = logging.getLogger(__name__)
_NO_STAMP: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Counts:
    """How many alerts there were, whether or not they are still listed.

    ``suppressed`` of the ``total`` were reported by number alone (`Recorder.count`).
    """

    total: int = 0
    by_action: Mapping[str, int] = field(default_factory=dict)
    by_operation: Mapping[str, int] = field(default_factory=dict)
    by_policy: Mapping[str, int] = field(default_factory=dict)
    suppressed: int = 0

    def to_json(self) -> dict[str, Any]:
        """The counts as a JSON object."""
        return {
            "total": self.total,
            "suppressed": self.suppressed,
            "by_action": dict(self.by_action),
            "by_operation": dict(self.by_operation),
            "by_policy": dict(self.by_policy),
        }


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of a record.

    ``alerts`` are ``(sequence number, alert)`` in order, ``stamps`` what the record's ``stamp``
    said of each. ``last`` is the number of the newest alert in the record, so there is more to
    read while it exceeds the last number of the page. ``missed`` of those asked for had already
    fallen out of the record.
    """

    alerts: tuple[tuple[int, Alert], ...] = ()
    last: int = 0
    missed: int = 0
    stamps: tuple[Mapping[str, str], ...] = ()


class Recorder:
    """What one workload was refused or audited for. Every method may be called on any thread.

    Parameters
    ----------
    workload
        The name of the workload, for messages.
    capacity
        How many alerts are kept; older ones fall out.
    stamp
        Called with each alert as it is recorded; what it returns is kept beside the alert (which
        request or which cell it fell into). It must be quick; if it raises, the alert is kept
        without a stamp.
    """

    def __init__(
        self, workload: str, capacity: int = 10_000, *, stamp: Stamp | None = None
    ) -> None:
        if capacity < 1:
            raise ValueError(f"the record of {workload!r} must hold at least one alert")
        self.workload = workload
        self.capacity = capacity
        self._stamp = stamp
        self._lock = threading.Lock()
        self._ring: deque[tuple[int, Alert, Mapping[str, str]]] = deque(maxlen=capacity)
        self._last = 0
        self._suppressed = 0
        # (action, operation, policy) -> n: one update an alert; `counts` splits it when asked
        self._tally: Counter[tuple[str, str, str]] = Counter()
        self._listeners: tuple[Listener, ...] = ()

    def append(self, alert: Alert) -> int:
        """Record one alert and return its sequence number, which starts at 1."""
        return self._record(alert, alert, 1)

    def count(self, alert: Alert, n: int) -> int:
        """Count `n` further alerts like `alert` that were not reported one by one.

        They are counted under their own action, operation and policy. The record lists them as
        one entry, an ``AlertThreshold`` as KubeArmor raises when it stops reporting, whose
        ``EventData`` has the number (``Suppressed``) and the ``Operation`` that they were.

        Returns the sequence number of that entry.

        Raises
        ------
        ValueError
            when `n` is not positive.
        """
        if n < 1:
            raise ValueError(f"{n} alerts of {self.workload!r} cannot be counted")
        entry = replace(
            alert,
            Type="SystemEvent",
            Operation="AlertThreshold",
            Message=f"{n} more like this were counted without being listed one by one",
            EventData={**alert.EventData, "Suppressed": str(n), "Operation": alert.Operation},
        )
        return self._record(entry, alert, n, suppressed=n)

    def _record(self, entry: Alert, alert: Alert, n: int, suppressed: int = 0) -> int:
        stamp = self._stamped(entry) if self._stamp is not None else _NO_STAMP
        key = (alert.Action, alert.Operation, alert.PolicyName)
        with self._lock:
            self._last = seq = self._last + 1
            self._ring.append((seq, entry, stamp))
            self._tally[key] += n
            self._suppressed += suppressed
            listeners = self._listeners
        for listener in listeners:
            # the reader of an enforcer's alerts must outlive a listener's mistake
            try:
                listener(seq, entry)
            except Exception:
                _log.exception("a listener of the alerts of %r failed", self.workload)
        return seq

    def _stamped(self, entry: Alert) -> Mapping[str, str]:
        assert self._stamp is not None
        try:
            return self._stamp(entry)
        except Exception:
            _log.exception("an alert of %r was recorded without a stamp", self.workload)
            return _NO_STAMP

    def after(self, seq: int, limit: int = 500) -> Page:
        """The alerts whose number is greater than `seq`, oldest first.

        Parameters
        ----------
        seq
            The last number that the reader has seen; 0 for all.
        limit
            How many at most, 1 to `MAX_PAGE`.

        Raises
        ------
        ValueError
            when `seq` is negative or `limit` out of range.
        """
        if seq < 0:
            raise ValueError(f"sequence numbers start at 1: {seq} is before the first")
        if not 1 <= limit <= MAX_PAGE:
            raise ValueError(f"a page has 1 to {MAX_PAGE} alerts, not {limit}")
        with self._lock:
            first = self._last - len(self._ring) + 1
            start = max(seq + 1, first)
            # islice walks from the near end of the deque's start; copy it while nobody appends
            entries = list(islice(self._ring, start - first, start - first + limit))
            last = self._last
        return Page(
            alerts=tuple((number, alert) for number, alert, _ in entries),
            last=last,
            missed=max(0, min(first - 1, last) - seq),
            stamps=tuple(stamp for _, _, stamp in entries),
        )

    @property
    def last(self) -> int:
        """The number of the newest alert, 0 while there is none."""
        return self._last

    @property
    def counts(self) -> Counts:
        """How many alerts there were so far."""
        with self._lock:
            tally, suppressed = dict(self._tally), self._suppressed
        split: tuple[Counter[str], ...] = (Counter(), Counter(), Counter())
        for key, n in tally.items():
            for counter, name in zip(split, key, strict=True):
                counter[name] += n
        actions, operations, policies = map(dict, split)
        return Counts(sum(tally.values()), actions, operations, policies, suppressed)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` called with the number and the alert of each entry from now on.

        It is called on the thread that records, so it must hand over and return.

        Returns a function that ends the subscription; calling it twice is harmless.
        """
        with self._lock:
            self._listeners += (listener,)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(item for item in self._listeners if item is not listener)

        return unsubscribe
