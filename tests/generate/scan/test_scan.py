"""Every voice is asked, confined, and nobody's silence is a pass."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modelarmor.generate.artifact import inspect
from modelarmor.generate.evidence import Evidence, Scan
from modelarmor.generate.scan import confine, scan
from modelarmor.generate.scan import voices as scanners
from modelarmor.sandbox import probe
from tests.generate.scan import malicious
from tests.generate.scan.malicious import EVIL, stream

pytestmark = [
    pytest.mark.skipif(not probe().can_confine, reason="this machine cannot confine"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    root.mkdir()
    return root


def ask(root: Path, *voices: str, timeout: float | None = 120) -> Scan:
    return scan(root, inspect(root), voices=voices or ("modelarmor",), timeout=timeout)


def rules(said: Scan) -> list[str]:
    return [finding.rule for finding in said.findings]


def test_voices_stand_side_by_side_with_who_says_so(model: Path) -> None:
    pytest.importorskip("picklescan")
    (model / "model.pkl").write_bytes(EVIL)
    (model / "requirements.txt").write_text("numpy\n")
    told: list[str] = []
    said = scan(model, inspect(model), voices=("modelarmor", "picklescan"), progress=told.append)
    assert [(voice.name, voice.status) for voice in said.voices] == [
        ("modelarmor", "complete"),
        ("picklescan", "complete"),
    ]
    by = {finding.source.partition(" ")[0]: finding for finding in said.findings}
    assert by["modelarmor"].rule == "pickle-executes"
    assert by["modelarmor"].severity == by["picklescan"].severity == "critical"
    assert by["modelarmor"].location.startswith("model.pkl:")
    assert by["picklescan"].location == "model.pkl"
    assert "T1059.006" in by["modelarmor"].techniques
    assert said.uninspected == ()
    assert "Looking into model.pkl" in told
    assert Evidence.loads(Evidence(artifact=inspect(model), scan=said).dumps()).scan == said


def test_a_plain_model_has_no_findings(model: Path) -> None:
    (model / "model.pkl").write_bytes(stream(b"}"))
    assert ask(model).findings == ()


def test_a_scanner_that_looked_into_nothing_is_a_finding(model: Path) -> None:
    pytest.importorskip("picklescan")
    (model / "model.json").write_text("{}")
    said = ask(model, "picklescan")
    assert rules(said) == ["scanner-incomplete"]
    assert said.voices[0].note == "it looked into no file"
    assert said.uninspected == ("model.json",)


def test_a_scanner_that_is_not_there_is_a_finding(model: Path) -> None:
    (model / "model.pkl").write_bytes(EVIL)
    missing = [name for name in ("modelscan", "fickling") if name not in scanners.find([name])]
    if not missing:
        pytest.skip("every scanner is installed here")
    said = ask(model, missing[0])
    assert said.voices[0].status == "absent"
    assert rules(said) == ["scanner-absent"]


def test_a_voice_that_nobody_knows_is_an_error(model: Path) -> None:
    with pytest.raises(ValueError, match="known are modelarmor, picklescan"):
        ask(model, "crystal-ball")


def test_what_was_looked_into_must_be_what_was_digested(model: Path) -> None:
    (model / "model.pkl").write_bytes(stream(b"}"))
    artifact = inspect(model)
    (model / "model.pkl").write_bytes(stream(b"]"))
    said = scan(model, artifact, voices=("modelarmor",))
    assert rules(said) == ["changed-while-scanned"]


def test_files_that_the_look_could_not_finish_in_time_are_findings(model: Path) -> None:
    (model / "model.pkl").write_bytes(EVIL)
    said = ask(model, timeout=1e-9)
    assert said.voices[0].status == "incomplete"
    assert "not-inspected" in rules(said)
    assert said.uninspected == ("model.pkl",)


def test_pipes_devices_and_links_block_nobody(model: Path) -> None:
    os.mkfifo(model / "pipe.pkl")
    (model / "zero.pkl").symlink_to("/dev/zero")
    (model / "out.pkl").symlink_to("/etc/passwd")
    (model / "model.pkl").write_bytes(EVIL)
    said = ask(model)
    places = {finding.location for finding in said.findings if finding.rule == "not-inspected"}
    assert {"pipe.pkl", "zero.pkl", "out.pkl"} <= places
    assert "pickle-executes" in rules(said)


def test_another_scanners_critical_counts_less_where_our_look_saw_nothing_run(model: Path) -> None:
    pytest.importorskip("picklescan")
    (model / "model.pkl").write_bytes(malicious.pickles()["cloudpickle.pkl"])  # type: ignore[arg-type]
    said = ask(model, "modelarmor", "picklescan")
    assert {finding.severity for finding in said.findings} == {"high"}
    alone = ask(model, "picklescan")
    assert "critical" in {finding.severity for finding in alone.findings}


@pytest.fixture
def scanner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """A scanner whose driver is a script of the test's."""
    drivers = tmp_path / "drivers"
    drivers.mkdir()
    monkeypatch.setattr(scanners, "__file__", str(tmp_path / "voices.py"))

    def write(source: str) -> scanners.Scanner:
        # Only the model can be read there, and this package: the script goes beside the former.
        (drivers / "toy.py").write_text(source)
        return scanners.Scanner("toy", "1", Path(sys.executable))

    return write


