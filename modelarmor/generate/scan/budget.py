"""What one look may cost: time, and bytes that unpacking makes."""

from __future__ import annotations

import time

from modelarmor.generate.scan.pickles.machine import OutOfTime

__all__ = ["Budget", "OutOfTime"]


class Budget:
    """Shared by everything that one look does."""

    def __init__(self, *, seconds: float, expanded: int = 4 << 30) -> None:
        """Begin.

        Args:
            seconds: after which `tick` raises.
            expanded: bytes that compressed members may have together.
        """
        self._until = time.monotonic() + seconds
        self._file_until = self._until
        self.expanded = expanded

    def begin_file(self, size: int) -> None:
        """A file may take a minute, and a second for every 20 MB; the others get their turn."""
        self._file_until = time.monotonic() + 60 + size / 20e6

    def tick(self) -> None:
        """Raise `OutOfTime` when the time is over."""
        now = time.monotonic()
        if now > self._until:
            raise OutOfTime("the look's time is over")
        if now > self._file_until:
            raise OutOfTime("this file's time is over")

    def spend(self, size: int) -> bool:
        """Whether `size` more bytes may be unpacked."""
        self.tick()
        self.expanded -= size
        return self.expanded >= 0
