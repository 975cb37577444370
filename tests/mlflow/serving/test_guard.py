"""What the guard lets through to a model."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from modelarmor_mlflow.serving.confined import modelarmor_guard
from modelarmor_mlflow.serving.confined.modelarmor_guard import (
    KINDS,
    Buckets,
    Column,
    Guard,
    GuardError,
    Limits,
    Probing,
    Refused,
    check,
)
from modelarmor_mlflow.serving.limits import from_signature, read, with_data, write
from modelarmor_mlflow.serving.server import Server, Service

JSON = "application/json"
TABLE = Limits(
    columns=(
        Column(name="age", type="long", minimum=0, maximum=120),
        Column(name="income", type="double"),
        Column(name="name", type="string", required=False),
        Column(name="member", type="boolean", required=False),
    ),
    max_rows=3,
    max_string=10,
)
TENSOR = Limits(columns=(Column(shape=(-1, 2, 2), minimum=0, maximum=1),))


def split(columns: list[str], *rows: list[Any]) -> bytes:
    return json.dumps({"dataframe_split": {"columns": columns, "data": rows}}).encode()


def records(*rows: dict[str, Any]) -> bytes:
    return json.dumps({"dataframe_records": rows}).encode()


@pytest.mark.parametrize(
    "body",
    [
        split(["age", "income"], [30, 1.5], [31, 2]),
        split(["income", "age", "name"], [1.5, 30, "ada"]),
        split(["age", "income", "extra"], [30, 1.5, "ignored"]),
        split(["age", "income"], [None, 1.5]),
        records({"age": 1, "income": 2.0}, {"age": 2, "income": 1, "member": True}),
        b'{"inputs": [{"age": 1, "income": 2.0}]}',
    ],
)
def test_what_the_signature_names_passes(body: bytes) -> None:
    check(body, JSON, TABLE)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (split(["age"], [30]), "schema"),
        (records({"age": 30}), "schema"),
        (split(["age", "income"], ["thirty", 1.0]), "type"),
        (split(["age", "income"], [True, 1.0]), "type"),
        (records({"age": 1, "income": 1, "member": "yes"}), "type"),
        (records({"age": 1, "income": 1, "name": False}), "type"),
        (split(["age", "income"], [121, 1.0]), "range"),
        (split(["age", "income"], [-1, 1.0]), "range"),
        (split(["age", "income"], [1 << 70, 1.0]), "range"),
        (b'{"dataframe_records": [{"age": 1, "income": 1e999}]}', "range"),
        (b'{"dataframe_records": [{"age": 1, "income": NaN}]}', "malformed"),
        (b'{"dataframe_records": [{"age": 1, "income": 1%s}]}' % (b"0" * 400), "range"),
        (split(["age", "income"], [1, [2, "x"]]), "type"),
        (split(["age", "income"], [1]), "shape"),
        (split(["age", "income"], *[[1, 1.0]] * 4), "size"),
        (records({"age": 1, "income": 1, "name": "x" * 11}), "size"),
        (b"[1]", "malformed"),
        (b"{", "malformed"),
        (b"[" * 100_000, "malformed"),
        (b"\xff\xfe", "malformed"),
        (b'{"dataframe_records": [1]}', "shape"),
        (b'{"dataframe_records": [], "params": {"a": ["%s"]}}' % (b"x" * 11), "size"),
    ],
)
def test_what_it_does_not_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(Refused) as refused:
        check(body, JSON, TABLE)
    assert refused.value.kind == kind


NAMELESS = Limits(columns=(Column(type="long", maximum=120),))
NAMELESS_PAIR = Limits(columns=(Column(type="double"), Column(type="long", maximum=120)))
FLAT = Limits(columns=(Column(shape=(-1, 2), maximum=1),))
OPTIONAL = Limits(columns=(Column(name="age", type="long", maximum=120, required=False),))


@pytest.mark.parametrize(
    ("request_", "limits"),
    [
        ({"messages": [], "age": 999, "income": 1}, TABLE),
        ({"prompt": "", "age": [999], "income": [1]}, TABLE),
        ({"input": 1, "age": 999, "dataframe_records": [{"age": 1}]}, OPTIONAL),
        ({"dataframe_split": {"columns": ["age"], "data": {"age": [999]}}}, OPTIONAL),
        ({"dataframe_split": {"columns": ["x", "age"], "data": [{"age": 999}]}}, OPTIONAL),
        ({"dataframe_split": {"columns": {"x": 0, "age": 0}, "data": [[1, 999]]}}, OPTIONAL),
        ({"dataframe_split": {"columns": ["x"], "data": [[999]]}}, NAMELESS),
        ({"dataframe_records": [{"x": 999}]}, NAMELESS),
        ({"inputs": {"x": [999]}}, NAMELESS),
        ({"prompt": 999}, NAMELESS),
        ({"dataframe_split": {"columns": ["x", "y"], "data": [[1, 999]]}}, NAMELESS_PAIR),
        ({"dataframe_records": [{"x": 1, "y": 999}]}, NAMELESS_PAIR),
        ({"inputs": [[1, 999]]}, NAMELESS_PAIR),
        ({"dataframe_split": {"columns": ["x", "y"], "data": [[1, 999]]}}, FLAT),
        ({"dataframe_records": [{"x": 1, "y": 999}]}, FLAT),
        ({"inputs": {"age": [1, 2, 3, 4], "income": [1, 2, 3, 4]}}, TABLE),
    ],
)
def test_no_other_form_of_a_request_gets_around_the_limits(
    request_: dict[str, Any], limits: Limits
) -> None:
    with pytest.raises(Refused):
        check(json.dumps(request_).encode(), JSON, limits)


@pytest.mark.parametrize(
    ("request_", "limits"),
    [
        ({"messages": [{"role": "user", "content": "hi"}], "age": 30, "income": 1}, TABLE),
        ({"messages": [{"role": "user", "content": "hi"}] * 9}, Limits(max_rows=3)),
        ({"dataframe_split": {"columns": ["x"], "data": [30, 31]}}, NAMELESS),
        ({"dataframe_split": {"data": [[1.5, 30]]}}, NAMELESS_PAIR),
        ({"inputs": [[1.5, 30], [2, 31]]}, NAMELESS_PAIR),
        ({"dataframe_split": {"columns": [0, 1], "data": [[0.5, 1]]}}, FLAT),
        ({"dataframe_split": {"columns": ["x", "y"], "data": [[1, "a"]]}}, Limits()),
    ],
)
def test_honest_requests_of_other_forms_pass(request_: dict[str, Any], limits: Limits) -> None:
    check(json.dumps(request_).encode(), JSON, limits)


@pytest.mark.parametrize("front", ["\ufeff", "\n", "\r\n", " \n", '""\n', '" "\n'])
@pytest.mark.parametrize("limits", [OPTIONAL, NAMELESS])
def test_a_csv_is_read_as_pandas_reads_it(front: str, limits: Limits) -> None:
    with pytest.raises(Refused, match=r"above|names of the columns"):
        check(f"{front}age\n999\n".encode(), "text/csv", limits)


def test_a_csv_is_checked_like_a_table() -> None:
    check(b"age,income\n30,1.5\n", "text/csv", TABLE)
    with pytest.raises(Refused, match="row 0"):
        check(b"age,income\n130,1.5\n", "text/csv", TABLE)
    with pytest.raises(Refused, match="should be a number"):
        check(b"age,income\n1_0,1.5\n", "text/csv", TABLE)
    with pytest.raises(Refused, match="income"):
        check(b"age\n30\n", "text/csv", TABLE)


def test_a_tensor_has_the_shape_and_range_of_the_signature() -> None:
    check(json.dumps({"inputs": [[[0, 1], [0.5, 1]]] * 3}).encode(), JSON, TENSOR)
    for inputs, kind in (
        ([[0, 1], [1, 0]], "shape"),
        ([[[0, 1]]], "shape"),
        ([[[0, 1], [1, 2]]], "range"),
        ("text", "shape"),
    ):
        with pytest.raises(Refused) as refused:
            check(json.dumps({"inputs": inputs}).encode(), JSON, TENSOR)
        assert refused.value.kind == kind


def test_another_content_type_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        check(b"{}", "application/x-pickle", Limits())
    assert refused.value.status == 415


@given(st.binary(max_size=300), st.sampled_from([JSON, "text/csv"]))
def test_any_bytes_are_judged(body: bytes, kind: str) -> None:
    try:
        check(body, kind, TABLE)
    except Refused as refused:
        assert 400 <= refused.status < 500


def test_a_client_gets_its_rate_and_no_more() -> None:
    now = [0.0]
    buckets = Buckets(2, clock=lambda: now[0])
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 0.5]
    assert buckets.take("b") == 0
    now[0] = 0.5
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0


PLANE = (
    Column(name="x", type="double", minimum=0, maximum=100),
    Column(name="y", type="double", minimum=0, maximum=100),
)


def near(number: int) -> dict[str, float]:
    """Inputs that hardly differ."""
    return {"x": 50 + number / 1000, "y": 50}


def apart(number: int) -> dict[str, float]:
    """Inputs of which no two of a hundred are near."""
    return {"x": number % 10 * 10, "y": number // 10 % 10 * 10}


def test_who_asks_for_nearly_the_same_is_probing_and_others_are_answered() -> None:
    probing = Probing(0.05, PLANE)
    asked = [probing.found("a", [near(number)]) for number in range(60)]
    assert asked == [False] * 21 + [True] * 39  # the first is near none
    assert not probing.found("a", [apart(0)])
    assert not probing.found("b", [near(61)])
    assert probing.found("a", [near(62)])


def test_who_asks_for_what_lies_apart_or_for_the_very_same_is_not_probing() -> None:
    probing = Probing(0.05, PLANE)
    assert not any(probing.found("a", [apart(number)]) for number in range(1000))
    assert not any(probing.found("b", [near(0)]) for _ in range(1000))


def test_probing_in_one_request_is_noticed_and_no_more_of_it_is_looked_at() -> None:
    probing = Probing(0.05, PLANE)
    asked = [probing.found("a", [near(k * 500 + n) for n in range(500)]) for k in range(3)]
    assert asked == [False, True, True]


def test_of_clients_and_their_inputs_no_more_is_remembered_than_is_said() -> None:
    probing = Probing(0.05, PLANE)
    for client in range(1000):
        probing.found(str(client), [apart(0)])
    for number in range(1000):
        probing.found("a", [apart(number), near(number)])
    assert len(probing._clients) <= 256
    assert len(probing._clients["a"].points) <= 100


@pytest.mark.parametrize(
    "body",
    [
        lambda row: split(["y", "x"], [row["y"], row["x"]]),
        records,
        lambda row: json.dumps({"inputs": {name: [value] for name, value in row.items()}}).encode(),
        lambda row: json.dumps({"instances": [row]}).encode(),
    ],
)
def test_probing_is_refused_in_whatever_form_it_is_asked(body: Any) -> None:
    reports: list[Any] = []
    limits = Limits(columns=PLANE, near=0.05)
    guard = Guard(_echo, limits, lambda *report: reports.append(report))
    statuses = [asyncio.run(_asked(guard, body(near(number))))[0] for number in range(30)]
    assert statuses == [200] * 21 + [429] * 9
    assert {kind for kind, *_ in reports} == {"probing"} <= KINDS


def test_how_near_is_near_is_learned_from_known_inputs(tmp_path: Path) -> None:
    known = tmp_path / "known.csv"
    lines = [f"{apart(number)['x']},{apart(number)['y']}" for number in range(100)]
    plain = Limits(columns=tuple(Column(name=name, type="double") for name in "xy"))
    known.write_text("\n".join(["x,y", *lines, *lines]))  # each twice
    learned = with_data(plain, known, margin=0)
    assert learned.near == pytest.approx(10 / 90 / 2, rel=0.01)
    (tmp_path / "guard.yaml").write_text(write(learned))
    assert read(tmp_path / "guard.yaml") == learned
    known.write_text("\n".join(["x,y", *lines[:50]]))
    assert with_data(plain, known).near is None, "of so few nothing can be told"


async def _asked(guard: Guard, *parts: bytes, path: str = "/invocations") -> tuple[int, bytes]:
    sent: list[Any] = []
    messages = [
        {"type": "http.request", "body": part, "more_body": i < len(parts) - 1}
        for i, part in enumerate(parts)
    ]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(b"content-type", b"application/json; charset=utf-8")],
        "client": ("192.0.2.1", 1),
    }
    await guard(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


def test_what_passes_reaches_the_model_whole() -> None:
    reports: list[Any] = []
    guard = Guard(_echo, TABLE, lambda *report: reports.append(report))
    body = split(["age", "income"], [30, 1.5])
    assert asyncio.run(_asked(guard, body[:10], body[10:])) == (200, body)
    assert reports == []


def test_what_is_refused_is_answered_as_mlflow_does_and_reported() -> None:
    reports: list[Any] = []
    guard = Guard(_echo, TABLE, lambda *report: reports.append(report))
    status, body = asyncio.run(_asked(guard, split(["age"], [30])))
    assert status == 400
    assert json.loads(body)["error_code"] == "BAD_REQUEST"
    assert reports == [("schema", "column 'income' is missing", "192.0.2.1")]


def test_under_audit_it_is_reported_only() -> None:
    reports: list[Any] = []
    limits = Limits(action="audit", columns=TABLE.columns)
    guard = Guard(_echo, limits, lambda *report: reports.append(report))
    assert asyncio.run(_asked(guard, split(["age"], [30])))[0] == 200
    assert [kind for kind, *_ in reports] == ["schema"]


def test_a_body_is_not_held_beyond_its_limit_even_under_audit() -> None:
    limits = Limits(action="audit", max_body=10)
    guard = Guard(_echo, limits, lambda *report: None)
    assert asyncio.run(_asked(guard, b"12345", b"123456"))[0] == 413


class Uploads:
    """Requests of several clients at once, whose bodies come as the test says."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.parts: list[asyncio.Queue[Any]] = []

    def begin(self) -> asyncio.Task[int]:
        parts: asyncio.Queue[Any] = asyncio.Queue()
        self.parts.append(parts)
        return asyncio.create_task(self._asked(parts))

    def send(self, number: int, body: bytes, *, more: bool = True) -> None:
        self.parts[number].put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def _asked(self, parts: asyncio.Queue[Any]) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/invocations", "client": ("::1", 1)}
        headers = [(b"content-type", b"application/json")]
        await self._guard({**scope, "headers": headers}, parts.get, send)
        return int(sent[0]["status"])


