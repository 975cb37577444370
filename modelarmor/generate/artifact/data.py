"""A file of a model, read where one asks, and never more than one asks for."""

from __future__ import annotations

import os
import stat
from typing import Protocol, Self


class NotRegular(OSError):
    """What was opened is no regular file: a pipe, a device, a socket or a directory."""


class Data(Protocol):
    """Bytes at offsets."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes; fewer at the end."""


class FileData:
    """A regular file, open for reading.

    By `pread`, never by mapping it: whoever shortens a mapped file ends its reader (SIGBUS).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open it; never blocks, never follows a link in the last place.

        Raises:
            NotRegular: it is something else.
            OSError: it cannot be opened.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        self.fd = os.open(path, flags)
        self.status = os.fstat(self.fd)
        if not stat.S_ISREG(self.status.st_mode):
            os.close(self.fd)
            raise NotRegular(f"{os.fspath(path)!r} is no regular file")

    @property
    def size(self) -> int:
        return self.status.st_size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, max(0, min(length, self.size - offset)), offset)

    def changed(self) -> bool:
        """Whether it was written to, or given another name, since it was opened."""
        now, then = os.fstat(self.fd), self.status
        return (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (
            then.st_size,
            then.st_mtime_ns,
            then.st_ctime_ns,
        )

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MemoryData:
    """Bytes that are in memory: what was unpacked, or found within something."""

    def __init__(self, content: bytes | memoryview) -> None:
        self._content = memoryview(content)

    @property
    def size(self) -> int:
        return len(self._content)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self._content[max(0, offset) : max(0, offset + length)])


class Part:
    """A stretch of other data."""

    def __init__(self, data: Data, offset: int, size: int) -> None:
        self._data = data
        self._offset = offset
        self._size = max(0, min(size, data.size - offset))

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0:
            return b""
        return self._data.read(self._offset + offset, max(0, min(length, self._size - offset)))
