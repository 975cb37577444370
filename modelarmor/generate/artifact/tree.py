"""The files of a model, found without following anything out of it."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

#: how deep directories may nest
MAX_DEPTH: Final = 64
#: how many entries are looked at
MAX_ENTRIES: Final = 2_000_000
BLOCK: Final = 1 << 20

Kind = Literal["file", "link", "other", "unread"]


#: told now and then what is being done, in a sentence for people
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in the model's directory."""

    #: relative to the model, with ``/``
    path: str
    kind: Kind
    #: where it really is: for a link that stays within the model, what it leads to
    place: str
    size: int = 0
    links: int = 1
    #: where a link leads, or why something could not be read
    note: str = ""


def walk(root: Path) -> Iterator[Entry]:
    """Every file, link and special file below `root`, or `root` itself where it is a file.

    A link to a file within the model counts as that file, as MLflow's upload takes it. Other links
    are reported and not followed.
    """
    top = os.path.realpath(root)
    if not stat.S_ISDIR(os.lstat(top).st_mode):
        yield _entry(top, Path(root).name, os.path.dirname(top))  # noqa: PTH120  a string
        return
    pending = [("", 0)]
    count = 0
    while pending:
        relative, depth = pending.pop()
        place = os.path.join(top, relative) if relative else top  # noqa: PTH118  fast
        try:
            with os.scandir(place) as listing:
                for item in listing:
                    count += 1
                    if count > MAX_ENTRIES:
                        yield Entry("", "unread", top, note=f"more than {MAX_ENTRIES} entries")
                        return
                    path = f"{relative}/{item.name}" if relative else item.name
                    if not item.is_dir(follow_symlinks=False):
                        yield _entry(item.path, path, top)
                    elif depth + 1 >= MAX_DEPTH:
                        note = f"nested more than {MAX_DEPTH} directories deep"
                        yield Entry(path, "unread", item.path, note=note)
                    else:
                        pending.append((path, depth + 1))
        except OSError as error:
            yield Entry(relative or ".", "unread", place, note=_reason(error))


def _entry(place: str, path: str, top: str) -> Entry:
    try:
        status = os.lstat(place)
        if stat.S_ISLNK(status.st_mode):
            return _link(place, path, top)
    except OSError as error:
        return Entry(path, "unread", place, note=_reason(error))
    if not stat.S_ISREG(status.st_mode):
        return Entry(path, "other", place, note=_special(status.st_mode))
    return Entry(path, "file", place, status.st_size, status.st_nlink)


def _link(place: str, path: str, top: str) -> Entry:
    target = os.readlink(place)  # noqa: PTH115  a string
    real = os.path.realpath(place)
    try:
        status = os.lstat(real)
    except OSError as error:
        return Entry(path, "link", place, note=f"{target}: {_reason(error)}")
    if real.startswith(top + "/") and stat.S_ISREG(status.st_mode):
        return Entry(path, "file", real, status.st_size, status.st_nlink, note=target)
    return Entry(path, "link", place, note=target)


def _special(mode: int) -> str:
    for test, name in (
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    ):
        if test(mode):
            return name
    return "no regular file"


def _reason(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "a loop of links"
    return error.strerror or type(error).__name__


class TreeDigest:
    """One digest over many files: it binds every path to every byte, in whatever order they come.

    The SHA-256 of a line each, sorted: the file's own SHA-256, a space, its path in bytes, a null
    byte, after a first line that names this form.
    """

    FORM: Final = b"modelarmor-artifact-1\n"

    def __init__(self) -> None:
        self._lines: list[bytes] = []

    def add(self, path: str, sha256: str) -> None:
        self._lines.append(os.fsencode(path) + b"\0" + sha256.encode())

    def hexdigest(self) -> str:
        """``sha256:…``."""
        total = hashlib.sha256(self.FORM)
        for line in sorted(self._lines):
            path, _, own = line.partition(b"\0")
            total.update(own + b" " + path + b"\0")
        return "sha256:" + total.hexdigest()
