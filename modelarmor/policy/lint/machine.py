"""What this machine says about a path that a policy names.

A policy may be meant for another machine or for an image, so nothing here is more than a hint; the
findings that rest on it say "on this machine". A policy is input from a stranger: nothing but
regular files is opened.
"""

from __future__ import annotations

import os
import stat


def resolve(path: str) -> str:
    """``path`` with symbolic links followed; the same where it cannot be looked at."""
    if path.startswith("/proc/") or "\0" in path:
        return path
    try:
        resolved = os.path.realpath(path)
    except (OSError, ValueError):
        return path
    return resolved + "/" if path.endswith("/") and resolved != "/" else resolved


def is_script(path: str) -> bool:
    """Whether ``path`` is here a file that starts with ``#!``."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - bytes and NULs raise alike
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return False
    with os.fdopen(descriptor, "rb") as file:
        return file.read(2) == b"#!"


def is_data(path: str) -> bool:
    """Whether ``path`` is here a regular file that nobody may execute."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(mode) and not mode & 0o111
