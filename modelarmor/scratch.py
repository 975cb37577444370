"""A private directory for each workload, which goes when the workload does.

It holds temporary files and a kernel's sockets, so the workload writes to it, and it is hostile by
the time it is removed: nested without end, full of unreadable directories. It is short, because
the path of a socket has at most 107 bytes (``unix(7)``).

Who is killed leaves its directories behind. Each has a lock file beside it that its owner holds
(``flock``, which the kernel drops with the process), so whoever comes next can tell a directory
without an owner from one that is in use, whatever happened to process ids meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import tempfile
import weakref
from pathlib import Path
from typing import Final

#: the longest path of a socket, in bytes, without the NUL that ends it
SOCKET_PATH_LIMIT: Final = 107

_PREFIX: Final = "k-"
_OWN_ONLY: Final = 0o700
_CURE: Final = "choose a short one: $TMPDIR, or c.ModelArmor.scratch_directory for kernels"


class ScratchError(OSError):
    """No private directory can be made; the message says why and what to configure."""


class Scratch:
    """One workload's private directory, made and locked; `release` it when that is over."""

    def __init__(self, base: Path | None = None, *, sockets: bool = True) -> None:
        """Make a directory in `base` (default: `default_base`), for `sockets` too or without.

        Raises
        ------
        ScratchError
            when `base` is not private to this user, or too deep for sockets.
        """
        base = _private(base or default_base())
        while True:
            path = base / f"{_PREFIX}{secrets.token_hex(4)}"
            lock = _take(path.with_suffix(".lock"), create=True)
            if lock is not None:
                break
        try:
            path.mkdir(_OWN_ONLY)
        except OSError:
            _drop(path.with_suffix(".lock"), lock)
            raise
        self.path: Final = path
        # also at exit, and when a server forgets a kernel whose restarts failed
        self._finalizer = weakref.finalize(self, _remove, path, lock, os.getpid())
        longest = len(os.fsencode(self.socket_prefix)) + len("-99999")
        if sockets and longest > SOCKET_PATH_LIMIT:
            self.release()
            raise ScratchError(
                f"{base} is too deep for sockets, whose paths have at most {SOCKET_PATH_LIMIT}"
                f" bytes; {_CURE}"
            )

    @property
    def socket_prefix(self) -> str:
        """What the paths of the kernel's sockets start with; ``-<number>`` follows."""
        return str(self.path / "s")

    def release(self) -> None:
        """Remove the directory and all that is in it. May be called again."""
        self._finalizer()


def default_base() -> Path:
    """Where private directories are made unless the caller says otherwise."""
    return Path(tempfile.gettempdir()) / f"modelarmor-{os.getuid()}"


def sweep(base: Path | None = None) -> int:
    """Remove the directories in `base` whose owner is gone; returns how many.

    What is in use, belongs to another user or cannot be removed is left alone.
    """
    base = base or default_base()
    removed = 0
    try:
        locks = sorted(_private(base, make=False).glob(f"{_PREFIX}*.lock"))
    except OSError:
        return 0
    for path in locks:
        with contextlib.suppress(OSError):
            lock = _take(path)
            if lock is not None and _remove(path.with_suffix(""), lock):
                removed += 1
    return removed


def _private(base: Path, *, make: bool = True) -> Path:
    """`base`, made if need be, once it is certain that it is this user's alone."""
    try:
        if make:
            base.mkdir(_OWN_ONLY, parents=True, exist_ok=True)
        status = base.lstat()
    except OSError as error:
        raise ScratchError(f"{base}: {error.strerror}; {_CURE}") from error
    # in /tmp anyone may have been first: a link, or a directory that another user can change
    if (
        not stat.S_ISDIR(status.st_mode)
        or status.st_uid != os.getuid()
        or stat.S_IMODE(status.st_mode) & 0o077
    ):
        raise ScratchError(
            f"{base} is not a directory that only you can use; remove it, or {_CURE}"
        )
    return base


def _take(path: Path, *, create: bool = False) -> int | None:
    """The descriptor of the lock file `path` if nobody else holds it, now ours; else None."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        lock = os.open(path, flags | (os.O_CREAT | os.O_EXCL if create else 0), 0o600)
    except FileExistsError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # a sweep may have removed the file between the two calls: then this locks nothing
        if os.path.samestat(os.fstat(lock), path.lstat()):
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _remove(path: Path, lock: int, owner: int | None = None) -> bool:
    if owner is not None and owner != os.getpid():
        return False  # a fork of the owner ends: the directory is not its own
    try:
        remove_tree(path)
    except FileNotFoundError:
        pass
    except OSError:
        os.close(lock)  # the lock file stays, so that a later sweep tries again
        return False
    _drop(path.with_suffix(".lock"), lock)
    return True


def _drop(path: Path, lock: int) -> None:
    path.unlink(missing_ok=True)
    os.close(lock)


def remove_tree(top: Path) -> None:
    """Remove the directory `top`, whatever a workload made of it.

    No link is followed. A workload can nest directories deeper than a path is long and deeper than
    Python recurses, so each directory is moved up before it is emptied: nothing is ever looked at
    more than two levels below `top`.

    Raises
    ------
    OSError
        when something in it cannot be removed.
    """
    serial = 0
    top.chmod(_OWN_ONLY)
    pending = _emptied(top)
    while pending:
        directory = pending.pop()
        directory.chmod(_OWN_ONLY)
        for child in _emptied(directory):
            serial += 1
            child.chmod(_OWN_ONLY)  # a directory that is moved must be writable
            pending.append(child.rename(top / f".{secrets.token_hex(4)}-{serial}"))
        directory.rmdir()
    top.rmdir()


def _emptied(directory: Path) -> list[Path]:
    """The directories in `directory`, after everything else in it is removed."""
    directories = []
    with os.scandir(directory) as entries:
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                directories.append(path)
            else:
                path.unlink()
    return directories
