"""What a policy refuses on purpose although harmless models ask for it.

Libraries look around: which processor this is, which fonts there are, whether there is a network.
They do without where they may not, so none of it is granted, and none of it is worth an alarm. Each
was seen at work (see docs/generate.md).
"""

from __future__ import annotations

from typing import Final

from modelarmor.generate.evidence import Event
from modelarmor.generate.observe.probes import looked, probed
from modelarmor.policy.decide import Operation


def reason(asked: Operation) -> str:
    """Why a harmless model asks for this and can do without, or nothing."""
    if asked.kind == "exec":
        return probed(asked)
    if why := looked(asked):
        return why
    if asked.kind == "network" and asked.family == "inet6" and not asked.dns:
        return "urllib3 looks whether there is IPv6 as it is imported; there is no network at all"
    return ""


#: what any model may come to ask for, whether or not it did while it was watched
ALWAYS: Final = (
    Event(phase="start", operation=Operation("exec", "/usr/bin/uname", args=("-p",))),
    Event(phase="start", operation=Operation("network", family="inet6", protocol="tcp")),
    Event(phase="serve", operation=Operation("exec", "/usr/bin/lscpu", args=("--parse=core",))),
    Event(phase="serve", operation=Operation("exec", "/usr/bin/cat", args=("/proc/cpuinfo",))),
)


def resembles(expected: Operation, seen: Operation) -> bool:
    """Whether an operation is one that was expected to be refused.

    Both as events have them. A program is told by its name, since systems keep it in different
    places; its arguments are not compared.
    """
    if expected.kind != seen.kind:
        return False
    match expected.kind:
        case "exec":
            same = expected.path.rpartition("/")[2] == seen.path.rpartition("/")[2]
            return same and bool(probed(seen))
        case "network":
            same = (expected.family, expected.socket_type) == (seen.family, seen.socket_type)
            return same and not seen.dns
        case _:
            return expected.path == seen.path
