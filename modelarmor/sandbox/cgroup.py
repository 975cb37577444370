"""A control group for one workload, where one can be made: exact limits, enforced by the kernel.

Version 2 as systemd delegates it to users and containers, and version 1 as old hosts still mount
it. A process stays where it is; the group is made beside its own (or below it, in version 1), and
the workload's first process joins. Where nothing can be made the supervisor limits instead.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path

from modelarmor.sandbox.resources import Resources

_numbers = itertools.count(1)
_PERIOD_US = 100_000


@dataclass
class ControlGroup:
    """Directories of one workload's control group, one for each hierarchy that limits something."""

    directories: list[Path] = field(default_factory=list)
    #: (kind, file, key): a counter that grows when a limit is reached
    counters: list[tuple[str, Path, str]] = field(default_factory=list)
    #: names of the resources limited here: memory, processes, cpu
    limits: set[str] = field(default_factory=set)

    def records(self) -> list[tuple[str | int, ...]]:
        """What the helper has to know."""
        return [
            *(("cgroup", str(directory / file)) for directory, file in self.joined_by()),
            *(("counter", kind, str(path), key) for kind, path, key in self.counters),
        ]

    def joined_by(self) -> list[tuple[Path, str]]:
        """Where the workload's first, single thread writes 0 to join.

        Version 1's ``tasks`` moves one thread, and spares the wait for all of the machine that
        moving a whole process costs (``cgroup_threadgroup_rwsem``).
        """
        return [
            (directory, "tasks" if (directory / "tasks").exists() else "cgroup.procs")
            for directory in self.directories
        ]

    def close(self) -> None:
        """Remove the group; its processes are gone by now, or the next sweep finds it."""
        for directory in self.directories:
            _remove(directory)
        self.directories.clear()


def make(resources: Resources) -> ControlGroup:
    """Make a control group for what of ``resources`` this machine lets us limit; maybe nothing."""
    group = ControlGroup()
    wanted = {
        "memory": resources.memory,
        "pids": resources.processes,
        "cpu": resources.cpu,
    }
    mounts, own = _mounts(), _read(Path("/proc/self/cgroup")).splitlines()
    for controller, value in wanted.items():
        if value is None or (controller == "cpu" and value >= len(os.sched_getaffinity(0))):
            continue  # more processors than there are: nothing to limit, and accounting is not free
        for parent, version in _parents(controller, mounts, own):
            if _limit(group, parent, version, controller, value):
                break
    return group


def _limit(group: ControlGroup, parent: Path, version: int, controller: str, value: float) -> bool:
    _sweep(parent)
    directory = next((d for d in group.directories if d.parent == parent), None)
    made = directory is None
    if directory is None:
        directory = parent / f"modelarmor-{os.getpid()}-{next(_numbers)}"
    try:
        if made:
            directory.mkdir()
        for file, text in _settings(controller, version, value):
            (directory / file).write_text(text)
    except OSError:
        if made:
            _remove(directory)
        return False
    if made:
        group.directories.append(directory)
    kind = {"memory": "memory", "pids": "processes", "cpu": "cpu"}[controller]
    file, key = {
        "memory": ("memory.oom_control" if version == 1 else "memory.events", "oom_kill"),
        "pids": ("pids.events", "max"),
        "cpu": ("cpu.stat", "nr_throttled"),
    }[controller]
    group.counters.append((kind, directory / file, key))
    group.limits.add(kind)
    return True


def _settings(controller: str, version: int, value: float) -> list[tuple[str, str]]:
    if controller == "pids":
        return [("pids.max", str(int(value)))]
    if controller == "memory":
        if version == 1:
            return [("memory.limit_in_bytes", str(int(value)))]
        return [("memory.max", str(int(value)))]
    quota = max(1000, int(value * _PERIOD_US))
    if version == 1:
        return [("cpu.cfs_period_us", str(_PERIOD_US)), ("cpu.cfs_quota_us", str(quota))]
    return [("cpu.max", f"{quota} {_PERIOD_US}")]


def _parents(controller: str, mounts: dict[str, Path], groups: list[str]) -> list[tuple[Path, int]]:
    """Directories below which a group with this controller may be made.

    Args:
        controller: by its kernel name.
        mounts: as `_mounts` finds them.
        groups: lines of ``/proc/self/cgroup``.
    """
    found: list[tuple[Path, int]] = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers and "cgroup2" in mounts:
            own = mounts["cgroup2"] / path.lstrip("/")
            # A group that has processes cannot pass controllers on, so ours becomes its sibling.
            for parent in (own.parent, own):
                enabled = _read(parent / "cgroup.subtree_control").split()
                if controller in enabled and os.access(parent, os.W_OK):
                    found.append((parent, 2))
        elif controller in controllers.split(",") and controller in mounts:
            own = mounts[controller] / path.lstrip("/")
            if os.access(own, os.W_OK):
                found.append((own, 1))
    return found


def _mounts() -> dict[str, Path]:
    """Mount points: "cgroup2", and each version 1 controller by name."""
    found: dict[str, Path] = {}
    for line in _read(Path("/proc/self/mounts")).splitlines():
        fields = line.split()
        if len(fields) < 4 or fields[2] not in ("cgroup", "cgroup2"):
            continue
        if fields[2] == "cgroup2":
            found.setdefault("cgroup2", Path(fields[1]))
        else:
            for option in fields[3].split(","):
                found.setdefault(option, Path(fields[1]))
    return found


def _sweep(parent: Path) -> None:
    """Remove groups whose maker is gone: it was killed before it could."""
    try:
        entries = list(parent.glob("modelarmor-*-*"))
    except OSError:
        return
    for entry in entries:
        pid = entry.name.split("-")[1]
        if pid.isdigit() and not Path("/proc", pid).exists():
            _remove(entry)


def _remove(directory: Path) -> None:
    with contextlib.suppress(OSError):  # busy or gone; a later sweep tries again
        directory.rmdir()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
