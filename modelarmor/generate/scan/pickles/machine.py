"""An unpickler that does nothing: it follows a stream's opcodes, and imports and calls nothing.

What CPython's C unpickler would do with the same bytes, in its order, over a file of any size with
little memory: long values are skipped, not read. The opcodes: CPython's `Lib/pickletools.py`. Two
readings are offered, since the same bytes mean different things to different loaders: that of
`pickle`, and that of `joblib`, which reads arrays between the opcodes.

Where unpicklers disagree (frames that end within an opcode), this goes on as the most permissive of
them, the C one, and says so.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from modelarmor.generate.artifact.data import Data
from modelarmor.generate.scan.pickles.values import (
    DATA,
    KEPT,
    MARK,
    UNKNOWN,
    Bytes,
    Call,
    Global,
    Items,
)

_WINDOW: Final = 1 << 18
#: how long a string may be to be looked at
_STRING: Final = 4096
_LINE: Final = 1 << 16
#: entries of stack and memo: 80 MB of references
_MAX_STACK: Final = 10_000_000
_MAX_MEMO: Final = 5_000_000
_MAX_USES: Final = 20_000
_MAX_ODD: Final = 100
#: a memo this large is only there to take memory: CPython makes room for twice the index
_HUGE_INDEX: Final = 1 << 24
_HUGE: Final = 1 << 31

#: how the reading ended: at its end; where the bytes end; where an unpickler would give up; or
#: where this one did
End = Literal["stop", "truncated", "invalid", "limit"]


@dataclass(slots=True)
class Use:
    """How a stream uses a name."""

    offset: int
    #: with these arguments, the first that was seen
    arguments: Any = None
    called: bool = False
    #: called in a way that runs `__init__`, not only `__new__`
    constructed: bool = False


@dataclass(slots=True)
class Reading:
    """What a stream does."""

    start: int
    #: behind the last opcode that was read
    end: int = 0
    how: End = "invalid"
    note: str = ""
    opcodes: int = 0
    protocol: int = 0
    uses: dict[tuple[str, str], Use] = field(default_factory=dict)
    #: (kind, sentence, offset)
    odd: list[tuple[str, str, int]] = field(default_factory=list)
    #: bytes that are handed to something that unpickles them
    nested: list[Bytes] = field(default_factory=list)
    #: objects in a joblib array: a stream of their own at these places
    persistent: int = 0
    #: arrays that were read between the opcodes
    arrays: int = 0
    #: strings and names within code objects
    code_names: set[str] = field(default_factory=set)
    #: what is left
    value: Any = None

    def note_odd(self, kind: str, sentence: str, offset: int) -> None:
        if len(self.odd) < _MAX_ODD:
            self.odd.append((kind, sentence, offset))


class _Ended(Exception):
    def __init__(self, how: End, note: str = "") -> None:
        super().__init__(note)
        self.how = how
        self.note = note


class OutOfTime(Exception):
    """The look's time is over."""


#: Python 2's names (`_compat_pickle`), as an unpickler maps them below protocol 3
_RENAMED: Final = {
    "__builtin__": "builtins", "copy_reg": "copyreg", "Queue": "queue", "commands": "subprocess",
    "cPickle": "pickle", "_winreg": "winreg", "itertools": "itertools", "exceptions": "builtins",
    "urllib2": "urllib.request", "StringIO": "io", "cStringIO": "io", "UserDict": "collections",
    "SocketServer": "socketserver", "ConfigParser": "configparser", "thread": "_thread",
    "dummy_thread": "_dummy_thread", "httplib": "http.client", "xmlrpclib": "xmlrpc.client",
}  # fmt: skip
_TORCH_BYTES: Final = frozenset(
    {("torch.storage", "_load_from_bytes"), ("pickle", "loads"), ("_pickle", "loads"),
     ("cloudpickle", "loads"), ("dill", "loads"), ("dill._dill", "loads"), ("marshal", "loads")}
)  # fmt: skip
_ARRAY: Final = ("joblib.numpy_pickle", "NumpyArrayWrapper")


