"""What a zip archive holds, read as each of the readers that models meet would read it.

A reader of our own, since the disagreements between readers are the point: `zipfile` repairs or
hides them. Offsets and fields: PKWARE's APPNOTE.TXT, 4.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from modelarmor.generate.artifact.data import Data

#: entries beyond these are not read
MAX_ENTRIES: Final = 100_000
_END: Final = b"PK\x05\x06"
_END64: Final = b"PK\x06\x06"
_LOCATOR64: Final = b"PK\x06\x07"
_CENTRAL: Final = b"PK\x01\x02"
LOCAL: Final = b"PK\x03\x04"
_COMMENT: Final = 0xFFFF
_CHUNK: Final = 1 << 20
_ENCRYPTED: Final = 0x1
_DESCRIPTOR: Final = 0x8
_UTF8: Final = 0x800
#: what a descriptor after the data takes at most: signature, CRC-32 and two sizes of 8 bytes
_DESCRIPTOR_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class Entry:
    """One member as the central directory has it."""

    name: str
    method: int
    flags: int
    packed: int
    size: int
    #: of the local header
    header: int
    #: of the data; -1 where the local header is none
    start: int
    #: bits of the member's Unix mode
    mode: int

    @property
    def is_encrypted(self) -> bool:
        return bool(self.flags & _ENCRYPTED)


@dataclass(slots=True)
class Directory:
    """The members, and what is odd about the archive."""

    entries: list[Entry] = field(default_factory=list)
    #: (rule, sentence): each a reason for two readers to disagree
    problems: list[tuple[str, str]] = field(default_factory=list)
    #: bytes in front of the archive
    prefix: int = 0
    #: whether everything was read
    complete: bool = True

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.entries]

    def problem(self, rule: str, sentence: str) -> None:
        """Note a problem, but not without end."""
        if len(self.problems) < 200:
            self.problems.append((rule, sentence))


def read(data: Data) -> Directory | None:
    """The directory of a zip archive; None where there is none at the end of `data`."""
    end = _find_end(data)
    if end is None:
        return None
    directory = Directory()
    fields = data.read(end, 22)
    disk, count, length, offset = (
        *struct.unpack("<H", fields[4:6]),
        *struct.unpack("<HII", fields[10:20]),
    )
    if disk not in (0, 0xFFFF):
        directory.problem("zip-malformed", "it says that it is one of several volumes")
    comment = struct.unpack("<H", fields[20:22])[0]
    if end + 22 + comment != data.size:
        directory.problem("zip-malformed", "bytes follow the end of the directory")
    if comment:
        directory.problem("zip-comment", f"it has a comment of {comment} bytes")
    before = end
    found = _find_end64(data, end)
    if found is not None:
        plain = (count, length, offset)
        count, length, offset, before = found
        if any(a != b for a, b in zip(plain, found, strict=False) if a not in (0xFFFF, 0xFFFFFFFF)):
            directory.problem("zip-header-mismatch", "its two ends tell of different directories")
    directory.prefix = before - length - offset
    if directory.prefix < 0 or length > before:
        directory.problem("zip-malformed", "the directory lies outside of the file")
        directory.complete = False
        return directory
    _read_central(data, directory, before - length, length, count)
    _check_layout(data, directory, before - length)
    return directory


def _find_end(data: Data) -> int | None:
    span = min(data.size, _COMMENT + 22)
    tail = data.read(data.size - span, span)
    # As CPython's zipfile: the last one, unless the record at the very end has no comment.
    if len(tail) >= 22 and tail[-22:-18] == _END and tail[-2:] == b"\0\0":
        return data.size - 22
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < 22:
        return None
    return data.size - span + at


def _find_end64(data: Data, end: int) -> tuple[int, int, int, int] | None:
    locator = data.read(end - 20, 20) if end >= 20 else b""
    if locator[:4] != _LOCATOR64:
        return None
    at = end - 20 - 56
    record = data.read(at, 56) if at >= 0 else b""
    if record[:4] != _END64:
        at = struct.unpack("<Q", locator[8:16])[0]
        record = data.read(at, 56) if at < data.size else b""
        if record[:4] != _END64:
            return None
    count, length, offset = struct.unpack("<QQQ", record[32:56])
    return count, length, offset, at


class _Window:
    """Reads forward without asking the system for each entry."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._at = 0
        self._held = b""

    def read(self, offset: int, length: int) -> bytes:
        within = offset - self._at
        if within < 0 or within + length > len(self._held):
            self._held = self._data.read(offset, max(length, _CHUNK))
            self._at, within = offset, 0
        return self._held[within : within + length]


