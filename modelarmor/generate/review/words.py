"""Facts in words."""

from __future__ import annotations

from typing import Final

from modelarmor.policy.decide import Operation

#: what stands where a template does, so that a policy can be parsed and asked before it is filled
_PLACES: Final = {
    "MODEL": "the model",
    "PREFIX": "the Python environment",
    "WORKSPACE": "the workspace",
    "TMP": "its own scratch directory",
    "HOME": "the user's home",
}
_SYSTEM: Final = {
    "/usr/": "the system's programs and libraries",
    "/bin/": "the system's programs",
    "/sbin/": "the system's programs",
    "/lib/": "the system's libraries",
    "/lib32/": "the system's libraries",
    "/lib64/": "the system's libraries",
    "/dev/shm/": "shared memory",
    "/proc/": "the kernel's account of processes",
    "/sys/": "the kernel's account of the machine",
    "/tmp/": "everybody's scratch directory",
    "/etc/": "the system's settings",
}
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_VERBS: Final = {"metadata": "change metadata of", "exec": "run"}


def path_as_written(path: str) -> str:
    """A path with its template as a policy has it: ``${MODEL}/x``."""
    return path[1:] if path.startswith("/${") else path


def place(path: str) -> str:
    """What lies at a path, as a person calls it; empty where it has no other name."""
    written = path_as_written(path)
    if written.startswith("${"):
        name, _, rest = written[2:].partition("}")
        return _PLACES.get(name, "") if not rest.strip("/") else ""
    best = max((known for known in _SYSTEM if written.startswith(known)), key=len, default="")
    return _SYSTEM.get(best, "") if written == best else ""


def size(count: int) -> str:
    """Bytes for people: ``3.4 MiB``."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def number(count: int, what: str, plural: str = "") -> str:
    """``1 file``, ``2 files``."""
    return f"{count:,} {what if count == 1 else plural or what + 's'}"


def operation(op: Operation) -> str:
    """``read ${MODEL}/model.pkl``, ``run /usr/bin/lscpu``, ``make a socket: inet stream tcp``."""
    match op.kind:
        case "network" if op.dns:
            return f"ask DNS for {op.dns}"
        case "network":
            kinds = " ".join(filter(None, (op.family, op.socket_type, op.protocol)))
            return f"make a socket: {kinds}"
        case "capability":
            return f"use the capability {op.capability}"
        case "syscall":
            return f"call {op.syscall}" + (f" on {path_as_written(op.path)}" if op.path else "")
        case kind:
            path = path_as_written(op.path) or "memory without a file"
            return " ".join((_VERBS.get(kind, kind), path, *op.args))
