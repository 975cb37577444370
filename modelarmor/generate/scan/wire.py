"""Protocol buffers' wire format, read without anybody's schema.

Only what is asked for is read; a message of gigabytes is stepped over field by field.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from modelarmor.generate.artifact.data import Data, Part
from modelarmor.generate.artifact.formats import varint

_WINDOW: Final = 1 << 16


class WireError(ValueError):
    """Bytes that are no message."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message."""

    number: int
    #: of a varint; otherwise 0
    value: int
    #: of what has a length; otherwise of no bytes
    part: Data

    @property
    def text(self) -> str:
        """The bytes as text, the first 4096 of them."""
        return self.part.read(0, 4096).decode("utf-8", "replace")

    @property
    def content(self) -> bytes:
        return self.part.read(0, self.part.size)


def fields(data: Data, tick: Callable[[], None] = lambda: None) -> Iterator[Field]:
    """The fields of a message, in order.

    Raises:
        WireError: the bytes are no message.
    """
    at = 0
    window, base = b"", 0
    size = data.size
    empty = Part(data, 0, 0)
    count = 0
    while at < size:
        count += 1
        if count % 4096 == 0:
            tick()
        if at < base or at - base + 20 > len(window):
            window, base = data.read(at, _WINDOW), at
        key, after = varint(window[at - base : at - base + 10], at)
        if after < 0:
            raise WireError(f"no field begins at byte {at}")
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, after = varint(window[after - base : after - base + 10], after)
            yield Field(number, value, empty)
        elif kind == 2:
            length, after = varint(window[after - base : after - base + 10], after)
            if after < 0 or after + length > size:
                raise WireError(f"a field at byte {at} is longer than the message")
            yield Field(number, 0, Part(data, after, length))
            after += length
        elif kind in (1, 5):
            after += 8 if kind == 1 else 4
        else:
            raise WireError(f"a field at byte {at} has the kind {kind}")
        if after < 0 or after > size or number == 0:
            raise WireError(f"a field at byte {at} is broken")
        at = after