class Machine:
    """Follows one stream."""

    def __init__(
        self,
        data: Data,
        start: int = 0,
        *,
        joblib: bool = False,
        tick: Callable[[], None] = lambda: None,
        depth: int = 0,
    ) -> None:
        """Make ready.

        Args:
            data: the file.
            start: where the stream begins.
            joblib: read arrays between the opcodes, as `joblib.load` does.
            tick: called now and then; may raise `OutOfTime`.
            depth: how many readings this one is within.
        """
        self._data = data
        self._size = data.size
        self._joblib = joblib
        self._tick = tick
        self._depth = depth
        self._buffer = b""
        self._base = start
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._frame = -1
        self.reading = Reading(start)

    # --- the loop

    def run(self) -> Reading:
        """Follow the stream to its end, wherever that is; raises `OutOfTime` alone."""
        reading = self.reading
        try:
            while True:
                self._steps()
        except _Ended as end:
            reading.how, reading.note = end.how, end.note
        except (IndexError, KeyError) as error:
            reading.how, reading.note = "invalid", f"the stack has no such value: {error}"[:200]
        except (ValueError, struct.error, UnicodeError, OverflowError) as error:
            reading.how, reading.note = "invalid", str(error)[:200]
        reading.end = self._base + self._at
        return reading

    def _steps(self) -> None:
        """Some ten thousand opcodes."""
        self._tick()
        table = _TABLE
        reading = self.reading
        if len(self._stack) > _MAX_STACK or len(self._memo) > _MAX_MEMO:
            raise _Ended("limit", "it keeps more values than are followed")
        for _ in range(10_000):
            if self._at >= len(self._buffer):
                self._fill(1)
            code = self._buffer[self._at]
            if self._frame >= 0 and self._base + self._at >= self._frame:
                self._end_frame()
            self._at += 1
            step = table[code]
            if step is None:
                self._at -= 1
                raise _Ended("invalid", f"0x{code:02x} is no opcode")
            reading.opcodes += 1
            step(self)

    # --- bytes

    def _fill(self, length: int) -> None:
        """Make `length` bytes available at the present place."""
        self._base += self._at
        self._at = 0
        if self._size - self._base < length:
            raise _Ended("truncated", "the file ends within the pickle")
        self._buffer = self._data.read(self._base, max(length, _WINDOW))
        if len(self._buffer) < length:
            raise _Ended("truncated", "the file ends within the pickle")

    def _take(self, length: int) -> bytes:
        if self._at + length > len(self._buffer):
            self._fill(length)
        taken = self._buffer[self._at : self._at + length]
        self._at += length
        return taken

    def _skip(self, length: int) -> int:
        """Pass over bytes; returns where they begin."""
        where = self._base + self._at
        if length > self._size - where:
            if length - (self._size - where) > _HUGE:
                self._odd("pickle-memory-bomb", f"it claims {length} bytes that are not there")
            raise _Ended("truncated", "the file ends within a value")
        if self._at + length <= len(self._buffer):
            self._at += length
        else:
            self._base, self._at, self._buffer = where + length, 0, b""
        return where

    def _line(self) -> bytes:
        """A text argument, without its newline; only the beginning of a long one."""
        found = self._buffer.find(b"\n", self._at)
        if found < 0:
            where = self._base + self._at
            head = self._data.read(where, _LINE)
            found = head.find(b"\n")
            if found < 0:
                return self._long_line(where, head)
            self._base, self._at, self._buffer = where, 0, head
        line = self._buffer[self._at : found]
        self._at = found + 1
        return line

    def _long_line(self, where: int, head: bytes) -> bytes:
        at = where + len(head)
        while at < self._size:
            self._tick()
            block = self._data.read(at, _WINDOW)
            if not block:
                break
            found = block.find(b"\n")
            if found >= 0:
                self._base, self._at, self._buffer = at + found + 1, 0, b""
                return head[:_STRING] + b"\0" * (len(head) - _STRING)
            at += len(block)
        raise _Ended("truncated", "the file ends within a line")

    def _odd(self, kind: str, sentence: str) -> None:
        self.reading.note_odd(kind, sentence, self._base + self._at)

    def _end_frame(self) -> None:
        if self._base + self._at > self._frame:
            self._odd(
                "pickle-parser-divergence",
                "an opcode reaches over the end of its frame: unpicklers disagree on what follows",
            )
        self._frame = -1

    # --- the stack

    def _mark(self) -> list[Any]:
        """The values above the last mark, which is taken away with them."""
        stack = self._stack
        at = len(stack) - 1
        while stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise _Ended("invalid", "there is no mark on the stack")
        taken = stack[at + 1 :]
        del stack[at:]
        return taken

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is MARK:
            raise _Ended("invalid", "a mark where a value should be")
        return value

    def _remember(self, index: int, value: Any) -> None:
        if index < 0:
            raise _Ended("invalid", "a negative place in the memo")
        if index > _HUGE_INDEX and index > 4 * self.reading.opcodes + 1024:
            self._odd("pickle-memory-bomb", f"place {index} of the memo makes room for all before")
        self._memo[index] = value

    # --- names and calls

    def _import(self, module: Any, name: Any) -> Global | Any:
        if not (isinstance(module, str) and isinstance(name, str)):
            if not (_could_be_text(module) and _could_be_text(name)):
                raise _Ended("invalid", "it imports what is no name")
            self._odd("pickle-computed-name", "it imports a name that is no constant")
            return UNKNOWN
        module = _RENAMED.get(module, module)
        uses = self.reading.uses
        if (module, name) not in uses:
            if len(uses) >= _MAX_USES:
                raise _Ended("limit", f"it imports more than {_MAX_USES} names")
            uses[module, name] = Use(self._base + self._at)
        return Global(module, name)

    def _call(self, function: Any, arguments: Any, *, init: bool) -> Any:
        """What calling it gives; notes that it was called."""
        if isinstance(function, Global):
            use = self.reading.uses[function.module, function.name]
            if not use.called:
                use.arguments = arguments
            use.called = True
            use.constructed = use.constructed or init
            self._look_at(function, arguments)
        elif isinstance(function, Call) or function is UNKNOWN:
            self._odd("pickle-calls-result", f"it calls what {function!r} gave")
        elif not isinstance(function, Items):
            # DATA, numbers, strings: no unpickler gets further than this
            raise _Ended("invalid", "it calls what is no function")
        return Call(function, arguments)

    def _look_at(self, function: Global, arguments: Any) -> None:
        given = arguments if isinstance(arguments, tuple) else ()
        if (function.module, function.name) in _TORCH_BYTES and given:
            if isinstance(given[0], Bytes):
                if len(self.reading.nested) < _MAX_USES:
                    self.reading.nested.append(given[0])
            else:
                self._odd("pickle-computed-name", f"{function.path} unpickles what is no constant")
        if function.name in ("CodeType", "_make_function", "_create_code", "code"):
            _strings(arguments, self.reading.code_names)
        if _allocates(function.path, given):
            self._odd("pickle-memory-bomb", f"{function.path} is asked for an enormous size")

    def _build(self) -> None:
        state = self._pop()
        target = self._stack[-1]
        if isinstance(target, Global | Items) or target is UNKNOWN:
            kind = "pickle-changes-global" if not isinstance(target, Items) else "pickle-odd-state"
            if kind == "pickle-changes-global":
                self._odd(kind, f"it sets attributes of {target!r} itself, not of an object")
        if isinstance(target, Call):
            target.state = state
            if self._joblib and _is(target.function, _ARRAY):
                self._array(target, state)

    # --- joblib

    def _array(self, wrapper: Call, state: Any) -> None:
        """Pass over the array that `joblib.numpy_pickle.NumpyArrayWrapper.read_array` reads."""
        if self._frame >= 0 and self._base + self._at < self._frame:
            self._odd("pickle-parser-divergence", "an array begins within a frame")
            raise _Ended("limit", "an array begins within a frame")
        if self._frame >= 0:
            self._end_frame()
        size = _array_bytes(state)
        self.reading.arrays += 1
        wrapper.function = DATA
        if size is None:
            raise _Ended("limit", "an array of a kind that is not followed")
        if size < 0:
            self._objects()
            return
        if state.get("numpy_array_alignment_bytes") is not None:
            padding = self._take(1)[0]
            self._skip(padding)
        self._skip(size)

    def _objects(self) -> None:
        """An array of objects is a pickle of its own, in place."""
        if self._depth > 20:
            raise _Ended("limit", "pickles nested more than 20 deep")
        within = Machine(self._data, self._base + self._at, tick=self._tick, depth=self._depth + 1)
        found = within.run()
        mine = self.reading
        for key, use in found.uses.items():
            known = mine.uses.setdefault(key, use)
            known.called |= use.called
            known.constructed |= use.constructed
            known.arguments = known.arguments if known.arguments is not None else use.arguments
        mine.odd += found.odd[: max(0, _MAX_ODD - len(mine.odd))]
        mine.nested += found.nested
        mine.code_names |= found.code_names
        mine.opcodes += found.opcodes
        self._base, self._at, self._buffer = found.end, 0, b""
        if found.how != "stop":
            raise _Ended(found.how, found.note)


