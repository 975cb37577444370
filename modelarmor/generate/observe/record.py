"""What was reported while a model was watched, put together: events by phase, and what is alarming.

Alerts come on a thread of the sandbox's and fast, so each is only counted here; what they mean is
worked out once, at the end.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from modelarmor.alerts import Alert
from modelarmor.generate.evidence import PHASES, Event, Phase
from modelarmor.generate.places import Places
from modelarmor.generate.replay import described
from modelarmor.policy.decide import Operation
from modelarmor.sandbox.process import HELPER

#: so many different operations are listed; a model that opens a million names is told by number
MAX_EVENTS: Final = 30_000
#: so many different alerts are kept before they are put together
_MAX_ALERTS: Final = 200_000
_HELPER: Final = os.path.realpath(HELPER)


def stamp(now: float) -> str:
    """An instant as `Alert.UpdatedTime` has it, so that the two compare as text."""
    return f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


class Record:
    """The alerts of one observation, by phase."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: (when the phase began, which), in order
        self._phases: list[tuple[str, Phase]] = [("", "start")]
        self._seen: Counter[tuple[Phase, Alert]] = Counter()
        self._unlisted = 0

    def begin(self, phase: Phase, now: float) -> None:
        """From ``now`` on, seconds since 1970, alerts belong to ``phase``."""
        with self._lock:
            self._phases.append((stamp(now), phase))

    def add(self, alert: Alert) -> None:
        """Count an alert under the phase in whose time it fell."""
        # What tells two alerts of one operation apart is of no interest, and would fill memory.
        plain = replace(
            alert, Timestamp=0, UpdatedTime="", HostPPID=0, PPID=0, Cwd="", TTY="", Source="",
            EventData={}, ATags=(),
        )  # fmt: skip
        if alert.Operation == "Process" and alert.ParentProcessName == _HELPER:
            return  # the sandbox starting the command that we named
        with self._lock:
            phase = next(
                phase for begun, phase in reversed(self._phases) if begun <= alert.UpdatedTime
            )
            key = (phase, plain)
            if key in self._seen or len(self._seen) < _MAX_ALERTS:
                self._seen[key] += 1
            else:
                self._unlisted += 1

    def add_unlisted(self, count: int) -> None:
        """Count operations that the sandbox itself reported by number."""
        with self._lock:
            self._unlisted += count

    @property
    def alerts(self) -> list[tuple[Phase, Alert, int]]:
        """Each different alert, how often it came in which phase."""
        with self._lock:
            return [(phase, alert, count) for (phase, alert), count in self._seen.items()]

    def events(self, places: Places) -> tuple[tuple[Event, ...], int]:
        """What was done, with paths as what they mean, and how many operations are not listed."""
        counts: Counter[tuple[Phase, Operation]] = Counter()
        unlisted = self._unlisted
        for phase, alert, count in self.alerts:
            asked = described(alert)
            if asked is None:
                continue
            meant = places.event(asked, (str(alert.PID), str(alert.HostPID)))
            if not meant.path.startswith("/${WORKSPACE}"):  # the loader's own file
                counts[phase, meant] += count
        listed = sorted(counts.items(), key=lambda item: _order(item[0]))
        unlisted += sum(count for _, count in listed[MAX_EVENTS:])
        events = tuple(
            Event(phase=phase, operation=asked, count=count)
            for (phase, asked), count in listed[:MAX_EVENTS]
        )
        return events, unlisted


def _order(key: tuple[Phase, Operation]) -> tuple[int, str, str, str]:
    phase, asked = key
    return (PHASES.index(phase), asked.kind, asked.path, str(asked))
