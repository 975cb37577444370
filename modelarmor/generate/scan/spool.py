"""Unpacked bytes: in a file without a name, as few of them as the budget allows."""

from __future__ import annotations

import bz2
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

from modelarmor.generate.artifact.data import Data
from modelarmor.generate.scan.budget import Budget

_BLOCK: Final = 1 << 20
_LZMA_MEMORY: Final = 256 << 20
#: a stream that grows by more than this, and past `_SMALL`, is there to fill a disk
_RATIO: Final = 2_000
_SMALL: Final = 256 << 20
_BROKEN: Final = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, RuntimeError)


class Unpackable(ValueError):
    """A stream that cannot be unpacked, or only at too high a price; says why."""


class Bomb(Unpackable):
    """It grows without end."""


class Spool:
    """Data in a temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        self.size = 0

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self.size += len(content)

    def done(self) -> Self:
        """What was written can be read."""
        self._file.flush()
        return self

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), max(0, min(length, self.size - offset)), offset)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def unpack(kind: str, data: Data, budget: Budget) -> Spool:
    """All that a compressed stream holds; what follows its end is left.

    Args:
        kind: ``gzip``, ``zlib``, ``deflate``, ``bz2``, ``xz``, ``lzma``, ``lz4`` or ``zstd``.
        data: the stream.
        budget: what it may cost.

    Raises:
        Unpackable: it is broken, grows too large, or there is no reader for it.
    """
    spool = Spool()
    try:
        for content in _chunks(kind, data):
            if not budget.spend(len(content)):
                raise Bomb("unpacking it takes more than the look may use")
            if spool.size > _SMALL and spool.size > _RATIO * max(1, data.size):
                raise Bomb(f"it grows to more than {_RATIO} times its size")
            spool.write(content)
        return spool.done()
    except Bomb:
        spool.close()
        raise
    except _BROKEN as error:
        spool.close()
        raise Unpackable(f"{kind}: {error}"[:200]) from None
    except BaseException:
        spool.close()
        raise


def _chunks(kind: str, data: Data) -> Iterator[bytes]:
    """What the streams of a file hold: gzip's members, xz's streams, with zeros between them."""
    make = _decompressor(kind)
    source = _Source(data)
    magic = data.read(0, 2)
    first = True
    while first or (kind != "deflate" and source.has_more()):
        made, alike = 0, source.pending.startswith(magic)
        try:
            for content in _stream(make(), source):
                made += len(content)
                yield content
        except _BROKEN:
            if first or made or alike:
                raise
            return  # no stream, and left alone by Python's readers too
        first = False


def _stream(machine: Any, source: _Source) -> Iterator[bytes]:
    """What one stream holds, which `source` is then behind."""
    while not machine.eof:
        ended = not source.fill()
        if isinstance(machine, _Zlib):
            content, source.pending = machine.step(source.pending)
        else:
            content = machine.decompress(source.pending, _BLOCK)
            source.pending = b""
            while content and not machine.eof and not machine.needs_input:
                yield content
                content = machine.decompress(b"", _BLOCK)
        if ended and not content and not machine.eof:
            raise EOFError("the stream ends too early")
        yield content
    source.pending = (machine.unused_data or b"") + source.pending


class _Source:
    """Data from its beginning to its end, with what was read and not used."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._at = 0
        self.pending = b""

    def fill(self) -> bool:
        """Whether anything is pending, or is now."""
        if not self.pending:
            self.pending = self._data.read(self._at, _BLOCK)
            self._at += len(self.pending)
        return bool(self.pending)

    def has_more(self) -> bool:
        """Whether anything but zeros follows, which are skipped."""
        while self.fill():
            self.pending = self.pending.lstrip(b"\0")
            if self.pending:
                return True
        return False


class _Zlib:
    """zlib's decompressor, which keeps what it did not use, as the others are."""

    def __init__(self, bits: int) -> None:
        self._machine = zlib.decompressobj(bits)

    @property
    def eof(self) -> bool:
        return self._machine.eof

    @property
    def unused_data(self) -> bytes:
        return self._machine.unused_data

    def step(self, content: bytes) -> tuple[bytes, bytes]:
        made = self._machine.decompress(content, _BLOCK)
        return made, self._machine.unconsumed_tail


def _decompressor(kind: str) -> Callable[[], Any]:
    if kind in ("gzip", "zlib", "deflate"):
        bits = {"gzip": 31, "zlib": 15, "deflate": -15}[kind]
        return lambda: _Zlib(bits)
    if kind == "bz2":
        return bz2.BZ2Decompressor
    if kind == "xz":
        return lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)
    if kind == "lzma":
        return lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY)
    if kind == "lz4":
        try:
            from lz4.frame import LZ4FrameDecompressor
        except ImportError:
            raise Unpackable("lz4 is read by the package lz4, which is not installed") from None
        maker: Callable[[], Any] = LZ4FrameDecompressor
        return maker
    raise Unpackable(f"there is no reader for {kind} here")