#: packages whose objects are no strings, whatever one calls
_NO_TEXT: Final = ("numpy.", "scipy.", "sklearn.", "torch.", "joblib.", "collections.")


def _could_be_text(value: Any) -> bool:
    """Whether it is a string, or what a call returned that may be one."""
    if isinstance(value, Call) and isinstance(value.function, Global):
        return not value.function.path.startswith(_NO_TEXT)
    return isinstance(value, str | Call) or value is UNKNOWN or value is DATA


def _is(value: Any, path: tuple[str, str]) -> bool:
    return isinstance(value, Global) and (value.module, value.name) == path


def _strings(value: Any, into: set[str], depth: int = 4) -> None:
    """The words within the arguments of a code object: names that it uses, and constants."""
    if len(into) > 400:
        return
    if isinstance(value, str):
        into.add(value[:80])
    elif depth and isinstance(value, tuple):
        for item in value:
            _strings(item, into, depth - 1)
    elif depth and isinstance(value, Items):
        for item in value.items:
            _strings(item, into, depth - 1)
    elif depth and isinstance(value, Call):
        _strings(value.arguments, into, depth - 1)


_ALLOCATORS: Final = re.compile(
    r"builtins\.(bytes|bytearray|list|tuple|range)|array\.array|numpy\.(ndarray|zeros|ones|empty|full)"
    r"|numpy\.(_core|core)\.multiarray\.(_reconstruct|zeros|empty)|torch\.(zeros|ones|empty|full)"
)


