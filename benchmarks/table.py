"""From samples to a table, and the facts without which a table says little."""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path

from benchmarks.runners import CONTENDERS, OURS, SANDLOCK, UNCONFINED
from benchmarks.workloads import Row
from modelarmor.sandbox import probe

#: the load average from which on a machine is too busy for its numbers to be trusted
QUIET = 0.5

_DISTRIBUTIONS = (
    "sandlock", "numpy", "pandas", "torch", "ipykernel", "jupyter_client", "pyzmq", "uvicorn",
)  # fmt: skip
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


@dataclass
class Measured:
    """A row and its samples.

    Attributes:
        rounds: seconds by contender, one mapping a round.
        absent: why a contender has no samples.
    """

    row: Row
    rounds: list[dict[str, float]] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def ratios(self, contender: str, to: str = UNCONFINED) -> list[float]:
        """A contender's samples over another's of the same round."""
        return [each[contender] / each[to] for each in self.rounds if {contender, to} <= {*each}]

    @property
    def goal(self) -> str:
        """The goal, and whether it is met."""
        if self.row.goal is None:
            return "-"
        text = f"≤ {self.row.goal:g}"
        if ratios := self.ratios(OURS):
            text += ": met" if statistics.median(ratios) <= self.row.goal else ": **not met**"
        return text

    @property
    def ahead(self) -> str:
        """Whether ModelArmor is ahead of sandlock, and by how much."""
        if not (ratios := self.ratios(SANDLOCK, OURS)):
            return "-"
        middle = statistics.median(ratios)
        return f"{'yes' if middle > 1 else '**no**'}, {middle:.2f}"


def render(measured: Sequence[Measured]) -> str:
    """The table, in Markdown, with a note for each contender that is absent from a row."""
    notes: list[str] = []
    columns: dict[str, Callable[[Measured], str]] = {
        "": lambda each: each.row.title,
        UNCONFINED: partial(_middle, notes),
    }
    for name in CONTENDERS:
        if name != UNCONFINED:
            columns[name] = partial(_spread, name, notes)
    columns["goal"] = lambda each: each.goal
    columns["ahead of sandlock"] = lambda each: each.ahead
    lines = [[*columns], *([cell(each) for cell in columns.values()] for each in measured)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    text = "".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |\n"
        for line in lines
    )
    return text + "".join(f"\n{number}. {note}\n" for number, note in enumerate(notes, 1))


def _middle(notes: list[str], each: Measured) -> str:
    samples = [round_[UNCONFINED] for round_ in each.rounds if UNCONFINED in round_]
    if not samples:
        return _absent(UNCONFINED, notes, each)
    middle = statistics.median(samples)
    scale, unit = next(((s, u) for s, u in _UNITS if middle >= s), _UNITS[-1])
    return f"{middle / scale:.3g} {unit}"


def _spread(name: str, notes: list[str], each: Measured) -> str:
    if not (ratios := each.ratios(name)):
        return _absent(name, notes, each)
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]"


def _absent(name: str, notes: list[str], each: Measured) -> str:
    note = f"{name}: {each.absent.get(name, 'no samples')}"
    if note not in notes:
        notes.append(note)
    return f"n/a ({notes.index(note) + 1})"


def facts(load: float) -> Mapping[str, str]:
    """What the numbers depend on.

    Args:
        load: the load average of the last minute when the run began.
    """
    report = probe()
    versions = [f"Python {platform.python_version()}"]
    for name in _DISTRIBUTIONS:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    if shutil.which("bwrap"):
        said = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, check=False)
        versions.append(said.stdout.strip())
    return {
        "Kernel": f"Linux {platform.release()}, Landlock ABI {report.landlock_abi}",
        "CPUs": f"{len(os.sched_getaffinity(0))} x {_cpu()}",
        "User": "root" if os.geteuid() == 0 else "an ordinary user",
        "Versions": ", ".join(versions),
        "Load average at the start": f"{load:.2f}",
    }


def _cpu() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def warning(load: float) -> str:
    """What to say of a busy machine; nothing, if it is quiet."""
    if load <= QUIET:
        return ""
    return (
        f"The machine was busy when the run began (load average {load:.2f}, above {QUIET}): the"
        " ratios are unreliable. Run this again when it is quiet."
    )


_PAGE = """\
# Benchmarks

Written by `python -m benchmarks`; do not edit. What confinement costs: the same work unconfined,
in ModelArmor's sandbox, in bubblewrap and in [sandlock](https://pypi.org/project/sandlock/).

{warning}{table}
The second column is the unconfined run's median. The next three are ratios to the unconfined run of
the same round, median [least-greatest] of {rounds} rounds: 1.00 costs nothing. *goal* is for
ModelArmor's median. *ahead of sandlock* is sandlock's time over ModelArmor's, likewise.

{facts}

## How it is measured

* In each round each contender runs once, in random order, so that what slows the machine down
  slows all of them. One round before is not counted; it warms caches.
* Work is timed inside of the sandbox: seconds of the loop, not of the interpreter's start. Starts,
  kernels and requests are timed from outside, by the process that starts the sandbox.
* Everything is started by a call in a running Python, as a Jupyter server starts kernels. The
  policy is in memory by then; ModelArmor's making a plan of it is part of each start.
* Each contender has a workspace, a scratch directory and caches of its own. All get the same
  environment.
* ModelArmor runs the `notebook` profile (no network, resources limited, each refusal recorded) but
  where a row says otherwise:
  *no read rule supervised*: Block rules for programs and for writing below `/usr` and `/etc`;
  opens for reading are not looked at. *notebook profile*: opens are looked at for the record, and
  held by the kernel. *a read rule supervised*: as the first, with a Block rule for `/etc/shadow`
  that depends on the calling program, so that the helper decides on each open and makes it.
* bubblewrap: `/` read-only, the two directories writable, secrets masked, namespaces for
  processes, IPC and (where no network is used) the network.
* sandlock: `/` readable, the two directories and `/dev` writable, no network but what a row needs,
  `/etc/shadow` denied in the row with a read rule. Nothing is recorded: its hook for that makes it
  several times slower.
* Kernels: unconfined is jupyter_client's own provisioner and TCP; ModelArmor's provisioner uses
  ipc sockets and encrypts messages; bubblewrap is a prefix to the kernel's command, and sandlock a
  call in a provisioner written for this, both with ipc sockets.
* Requests: a JSON service under uvicorn on a unix socket, one client outside, one connection.
* Connects: to a server outside on loopback, with only that address permitted (ModelArmor's helper
  makes the connection) and with a network that is not limited. sandlock permits that address in
  both rows.
"""


_SMALL = "Small sizes (`--quick`): this shows that the benchmarks work, and is no result."


def page(measured: Sequence[Measured], rounds: int, load: float, *, small: bool) -> str:
    """The whole report, in Markdown; ``small`` if it comes of sizes that are no result."""
    said = f"{_SMALL} {warning(load)}".strip() if small else warning(load)
    return _PAGE.format(
        warning=f"> {said}\n\n" if said else "",
        table=render(measured),
        rounds=rounds,
        facts=_list(facts(load).items()),
    )


def _list(items: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"* {name}: {value}" for name, value in items)
