"""What a served model may be asked: the guard in front of ``/invocations``.

It protects the model and its server from their clients: a request that is too large, too frequent,
not of the shape that the model's signature names, or out of the range that it was trained on is
refused before the model sees it, and so is one of too many that hardly differ. It runs in the
confined server process, because a proxy in front would cost more than the request; so it is no
boundary against the *model*, and what it reports is the server's word, recorded apart from the
enforcer's.

Only the standard library: the confined process reads this file from its private directory, without
the package around it.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import math
import random
import time
from array import array
from collections import OrderedDict, deque
from collections.abc import (
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, get_args

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
#: what is refused, in one word
Kind = Literal[
    "rate", "size", "busy", "slow", "content-type", "malformed", "schema", "shape", "type", "range",
    "probing", "disconnect",
]  # fmt: skip
KINDS: Final[frozenset[str]] = frozenset(get_args(Kind))
#: called with the kind of a violation, a sentence, and the client's address
Report = Callable[[Kind, str, str], None]
#: the values of one input by column, as they came
Row = Mapping[str, Any]

#: bytes of a request's body where nothing else is said
MAX_BODY: Final = 16 << 20
#: bodies are held whole until they are answered: as much as so many of the largest, beside so many
#: bytes of each request, so that small ones are answered whatever others send
_LARGE_ONES: Final = 16
_SMALL: Final = 64 << 10
#: seconds for a body that has begun to come
_BODY_SECONDS: Final = 60.0
#: how many clients' rates are remembered
_CLIENTS: Final = 4_096
#: how many clients' inputs are remembered, how many of each, and with how many numbers at most:
#: 52 MB where everything is full
_WATCHED: Final = 256
_REMEMBERED: Final = 100
_NUMBERS_OF_A_POINT: Final = 256
#: so many of the remembered ones may be near another
_NEAR_ONES: Final = 20
#: rows of one request that are looked at, drawn by chance
_ROWS_LOOKED_AT: Final = 20
#: whole numbers that MLflow's types hold, and what an integer column of JSON may be
_INTEGERS: Final = {"integer": 31, "long": 63}
_NUMBERS: Final = frozenset({"integer", "long", "float", "double"})
#: where one of them is there, MLflow gives the model the whole request, whatever else is in it
#: (mlflow 3.17 ``pyfunc/utils/serving_data_parser.py``)
_CHAT: Final = frozenset({"messages", "prompt", "input"})


class GuardError(ValueError):
    """Limits that cannot be read; says which and what would be right."""


class Refused(Exception):
    """A request that the guard does not let through."""

    def __init__(self, kind: Kind, status: int, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a model's input, or its only tensor."""

    #: empty for a model whose inputs have no names
    name: str = ""
    #: MLflow's name of a type: ``double``, ``long``, ``string`` …; empty where any will do
    type: str = ""
    required: bool = True
    minimum: float | None = None
    maximum: float | None = None
    #: the shape of a tensor; -1 is any length. None for a column of a table
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is let through."""

    #: ``audit`` lets everything through and reports
    action: Literal["block", "audit"] = "block"
    #: bytes
    max_body: int = MAX_BODY
    #: rows of one request
    max_rows: int | None = None
    #: characters of one string
    max_string: int = 1 << 20
    #: requests a second, of one client and of all together; None is no limit
    rate: float | None = None
    total_rate: float | None = None
    #: two inputs that differ by less are near, see `Probing`; None is not to look
    near: float | None = None
    columns: tuple[Column, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The limits as a JSON object, without what is at its default."""
        blank = Limits()
        answer = {
            item.name: value
            for item in fields(self)
            if item.name != "columns"
            and (value := getattr(self, item.name)) != getattr(blank, item.name)
        }
        plain = Column()
        columns = [
            {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in asdict(column).items()
                if value != getattr(plain, key)
            }
            for column in self.columns
        ]
        return answer | ({"columns": columns} if columns else {})

    @classmethod
    def from_json(cls, body: Any) -> Limits:
        """Read what `to_json` wrote, or a person.

        Raises:
            GuardError: an unknown name, or a value that is none.
        """
        values = _known(body, cls, "the guard's limits")
        if values.get("action", "block") not in ("block", "audit"):
            raise GuardError(f"action is block or audit, not {values['action']!r}")
        for name in ("max_body", "max_rows", "max_string", "rate", "total_rate", "near"):
            value = values.get(name)
            if value is not None and (not _is_number(value) or value <= 0):
                raise GuardError(f"{name} is a positive number, not {value!r}")
        columns = values.pop("columns", [])
        if not isinstance(columns, list | tuple):
            raise GuardError("columns is a list")
        return cls(**values, columns=tuple(_column(item) for item in columns))


