"""Nothing outlives its sandbox, however it ends and whatever the workload does against it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from modelarmor.sandbox.network import Egress
from modelarmor.sandbox.process import HELPER, Sandbox, Workload

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 10.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

_PRELUDE = """
import ctypes, os, signal, sys, time
libc = ctypes.CDLL(None)
def ready():
    print("ready", flush=True)
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            return True
        os._exit(0)
    return False
"""
#: what a workload does so as not to be ended
WORKLOADS = {
    "plain": "ready(); signal.pause()",
    "daemonised": """
if daemon():
    for fd in (0, 2): os.close(fd)
    ready(); os.close(1); time.sleep(1000)
signal.pause()
""",
    "stopped": """
pid = os.fork()
if pid == 0: signal.pause()
os.kill(pid, signal.SIGSTOP)
os.waitpid(pid, os.WUNTRACED)
ready(); os.kill(os.getpid(), signal.SIGSTOP)
""",
    "deaf to signals": """
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
ready()
while True: time.sleep(1000)
""",
    "without a parent's death signal": """
libc.prctl(1, 0)
if os.fork() == 0:
    libc.prctl(1, 0); os.setsid(); libc.prctl(36, 1)
    if os.fork() == 0:
        libc.prctl(1, 0); ready()
        while True: time.sleep(1000)
while True: time.sleep(1000)
""",
    "in many sessions": """
for i in range(30):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: time.sleep(1000)
        os._exit(0)
ready(); time.sleep(1000)
""",
    "a storm of forks": """
def run():
    while True:
        try: pid = os.fork()
        except OSError: time.sleep(0.002); continue
        if pid == 0:
            os.setpgid(0, 0); continue
        time.sleep(0.002); os.waitpid(-1, os.WNOHANG)
ready(); run()
""",
    "many threads": """
import threading
def run():
    while True:
        try: open("/nonexistent")
        except OSError: pass
for _ in range(40): threading.Thread(target=run, daemon=True).start()
ready(); time.sleep(1000)
""",
}


class Job:
    """A server (``confine.py``) with a workload; both can be found by a mark in their arguments."""

    def __init__(self, tmp_path: Path, code: str, **job: Any) -> None:
        self.mark = f"escape-{secrets.token_hex(8)}"
        self.tmp = tmp_path / "tmp"
        self.work = tmp_path / "work"
        self.tmp.mkdir()
        self.work.mkdir()
        self.alerts = tmp_path / "alerts"
        python = os.path.realpath(sys.executable)
        policy = {
            "apiVersion": "security.kubearmor.com/v1", "kind": "KubeArmorPolicy",
            "metadata": {"name": "life", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "action": "Block",
                     "file": {"matchPaths": [{"path": str(tmp_path / "secret")}]}},
        }  # fmt: skip
        job = {
            "command": [python, "-I", "-S", "-c", _PRELUDE + code, self.mark],
            "policy": json.dumps(policy), "cwd": str(self.work), "alerts": str(self.alerts), **job,
        }  # fmt: skip
        package = __package__ or "escapes"
        self.mounts = Path("/proc/self/mounts").read_text()
        self.server = subprocess.Popen(
            [sys.executable, "-m", f"{package}.confine", json.dumps(job)],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
            cwd=Path(__file__).parents[package.count(".") + 1],
            env={"PATH": "/usr/bin:/bin", "TMPDIR": str(self.tmp), "PYTHONPATH": str(REPOSITORY),
                 "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        assert self.server.stdout
        assert self.server.stdout.readline() == b"ready\n"

    def members(self) -> dict[int, str]:
        """Every process of the sandbox, the helper's included: pid -> program."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.server.pid:
                continue
            try:
                if self.mark.encode() in (entry / "cmdline").read_bytes():
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
            except OSError:
                continue
        return found

    def helpers(self) -> list[int]:
        """The guard and the supervisor, in the order in which they were started."""
        return sorted(p for p, comm in self.members().items() if comm == HELPER.name[:15])

    def first(self) -> int:
        """The command itself."""
        return min(pid for pid, comm in self.members().items() if comm != HELPER.name[:15])

    def is_gone(self) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if not self.members():
                return True
            time.sleep(0.02)
        return False

    def end(self) -> None:
        self.server.kill()
        self.server.wait()
        assert self.server.stdout
        self.server.stdout.close()
        for pid in self.members():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def make(code: str, **job: Any) -> Job:
        jobs.append(Job(tmp_path, code, **job))
        return jobs[-1]

    yield make
    for job in jobs:
        job.end()