def test_bodies_that_come_slowly_are_held_within_bounds_and_small_ones_are_answered() -> None:
    large = b'{"a": "' + b"x" * 150_000
    reports: list[Any] = []

    async def everything() -> None:
        guard = Guard(_echo, Limits(max_body=200_000), lambda *report: reports.append(report))
        uploads = Uploads(guard)
        tasks = [uploads.begin() for _ in range(60)]
        for number in range(60):
            uploads.send(number, large)
        done, _ = await asyncio.wait(tasks, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result() for task in done} == {503}
        small = uploads.begin()
        uploads.send(60, b"{}", more=False)
        assert await small == 200
        waiting = [number for number, task in enumerate(tasks) if not task.done()]
        assert waiting, "none that fit was refused"
        for number in waiting:
            uploads.send(number, b'"}', more=False)
        await asyncio.gather(*tasks)
        again = uploads.begin()  # there is room again
        uploads.send(61, large + b'"}', more=False)
        assert await again == 200

    asyncio.run(everything())
    assert {kind for kind, *_ in reports} == {"busy"} <= KINDS


def test_a_body_that_does_not_come_to_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelarmor_guard, "_BODY_SECONDS", 0.01)

    async def slow() -> int:
        uploads = Uploads(Guard(_echo, Limits(), lambda *report: None))
        task = uploads.begin()
        uploads.send(0, b"{")
        return await task

    assert asyncio.run(slow()) == 408


