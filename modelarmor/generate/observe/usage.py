"""How much of the machine a confined process tree used, measured from outside of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from modelarmor.generate.evidence import Usage

_EVERY_SECONDS: Final = 0.1
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICK: Final = os.sysconf("SC_CLK_TCK")


class Meter(threading.Thread):
    """Looks at a process and all its descendants, and at a directory, until it is stopped.

    Sampled from ``/proc`` (proc(5), ``stat``), since a control group is not always to be had. A
    process that lives shorter than the interval is seen in its parent's account.

    Args:
        pid: the first process; it is not counted itself.
        directory: what is below it counts as written.
    """

    def __init__(self, pid: int, directory: Path) -> None:
        super().__init__(name=f"usage of {pid}", daemon=True)
        self._pid = pid
        self._directory = directory
        self._end = threading.Event()
        self._memory = self._processes = self._disk = 0
        #: processor time of a process and its reaped children, by its number
        self._cpu: dict[int, float] = {}

    def run(self) -> None:
        while not self._end.wait(_EVERY_SECONDS):
            self._look()

    def stop(self) -> Usage:
        """End, and say the most that was seen."""
        self._end.set()
        self.join()
        self.weigh()
        return Usage(
            cpu_seconds=round(sum(self._cpu.values()), 2),
            memory=self._memory,
            processes=self._processes,
            disk=self._disk,
        )

    def weigh(self) -> None:
        """Count what lies in the directory now."""
        total = 0
        for parent, _, names in os.walk(self._directory):
            for name in names:
                try:
                    total += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118
                except OSError:
                    continue
        self._disk = max(self._disk, total)

    def _look(self) -> None:
        memory = threads = 0
        for pid, fields in _descendants(self._pid):
            # after the name: state is field 3, so utime (14) is the twelfth
            memory += int(fields[21]) * _PAGE
            threads += int(fields[17])
            self._cpu[pid] = sum(map(int, fields[11:15])) / _TICK
        self._memory = max(self._memory, memory)
        self._processes = max(self._processes, threads)


def _descendants(pid: int) -> Iterator[tuple[int, list[str]]]:
    """Every process below ``pid``: its number and the fields of its ``stat`` after the name.

    Found from their parents' numbers: not every kernel has ``/proc/PID/task/TID/children``.
    """
    children: dict[int, list[tuple[int, list[str]]]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  only names are wanted
        if not name.isdigit():
            continue
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append((int(name), fields))
    pending = [pid]
    while pending:
        found = children.get(pending.pop(), [])
        yield from found
        pending.extend(number for number, _ in found)
