"""What an injected agent and a miner try: real in a plain kernel, refused in a confined one."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.support import PLAIN, assert_stripped, run

pytestmark = pytest.mark.timeout(300)

PROFILE = "modelarmor-untrusted-model"
DATASET = b"name,salary\nAda,1\nGrace,2\n"


class Listeners:
    """Somebody outside who waits for a dataset, in three ways."""

    def __init__(self, place: Path) -> None:
        self.heard: dict[str, bytes] = {"http": b"", "dns": b"", "socket": b""}
        self._http = socket.create_server(("127.0.0.1", 0))
        self._dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._dns.bind(("127.0.0.1", 0))
        self._unix = socket.socket(socket.AF_UNIX)
        self._unix.bind(str(place / "s"))
        self._unix.listen()
        self.places = {
            "http": self._http.getsockname()[1],
            "dns": self._dns.getsockname()[1],
            "socket": str(place / "s"),
        }
        for name, listener in (("http", self._http), ("socket", self._unix)):
            threading.Thread(target=self._accept, args=(name, listener), daemon=True).start()

    def _accept(self, name: str, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                while not self.heard[name].endswith(DATASET):
                    if not (piece := connection.recv(4096)):
                        break
                    self.heard[name] += piece
                if name == "http":
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")

    def close(self) -> None:
        """Hear what still waits, and no more."""
        self._dns.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while True:
                question = self._dns.recv(512)
                self.heard["dns"] += bytes.fromhex(question[13 : 13 + question[12]].decode())
        self._dns.close()
        for listener in (self._http, self._unix):
            listener.shutdown(socket.SHUT_RDWR)  # which ends the thread's waiting
            listener.close()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace, and a home with something in it to steal."""
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "credentials").write_text("worthless\n")
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def outside(work: Path) -> Iterator[Listeners]:
    listeners = Listeners(work.parent)
    (work / "places.json").write_text(json.dumps(listeners.places))
    yield listeners
    with contextlib.suppress(OSError):  # closed by the test
        listeners.close()


def test_an_injected_agent_gets_and_sends_nothing(work: Path, outside: Listeners) -> None:
    done = run("command-injection-and-data-theft", work)
    obeyed, left = done["obey-code"], done["leave-code"]
    assert obeyed.printed.count(": refused") == 4, obeyed.printed
    assert left.printed.count(": refused") == 3, left.printed
    assert obeyed.refused_by("File", ".aws/credentials") == {f"{PROFILE}-credentials"}
    assert f"{PROFILE}-administration" in obeyed.refused_by("Process", "apt-get")
    assert f"{PROFILE}-programs" in obeyed.refused_by("Process", "sh")
    assert "NetworkPolicy" in obeyed.refused_by("Network")
    assert "NetworkPolicy" in left.refused_by("Network")
    outside.close()
    assert outside.heard == {"http": b"", "dns": b"", "socket": b""}


def test_without_a_sandbox_the_agent_obeys_and_the_dataset_leaves(
    work: Path, outside: Listeners
) -> None:
    done = run("command-injection-and-data-theft", work, PLAIN)
    assert "read ~/.aws/credentials: SUCCEEDED" in done["obey-code"].printed
    assert "run sh -c id: SUCCEEDED" in done["obey-code"].printed
    assert ": refused" not in done["obey-code"].printed
    assert done["leave-code"].printed.count(": SUCCEEDED") == 3, done["leave-code"].printed
    outside.close()
    assert outside.heard["http"].endswith(DATASET)
    assert outside.heard["dns"] == DATASET
    assert outside.heard["socket"] == DATASET


def test_a_miner_does_not_run_under_any_name(work: Path) -> None:
    done = run("cryptomining-and-resources", work)
    mined, limited = done["mine-code"], done["limits-code"]
    assert mined.printed.count(": refused") == 3, mined.printed
    assert mined.refused_by("Process", "xmrig")
    assert mined.refused_by("Process", "python-helper")
    assert "NetworkPolicy" in mined.refused_by("Network")
    assert "1,500 open files: failed" in limited.printed
    assert "the kernel still answers" in limited.printed


def test_without_a_sandbox_the_miner_runs(work: Path) -> None:
    mined = run("cryptomining-and-resources", work, PLAIN)["mine-code"]
    assert mined.printed.count(": SUCCEEDED") >= 2
    assert ": refused" not in mined.printed


@pytest.mark.parametrize(
    "example", ["command-injection-and-data-theft", "cryptomining-and-resources"]
)
def test_the_notebook_is_committed_without_outputs(example: str) -> None:
    assert_stripped(example)
