from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelarmor.scratch import Scratch, ScratchError, sweep


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "b"


def test_each_kernel_gets_a_directory_that_only_its_user_can_enter(base: Path) -> None:
    one, two = Scratch(base), Scratch(base)

    assert one.path != two.path
    assert one.path.stat().st_mode & 0o777 == base.stat().st_mode & 0o777 == 0o700
    one.release()
    one.release()
    assert not one.path.exists()
    assert two.path.exists()
    two.release()
    assert list(base.iterdir()) == []


def test_what_is_in_use_is_not_swept(base: Path) -> None:
    scratch = Scratch(base)

    assert sweep(base) == 0
    assert scratch.path.exists()
    scratch.release()


def test_what_a_killed_server_left_is_swept(base: Path) -> None:
    code = (
        "import sys, pathlib; from modelarmor.scratch import Scratch;"
        "s = Scratch(pathlib.Path(sys.argv[1])); (s.path / 'f').touch();"
        "print(s.path, flush=True); sys.stdin.read()"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code, base],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert server.stdout is not None
    left = Path(server.stdout.readline().strip())
    assert sweep(base) == 0
    server.send_signal(signal.SIGKILL)
    server.communicate()

    assert left.exists()
    assert sweep(base) == 1
    assert list(base.iterdir()) == []


def test_what_is_not_ours_is_not_swept(base: Path) -> None:
    base.mkdir(mode=0o700)
    (base / "k-mine").mkdir()
    (base / "k-link.lock").symlink_to("/etc/passwd")

    assert sweep(base) == 0
    assert sorted(item.name for item in base.iterdir()) == ["k-link.lock", "k-mine"]


def test_a_directory_that_others_can_write_to_is_refused(base: Path) -> None:
    base.mkdir()
    base.chmod(0o777)

    with pytest.raises(ScratchError, match="only you can use"):
        Scratch(base)
    assert sweep(base) == 0


def test_a_link_in_the_place_of_the_directory_is_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    base.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ScratchError, match="only you can use"):
        Scratch(base)


def test_a_place_too_deep_for_sockets_is_refused_and_left_clean(base: Path) -> None:
    deep = base / ("d" * 100)
    base.mkdir(mode=0o700)

    with pytest.raises(ScratchError, match=r"choose a short one: "):
        Scratch(deep)
    assert list(deep.iterdir()) == []


def test_removal_outlasts_what_a_workload_made_of_the_directory(base: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    scratch = Scratch(base)
    (scratch.path / "link").symlink_to(outside)
    (scratch.path / "dangling").symlink_to("nowhere")
    os.mkfifo(scratch.path / "fifo")
    (scratch.path / "wide").mkdir()
    for n in range(50):
        (scratch.path / "wide" / str(n)).mkdir()
    # deeper than Python recurses (1,000) and than a path is long (4,096)
    here = os.open(scratch.path, os.O_PATH)
    for _ in range(3_000):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_PATH, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (scratch.path / "wide" / "1" / "locked").mkdir(mode=0)
    (scratch.path / "wide").chmod(0)

    scratch.release()

    assert not scratch.path.exists()
    assert (outside / "kept").read_text() == "kept"
    assert list(base.iterdir()) == []