def test_a_client_that_asks_too_often_is_told_when_to_return() -> None:
    guard = Guard(_echo, Limits(rate=1), lambda *report: None)
    answers = [asyncio.run(_asked(guard, b"{}")) for _ in range(2)]
    assert [status for status, _ in answers] == [200, 429]
    assert b"try again in" in answers[1][1]


def test_of_what_the_confined_process_says_only_what_can_be_meant_is_counted(
    tmp_path: Path,
) -> None:
    service = Service(name="m", model=tmp_path, python=Path(sys.executable), port=0)
    server = Server(service, lambda _: pytest.fail("nothing starts"), lambda _: None)
    try:
        for kind in (*sorted(KINDS), "other"):
            server._hear(json.dumps({"violation": kind, "message": "m", "client": "c"}).encode())
        for status in ("200", "٢٠٠", "999", "2e2"):
            for count in (1, 10**400, -1, True):
                said = {"requests": {status: count}, "seconds": 0.1}
                server._hear(json.dumps(said).encode())
    finally:
        server.close()
    assert dict(server.traffic.refused) == dict.fromkeys(KINDS, 1)
    assert dict(server.traffic.by_status) == {"200": 1}


SIGNATURE = {
    "signature": {
        "inputs": json.dumps(
            [
                {"type": "long", "name": "age", "required": True},
                {"type": "string", "name": "name", "required": False},
            ]
        )
    }
}


