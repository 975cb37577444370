"""The stream of alerts, against a relay over a real socket."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelarmor.alerts import Recorder
from modelarmor.cluster.relay import Feed, Relay, RelayError, RelayRefused
from tests.cluster.relay.certificates import Authority, directory
from tests.cluster.relay.standin import StandIn, encoded, flood, relay


def on_a_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@asynccontextmanager
async def feed(standin: StandIn, **options: Any) -> Any:
    quick = {"waits": (0.02, 0.1), "patience": 20.0}
    async with Feed(Relay(target=f"127.0.0.1:{standin.port}"), **(quick | options)) as made:
        yield made


async def recorded(recorder: Recorder, n: int) -> list[Any]:
    """The first n alerts; the test's own timeout ends a wait that is in vain."""
    arrived = asyncio.Event()
    end = recorder.subscribe(lambda seq, _: arrived.set() if seq >= n else None)
    if recorder.last < n:
        await asyncio.wait_for(arrived.wait(), 60)
    end()
    return [alert for _, alert in recorder.after(0, 10_000).alerts]


async def until(recorder: Recorder, true: Callable[[list[Any]], bool]) -> None:
    """Wait until something holds of the record."""
    async with asyncio.timeout(60):
        while not true([alert for _, alert in recorder.after(0, 10_000).alerts]):
            await asyncio.sleep(0.02)


async def until_gaps(recorder: Recorder, n: int) -> None:
    """Wait for the n-th mark of a gap."""
    await until(recorder, lambda _: len(gaps(recorder)) >= n)


def gaps(recorder: Recorder) -> list[str]:
    found = recorder.after(0, 10_000).alerts
    return [alert.Message for _, alert in found if alert.Operation == "AlertGap"]


BLOCKED = {
    "NamespaceName": "kernels",
    "PodName": "kernel-1",
    "PolicyName": "modelarmor-notebook",
    "Operation": "File",
    "Resource": "/etc/shadow",
    "Data": "lsm=FILE_OPEN",
    "Action": "Block",
    "Result": "Permission denied",
    "Enforcer": "BPFLSM",
}


@on_a_loop
async def test_an_alert_reaches_its_own_workload_and_nobody_else() -> None:
    mine, other = Recorder("mine"), Recorder("other")
    async with relay(StandIn()) as standin, feed(standin) as stream:
        await stream.connected(60)
        stream.route("kernels", "kernel-1", mine)
        stream.route("kernels", "kernel-2", other)
        for namespace, pod in [
            ("kernels", "kernel-10"),  # its name begins like ours
            ("other", "kernel-1"),  # the same name elsewhere
            ("kernels", "kernel-1 "),
            ("Kernels", "kernel-1"),
            ("", ""),  # of a host
        ]:
            standin.send(encoded(**(BLOCKED | {"NamespaceName": namespace, "PodName": pod})))
        await standin.until_watched()
        standin.send(encoded(**BLOCKED, Timestamp=7, ATags=["a"], EventData={"Lsm": "FILE_OPEN"}))
        (alert,) = await recorded(mine, 1)
        assert standin.filters == [b"policy"]
        assert stream.received >= 1
    assert (alert.Resource, alert.Timestamp, alert.ATags) == ("/etc/shadow", 7, ("a",))
    assert alert.EventData == {"Lsm": "FILE_OPEN"}
    assert [a.Operation for _, a in other.after(0).alerts] == ["AlertGap"]  # we stopped listening


@on_a_loop
async def test_a_route_that_ended_records_nothing_more_and_its_pod_may_have_another() -> None:
    first, second = Recorder("first"), Recorder("second")
    async with relay(StandIn()) as standin, feed(standin) as stream:
        await stream.connected(60)
        await standin.until_watched()
        end = stream.route("kernels", "kernel-1", first)
        with pytest.raises(ValueError, match="recorded already"):
            stream.route("kernels", "kernel-1", second)
        end()
        stream.route("kernels", "kernel-1", second)
        end()  # of the first: the second stays
        standin.send(encoded(**BLOCKED))
        await recorded(second, 1)
    assert first.last == 0


