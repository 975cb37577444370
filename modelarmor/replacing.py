"""Files that appear whole or not at all, whenever who writes them is ended."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path, mode: int = 0o666) -> Iterator[Path]:
    """Where to write a file, which then takes the place of what is called so.

    Args:
        file: its name; the directory has to be there.
        mode: permissions of a new file, less the umask.

    Raises:
        OSError: nothing can be written beside it.
    """
    unfinished = file.with_name(f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}")
    os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode))
    try:
        yield unfinished
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
