"""Binder: the environment's own scripts, in a container's conditions as far as they can be had."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox import docker_profile

ROOT = Path(__file__).resolve().parents[1]
START = ROOT / "binder" / "start"
BIN = Path(sys.executable).parent


def _start(
    *command: str, wrapper: tuple[str, ...] = (), path: Path = BIN
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*wrapper, str(START), *command],
        env={**os.environ, "PATH": f"{path}:/usr/bin:/bin"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.skipif(
    platform.machine() not in docker_profile.REFUSED, reason="the numbers are x86_64's"
)
def test_what_binder_starts_can_confine_under_dockers_seccomp_profile() -> None:
    wrapper = (sys.executable, docker_profile.__file__)
    script = "import os; print(os.path.exists('/etc/hostname')); open('/etc/shadow')"
    done = _start("modelarmor", "run", "--", "python", "-c", script, wrapper=wrapper)
    assert "Workloads can be confined here" in done.stderr
    assert done.returncode == 1
    assert "PermissionError" in done.stderr


def test_a_host_that_cannot_confine_is_said_and_the_server_starts_all_the_same(
    tmp_path: Path,
) -> None:
    doctor = tmp_path / "modelarmor"
    doctor.write_text("#!/bin/sh\nexit 1\n")
    doctor.chmod(0o755)
    done = _start("echo", "the server", path=tmp_path)
    assert done.stdout == "the server\n"
    assert "cannot confine" in done.stderr


def test_the_scripts_are_programs_that_a_shell_can_read() -> None:
    for name in ("start", "postBuild"):
        file = ROOT / "binder" / name
        assert os.access(file, os.X_OK)
        assert subprocess.run(["sh", "-n", file], check=False).returncode == 0


@pytest.mark.thorough
@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    platform.machine() not in docker_profile.REFUSED, reason="the numbers are x86_64's"
)
def test_the_environment_is_built_and_runs_a_notebook_confined(tmp_path: Path) -> None:
    checkout, home, env = tmp_path / "checkout", tmp_path / "home", tmp_path / "env"
    home.mkdir()
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(env)], check=True)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=checkout,
            env={**os.environ, "HOME": str(home), "PATH": f"{env / 'bin'}:/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return done

    run("python", "-m", "pip", "install", "--quiet", "-r", "binder/requirements.txt")
    run("binder/postBuild")
    notebook = "examples/malicious-model/malicious-model.ipynb"
    executed = ("jupyter", "execute", f"--output={tmp_path / 'out.ipynb'}", notebook)
    run("python", docker_profile.__file__, "binder/start", *executed)

    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    texts = [str(output.get("data", "")) for cell in cells for output in cell.get("outputs", [])]
    [table] = [text for text in texts if "attempt" in text and "result" in text]
    assert "start a shell" in table
    assert "SUCCEEDED" not in table