def _known(body: Any, kind: type, what: str) -> dict[str, Any]:
    if not isinstance(body, Mapping):
        raise GuardError(f"{what} should be a mapping, not {type(body).__name__}")
    names = [item.name for item in fields(kind)]
    for key in body:
        if key not in names:
            raise GuardError(f"{what} have no {key!r}; known are {', '.join(names)}")
    return dict(body)


def _column(body: Any) -> Column:
    values = _known(body, Column, "a column's limits")
    for name in ("minimum", "maximum"):
        value = values.get(name)
        if value is not None and (not _is_number(value) or math.isnan(value)):
            raise GuardError(f"{name} of a column is a number, not {value!r}")
    shape = values.get("shape")
    if shape is not None:
        if not isinstance(shape, list | tuple) or not all(type(size) is int for size in shape):
            raise GuardError(f"the shape of a tensor is a list of whole numbers, not {shape!r}")
        values["shape"] = tuple(shape)
    return Column(**values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Buckets:
    """Token buckets by client: `rate` requests a second, a burst of one second's worth."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = max(1.0, rate)
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Take one token; 0 where there was one, else the seconds until there is."""
        now = self._clock()
        level, then = self._levels.pop(client, (self._burst, now))
        level = min(self._burst, level + (now - then) * self._rate)
        wait = 0.0 if level >= 1 else (1 - level) / self._rate
        self._levels[client] = (level - 1 if not wait else level, now)
        if len(self._levels) > _CLIENTS:
            self._levels.popitem(last=False)
        return wait


class Space:
    """Where inputs lie: each number that has a range, as a part of that range."""

    def __init__(self, columns: Iterable[Column]) -> None:
        self._axes: list[tuple[str, float, float]] = []
        for column in columns:
            low, high = column.minimum, column.maximum
            if column.name and low is not None and high is not None and low < high:
                self._axes.append((column.name, low, high - low))

    def point(self, row: Row) -> array[float]:
        """Where an input lies; what is missing or no number lies at the beginning of its range."""
        values: list[float] = []
        for name, low, span in self._axes:
            value = row.get(name)
            values.append((value - low) / span if isinstance(value, int | float) else 0.0)
        if len(values) > _NUMBERS_OF_A_POINT:  # sums of them tell what is near, too
            values = [sum(values[n::_NUMBERS_OF_A_POINT]) for n in range(_NUMBERS_OF_A_POINT)]
        return array("d", values)


def distances(point: array[float], others: Iterable[array[float]]) -> list[float]:
    """How far each other point is."""
    here = tuple(point)
    return [math.dist(here, other) for other in others]


class _Memory:
    """A client's last inputs that differed, and which were near one before."""

    def __init__(self) -> None:
        self.points: deque[array[float]] = deque(maxlen=_REMEMBERED)
        self.near: deque[bool] = deque(maxlen=_REMEMBERED)


class Probing:
    """Notices who asks again and again about nearly the same input, however slowly.

    An attack that can only ask feels its way along the border between two answers, by thousands of
    inputs that differ hardly. Others' inputs lie apart. So an input is compared with the last ones
    of its client; if it is near one, and many of those were, it is probing. No clock is looked at.
    What is refused is not remembered: the client's other inputs go on being answered.

    Args:
        near: the distance in `Space`.
        columns: those of the limits.
    """

    def __init__(self, near: float, columns: Iterable[Column]) -> None:
        self._near = near
        self._space = Space(columns)
        self._clients: OrderedDict[str, _Memory] = OrderedDict()

    def found(self, client: str, rows: Sequence[Row]) -> bool:
        """Whether one of the rows is one too many; the others are remembered."""
        memory = self._clients.pop(client, None) or _Memory()
        self._clients[client] = memory
        if len(self._clients) > _WATCHED:
            self._clients.popitem(last=False)
        looked_at = rows
        if len(rows) > _ROWS_LOOKED_AT:  # which ones is not for the client to know
            looked_at = random.sample(rows, _ROWS_LOOKED_AT)
        # All of them, so that a batch is remembered whatever its first row is.
        return sum(self._is_probing(memory, self._space.point(row)) for row in looked_at) > 0

    def _is_probing(self, memory: _Memory, point: array[float]) -> bool:
        nearest = min(distances(point, memory.points), default=math.inf)
        if not nearest:  # asked again, from which nobody learns anything
            return False
        near = nearest < self._near
        if near and memory.near.count(True) >= _NEAR_ONES:
            return True
        memory.points.append(point)
        memory.near.append(near)
        return False


class Guard:
    """An ASGI application that lets through to `app` what `limits` permit."""

    def __init__(self, app: App, limits: Limits, report: Report) -> None:
        self._app = app
        self._limits = limits
        self._report = report
        self._clients = Buckets(limits.rate) if limits.rate else None
        self._total = Buckets(limits.total_rate) if limits.total_rate else None
        self._probing = Probing(limits.near, limits.columns) if limits.near else None
        self._room = _LARGE_ONES * limits.max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        client = (scope.get("client") or ("",))[0]
        held = bytearray()
        try:
            try:
                body = await self._admitted(scope, receive, client, held)
            except Refused as refused:
                await _answer(send, refused)
                return
            await self._app(scope, _replay(body, receive), send)
        finally:
            self._room += _large(held)

    async def _admitted(
        self, scope: Scope, receive: Receive, client: str, held: bytearray
    ) -> bytes:
        """The body of a request that may reach the model; raises `Refused`."""
        try:
            self._check_rate(client)
        except Refused as refused:
            self._refuse(refused, client)
        try:
            await self._receive(receive, held)
        except Refused as refused:  # under audit too: it is held in memory
            self._report(refused.kind, str(refused), client)
            raise
        body = bytes(held)
        try:
            self._check_probing(check(body, _content_type(scope), self._limits), client)
        except Refused as refused:
            self._refuse(refused, client)
        return body

    def _refuse(self, refused: Refused, client: str) -> None:
        self._report(refused.kind, str(refused), client)
        if self._limits.action == "block":
            raise refused

    def _check_rate(self, client: str) -> None:
        for buckets, key in ((self._clients, client), (self._total, "")):
            if buckets is not None and (wait := buckets.take(key)):
                raise Refused("rate", 429, f"too many requests; try again in {wait:.1f} s")

    def _check_probing(self, rows: Sequence[Row], client: str) -> None:
        if self._probing is not None and self._probing.found(client, rows):
            raise Refused("probing", 429, "too many inputs that hardly differ from each other")

    async def _receive(self, receive: Receive, held: bytearray) -> None:
        """Take a request's body, for which there is room, into `held`."""
        more, deadline = True, 0.0
        while more:
            message = await _within(deadline, receive)
            if message["type"] != "http.request":
                raise Refused("disconnect", 400, "the client went away")
            part = message.get("body", b"")
            if len(held) + len(part) > self._limits.max_body:
                most = self._limits.max_body
                raise Refused("size", 413, f"a request has at most {most} bytes")
            before = _large(held)
            held += part
            self._room -= _large(held) - before
            if self._room < 0 and len(held) > _SMALL:
                raise Refused("busy", 503, "too many large requests at once; try again later")
            more = message.get("more_body", False)
            deadline = deadline or time.monotonic() + _BODY_SECONDS


def _large(held: bytearray) -> int:
    """How many bytes are more than a small request has."""
    return max(0, len(held) - _SMALL)


async def _within(deadline: float, receive: Receive) -> Message:
    """The next part of a request; 0: however late."""
    if not deadline:
        return await receive()
    try:
        return await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
    except asyncio.TimeoutError:  # noqa: UP041 - another one than TimeoutError before Python 3.11
        raise Refused("slow", 408, f"a body should come within {_BODY_SECONDS:g} s") from None


def _content_type(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"content-type":
            return str(value.decode("latin-1").partition(";")[0].strip().lower())
    return ""


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()  # the client's disconnect
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _answer(send: Send, refused: Refused) -> None:
    # the form of MLflow's own errors
    body = json.dumps({"error_code": "BAD_REQUEST", "message": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def check(body: bytes, content_type: str, limits: Limits) -> Sequence[Row]:
    """Whether the body of a request may reach the model.

    Args:
        body: what was sent.
        content_type: without parameters, in lower case.
        limits: what is let through.

    Returns:
        the rows of a table; none of what is no table.

    Raises:
        Refused: it may not.
    """
    if content_type == "text/csv":
        return _check_table(*_csv(body), limits)
    if content_type != "application/json":
        raise Refused("content-type", 415, "send application/json or text/csv")
    try:
        request = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Refused("malformed", 400, "the body is no JSON document") from None
    if not isinstance(request, dict):
        raise Refused("malformed", 400, "the body should be a JSON object")
    _check_strings({"params": request.get("params")}, limits)  # beside the inputs of each form
    if _CHAT & request.keys():
        return _check_whole(request, limits)
    if isinstance(split := request.get("dataframe_split"), dict):
        return _check_table(split.get("columns"), split.get("data", []), limits)
    if isinstance(records := request.get("dataframe_records"), list):
        return _check_records(records, limits)
    if "inputs" in request or "instances" in request:
        return _check_tensors(request.get("inputs", request.get("instances")), limits)
    _check_strings(request, limits)
    return ()


def _refuse_constant(name: str) -> float:
    raise Refused("malformed", 400, f"{name} is no number of JSON")


def _csv(body: bytes) -> tuple[list[str], list[list[Any]]]:
    try:
        # as pandas reads it: without the mark of the byte order and empty lines
        rows = [row for row in csv.reader(io.StringIO(body.decode("utf-8-sig"))) if row]
    except (ValueError, csv.Error):
        raise Refused("malformed", 400, "the body is no CSV text in UTF-8") from None
    if not rows or not any(name.strip() for name in rows[0]):
        raise Refused("malformed", 400, "the body should begin with the names of the columns")
    return rows[0], [[_cell(cell) for cell in row] for row in rows[1:]]


def _cell(text: str) -> Any:
    try:
        return text if "_" in text else float(text)  # 1_0 is a number to Python alone
    except ValueError:
        return text


def _check_table(names: Any, rows: Any, limits: Limits) -> Sequence[Row]:
    # pandas takes objects for both, and sorts them into columns by names of their own
    if not isinstance(names, list | None) or not isinstance(rows, list):
        raise Refused("malformed", 400, "columns and data of a table should be lists")
    ordered = _ordered(names, limits)
    _check_count(len(rows), limits)
    for number, row in enumerate(rows):
        if isinstance(row, dict) or (len(ordered) > 1 and not isinstance(row, list)):
            raise Refused("shape", 400, f"row {number} should be a list of values")
        values = row if isinstance(row, list) else [row]
        expected = ordered or [None] * len(values)
        if len(ordered) == 1 and ordered[0] is not None and _is_nameless_tensor(ordered[0]):
            expected = ordered * len(values)  # MLflow makes one array of the whole table
        if len(values) != len(expected):
            raise Refused(
                "shape", 400, f"row {number} has {len(values)} values, not {len(expected)}"
            )
        for value, column in zip(values, expected, strict=True):
            _check_value(value, column, number, limits)
    called = [column.name if column else None for column in ordered]
    return [
        {name: value for name, value in zip(called, row, strict=False) if name is not None}
        for row in (rows if limits.near else ())
        if isinstance(row, list) and called
    ]


def _ordered(names: list[Any] | None, limits: Limits) -> list[Column | None]:
    """The columns of a table; where the signature has no names, its order counts."""
    columns = {column.name: column for column in limits.columns}
    if names is None or not columns or "" in columns:
        return [*limits.columns]
    _check_names([str(name) for name in names], columns)
    return [columns.get(str(name)) for name in names]


def _is_nameless_tensor(column: Column) -> bool:
    return column.shape is not None and not column.name


def _by_name(names: Iterable[str], limits: Limits) -> dict[str, Column | None]:
    """The column of each value that has a name."""
    columns = {column.name: column for column in limits.columns}
    nameless = columns.get("")
    if nameless is not None and len(limits.columns) > 1:
        raise Refused("schema", 400, "the model's columns have no names: send dataframe_split")
    names = [*names]
    if columns:
        _check_names(names, columns)
    return {name: columns.get(name, nameless) for name in names}


def _check_records(records: list[Any], limits: Limits) -> Sequence[Row]:
    _check_count(len(records), limits)
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise Refused("shape", 400, f"record {number} should be an object")
        for name, column in _by_name(record, limits).items():
            _check_value(record[name], column, number, limits)
    return records


def _check_whole(request: dict[str, Any], limits: Limits) -> Sequence[Row]:
    """A request in the form of a chat: columns may stand anywhere among its own names."""
    _check_strings(request, limits)
    columns = _by_name(request, limits)
    known = {name: request[name] for name, column in columns.items() if column is not None}
    return _check_tensors(known, limits) if known else ()


def _check_names(names: Iterable[str], columns: Mapping[str, Column]) -> None:
    if "" in columns:  # the model's columns have no names
        return
    present = set(names)  # MLflow drops what the signature does not name
    missing = [name for name, column in columns.items() if column.required and name not in present]
    if missing:
        raise Refused("schema", 400, f"column {missing[0]!r:.80} is missing")


def _check_tensors(inputs: Any, limits: Limits) -> Sequence[Row]:
    if isinstance(inputs, dict):
        for name, column in _by_name(inputs, limits).items():
            _check_tensor(inputs[name], column, limits)
            if isinstance(inputs[name], list) and (column is None or column.type != "array"):
                _check_count(len(inputs[name]), limits)
        return _rows_of(inputs) if limits.near else ()
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict):
        return _check_records(inputs, limits)
    if len(limits.columns) > 1 and not any(column.name for column in limits.columns):
        return _check_table(None, inputs, limits)  # MLflow takes them by their order
    only = limits.columns[0] if len(limits.columns) == 1 else None
    _check_tensor(inputs, only, limits)
    if isinstance(inputs, list):
        _check_count(len(inputs), limits)
    return ()


def _rows_of(columns: Mapping[str, Any]) -> Sequence[Row]:
    """Of columns of numbers, however MLflow is given them: one each, or a list."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in columns.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=False)]


def _check_tensor(value: Any, column: Column | None, limits: Limits) -> None:
    if column is not None and column.shape is not None:
        _check_shape(value, column.shape)
    for leaf in _leaves(value):
        _check_value(leaf, column, None, limits)


def _check_shape(value: Any, shape: tuple[int, ...]) -> None:
    """Compare the outermost element of each dimension; numpy refuses a ragged rest."""
    found: list[int] = []
    while isinstance(value, list):
        found.append(len(value))
        value = value[0] if value else None
    if len(found) != len(shape) or any(
        want not in (-1, have) for have, want in zip(found, shape, strict=True)
    ):
        raise Refused("shape", 400, f"an input of shape {found}, not {list(shape)}")


def _leaves(value: Any) -> Iterator[Any]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
        else:
            yield item


def _check_strings(request: dict[str, Any], limits: Limits) -> None:
    for leaf in _leaves(request):
        _check_value(leaf, None, None, limits)


def _check_count(rows: int, limits: Limits) -> None:
    if limits.max_rows is not None and rows > limits.max_rows:
        raise Refused("size", 413, f"{rows} rows; a request has at most {limits.max_rows}")


def _check_value(value: Any, column: Column | None, row: int | None, limits: Limits) -> None:
    if isinstance(value, str) and len(value) > limits.max_string:
        raise Refused("size", 413, f"a string of more than {limits.max_string} characters")
    if column is None or value is None:
        return
    if isinstance(value, list | dict):
        for leaf in _leaves(value):
            _check_value(leaf, column, row, limits)
        return
    where = f"{column.name or 'the input'}{'' if row is None else f' of row {row}'}"
    _check_type(value, column.type, where)
    if isinstance(value, int | float):
        _check_range(value, column, where)


def _check_type(value: Any, kind: str, where: str) -> None:
    if kind in _NUMBERS and not _is_number(value):
        raise Refused("type", 400, f"{where} should be a number ({kind})")
    if kind == "string" and not isinstance(value, str) and not _is_number(value):
        raise Refused("type", 400, f"{where} should be a string")
    if kind == "boolean" and not isinstance(value, bool):
        raise Refused("type", 400, f"{where} should be true or false")


def _check_range(value: float, column: Column, where: str) -> None:
    try:
        finite = math.isfinite(value)
    except OverflowError:  # JSON's whole numbers have no end
        finite = False
    if not finite:
        raise Refused("range", 400, f"{where} is not finite")
    bits = _INTEGERS.get(column.type)
    if bits is not None and not -(1 << bits) <= value < (1 << bits):
        raise Refused("range", 400, f"{where} is out of the range of {column.type}")
    if column.minimum is not None and value < column.minimum:
        raise Refused("range", 400, f"{where} is {value:g}, below {column.minimum:g}")
    if column.maximum is not None and value > column.maximum:
        raise Refused("range", 400, f"{where} is {value:g}, above {column.maximum:g}")