def _remains(job: Job) -> list[str]:
    """What a sandbox may have left: files, mounts, control groups."""
    left = [str(path) for path in job.tmp.rglob("*")] + [str(path) for path in job.work.rglob("*")]
    if Path("/proc/self/mounts").read_text() != job.mounts:
        left.append("a mount")
    groups = Path("/sys/fs/cgroup").glob(f"**/modelarmor-{job.server.pid}-*")
    return left + [str(group) for group in groups]


@pytest.mark.parametrize("kind", WORKLOADS)
def test_server_is_killed(start: Callable[..., Job], kind: str) -> None:
    job = start(WORKLOADS[kind], resources={"processes": 100})
    assert job.members()
    job.server.kill()
    job.server.wait()
    assert job.is_gone(), job.members()
    # Control groups of a server that was killed are removed by the next start.
    assert [left for left in _remains(job) if "/cgroup/" not in left] == []


@pytest.mark.parametrize("kind", ["plain", "daemonised", "deaf to signals", "stopped",
                                  "without a parent's death signal"])  # fmt: skip
@pytest.mark.parametrize("which", [0, 1], ids=["guard", "supervisor"])
def test_helper_is_killed(start: Callable[..., Job], which: int, kind: str) -> None:
    job = start(WORKLOADS[kind])
    helpers = job.helpers()
    assert len(helpers) >= 2, job.members()
    os.kill(helpers[which], signal.SIGKILL)
    assert job.is_gone(), job.members()
    job.server.wait(PATIENCE_S)
    assert _remains(job) == []


@pytest.mark.parametrize("kind", ["daemonised", "in many sessions", "a storm of forks",
                                  "without a parent's death signal"])  # fmt: skip
def test_command_is_killed(start: Callable[..., Job], kind: str) -> None:
    job = start(WORKLOADS[kind], resources={"processes": 100})
    os.kill(job.first(), signal.SIGKILL)
    assert job.is_gone(), job.members()
    assert job.server.wait(PATIENCE_S) == 128 + signal.SIGKILL
    assert _remains(job) == []


def test_command_ends_and_leaves_a_daemon(start: Callable[..., Job]) -> None:
    job = start("""
reader, writer = os.pipe()
if daemon():
    ready(); os.write(writer, b"x"); time.sleep(1000)
os.read(reader, 1)
""")
    assert job.is_gone(), job.members()
    assert job.server.wait(PATIENCE_S) == 0
    assert _remains(job) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_helper_is_told_to_end(start: Callable[..., Job], number: signal.Signals) -> None:
    """Whatever a signal to the helper means, no half of the sandbox stays."""
    job = start(WORKLOADS["deaf to signals"])
    guard, *_ = job.helpers()
    os.kill(guard, number)
    job.server.kill()
    job.server.wait()
    assert job.is_gone(), job.members()


def test_exit_status_is_the_commands(start: Callable[..., Job]) -> None:
    job = start("ready(); os._exit(7)")
    assert job.server.wait(PATIENCE_S) == 7
    assert job.is_gone()
    assert _remains(job) == []


def test_forks_are_bounded(start: Callable[..., Job]) -> None:
    job = start(WORKLOADS["a storm of forks"], resources={"processes": 40})
    most, deadline = 0, time.monotonic() + 1.5
    while time.monotonic() < deadline:
        most = max(most, len(job.members()))
    assert 10 < most <= 40 + 4  # the helper's own are not counted against it
    job.server.terminate()
    job.server.wait()
    assert job.is_gone(), job.members()


def test_kill_ends_a_sandbox_whose_supervisor_hangs(tmp_path: Path) -> None:
    workload = Workload(
        name="hangs",
        command=[os.path.realpath(sys.executable), "-I", "-S", "-c", "while True: pass"],
        policies=(),
        network=Egress.none(),
        cwd=tmp_path,
    )
    with Sandbox.start(workload) as process:
        command = process.child_pid
        assert command
        helpers = [int(pid) for pid in _children(process.pid)]
        assert len(helpers) == 1
        os.kill(helpers[0], signal.SIGSTOP)
        process.kill()
        deadline = time.monotonic() + PATIENCE_S + 60
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is not None
        assert not Path(f"/proc/{command}").exists()


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
