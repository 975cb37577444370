"""A limit that is reached stops the workload there, and is an alert instead of a mystery."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from modelarmor.alerts import Alert
from modelarmor.policy.document import load
from modelarmor.sandbox import cgroup
from modelarmor.sandbox.process import Sandbox, Workload
from modelarmor.sandbox.resources import Resources

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

MIB = 1 << 20
POLICY = """
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: limits, namespace: default}
spec:
  selector: {matchLabels: {a: b}}
  file: {matchPaths: [{path: /nonexistent/secret}]}
  action: Block
"""
Run = Callable[..., tuple[int, str, list[Alert]]]


@pytest.fixture(params=["control group", "supervised"])
def run(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs code under limits, with what control groups the machine gives and without any."""
    if request.param == "supervised":
        monkeypatch.setattr(cgroup, "make", lambda resources: cgroup.ControlGroup())
    work = tmp_path / "work"
    work.mkdir()

    def start(code: str, timeout: float = 40, **limits: Any) -> tuple[int, str, list[Alert]]:
        alerts: list[Alert] = []
        command = [os.path.realpath(sys.executable), "-I", "-S", "-c", code]
        workload = Workload(
            name="limits", command=command, policies=load(POLICY), cwd=work,
            resources=Resources(**limits), env={"PATH": "/usr/bin:/bin", "TMPDIR": str(work)},
        )  # fmt: skip
        out = tmp_path / "out"
        with out.open("wb") as file:
            process = Sandbox.start(
                workload, alerts=alerts.append, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
            try:
                status = process.wait(timeout)
            finally:
                process.close()
        return status, out.read_text(errors="replace"), alerts

    return start


def _limits(alerts: list[Alert]) -> list[str]:
    return [
        f"{alert.Resource} {alert.Message}" for alert in alerts if alert.Operation == "Resource"
    ]


def test_memory(run: Run) -> None:
    status, text, alerts = run(
        """
blocks = []
try:
    for i in range(100):
        blocks.append(bytearray(b'x') * (8 << 20))
        print(i, flush=True)
except MemoryError: print('refused', flush=True); raise SystemExit(3)
print('all of it')
""",
        memory=160 * MIB,
    )
    assert "all of it" not in text
    assert status != 0
    assert _limits(alerts), (status, text[-300:], alerts)


def test_memory_of_many_processes_together(run: Run) -> None:
    status, text, alerts = run(
        """
import os, time
for _ in range(8):
    if os.fork() == 0:
        block = bytearray(b'x') * (40 << 20)
        time.sleep(3); os._exit(0)
lost = sum(os.wait()[1] != 0 for _ in range(8))
print('lost', lost, flush=True)
raise SystemExit(lost > 0)
""",
        memory=160 * MIB,
    )
    assert "lost 0" not in text
    assert status != 0
    assert _limits(alerts), (status, text[-300:], alerts)


def test_processes(run: Run) -> None:
    _, text, alerts = run(
        """
import os, time
made = 0
try:
    for _ in range(60):
        if os.fork() == 0: time.sleep(5); os._exit(0)
        made += 1
except OSError as error: print(made, error.errno, flush=True)
time.sleep(2)
if made == 60: print('all', flush=True)
os._exit(0)
""",
        processes=20,
    )
    assert "all" not in text
    assert not text or int(text.split()[0]) <= 21
    assert _limits(alerts), (text, alerts)


def test_open_files(run: Run) -> None:
    _, text, alerts = run(
        """
import os, time
files = []
try:
    for _ in range(300): files.append(open('/dev/null'))
except OSError as error: print(len(files), error.errno, flush=True)
""",
        open_files=64,
    )
    assert text.split()[1] == "24"
    assert int(text.split()[0]) < 64
    assert _limits(alerts), (text, alerts)


@pytest.mark.parametrize("form", ["one file", "many files", "sparse"])
def test_disk(run: Run, form: str) -> None:
    codes = {
        "one file": "with open('big', 'wb') as f:\n for _ in range(64): f.write(block); f.flush()",
        "many files": "for i in range(64):\n with open(f'f{i}', 'wb') as f: f.write(block)",
        "sparse": "import os\nfd = os.open('big', 66)\nos.posix_fallocate(fd, 0, 64 << 20)",
    }  # fmt: skip
    status, text, alerts = run(
        f"block = b'x' * (1 << 20)\n{codes[form]}\nimport time; time.sleep(3)\nprint('all of it')",
        disk=16 * MIB,
    )
    assert "all of it" not in text, status
    assert status != 0
    assert _limits(alerts), (status, text[-300:], alerts)


def test_processor(run: Run) -> None:
    start = time.monotonic()
    _, text, alerts = run(
        """
import os, time
for _ in range(2):
    if os.fork() == 0:
        end = time.monotonic() + 4
        while time.monotonic() < end: pass
        os._exit(0)
for _ in range(2): os.wait()
used = os.times()
print(used.children_user + used.children_system)
""",
        cpu=1,  # whole processors: all that can be had without a control group
    )
    wall = time.monotonic() - start
    assert float(text) / wall < 1.2, (text, wall)
    if float(text) < 0.9 * 4:
        pytest.skip("the machine was too busy to let the workload reach its limit")
    assert _limits(alerts), (text, alerts)


def test_nothing_is_said_where_no_limit_is_reached(run: Run) -> None:
    status, text, alerts = run("print(sum(range(10**6)))", memory=500 * MIB, processes=50,
                               open_files=256, disk=50 * MIB, cpu=2)  # fmt: skip
    assert (status, text) == (0, "499999500000\n")
    assert alerts == []