def test_limits_come_from_the_signature_and_from_known_inputs(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text(yaml.safe_dump(SIGNATURE))
    (tmp_path / "known.csv").write_text("age,name\n20,a\n70,b\n")
    limits = with_data(from_signature(tmp_path), tmp_path / "known.csv")
    assert limits.columns == (
        Column(name="age", type="long", minimum=15, maximum=75),
        Column(name="name", type="string", required=False),
    )
    (tmp_path / "guard.yaml").write_text(write(limits))
    assert read(tmp_path / "guard.yaml") == limits


@pytest.mark.parametrize("known", ["x,y\n,1\n,2\n", "x,y\ninf,1\n1,2\n"])
def test_data_from_which_no_range_can_be_learned_is_an_error(tmp_path: Path, known: str) -> None:
    (tmp_path / "known.csv").write_text(known)
    limits = Limits(columns=(Column(name="x", type="double"),))
    with pytest.raises(GuardError, match="no numbers"):
        with_data(limits, tmp_path / "known.csv")
    with pytest.raises(GuardError, match="minimum"):
        Limits.from_json({"columns": [{"name": "x", "minimum": float("nan")}]})


def test_a_tensor_of_the_signature_is_read(tmp_path: Path) -> None:
    entry = {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 3]}}
    (tmp_path / "MLmodel").write_text(
        yaml.safe_dump({"signature": {"inputs": json.dumps([entry])}})
    )
    assert from_signature(tmp_path).columns == (Column(shape=(-1, 3)),)


def test_a_model_without_a_signature_has_no_limits_on_its_columns(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    assert from_signature(tmp_path) == Limits()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("action: perhaps", "block or audit"),
        ("max_rows: -1", "positive"),
        ("max_row: 1", "no 'max_row'"),
        ("columns: {}", "a list"),
        ("columns: [{nam: x}]", "no 'nam'"),
        ("columns: [{shape: [a]}]", "whole numbers"),
        ("columns: [{minimum: low}]", "a number"),
        ("[", "not plain YAML"),
        ("- 1", "mapping"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused_with_the_file(
    tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "guard.yaml").write_text(text)
    with pytest.raises(GuardError, match=says) as error:
        read(tmp_path / "guard.yaml")
    assert "guard.yaml" in str(error.value)


@pytest.mark.parametrize("inputs", ["{", '{"a": 1}', '[{"type": "tensor"}]', "[1]"])
def test_a_signature_that_cannot_be_read_is_an_error(tmp_path: Path, inputs: str) -> None:
    (tmp_path / "MLmodel").write_text(yaml.safe_dump({"signature": {"inputs": inputs}}))
    with pytest.raises(GuardError):
        from_signature(tmp_path)
