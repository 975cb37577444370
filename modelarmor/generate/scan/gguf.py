"""GGUF: the chat template among its metadata.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; templates that escape: CVE-2024-34359.
"""

from __future__ import annotations

import struct
from typing import Final

from modelarmor.generate.artifact.data import Data
from modelarmor.generate.scan import templates
from modelarmor.generate.scan.budget import Budget
from modelarmor.generate.scan.report import Report

_WIDTHS: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_MAX_TEMPLATE: Final = 4 << 20


class _Reader:
    def __init__(self, data: Data, at: int, order: str) -> None:
        self._data = data
        self.at = at
        self._order = order

    def number(self, width: int) -> int:
        raw = self._data.read(self.at, width)
        if len(raw) < width:
            raise ValueError("it ends within its metadata")
        self.at += width
        return int.from_bytes(raw, "little" if self._order == "<" else "big")

    def text(self, keep: int) -> bytes:
        length = self.number(8)
        if length > self._data.size - self.at:
            raise ValueError(f"a string of {length} bytes is longer than the file")
        content = self._data.read(self.at, min(length, keep))
        self.at += length
        return content

    def skip(self, length: int) -> None:
        if length > self._data.size - self.at:
            raise ValueError("a value is longer than the file")
        self.at += length


def look(report: Report, data: Data, location: str, budget: Budget) -> None:
    """Look at the templates."""
    version = struct.unpack("<I", data.read(4, 4).ljust(4, b"\0"))[0]
    reader = _Reader(data, 8, "<" if version < 1 << 16 else ">")
    try:
        wide = 4 if version == 1 else 8
        reader.number(wide)
        count = reader.number(wide)
        if count > 1_000_000:
            raise ValueError(f"it claims {count} entries")
        for _ in range(count):
            budget.tick()
            key = reader.text(1024).decode("utf-8", "replace")
            kind = reader.number(4)
            if kind == _STRING:
                value = reader.text(_MAX_TEMPLATE)
                if "template" in key or b"{{" in value or b"{%" in value:
                    templates.look(report, value.decode("utf-8", "replace"), f"{location}!{key}")
            else:
                _skip(reader, kind, budget, 0)
    except ValueError as error:
        report.incomplete(location, f"GGUF that is broken: {error}")
        return
    report.inspected.add(location)


def _skip(reader: _Reader, kind: int, budget: Budget, depth: int) -> None:
    if kind in _WIDTHS:
        reader.skip(_WIDTHS[kind])
    elif kind == _STRING:
        reader.text(0)
    elif kind == _ARRAY and depth < 4:
        inner, count = reader.number(4), reader.number(8)
        if inner in _WIDTHS:
            reader.skip(_WIDTHS[inner] * count)
            return
        for i in range(count):
            if i % 4096 == 0:
                budget.tick()
            _skip(reader, inner, budget, depth + 1)
    else:
        raise ValueError(f"a value of kind {kind}")
