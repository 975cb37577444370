"""The tutorial, as somebody would type it, in a home of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from modelarmor.sandbox.probe import probe
from tests.ports import free_port

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
_BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INSTALL = "pip install"


def _steps() -> list[tuple[str, list[str]]]:
    """Each block of commands, with the lines that the page says it prints."""
    steps: list[tuple[str, list[str]]] = []
    for language, text in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "sh":
            steps.append((text, []))
        else:
            steps[-1][1].extend(text.splitlines())
    return steps


def _pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.split("…"))


@pytest.mark.skipif(not probe().can_confine, reason="nothing can be confined here")
@pytest.mark.timeout(600)
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    steps = _steps()
    assert len(steps) > 8
    ports = {port: str(free_port()) for port in ("5000", "5001", "5002")}
    script = ["set -m", "exec 2>&1"]
    for number, (commands, _) in enumerate(steps):
        for shown, real in ports.items():
            commands = re.sub(rf"\b{shown}\b", real, commands)  # noqa: PLW2901
        kept = [line for line in commands.splitlines() if not line.startswith(_INSTALL)]
        script += [f"printf '\\n=== {number}\\n'", *kept]
    done = subprocess.Popen(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said, _ = done.communicate(timeout=540)
    except subprocess.TimeoutExpired:
        started = [psutil.Process(done.pid)]
        for process in [*started[0].children(recursive=True), *started]:
            process.kill()
        said, _ = done.communicate()
        pytest.fail(f"it did not come to its end:\n{said[-6000:]}")
    parts = dict(re.findall(r"^=== (\d+)\n(.*?)(?=^=== |\Z)", said, re.MULTILINE | re.DOTALL))
    for number, (commands, expected) in enumerate(steps):
        for line in expected:
            found = re.search(f"^{_pattern(line)}$", parts[str(number)], re.MULTILINE)
            assert found, f"{commands}\nshould say {line!r}, and said\n{parts[str(number)]}"
    assert not (tmp_path / "tutorial").exists()
