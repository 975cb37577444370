"""A confined command in a terminal: it reads, writes and is interrupted as without the sandbox."""

from __future__ import annotations

import os
import pty
import select
import sys
import time

import pytest


def converse(command: list[str], typed: bytes, wanted: bytes, seconds: float = 30) -> bytes:
    """Type into a command that has a terminal, until it has said ``wanted``; then end it."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    said, deadline = b"", time.monotonic() + seconds
    try:
        os.write(terminal, typed)
        while wanted not in said and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    said += os.read(terminal, 4096)
                except OSError:
                    break
    finally:
        os.close(terminal)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return said


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_shell_reads_from_the_terminal(tmp_path: object) -> None:
    run = [sys.executable, "-m", "modelarmor", "run", "--workspace", str(tmp_path), "--"]
    said = converse([*run, "bash", "--norc"], b"echo $((6 * 7))ok\n", b"42ok")
    assert b"42ok" in said
