"""The sandbox inside of others: Docker's seccomp profile, namespaces, bubblewrap."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox import docker_profile

PROFILE = Path(docker_profile.__file__)
ATTEMPT = """
import socket, sys
for attempt in (
    lambda: open(sys.argv[1]), lambda: open(sys.argv[1], "a"),
    lambda: socket.socket(), lambda: socket.create_connection(("127.0.0.1", 9)),
):
    try:
        attempt()
        print("passed")
    except PermissionError:
        print("refused")
print(open("/etc/passwd").read(4))
"""


def modelarmor(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "modelarmor", *arguments]


def attempts_are_refused(wrapper: list[str], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        json.dumps(
            {
                "apiVersion": "security.kubearmor.com/v1",
                "kind": "KubeArmorPolicy",
                "metadata": {"name": "p"},
                "spec": {
                    "selector": {"matchLabels": {"a": "b"}},
                    "file": {"matchPaths": [{"path": str(secret)}]},
                    "network": {"matchProtocols": [{"protocol": "tcp"}]},
                    "action": "Block",
                },
            }
        )
    )
    arguments = ["run", "--policy", str(policy), "--alerts", str(tmp_path / "alerts")]
    done = subprocess.run(
        [*wrapper, *modelarmor(*arguments), "--", sys.executable, "-c", ATTEMPT, str(secret)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["refused"] * 4 + ["root"], (done.stdout, done.stderr)
    assert len((tmp_path / "alerts").read_text().splitlines()) == 4


@pytest.mark.skipif(
    platform.machine() not in docker_profile.REFUSED, reason="the numbers are x86_64's"
)
def test_under_dockers_default_seccomp_profile(tmp_path: Path) -> None:
    wrapper = [sys.executable, str(PROFILE)]
    attempts_are_refused(wrapper, tmp_path)
    done = subprocess.run(
        [*wrapper, *modelarmor("doctor", "--json")], capture_output=True, text=True, check=False
    )
    report = json.loads(done.stdout)
    assert report["can_confine"]
    assert not report["acts_on_sockets"]
    assert any("pidfd_getfd" in note for note in report["notes"])


def _usable(wrapper: list[str]) -> bool:
    return (
        shutil.which(wrapper[0]) is not None
        and subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.parametrize(
    "wrapper",
    [["unshare", "-Ur"], ["unshare", "-Urpf", "--mount-proc"],
     ["bwrap", "--dev-bind", "/", "/", "--unshare-user"]],
    ids=["user-namespace", "pid-namespace", "bubblewrap"],
)  # fmt: skip
def test_inside_of_namespaces(wrapper: list[str], tmp_path: Path) -> None:
    if not _usable(wrapper):
        pytest.skip(f"{wrapper[0]} is missing or may not be used here")
    attempts_are_refused(wrapper, tmp_path)


def test_without_a_helper_nothing_runs_and_the_cure_is_named(tmp_path: Path) -> None:
    package = tmp_path / "modelarmor"
    root = Path(__file__).resolve().parents[2]
    shutil.copytree(
        root / "modelarmor", package, ignore=shutil.ignore_patterns("modelarmor-helper", "*.pyc")
    )
    shutil.copytree(root / "kernel_profiles", tmp_path / "kernel_profiles")
    done = subprocess.run(
        modelarmor("run", "--", "touch", str(tmp_path / "ran")),
        capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 125, done.stderr
    assert "hatch_build.py" in done.stderr
    assert not (tmp_path / "ran").exists()