@on_a_loop
async def test_a_broken_stream_leaves_a_mark_in_every_record() -> None:
    one, two = Recorder("one"), Recorder("two")
    async with relay(StandIn()) as standin, feed(standin) as stream:
        await stream.connected(60)
        await standin.until_watched()
        stream.route("kernels", "kernel-1", one)
        stream.route("kernels", "kernel-2", two)
        standin.break_streams()
        await standin.until_watched(2)
        await recorded(one, 2)
        standin.send(encoded(**BLOCKED))
        alerts = await recorded(one, 3)
    assert [alert.Operation for alert in alerts] == ["AlertGap", "AlertGap", "File"]
    assert "not received from now on" in alerts[0].Message
    assert "is not known" in alerts[1].Message
    assert alerts[0].Action == alerts[1].Action == ""  # a gap is no violation
    assert gaps(two)[:2] == [alerts[0].Message, alerts[1].Message]


@on_a_loop
async def test_a_relay_that_has_answered_is_not_said_to_want_tls() -> None:
    empty = grpc.aio.Metadata()
    closed = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, empty, empty, details="Socket closed"
    )
    standin = StandIn()
    async with relay(standin):
        connection = Relay(target=f"127.0.0.1:{standin.port}").open()
        assert "TLS" in str(connection.explained(closed))
        await connection.alive(60)
        assert "TLS" not in str(connection.explained(closed))
        await connection.close()


@on_a_loop
async def test_a_relay_that_is_killed_is_found_again() -> None:
    record = Recorder("kernel")
    standin = StandIn()
    async with relay(standin):
        port = standin.port
        stream = Feed(Relay(target=f"127.0.0.1:{port}"), waits=(0.02, 0.1))
        stream.start()
        await stream.connected(60)
        await standin.until_watched()
        stream.route("kernels", "kernel-1", record)
    await recorded(record, 1)
    assert stream.state.kind == "broken"
    async with relay(standin, port=port):
        await standin.until_watched(2)
        await recorded(record, 2)
        standin.send(encoded(**BLOCKED))
        assert (await recorded(record, 3))[-1].Action == "Block"
        await stream.close()
    assert stream.state.kind == "stopped"


@on_a_loop
@pytest.mark.parametrize("sent", [1, 300])
async def test_what_a_relay_took_with_it_when_it_was_killed_lies_in_a_marked_gap(sent: int) -> None:
    record = Recorder("kernel", capacity=2_000)
    standin = StandIn()
    numbers = iter(range(10_000))

    def send(count: int) -> None:
        for number in islice(numbers, count):
            standin.send(encoded(**BLOCKED, PID=number))

    async with relay(standin):
        stream = Feed(Relay(target=f"127.0.0.1:{standin.port}"), waits=(0.02, 0.1))
        stream.start()
        await stream.connected(60)
        await standin.until_watched()
        stream.route("kernels", "kernel-1", record)
        send(sent)
        await recorded(record, 1)
        send(500)  # and killed while these are on their way
    port = standin.port
    await until_gaps(record, 1)
    async with relay(standin, port=port):
        await standin.until_watched(2)
        await until_gaps(record, 2)
        first = next(numbers)
        standin.send(encoded(**BLOCKED, PID=first))
        await until(record, lambda alerts: first == alerts[-1].PID)
        await stream.close()
    alerts = [alert for _, alert in record.after(0, 10_000).alerts]
    lost, back = [n for n, alert in enumerate(alerts) if alert.Operation == "AlertGap"][:2]
    assert back == lost + 1  # nothing between the two marks
    before = [alert.PID for alert in alerts[:lost]]
    assert before == list(range(len(before)))  # up to the first mark nothing is missing
    assert first == alerts[back + 1].PID