def _read_central(data: Data, directory: Directory, start: int, length: int, count: int) -> None:
    central, local = _Window(data), _Window(data)
    at, stop = start, start + length
    seen: set[str] = set()
    folded: dict[str, str] = {}
    while at + 46 <= stop:
        head = central.read(at, 46)
        if head[:4] != _CENTRAL:
            directory.problem("zip-malformed", "the directory ends before it should")
            directory.complete = False
            return
        if len(directory.entries) >= MAX_ENTRIES:
            directory.problem("zip-too-large", f"it has more than {MAX_ENTRIES} members")
            directory.complete = False
            return
        (
            _,
            _,
            flags,
            method,
            _,
            _,
            _,
            packed,
            size,
            named,
            extra,
            comment,
            _,
            _,
            attributes,
            where,
        ) = struct.unpack("<HHHHHHIIIHHHHHII", head[4:46])
        rest = central.read(at + 46, named + extra)
        raw, extras = rest[:named], rest[named:]
        size, packed, where = _sizes64(extras, size, packed, where)
        name = _text(raw, flags, directory)
        entry = _with_local(
            local,
            directory,
            raw,
            Entry(
                name, method, flags, packed, size, where + directory.prefix, -1, attributes >> 16
            ),
        )
        directory.entries.append(entry)
        _check_name(directory, name, seen, folded)
        at += 46 + named + extra + comment
    if len(directory.entries) != count:
        directory.problem(
            "zip-malformed", f"it says {count} members and lists {len(directory.entries)}"
        )


def _sizes64(extras: bytes, size: int, packed: int, where: int) -> tuple[int, int, int]:
    at = 0
    while at + 4 <= len(extras):
        kind, length = struct.unpack("<HH", extras[at : at + 4])
        if kind == 1:
            values = [
                struct.unpack("<Q", extras[i : i + 8])[0]
                for i in range(at + 4, min(at + 4 + length, len(extras)) - 7, 8)
            ]
            if size == 0xFFFFFFFF and values:
                size = values.pop(0)
            if packed == 0xFFFFFFFF and values:
                packed = values.pop(0)
            if where == 0xFFFFFFFF and values:
                where = values.pop(0)
            break
        at += 4 + length
    return size, packed, where


def _text(raw: bytes, flags: int, directory: Directory) -> str:
    if b"\0" in raw:
        directory.problem("zip-name", f"a member's name has a null byte: {raw[:80]!r}")
    try:
        return raw.decode("utf-8" if flags & _UTF8 or raw.isascii() else "cp437")
    except UnicodeDecodeError:
        directory.problem("zip-name", f"a member's name is no UTF-8: {raw[:80]!r}")
        return raw.decode("utf-8", "replace")


def _check_name(directory: Directory, name: str, seen: set[str], folded: dict[str, str]) -> None:
    if name in seen:
        directory.problem("zip-duplicate", f"two members are called {name[:120]!r}")
    elif folded.setdefault(name.casefold(), name) != name:
        directory.problem(
            "zip-duplicate", f"{name[:120]!r} differs in case alone from another member"
        )
    seen.add(name)
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or (len(name) > 1 and name[1] == ":"):
        directory.problem("zip-traversal", f"{name[:120]!r} leads out of the directory")


def _with_local(local: _Window, directory: Directory, raw: bytes, entry: Entry) -> Entry:
    """The entry with where its data begins; notes where the local header disagrees."""
    head = local.read(entry.header, 30)
    if len(head) < 30 or head[:4] != LOCAL:
        directory.problem("zip-header-mismatch", f"{entry.name[:120]!r} has no local header")
        return entry
    flags, method, packed, size = (
        *struct.unpack("<HH", head[6:10]),
        *struct.unpack("<II", head[18:26]),
    )
    named, extra = struct.unpack("<HH", head[26:30])
    told = []
    if local.read(entry.header + 30, named) != raw:
        told.append("name")
    if (flags ^ entry.flags) & ~0x6:  # bits 1 and 2 say how well it was compressed
        told.append("flags")
    if method != entry.method:
        told.append("compression")
    if not flags & _DESCRIPTOR and 0xFFFFFFFF not in (packed, size):
        told += ["packed size"] * (packed != entry.packed) + ["size"] * (size != entry.size)
    if told:
        directory.problem(
            "zip-header-mismatch",
            f"the local header of {entry.name[:120]!r} has another {', '.join(told)}",
        )
    start = entry.header + 30 + named + extra
    return Entry(
        entry.name,
        entry.method,
        entry.flags,
        entry.packed,
        entry.size,
        entry.header,
        start,
        entry.mode,
    )


def _check_layout(data: Data, directory: Directory, central: int) -> None:
    """Members that share bytes, and stretches that no member owns."""
    if directory.prefix:
        directory.problem(
            "zip-prefix", f"{directory.prefix} bytes are in front of the archive's first byte"
        )
    at = directory.prefix
    for entry in sorted((e for e in directory.entries if e.start >= 0), key=lambda e: e.header):
        if entry.header < at:
            directory.problem("zip-overlap", f"{entry.name[:120]!r} shares bytes with another")
        elif entry.header - at > _DESCRIPTOR_BYTES:
            _note_gap(data, directory, at, entry.header)
        at = max(at, entry.start + entry.packed)
    if at > central:
        directory.problem("zip-overlap", "a member reaches into the directory")
    elif central - at > _DESCRIPTOR_BYTES:
        _note_gap(data, directory, at, central)


def _note_gap(data: Data, directory: Directory, start: int, stop: int) -> None:
    hidden = LOCAL in data.read(start, min(stop - start, _CHUNK))
    if hidden:
        what = "a member that the directory does not list, for whoever reads from the front"
        directory.problem("zip-hidden", f"at {start}: {what}")
    else:
        directory.problem("zip-gap", f"{stop - start} bytes at {start} that no member owns")
