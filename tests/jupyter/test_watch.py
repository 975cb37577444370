from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from modelarmor_jupyter.watch import KernelWatch, summary

from modelarmor.alerts import Alert

from .conftest import Kernel, StartKernel


def _alert(**fields: str) -> Alert:
    now = datetime.now(UTC)
    known = {"Operation": "File", "Action": "Block", "PolicyName": "test", "Resource": "/secret"}
    known["UpdatedTime"] = now.isoformat()
    return Alert(Timestamp=int(now.timestamp()), **known | fields)


async def _ours(watch: KernelWatch) -> list[dict[str, Any]]:
    """The cells of the alerts that a test raised, apart from those that the kernel did."""
    page = await watch.alerts(0, 10_000)
    return [item["cell"] for item in page["alerts"] if item["alert"]["PolicyName"] == "test"]


async def _during(k: Kernel, alert: Alert | None = None) -> None:
    """Have an alert fall into the middle of a cell."""
    on = asyncio.Event()
    cell = asyncio.create_task(
        k.run("print('on', flush=True); input_ = __import__('time').sleep(.2)", heard=on)
    )
    await asyncio.wait_for(on.wait(), 20)
    k.provisioner.recorder.append(alert or _alert())
    await cell


async def _heard(k: Kernel, watch: KernelWatch) -> int:
    """Run cells until the watch hears them, which takes its socket a moment; how many it took."""
    for cells in range(1, 200):
        await k.run("1")
        k.provisioner.recorder.append(_alert())
        await asyncio.sleep(0.05)
        if (await _ours(watch))[-1].get("execution_count") == cells:
            return cells
    raise AssertionError("the watch heard nothing")


async def _until_ended(watch: KernelWatch) -> list[dict[str, Any]]:
    """The cells of the last two alerts; the client may hear of a cell's end before the watch."""
    deadline = time.monotonic() + 20
    while (found := (await _ours(watch))[-2:])[1]["attributed"] == "time":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return found


def test_alerts_are_attributed_to_the_cell_that_ran_and_after_it_to_the_last(
    kernel: StartKernel,
) -> None:
    async def main() -> None:
        async with kernel("untrusted-model") as k:
            watch = KernelWatch("k", k.manager, lambda data: None)
            cells = await _heard(k, watch)
            await _during(k)
            k.provisioner.recorder.append(_alert())

            during, after = await _until_ended(watch)
            assert (during["attributed"], during["execution_count"]) == ("time", cells + 1)
            assert (after["attributed"], after["execution_count"]) == ("after", cells + 1)
            assert during["msg_id"] == after["msg_id"]

            await k.manager.restart_kernel(now=True)
            watch.connect()
            await k.reconnect()
            cells = await _heard(k, watch)
            await _during(k)

            *_, again = await _ours(watch)
            assert (again["attributed"], again["execution_count"]) == ("time", cells + 1)
            watch.close()

    asyncio.run(main())


def test_an_alert_from_the_future_is_not_waited_for(kernel: StartKernel) -> None:
    async def main() -> None:
        async with kernel("untrusted-model") as k:
            watch = KernelWatch("k", k.manager, lambda data: None)
            k.provisioner.recorder.append(_alert(UpdatedTime="2999-01-01T00:00:00+00:00"))
            async with asyncio.timeout(10):
                assert len(await _ours(watch)) == 1
            watch.close()

    asyncio.run(main())


def test_a_flood_rings_ten_times_a_second_and_the_last_ring_has_the_last_number(
    kernel: StartKernel,
) -> None:
    async def main() -> None:
        async with kernel("untrusted-model") as k:
            rung: list[tuple[float, dict[str, Any]]] = []
            watch = KernelWatch("k", k.manager, lambda data: rung.append((time.monotonic(), data)))
            recorder = k.provisioner.recorder
            began = recorder.last

            def flood() -> None:
                alert = _alert(Severity="7")
                for _ in range(50_000):
                    recorder.append(alert)

            started = time.monotonic()
            await asyncio.to_thread(flood)
            while not rung or rung[-1][1]["seq"] < began + 50_000:
                await asyncio.sleep(0.01)
                assert time.monotonic() < started + 20
            seconds = time.monotonic() - started
            print(f"50,000 alerts in {seconds:.2f} s rang {len(rung)} times")
            watch.close()
            recorder.append(_alert())

            assert len(rung) <= seconds * 10 + 2
            numbers = [data["seq"] for _, data in rung]
            assert numbers == sorted(set(numbers))
            assert set(rung[-1][1]) == {"kernel_id", "seq", "time", "action", "severity", "summary"}
            assert rung[-1][1]["severity"] == "7"

    asyncio.run(main())


def test_what_a_kernel_sends_cannot_break_the_watch(kernel: StartKernel) -> None:
    lies = """
from ipykernel.kernelapp import IPKernelApp
kernel = IPKernelApp.instance().kernel
def lie(kind, content, parent):
    kernel.session.send(kernel.iopub_socket, kind, content, parent=parent, ident=b"x")
parent = {"msg_type": "execute_request", "msg_id": "x"}
wrap = lambda p: {"header": p, "msg_id": "x"}
lie("status", {}, wrap(parent))
lie("status", {"execution_state": "busy"}, wrap({"msg_type": "execute_request", "msg_id": 5}))
lie("status", {"execution_state": "busy"}, wrap({"msg_type": "execute_request"}))
lie("execute_input", {"execution_count": "one"}, wrap(parent))
"""

    async def main() -> None:
        async with kernel("untrusted-model") as k:
            watch = KernelWatch("k", k.manager, lambda data: None)
            said = await k.run(lies)
            await _during(k)

            [cell] = await _ours(watch)
            assert cell["execution_count"] == 2
            assert "Error" not in said
            watch.close()

    asyncio.run(main())


def test_a_summary_is_one_printable_line() -> None:
    line = summary(_alert(Resource="/tmp/\x1b[31m\n" + "x" * 5_000, ProcessName="/usr/bin/cat"))

    assert line.startswith(r"Block File: /tmp/\x1b[31m\nxxx")
    assert len(line) == 200
    assert line.isprintable()