def _allocates(path: str, arguments: tuple[Any, ...]) -> bool:
    if not _ALLOCATORS.fullmatch(path):
        return False
    if path.endswith("range"):
        return False
    for argument in arguments[:3]:
        total = 1
        for number in argument if isinstance(argument, tuple) else (argument,):
            total *= number if isinstance(number, int) else 1
        if total > _HUGE:
            return True
    return False


_DTYPE: Final = re.compile(r"[<>|=]?([a-zA-Z?])(\d{0,9})")
_WIDTHS: Final = {"?": 1, "b": 1, "B": 1, "h": 2, "H": 2, "i": 4, "I": 4, "l": 8, "L": 8, "q": 8,
                  "Q": 8, "e": 2, "f": 4, "d": 8, "g": 16, "F": 8, "D": 16}  # fmt: skip


def _array_bytes(state: Any) -> int | None:
    """How many bytes an array's data has; -1 where it is objects, None where nobody knows."""
    if not isinstance(state, Items):
        return None
    shape, dtype = state.get("shape"), state.get("dtype")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        return None
    width = _dtype_bytes(dtype)
    if width is None or width < 0:
        return width
    count = 1
    for number in shape:
        count *= number
        if count > 1 << 62:
            return None
    return count * width


def _dtype_bytes(dtype: Any) -> int | None:
    if not isinstance(dtype, Call) or not _is(dtype.function, ("numpy", "dtype")):
        return None
    given = dtype.arguments[0] if isinstance(dtype.arguments, tuple) and dtype.arguments else None
    found = _DTYPE.fullmatch(given) if isinstance(given, str) else None
    if found is None:
        return None
    state = dtype.state if isinstance(dtype.state, tuple) else ()
    kind, digits = found[1], found[2]
    if kind == "O" or (len(state) > 7 and type(state[7]) is int and state[7] & 1):
        return -1
    if kind in "SVa" or (kind == "U"):
        if kind == "V" and len(state) > 5 and type(state[5]) is int and state[5] > 0:
            return int(state[5])
        return int(digits or 0) * (4 if kind == "U" else 1)
    if digits:
        return int(digits) if kind in "biufcmM" else None
    return _WIDTHS.get(kind)


