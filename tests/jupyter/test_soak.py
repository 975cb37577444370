"""Many kernels, one after the other, in one server: nothing of any of them is left.

With ``--thorough`` two hundred of them, some four minutes.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from .server import Home, Server

UNTRUSTED, NOTEBOOK = "modelarmor-untrusted-model", "modelarmor-notebook"
# What a hostile notebook would leave behind: a process that outlives its parent, files, sockets,
# open files, and a flood of refusals.
ATTACK = """
import contextlib, os, socket, subprocess, sys, tempfile
kept = [open(os.devnull) for _ in range(100)]
held = socket.socketpair()
with contextlib.suppress(OSError):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"],
                     start_new_session=True)
with contextlib.suppress(OSError):
    listener = socket.socket(socket.AF_UNIX); listener.bind(tempfile.mktemp())
open(tempfile.mkstemp()[1], "wb").write(bytes(1 << 20))
for _ in range(300):
    with contextlib.suppress(OSError):
        open(KEY)
print("attacked")
"""


@dataclass(frozen=True)
class Left:
    """What is there besides the server's own memory."""

    processes: int
    files: int
    threads: int
    scratch: frozenset[str]
    groups: frozenset[str]


def _left(server: Server, home: Home) -> Left:
    process = psutil.Process(server.process.pid)
    return Left(
        processes=len(process.children(recursive=True)),
        files=process.num_fds(),
        threads=process.num_threads(),
        scratch=frozenset(str(file) for file in home.scratch.rglob("*")),
        groups=frozenset(_groups(server.process.pid)),
    )


def _groups(pid: int) -> list[str]:
    return [place for place, _, _ in os.walk("/sys/fs/cgroup") if f"modelarmor-{pid}-" in place]


def _settled(server: Server, home: Home) -> Left:
    """What is left once a kernel's end has come to its own end."""
    deadline = time.monotonic() + 30
    found = _left(server, home)
    while found.processes and time.monotonic() < deadline:
        time.sleep(0.1)
        found = _left(server, home)
    return found


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kernels", [12, pytest.param(200, marks=pytest.mark.thorough)])
def test_nothing_is_left_of_kernels_that_were_attacked_and_ended(
    tmp_path: Path, kernels: int
) -> None:
    home = Home(tmp_path)
    code = f"KEY = {str(home.path / '.ssh' / 'id_ed25519')!r}\n{ATTACK}"
    server = home.server()
    process = psutil.Process(server.process.pid)
    try:
        warm = kernels // 2  # by then the server's heap has grown to what its work takes
        for number in range(kernels):
            if number == warm:
                before, memory = _settled(server, home), process.memory_info().rss
            with server.kernel(UNTRUSTED if number % 2 else NOTEBOOK) as kernel:
                assert kernel.run(code).said.strip() == "attacked"
                # the end of a flood is reported as one number, a moment later
                deadline = time.monotonic() + 60
                while kernel.alerts()["counts"]["total"] < 300:
                    assert time.monotonic() < deadline
        after, grown = _settled(server, home), process.memory_info().rss - memory
    finally:
        server.stop()
    print(f"{kernels} kernels: {before} then {after}; {grown / 2**20:.1f} MiB more")
    assert after.processes == 0
    assert after.scratch == before.scratch
    assert after.groups == before.groups
    assert after.files <= before.files + 3  # a connection that is being closed
    assert after.threads <= before.threads + 2
    # an ended kernel's connection is kept for a minute: jupyter_server waits for its first answer
    assert grown < 48 << 20