@on_a_loop
async def test_a_relay_that_no_longer_answers_has_lost_the_stream() -> None:
    record = Recorder("kernel")
    async with (
        relay(StandIn()) as standin,
        feed(standin, heartbeat=0.05, patience=1.0) as stream,
    ):
        await stream.connected(60)
        stream.route("kernels", "kernel-1", record)
        standin.stalled = True
        await recorded(record, 1)
        standin.stalled = False
        await recorded(record, 2)
    assert "not received" in gaps(record)[0]
    assert "received again" in gaps(record)[1]


@on_a_loop
async def test_a_workload_that_began_before_the_stream_says_since_when_nothing_is_known() -> None:
    record = Recorder("kernel")
    async with relay(StandIn()) as standin:
        stream = Feed(Relay(target=f"127.0.0.1:{standin.port}"))
        stream.route("kernels", "kernel-1", record)
        async with stream:
            await recorded(record, 1)
    assert "is not known" in gaps(record)[0]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "no right to read"),
        (grpc.StatusCode.UNAUTHENTICATED, "does not know this server"),
        (grpc.StatusCode.UNIMPLEMENTED, "no KubeArmor relay"),
    ],
)
@on_a_loop
async def test_a_server_without_the_right_is_told_so(status: grpc.StatusCode, said: str) -> None:
    async with relay(StandIn()) as standin:
        standin.refusal = status
        async with feed(standin) as stream:
            with pytest.raises(RelayRefused, match=said):
                await stream.connected(60)
            standin.refusal = None  # the right is granted later
            await standin.until_watched()


@on_a_loop
async def test_what_answers_wrongly_is_not_taken_for_the_relay() -> None:
    async with relay(StandIn()) as standin:
        standin.wrong_nonce = True
        async with feed(standin) as stream:
            with pytest.raises(RelayError, match="something else than asked"):
                await stream.connected(0.5)
        assert standin.filters == []


@on_a_loop
async def test_nobody_there_is_said_with_the_address() -> None:
    standin = StandIn()
    async with relay(standin):
        pass
    async with feed(standin) as stream:
        with pytest.raises(RelayError, match=f"127.0.0.1:{standin.port}"):
            await stream.connected(0.5)


@on_a_loop
async def test_garbage_and_giants_break_the_stream_and_are_marked() -> None:
    for data in (b"\xff\xff\xff garbage", encoded(**BLOCKED | {"Resource": b"x" * (2 << 20)})):
        record = Recorder("kernel")
        async with relay(StandIn()) as standin, feed(standin) as stream:
            await stream.connected(60)
            await standin.until_watched()
            stream.route("kernels", "kernel-1", record)
            standin.send(data)
            await standin.until_watched(2)
            await recorded(record, 2)
            standin.send(encoded(**BLOCKED))
            assert (await recorded(record, 3))[2].Resource == "/etc/shadow"
        assert len(gaps(record)) >= 2


@on_a_loop
async def test_fields_are_bounded_and_a_name_that_is_not_utf8_hides_nothing() -> None:
    record = Recorder("kernel")
    hostile = BLOCKED | {
        "Resource": b"/tmp/\xff\xfe" + b"\xf0\x9f\x98\x80" * 10_000,
        "ProcessName": b"\xc3\x28",
        "ATags": ["tag"] * 1000,
        "EventData": {f"{n:02}": "x" * 9000 for n in range(80)},
        "Owner": {"Name": "o" * 9000},
        "HostPID": -(2**31),
        "Timestamp": 2**62,
    }
    async with relay(StandIn()) as standin, feed(standin) as stream:
        await stream.connected(60)
        await standin.until_watched()
        stream.route("kernels", "kernel-1", record)
        standin.send(encoded(**hostile))
        (alert,) = await recorded(record, 1)
    assert alert.Action == "Block"
    assert alert.Resource.startswith("/tmp/\ufffd\ufffd") and len(alert.Resource) == 4096
    assert alert.ProcessName == "\ufffd("
    assert (len(alert.ATags), len(alert.EventData), len(alert.Owner["Name"])) == (64, 64, 4096)
    assert alert.HostPID == -(2**31)


