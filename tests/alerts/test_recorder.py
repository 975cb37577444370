from __future__ import annotations

import threading
import time

import pytest

from modelarmor.alerts import Alert, Recorder


def _alert(n: int = 0, operation: str = "File") -> Alert:
    return Alert(Operation=operation, Action="Block", PolicyName="p", Resource=f"/secret/{n}")


def test_reader_gets_what_came_after_its_number() -> None:
    record = Recorder("w")
    numbers = [record.append(_alert(n)) for n in range(5)]

    page = record.after(2, limit=2)

    assert numbers == [1, 2, 3, 4, 5]
    assert [(seq, alert.Resource) for seq, alert in page.alerts] == [
        (3, "/secret/2"),
        (4, "/secret/3"),
    ]
    assert (page.last, page.missed) == (5, 0)
    assert record.after(5).alerts == ()
    assert record.after(99).missed == 0


def test_reader_is_told_how_many_fell_out() -> None:
    record = Recorder("w", capacity=3)
    for n in range(10):
        record.append(_alert(n))

    page = record.after(2)

    assert [seq for seq, _ in page.alerts] == [8, 9, 10]
    assert page.missed == 5
    assert record.counts.total == 10


def test_suppressed_alerts_are_counted_as_what_they_were_and_listed_once() -> None:
    record = Recorder("w")
    record.append(_alert())
    seq = record.count(_alert(), 99_999)

    counts = record.counts
    [(_, entry)] = record.after(seq - 1).alerts
    assert (counts.total, counts.suppressed) == (100_000, 99_999)
    assert (counts.by_action, counts.by_operation) == ({"Block": 100_000}, {"File": 100_000})
    assert entry.Operation == "AlertThreshold"
    assert entry.EventData == {"Suppressed": "99999", "Operation": "File"}


def test_a_hundred_thousand_alerts_from_four_threads_are_all_counted_and_numbered_once() -> None:
    record = Recorder("w", capacity=100_000)
    alerts = {name: _alert(operation=name) for name in ("File", "Process", "Network", "Syscall")}
    seen: dict[str, list[int]] = {}

    def flood(name: str) -> None:
        seen[name] = [record.append(alerts[name]) for _ in range(25_000)]

    threads = [threading.Thread(target=flood, args=(name,)) for name in alerts]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"100,000 appends: {time.perf_counter() - started:.3f} s")

    assert record.counts.total == 100_000
    assert record.counts.by_operation == dict.fromkeys(alerts, 25_000)
    assert sorted(seq for numbers in seen.values() for seq in numbers) == list(range(1, 100_001))
    page = record.after(0, limit=10_000)
    assert [seq for seq, _ in page.alerts] == list(range(1, 10_001))
    assert all(seq in set(seen[alert.Operation][:10_000]) for seq, alert in page.alerts[:50])


def test_listener_hears_each_entry_until_it_leaves() -> None:
    record = Recorder("w")
    heard: list[int] = []
    leave = record.subscribe(lambda seq, alert: heard.append(seq))
    record.append(_alert())
    record.count(_alert(), 5)
    leave()
    leave()
    record.append(_alert())

    assert heard == [1, 2]


def test_a_listener_that_fails_costs_no_alert(caplog: pytest.LogCaptureFixture) -> None:
    record = Recorder("w")
    heard: list[int] = []
    record.subscribe(lambda seq, alert: 1 / 0)  # type: ignore[arg-type, return-value]
    record.subscribe(lambda seq, alert: heard.append(seq))

    assert record.append(_alert()) == 1
    assert heard == [1]
    assert "a listener of the alerts of 'w' failed" in caplog.text


def test_stamp_is_kept_beside_the_alert_and_its_failure_is_not_the_alerts() -> None:
    record = Recorder("w", stamp=lambda alert: {"cell": {"/secret/0": "1"}[alert.Resource]})
    record.append(_alert(0))
    record.append(_alert(1))

    assert record.after(0).stamps == ({"cell": "1"}, {})


@pytest.mark.parametrize(("seq", "limit"), [(-1, 1), (0, 0), (0, 10_001)])
def test_a_page_that_cannot_be_is_refused(seq: int, limit: int) -> None:
    with pytest.raises(ValueError):
        Recorder("w").after(seq, limit)


def test_a_count_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be counted"):
        Recorder("w").count(_alert(), 0)