@pytest.mark.parametrize(
    ("source", "note"),
    [
        ("raise SystemExit(3)", "it ended with status 3"),
        ("import os; os.abort()", "it ended with status -6"),
        ("print('hello')", "its answer cannot be read"),
        ("print('[' * 10000)", "its answer cannot be read"),
        ('print(\'{"findings": 3, "inspected": 1}\')', "its answer cannot be read"),
        ("while True: pass", "it was ended after 5 s"),
        ("while True: print('x' * 1000000)", "it wrote too much"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "it ended with status 1"),
        ("import subprocess; subprocess.run(['/bin/sh', '-c', 'true'])", "it ended with status 1"),
        ("open('/etc/passwd', 'a')", "it ended with status 1"),
    ],
)
def test_a_scanner_that_fails_or_reaches_out_is_confined_and_told(
    scanner: object, tmp_path: Path, source: str, note: str
) -> None:
    made = scanner(source)  # type: ignore[operator]
    (tmp_path / "model.pkl").write_bytes(EVIL)
    said = scanners.ask(made, tmp_path, 5)
    assert said.failed
    assert said.note.startswith(note)


def test_a_scanner_cannot_change_the_model(scanner: object, tmp_path: Path) -> None:
    made = scanner("import sys; open(sys.argv[1] + '/model.pkl', 'wb')")  # type: ignore[operator]
    (tmp_path / "model.pkl").write_bytes(EVIL)
    assert scanners.ask(made, tmp_path, 60).failed
    assert (tmp_path / "model.pkl").read_bytes() == EVIL


def test_what_cannot_be_confined_is_not_run(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise confine.NotConfined("no Landlock here")

    monkeypatch.setattr(confine, "run", refuse)
    (model / "model.pkl").write_bytes(EVIL)
    said = ask(model)
    assert said.voices[0].status == "failed"
    assert rules(said) == ["scanner-failed"]
    assert "no Landlock here" in said.voices[0].note


def test_a_look_that_is_taken_over_can_say_nonsense_but_not_that_all_is_well(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "model.pkl").write_bytes(EVIL)
    artifact = inspect(model)

    def lie(*_: object, line: object, **__: object) -> confine.Ended:
        line(b"not json")  # type: ignore[operator]
        line(b"[" * 10_000)  # type: ignore[operator]
        line(b'{"finding": {"severity": "none"}}')  # type: ignore[operator]
        return confine.Ended(0, b"", "")

    monkeypatch.setattr(confine, "run", lie)
    said = scan(model, artifact, voices=("modelarmor",))
    assert set(rules(said)) == {"not-inspected", "scanner-failed"}
    assert {finding.severity for finding in said.findings} == {"high"}
    assert replace(artifact).digest == artifact.digest