# --- the opcodes


def _bare(value: Any) -> Callable[[Machine], None]:
    return lambda m: m._stack.append(value)


def _number(length: int, form: str) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        m._stack.append(struct.unpack(form, m._take(length))[0])
        if not len(m._stack) & 127:
            _pass_integers(m)

    return step


_FLOATS: Final = re.compile(rb"(?:G.{8})+", re.DOTALL)


def _float8(m: Machine) -> None:
    """A number, and those that follow: lists of millions of them are common."""
    m._take(8)
    m._stack.append(DATA)
    stop = len(m._buffer) if m._frame < 0 else m._frame - m._base
    if run := _FLOATS.match(m._buffer, m._at, stop):
        count = (run.end() - m._at) // 9
        m._stack += [DATA] * count
        m.reading.opcodes += count
        m._at = run.end()


def _int1(m: Machine) -> None:
    m._stack.append(m._take(1)[0])
    if not len(m._stack) & 127:
        _pass_integers(m)


_INTEGERS: Final = re.compile(rb"(?:K.|M..|J....)+", re.DOTALL)
_INTEGER: Final = re.compile(rb"K.|M..|J....", re.DOTALL)


def _pass_integers(m: Machine) -> None:
    """The same for small integers, well within a long list: elsewhere they are sizes."""
    if MARK in m._stack[-100:]:
        return
    stop = len(m._buffer) if m._frame < 0 else m._frame - m._base
    if run := _INTEGERS.match(m._buffer, m._at, stop):
        count = len(_INTEGER.findall(run[0]))
        m._stack += [DATA] * count
        m.reading.opcodes += count
        m._at = run.end()


def _int_line(m: Machine) -> None:
    line = m._line()
    if len(line) > 20:
        digits = line.strip().rstrip(b"L").lstrip(b"+-")
        if not digits.replace(b"_", b"").isalnum():
            raise _Ended("invalid", "a number that is none")
        m._stack.append(DATA)
        return
    text = line.strip().rstrip(b"L")
    m._stack.append(bool(int(text)) if text in (b"00", b"01") else int(text, 0))


def _float_line(m: Machine) -> None:
    float(m._line())
    m._stack.append(DATA)


def _long1(m: Machine) -> None:
    raw = m._take(m._take(1)[0])
    m._stack.append(int.from_bytes(raw, "little", signed=True) if len(raw) <= 16 else DATA)


def _long4(m: Machine) -> None:
    length = struct.unpack("<i", m._take(4))[0]
    if length < 0:
        raise _Ended("invalid", "a number of negative length")
    if length <= 16:
        m._stack.append(int.from_bytes(m._take(length), "little", signed=True))
    else:
        m._skip(length)
        m._stack.append(DATA)


def _text(length: int) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        size = int.from_bytes(m._take(length), "little")
        if size > _STRING:
            m._skip(size)
            m._stack.append(DATA)
        else:
            m._stack.append(m._take(size).decode("utf-8", "surrogatepass"))

    return step


def _bytes(length: int, *, signed: bool = False) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        size = int.from_bytes(m._take(length), "little", signed=signed)
        if size < 0:
            raise _Ended("invalid", "a string of negative length")
        m._stack.append(Bytes(m._skip(size), size))

    return step


