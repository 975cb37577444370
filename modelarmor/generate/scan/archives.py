"""Archives: each member is a file like any other, and the archive itself may lie."""

from __future__ import annotations

import stat
import tarfile
import zlib
from collections.abc import Callable
from typing import Final

from modelarmor.generate.artifact import zips
from modelarmor.generate.artifact.data import Data, Part
from modelarmor.generate.evidence import Severity
from modelarmor.generate.scan import spool
from modelarmor.generate.scan.budget import Budget
from modelarmor.generate.scan.report import EVADE, EXHAUST, HIJACK, Report

#: looks at a member: its data, its location, its name
LookMember = Callable[[Data, str, str], None]

_METHODS: Final = {0: "", 8: "deflate", 12: "bz2", 14: "lzma", 93: "zstd", 95: "xz"}
_PROBLEMS: Final[dict[str, tuple[Severity, str]]] = {
    "zip-header-mismatch": ("high", "An archive tells different readers different things"),
    "zip-duplicate": ("high", "Two members of an archive have one name"),
    "zip-traversal": ("high", "A member of an archive leads out of its directory"),
    "zip-overlap": ("high", "Members of an archive share bytes"),
    "zip-prefix": ("medium", "Something stands in front of an archive"),
    "zip-gap": ("medium", "An archive has bytes that no member owns"),
    "zip-hidden": ("high", "An archive hides a member"),
    "zip-malformed": ("medium", "An archive is malformed"),
    "zip-name": ("medium", "A member of an archive has an odd name"),
    "zip-too-large": ("high", "An archive has more members than are looked at"),
    "zip-comment": ("low", "An archive has a comment"),
}


def look_zip(
    report: Report, data: Data, location: str, budget: Budget, look: LookMember
) -> list[str]:
    """Look at each member; returns their names."""
    directory = zips.read(data)
    if directory is None:
        report.incomplete(location, "a zip archive without a directory")
        return []
    for rule, sentence in directory.problems:
        severity, title = _PROBLEMS[rule]
        report.add(rule, severity, title, location=location, detail=sentence, techniques=EVADE)
    if not directory.complete:
        report.incomplete(location, "not every member could be found")
    for entry in directory.entries:
        budget.tick()
        where = f"{location}!{entry.name}"
        if stat.S_ISLNK(entry.mode):
            report.add("archive-link", "high", "A member of an archive is a symbolic link",
                       location=where, techniques=HIJACK)  # fmt: skip
        elif not entry.name.endswith("/") or entry.size:
            _look_entry(report, data, entry, where, budget, look)
    return directory.names


def _look_entry(
    report: Report, data: Data, entry: zips.Entry, where: str, budget: Budget, look: LookMember
) -> None:
    if entry.is_encrypted:
        report.incomplete(where, "it is encrypted")
        return
    if entry.start < 0 or entry.method not in _METHODS:
        report.incomplete(where, f"compression method {entry.method}, or no data")
        return
    packed = Part(data, entry.start, entry.packed)
    if packed.size < entry.packed:
        report.incomplete(where, "its data lies outside of the archive")
    method = _METHODS[entry.method]
    if not method:
        look(packed, where, entry.name)
        return
    if method == "lzma":  # a header of zip's own is in front
        packed, method = _zip_lzma(packed, entry.size), "lzma"
    try:
        with spool.unpack(method, packed, budget) as content:
            if content.size != entry.size:
                report.add("zip-header-mismatch", "high", _PROBLEMS["zip-header-mismatch"][1],
                           location=where, techniques=EVADE,
                           detail=f"it says {entry.size} bytes and has {content.size}")  # fmt: skip
            look(content, where, entry.name)
    except spool.Unpackable as error:
        _not_unpacked(report, where, error)


def _zip_lzma(packed: Part, size: int) -> Part:
    from modelarmor.generate.artifact.data import MemoryData

    content = packed.read(0, packed.size)
    return Part(MemoryData(content[4:9] + size.to_bytes(8, "little") + content[9:]), 0, 1 << 62)


def _not_unpacked(report: Report, location: str, error: spool.Unpackable) -> None:
    if isinstance(error, spool.Bomb):
        report.add("decompression-bomb", "high", "It grows enormously when unpacked",
                   location=location, detail=str(error), techniques=EXHAUST)  # fmt: skip
    report.incomplete(location, str(error))


def look_compressed(
    report: Report, kind: str, data: Data, location: str, budget: Budget, look: LookMember,
    name: str,
) -> None:  # fmt: skip
    """Look at what a compressed stream holds."""
    try:
        with spool.unpack(kind, data, budget) as content:
            look(content, f"{location}!", name)
    except spool.Unpackable as error:
        _not_unpacked(report, location, error)


class _Stream:
    """Data as a file, for `tarfile`."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._data.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, length: int = -1) -> bytes:
        content = self._data.read(self._at, self._data.size if length < 0 else length)
        self._at += len(content)
        return content


def look_tar(report: Report, data: Data, location: str, budget: Budget, look: LookMember) -> None:
    """Look at each member of a tar archive."""
    try:
        with tarfile.TarFile(fileobj=_Stream(data), mode="r") as archive:  # type: ignore[arg-type]
            for count, member in enumerate(archive):
                budget.tick()
                if count > zips.MAX_ENTRIES:
                    report.incomplete(location, "a tar archive of too many members")
                    return
                vars(archive)["members"] = []  # it keeps each one
                _look_member(report, data, member, location, look)
    except (tarfile.TarError, OSError, ValueError, EOFError, zlib.error, OverflowError) as error:
        report.incomplete(location, f"a tar archive that is broken: {error}"[:200])
        return
    report.inspected.add(location)


def _look_member(
    report: Report, data: Data, member: tarfile.TarInfo, location: str, look: LookMember
) -> None:
    where = f"{location}!{member.name}"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        report.add("tar-traversal", "high", "A member of an archive leads out of its directory",
                   location=where, techniques=HIJACK)  # fmt: skip
    if member.islnk() or member.issym():
        report.add("archive-link", "high", "A member of an archive is a link", location=where,
                   detail=f"to {member.linkname}", techniques=HIJACK)  # fmt: skip
    elif member.isfile():
        if member.sparse is not None:
            report.incomplete(where, "a sparse member")
        else:
            look(Part(data, member.offset_data, member.size), where, member.name)
    elif not member.isdir():
        report.add("archive-special", "high", "A member of an archive is a device or a pipe",
                   location=where, techniques=HIJACK)  # fmt: skip
