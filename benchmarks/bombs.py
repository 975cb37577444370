"""``python -m benchmarks.bombs [--write]``: what a kernel and a server notice of bombs beside them.

A confined kernel is sent cells and a confined JSON service requests, one after the other, while a
bomb goes off in a sandbox of its own, over and over, as it ends at its limits. In each round every
bomb has its turn, and nothing has one too; so what else the machine does slows all alike. With
``--write`` the table goes into docs/use-cases.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL
from time import monotonic, perf_counter, sleep

from jupyter_client.asynchronous.client import AsyncKernelClient

from benchmarks import kernels, workloads
from benchmarks.runners import CONTENDERS, OURS, Place, Setting
from modelarmor.sandbox import Resources, Sandbox, Workload

PAGE = Path(__file__).parents[1] / "docs" / "use-cases.md"
BEGIN, END = "<!-- bombs: begin -->\n", "<!-- bombs: end -->"
NOTHING = "nothing"
#: a bomb's, in Kubernetes' words: a part of a small machine
LIMITS = {"cpu": "1", "memory": "512Mi", "pids": "128", "ephemeral-storage": "256Mi"}
#: each goes on until something ends it
BOMBS = {
    "processors": "import os\nfor _ in range(3): os.fork()\nwhile True: pass",
    "memory": "held = []\nwhile True: held.append(b'x' * (8 << 20))",
    "processes": """
import os, time
while True:
    try:
        if not os.fork(): time.sleep(3600)
    except OSError:
        pass
""",
    "disk": """
with open("bomb", "wb") as file:
    while True: file.write(b"x" * (8 << 20)); file.flush()
""",
}
_PATIENCE = 60.0  # seconds


@dataclass
class Seen:
    """What was measured beside one bomb, in seconds, and how often it went off."""

    cells: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)
    started: int = 0
    #: times that a limit was reported
    limited: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bombs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each bomb in each round")
    parser.add_argument("--write", action="store_true", help=f"the table into {PAGE.name}")
    arguments = parser.parse_args(argv)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="modelarmor-bombs-") as base:
        seen = asyncio.run(_measure(Path(base), arguments.rounds, arguments.seconds))
    text = _table(seen, arguments.rounds, arguments.seconds, load)
    print(text, end="")
    if arguments.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        PAGE.write_text(before + BEGIN + text + END + rest.split(END, 1)[1], encoding="utf-8")
    return 0


async def _measure(base: Path, rounds: int, seconds: float) -> dict[str, Seen]:
    seen: dict[str, Seen] = defaultdict(Seen)
    kernel, service = Place.make(base / "kernel"), Place.make(base / "service")
    setting = Setting(workloads._notebook)
    async with _kernel(kernel, setting) as client:
        with _service(service, setting) as ask:
            await _ask(client, ask, Seen(), seconds)  # not counted: it warms caches
            for number in range(rounds):
                for name in random.sample([NOTHING, *BOMBS], len(BOMBS) + 1):
                    with _bomb(name, base / f"{name}-{number}", seen[name]):
                        await _ask(client, ask, seen[name], seconds)
    return {name: seen[name] for name in (NOTHING, *BOMBS)}


async def _ask(
    client: AsyncKernelClient, ask: Callable[[], None], seen: Seen, seconds: float
) -> None:
    """Cells and requests in turn, as soon as the one before is answered."""
    until = monotonic() + seconds
    while monotonic() < until:
        start = perf_counter()
        await client.execute_interactive(
            "1", timeout=_PATIENCE, store_history=False, output_hook=lambda _: None
        )
        between = perf_counter()
        ask()
        seen.cells.append(between - start)
        seen.requests.append(perf_counter() - between)


@asynccontextmanager
async def _kernel(place: Place, setting: Setting) -> AsyncIterator[AsyncKernelClient]:
    manager = kernels._manager(OURS, place, setting)
    await manager.start_kernel(
        cwd=str(place.work), env=dict(place.env), stdout=DEVNULL, stderr=DEVNULL
    )
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=_PATIENCE)
        yield client
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


@contextmanager
def _service(place: Place, setting: Setting) -> Iterator[Callable[[], None]]:
    """The JSON service of the other benchmarks; gives a function that asks it once."""
    socket = place.work / "service.sock"
    command, report = workloads._command(place, "serve", str(socket))
    process = CONTENDERS[OURS](place, setting)(command)
    try:
        workloads._await(socket, report)
        with workloads._connect(socket) as client:
            yield lambda: workloads._request(client)
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def _bomb(name: str, base: Path, seen: Seen) -> Iterator[None]:
    """Have it go off again and again, confined, until the block ends."""
    if name == NOTHING:
        yield
        return
    place, over = Place.make(base), threading.Event()
    profile = place.profile
    workload = Workload(
        name=f"bomb-{name}",
        command=[sys.executable, "-c", BOMBS[name]],
        policies=profile.policies,
        posture=profile.posture,
        network=profile.network,
        resources=Resources.from_kubernetes(LIMITS),
        env=place.env,
        cwd=place.work,
    )

    def go_off() -> None:
        while not over.is_set():
            with Sandbox.start(workload, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) as running:
                seen.started += 1
                while running.poll() is None and not over.is_set():
                    sleep(0.05)
                running.kill()
                running.wait(_PATIENCE)
                seen.limited += running.recorder.counts.by_operation.get("Resource", 0)

    thread = threading.Thread(target=go_off)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _table(seen: dict[str, Seen], rounds: int, seconds: float, load: float) -> str:
    lines = [
        "| beside it | cell, median | worst | request, median | worst | started | limited |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, one in seen.items():
        figures = [_figures(times) for times in (one.cells, one.requests)]
        counts = "| | |" if name == NOTHING else f"| {one.started} | {one.limited} |"
        lines.append(f"| {name} | {' | '.join(figures)} {counts}")
    lines.append(
        f"\n{rounds} rounds of {seconds:g} s each on {os.cpu_count()} processors, of which other"
        f" programs kept {load:.1f} busy at the start; limits of a bomb: "
        + ", ".join(f"{name} {value}" for name, value in LIMITS.items())
        + "."
    )
    return "\n".join(lines) + "\n"


def _figures(times: Sequence[float]) -> str:
    return f"{statistics.median(times) * 1000:.1f} ms | {max(times) * 1000:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