def _old_string(length: int) -> Callable[[Machine], None]:
    """STRING of Python 2: text in ASCII to Python 3, and so perhaps a name."""

    def step(m: Machine) -> None:
        size = int.from_bytes(m._take(length), "little", signed=length == 4)
        if size < 0:
            raise _Ended("invalid", "a string of negative length")
        if size > _STRING:
            m._stack.append(Bytes(m._skip(size), size))
        else:
            m._stack.append(m._take(size).decode("latin-1"))

    return step


def _string_line(m: Machine) -> None:
    line = m._line().strip(b" \t\r")
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        if len(line) > _STRING:
            m._stack.append(DATA)
            return
        raise _Ended("invalid", "a string without quotes")
    m._stack.append(codecs.escape_decode(line[1:-1])[0].decode("latin-1"))


def _unicode_line(m: Machine) -> None:
    line = m._line()
    m._stack.append(str(line, "raw-unicode-escape") if len(line) <= _STRING else DATA)


def _proto(m: Machine) -> None:
    version = m._take(1)[0]
    if version > 5:
        raise _Ended("invalid", f"protocol {version} does not exist")
    m.reading.protocol = max(m.reading.protocol, version)


def _frame(m: Machine) -> None:
    length = struct.unpack("<Q", m._take(8))[0]
    where = m._base + m._at
    if 0 <= where < m._frame:
        m._odd("pickle-parser-divergence", "a frame begins within another")
    if length > m._size - where:
        m._odd("pickle-parser-divergence", "a frame is longer than the file")
    m._frame = where + length


def _stop(m: Machine) -> None:
    m.reading.value = m._pop()
    if m._frame >= 0 and m._base + m._at < m._frame:
        m._odd("pickle-parser-divergence", "the pickle ends within a frame")
    raise _Ended("stop")


def _global(m: Machine) -> None:
    module, name = m._line(), m._line()
    m._stack.append(m._import(module.decode(), name.decode()))


def _stack_global(m: Machine) -> None:
    name, module = m._pop(), m._pop()
    m._stack.append(m._import(module, name))


def _extension(length: int) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        code = int.from_bytes(m._take(length), "little")
        m._odd("pickle-extension", f"it uses extension {code}, which names something elsewhere")
        m._stack.append(UNKNOWN)

    return step


def _reduce(m: Machine) -> None:
    arguments, function = m._pop(), m._pop()
    m._stack.append(m._call(function, arguments, init=True))


def _newobj(m: Machine) -> None:
    arguments, kind = m._pop(), m._pop()
    m._stack.append(m._call(kind, arguments, init=False))


def _newobj_ex(m: Machine) -> None:
    m._pop()
    _newobj(m)


def _inst(m: Machine) -> None:
    arguments = tuple(m._mark()[:KEPT])
    module, name = m._line(), m._line()
    m._stack.append(
        m._call(m._import(module.decode("ascii"), name.decode("ascii")), arguments, init=True)
    )


def _obj(m: Machine) -> None:
    kind, *arguments = m._mark()
    m._stack.append(m._call(kind, tuple(arguments[:KEPT]), init=True))


def _persistent_line(m: Machine) -> None:
    if m.reading.opcodes == 1:  # PK: the beginning of every zip archive; no pickler writes this
        raise _Ended("invalid", "a reference in text to begin with")
    m._line()
    m.reading.persistent += 1
    m._stack.append(Call(DATA, ()))


def _persistent(m: Machine) -> None:
    m._pop()
    m.reading.persistent += 1
    m._stack.append(Call(DATA, ()))


def _tuple(count: int) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        taken = tuple(m._stack[-count:])
        if len(taken) < count or MARK in taken:
            raise _Ended("invalid", "a tuple of values that are not there")
        del m._stack[-count:]
        m._stack.append(taken)

    return step


def _tuple_mark(m: Machine) -> None:
    m._stack.append(tuple(m._mark()[:64]))


def _container(kind: str) -> Callable[[Machine], None]:
    return lambda m: m._stack.append(Items(kind, []))