@on_a_loop
async def test_a_flood_is_kept_within_the_records_bounds_and_none_is_lost() -> None:
    record = Recorder("kernel", capacity=100)
    ours, foreign = flood(["kernel-1"])[0], flood(["somebody-else"])[0]
    async with relay(StandIn()) as standin, feed(standin) as stream:
        await stream.connected(60)
        await standin.until_watched()
        stream.route("kernels", "kernel-1", record)
        for _ in range(2000):
            standin.send(ours)
            standin.send(foreign)
        await recorded(record, 2000)
        assert record.counts.by_action == {"Block": 2000}
        assert len(record.after(0, 10_000).alerts) == 100
        assert stream.foreign >= 1999


# --- TLS


async def told(target: Relay) -> str:
    """What a connection with it comes to."""
    connection = target.open()
    try:
        await connection.alive(20)
    except RelayError as error:
        return str(error)
    finally:
        await connection.close()
    return "alive"


@on_a_loop
async def test_mutual_tls_and_each_way_in_which_it_fails(tmp_path: Path) -> None:
    authority, stranger = Authority(), Authority("stranger")
    server = authority.issue("localhost")
    credentials = grpc.ssl_server_credentials(
        [(server.key, server.certificate)], authority.certificate, require_client_auth=True
    )
    ours = directory(tmp_path / "ours", authority, authority.issue("client"))
    none = directory(tmp_path / "none", authority)
    forged = directory(tmp_path / "forged", authority, stranger.issue("client"))
    wrong = directory(tmp_path / "wrong", stranger, authority.issue("client"))

    async with relay(StandIn(), credentials=credentials) as standin:

        def configured(tls: Path | None, name: str = "localhost") -> Relay:
            return Relay.from_environment(
                {
                    "MODELARMOR_RELAY": f"127.0.0.1:{standin.port}",
                    "MODELARMOR_RELAY_NAME": name,
                    "MODELARMOR_RELAY_TLS": "" if tls is None else str(tls),
                }
            )

        assert await told(configured(ours)) == "alive"
        for refused in (none, forged, None):
            assert await told(configured(refused)) != "alive"
        assert "MODELARMOR_RELAY_NAME" in await told(configured(wrong))
        assert "MODELARMOR_RELAY_NAME" in await told(configured(ours, "kubearmor"))
        record = Recorder("kernel")
        async with Feed(configured(ours)) as stream:
            await stream.connected(60)
            await standin.until_watched()
            stream.route("kernels", "kernel-1", record)
            standin.send(encoded(**BLOCKED))
            await recorded(record, 1)


def test_half_a_configuration_of_tls_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"no ca\.crt"):  # never on in the clear
        Relay.from_environment({"MODELARMOR_RELAY_TLS": str(empty)})
    authority = Authority()
    half = directory(tmp_path / "half", authority)
    (half / "client.crt").write_bytes(authority.issue("client").certificate)
    with pytest.raises(ValueError, match="go together"):
        Relay.from_environment({"MODELARMOR_RELAY_TLS": str(half)})
    for target in ("", "nowhere", "host:99999", "http://host:1", "a b:1"):
        with pytest.raises(ValueError, match="host:port"):
            Relay(target=target)


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    tls = directory(tmp_path / "tls", Authority())
    (tls / "ca.crt").write_text("hello")
    with pytest.raises(RelayError, match=r"ca\.crt is no file of certificates"):
        Relay(ca=tls / "ca.crt").open()


def test_the_moment_of_a_gap_is_told_as_an_instant() -> None:
    from modelarmor.cluster.relay.feed import _mark

    mark = _mark("kernels", "kernel-1", "…", time.mktime((2026, 1, 1, 0, 0, 0, 0, 0, 0)))
    assert mark.UpdatedTime.endswith("Z") and mark.Type == "SystemEvent"
