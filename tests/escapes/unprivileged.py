"""``python -m tests.escapes.unprivileged UID DIR COMMAND…``: run a command that must do no harm.

As root it takes a mount namespace in which everything but DIR is read-only, and becomes UID there.
What is under test cannot be what the machine is protected by.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path

from .battery import HERE, enter_namespaces, open_way

_MOUNT_SETATTR = 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MS_BIND = 4096
_RDONLY = 1


def _set_read_only(path: str, *, read_only: bool, recursive: bool) -> None:
    attributes = struct.pack("QQQQ", _RDONLY * read_only, _RDONLY * (not read_only), 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, attributes, 32) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)


def main() -> None:
    uid, folder, *command = sys.argv[1:]
    if os.getuid() == 0:
        if not enter_namespaces():
            raise SystemExit("this machine has no mount namespaces for us: refusing to run that")
        open_way([Path(sys.base_prefix), Path(sys.prefix), HERE.parents[1]])
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(folder.encode(), folder.encode(), b"", _MS_BIND, None) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), folder)
        _set_read_only("/", read_only=True, recursive=True)
        _set_read_only(folder, read_only=False, recursive=False)
        os.setgroups([])
        os.setresgid(int(uid), int(uid), int(uid))
        os.setresuid(int(uid), int(uid), int(uid))
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