def _container_mark(kind: str) -> Callable[[Machine], None]:
    return lambda m: m._stack.append(Items(kind, m._mark()[:KEPT]))


def _add(count: int) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        added = [m._pop() for _ in range(count)][::-1]
        _extend(m, added)

    return step


def _add_mark(m: Machine) -> None:
    _extend(m, m._mark())


def _extend(m: Machine, added: list[Any]) -> None:
    target = m._stack[-1]
    if target is MARK:
        raise _Ended("invalid", "a mark where a container should be")
    if isinstance(target, Items):
        target.items += added[: max(0, 2 * KEPT - len(target.items))]
    elif isinstance(target, Global) or target is UNKNOWN:
        m._odd("pickle-changes-global", f"it puts something into {target!r} itself")
    elif isinstance(target, Call) and isinstance(target.function, Global):
        # calls __setitem__, append or extend of an object that a call made
        use = m.reading.uses[target.function.module, target.function.name]
        use.called = True


def _get_line(m: Machine) -> None:
    m._stack.append(m._memo[int(m._line())])


def _get(length: int) -> Callable[[Machine], None]:
    return lambda m: m._stack.append(m._memo[int.from_bytes(m._take(length), "little")])


def _put_line(m: Machine) -> None:
    m._remember(int(m._line()), m._stack[-1])


def _put(length: int) -> Callable[[Machine], None]:
    return lambda m: m._remember(int.from_bytes(m._take(length), "little"), m._stack[-1])


def _memoize(m: Machine) -> None:
    m._memo[len(m._memo)] = m._stack[-1]


def _pop_top(m: Machine) -> None:
    m._stack.pop()


def _pop_mark(m: Machine) -> None:
    m._mark()


def _dup(m: Machine) -> None:
    m._stack.append(m._stack[-1])


def _readonly(m: Machine) -> None:
    if not m._stack:
        raise _Ended("invalid", "there is no buffer")


def _table() -> list[Callable[[Machine], None] | None]:
    steps: dict[bytes, Callable[[Machine], None]] = {
        b"(": _bare(MARK), b".": _stop, b"0": _pop_top, b"1": _pop_mark, b"2": _dup,
        b"F": _float_line, b"I": _int_line, b"J": _number(4, "<i"), b"K": _int1,
        b"L": _int_line, b"M": _number(2, "<H"), b"N": _bare(None), b"P": _persistent_line,
        b"Q": _persistent, b"R": _reduce, b"S": _string_line, b"T": _old_string(4),
        b"U": _old_string(1), b"V": _unicode_line, b"X": _text(4), b"a": _add(1),
        b"b": Machine._build, b"c": _global, b"d": _container_mark("dict"),
        b"}": _container("dict"), b"e": _add_mark, b"g": _get_line, b"h": _get(1), b"i": _inst,
        b"j": _get(4), b"l": _container_mark("list"), b"]": _container("list"), b"o": _obj,
        b"p": _put_line, b"q": _put(1), b"r": _put(4), b"s": _add(2), b"t": _tuple_mark,
        b")": _bare(()), b"u": _add_mark, b"G": _float8, b"\x80": _proto, b"\x81": _newobj,
        b"\x82": _extension(1), b"\x83": _extension(2), b"\x84": _extension(4),
        b"\x85": _tuple(1), b"\x86": _tuple(2), b"\x87": _tuple(3), b"\x88": _bare(True),
        b"\x89": _bare(False), b"\x8a": _long1, b"\x8b": _long4, b"B": _bytes(4, signed=True),
        b"C": _bytes(1), b"\x8c": _text(1), b"\x8d": _text(8), b"\x8e": _bytes(8),
        b"\x8f": _container("set"), b"\x90": _add_mark, b"\x91": _container_mark("frozenset"),
        b"\x92": _newobj_ex, b"\x93": _stack_global, b"\x94": _memoize, b"\x95": _frame,
        b"\x96": _bytes(8), b"\x97": _bare(DATA), b"\x98": _readonly,
    }  # fmt: skip
    return [steps.get(bytes((code,))) for code in range(256)]


_TABLE: Final = _table()
