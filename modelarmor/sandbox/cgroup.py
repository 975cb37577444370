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

    #: directory -> the file in it that the workload's first, single thread writes 0 to, to join
    directories: dict[Path, Path] = field(default_factory=dict)
    #: (kind, file, key): a counter that grows when a limit is reached
    counters: list[tuple[str, Path, str]] = field(default_factory=list)
    #: names of the resources limited here: memory, processes, cpu
    limits: set[str] = field(default_factory=set)

    def records(self) -> list[tuple[str | int, ...]]:
        """What the helper has to know."""
        return [
            *(("cgroup", str(file)) for file in self.directories.values()),
            *(("counter", kind, str(path), key) for kind, path, key in self.counters),
        ]

    def close(self) -> None:
        """Remove the group; its processes are gone by now, or the next sweep finds it."""
        for directory in self.directories:
            _remove(directory)
        self.directories.clear()


@dataclass(frozen=True)
class _Parent:
    """A directory below which a group may be made, and the controllers that it has there."""

    path: Path
    version: int
    controllers: frozenset[str]


def make(resources: Resources) -> ControlGroup:
    """Make a control group for what of ``resources`` this machine lets us limit; maybe nothing."""
    group = ControlGroup()
    wanted = {"memory": resources.memory, "pids": resources.processes, "cpu": resources.cpu}
    if resources.cpu is not None and resources.cpu >= len(os.sched_getaffinity(0)):
        del wanted["cpu"]  # more than there are: nothing to limit, and accounting is not free
    asked = {controller: value for controller, value in wanted.items() if value is not None}
    parents = _parents(frozenset(asked)) if asked else []
    for controller, value in asked.items():
        for parent in parents:
            if controller in parent.controllers and _limit(group, parent, controller, value):
                break
    return group


def _limit(group: ControlGroup, parent: _Parent, controller: str, value: float) -> bool:
    directory = next((d for d in group.directories if d.parent == parent.path), None)
    made = directory is None
    if directory is None:
        _sweep(parent.path)
        directory = parent.path / f"modelarmor-{os.getpid()}-{next(_numbers)}"
    try:
        if made:
            directory.mkdir()
        for file, text in _settings(controller, parent.version, value):
            with open(directory / file, "wb", 0) as setting:  # noqa: PTH123  at every start
                setting.write(text.encode())
    except OSError:
        if made:
            _remove(directory)
        return False
    # Version 1's ``tasks`` moves one thread, and spares the wait for all of the machine that moving
    # a whole process costs (``cgroup_threadgroup_rwsem``).
    group.directories[directory] = directory / ("tasks" if parent.version == 1 else "cgroup.procs")
    kind = {"memory": "memory", "pids": "processes", "cpu": "cpu"}[controller]
    file, key = {
        "memory": ("memory.oom_control" if parent.version == 1 else "memory.events", "oom_kill"),
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


def _parents(wanted: frozenset[str]) -> list[_Parent]:
    """Where this process may make groups with any of these controllers, by their kernel names."""
    found = []
    mounts = _mounts()
    for line in _read("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if not names and "cgroup2" in mounts:
            own = mounts["cgroup2"] / path.lstrip("/")
            # A group that has processes cannot pass controllers on, so ours becomes its sibling.
            for parent in (own.parent, own):
                enabled = wanted & set(_read(f"{parent}/cgroup.subtree_control").split())
                if enabled and os.access(parent, os.W_OK):
                    found.append(_Parent(parent, 2, enabled))
        else:
            for controller in wanted & set(names.split(",")) & mounts.keys():
                parent = mounts[controller] / path.lstrip("/")
                if os.access(parent, os.W_OK):
                    found.append(_Parent(parent, 1, frozenset((controller,))))
    return found


def _mounts() -> dict[str, Path]:
    """Mount points: "cgroup2", and each version 1 controller by name."""
    found: dict[str, Path] = {}
    for line in _read("/proc/self/mounts").splitlines():
        if " cgroup" not in line:
            continue
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
        with os.scandir(parent) as entries:
            names = [entry.name for entry in entries if entry.name.startswith("modelarmor-")]
    except OSError:
        return
    for name in names:
        pid = name.split("-")[1]
        if pid.isdigit() and not Path("/proc", pid).exists():
            _remove(parent / name)


def _remove(directory: Path) -> None:
    with contextlib.suppress(OSError):  # busy or gone; a later sweep tries again
        directory.rmdir()


def _read(path: str) -> str:
    try:
        with open(path, "rb", 0) as file:  # noqa: PTH123  several at every start
            return os.fsdecode(file.read())
    except OSError:
        return ""
