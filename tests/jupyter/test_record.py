"""The record at its largest, and the cells of a long notebook."""

from __future__ import annotations

import asyncio
import statistics
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modelarmor_jupyter.proposals import preview
from modelarmor_jupyter.provisioner import ModelArmorProvisioner

from modelarmor.alerts import Alert, Recorder
from modelarmor.generate.propose import MAX_RULES

from .conftest import StartKernel
from .server import CONFINED, Home, Server

FLOOD = 100_000


def _alert(n: int) -> Alert:
    return Alert(
        Timestamp=1_790_000_000 + n // 1000,
        UpdatedTime=f"2026-11-22T20:{n // 60_000 % 60:02}:{n // 1000 % 60:02}.{n % 1000:06}Z",
        HostName="host",
        PodName="kernel",
        PolicyName="DefaultPosture",
        Source="python -m ipykernel_launcher",
        Operation="File",
        Resource=f"/srv/data/{n % 977}/{n}.bin",
        Data="syscall=SYS_OPENAT access=read",
        Action="Block",
        Result="Permission denied",
        ProcessName="/usr/bin/python3.11",
        Cwd="/home/ada/work",
    )


def test_a_hundred_thousand_alerts_are_paged_through_without_a_gap() -> None:
    recorder = Recorder("kernel", FLOOD)
    tracemalloc.start()
    for n in range(1000):
        recorder.append(_alert(n))
    each = tracemalloc.get_traced_memory()[0] / 1000
    tracemalloc.stop()
    for n in range(1000, FLOOD + 500):
        recorder.append(_alert(n))
    at, read, seconds = 0, 0, []
    while at < recorder.last:
        started = time.perf_counter()
        page = recorder.after(at, 1000)
        seconds.append(time.perf_counter() - started)
        assert [seq for seq, _ in page.alerts] == list(
            range(page.alerts[0][0], page.alerts[-1][0] + 1)
        )
        assert page.missed == (500 if at == 0 else 0)
        read += len(page.alerts)
        at = page.alerts[-1][0]

    print(
        f"{FLOOD} alerts: {each:.0f} bytes each; a page of 1000 in"
        f" {1000 * statistics.median(seconds):.2f} ms, at worst {1000 * max(seconds):.2f} ms"
    )
    assert read == FLOOD
    assert recorder.counts.total == FLOOD + 500


def test_what_a_flood_would_need_is_bounded_and_the_server_answers_meanwhile(
    kernel: StartKernel,
) -> None:
    async def main() -> None:
        async with kernel() as k:
            provisioner: ModelArmorProvisioner = k.provisioner
            provisioner.recorder = Recorder("kernel", FLOOD)
            for n in range(FLOOD):
                provisioner.recorder.append(_alert(n))
            gaps, done = [0.0], asyncio.Event()

            async def pulse() -> None:
                while not done.is_set():
                    before = time.perf_counter()
                    await asyncio.sleep(0.001)
                    gaps.append(time.perf_counter() - before)

            beating = asyncio.create_task(pulse())
            started = time.perf_counter()
            found = await asyncio.to_thread(preview, provisioner, None)
            took = time.perf_counter() - started
            done.set()
            await beating
            print(
                f"a proposal for {FLOOD} alerts in {took:.1f} s; the loop waited for at most"
                f" {1000 * max(gaps):.0f} ms, {1000 * statistics.median(gaps):.1f} ms as a rule"
            )
            assert found.events == FLOOD
            assert len(found.proposal.policies[0].file) <= MAX_RULES
            assert any("different operations are looked at" in item.why for item in found.refused)

    asyncio.run(main())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[Server]:
    server = home.server("c.ModelArmor.record_capacity = 500\n")
    yield server
    server.stop()


def test_of_two_hundred_quick_cells_each_violation_is_in_its_own(
    home: Home, server: Server
) -> None:
    """All are sent at once, as by Run All, so that one cell starts as the one before it ends."""
    secret = home.path / "secrets"
    secret.mkdir()
    with server.kernel(CONFINED) as kernel:
        kernel.run("import os, threading")
        sent: dict[str, Path] = {}
        for n in range(200):
            path = secret / f"{n}"
            path.touch()
            code = f"try: os.open({str(path)!r}, os.O_RDONLY)\nexcept OSError: pass"
            sent[kernel.send(code)] = path
        # Read while they run, as the panel does, which asks for no alert twice.
        cells: dict[str, Any] = {}
        last, deadline = 0, time.monotonic() + 60
        while str(secret / "199") not in cells:
            assert time.monotonic() < deadline, len(cells)
            page = kernel.alerts(after=last)
            last = page["last"]
            cells.update((item["alert"]["Resource"], item["cell"]) for item in page["alerts"])
        kernel.finish_all(sent)
        late = kernel.run(
            "threading.excepthook = lambda *_: None\n"
            f"threading.Timer(.3, os.open, ({str(home.path / '.netrc')!r}, 0)).start()"
        )
        deadline = time.monotonic() + 20
        while not (after := _cell(kernel.alerts(), ".netrc")):
            assert time.monotonic() < deadline

    right = sum(cells.get(str(path), {}).get("msg_id") == msg_id for msg_id, path in sent.items())
    how = Counter(cells.get(str(path), {}).get("attributed") for path in sent.values())
    print(f"{right} of {len(sent)} violations in the right cell; {dict(how)}")
    assert right >= 0.95 * len(sent)  # all of them, where the machine has the time
    assert after["attributed"] == "after"
    assert after["execution_count"] == late.execution_count


def _cell(page: Any, resource: str) -> Any:
    for item in page["alerts"]:
        if resource in item["alert"].get("Resource", ""):
            return item["cell"]
    return None


def test_the_administrator_says_how_many_alerts_are_kept(home: Home, server: Server) -> None:
    flood = (
        f"import os\nfor n in range(800):\n    try: os.open({str(home.path / '.bashrc')!r}, 0)\n"
        "    except OSError: pass"
    )
    with server.kernel(CONFINED) as kernel:
        kernel.run(flood)
        deadline = time.monotonic() + 20
        while (page := kernel.alerts())["last"] < 800:
            assert time.monotonic() < deadline

    assert len(page["alerts"]) == 500
    assert page["missed"] == page["last"] - 500
    assert page["counts"]["total"] >= 800
