"""The commands as their users meet them, in a process of their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modelarmor.generate.commands import Progress, fails, summary
from modelarmor.generate.evidence import SEVERITIES, Evidence

from .samples import BEFORE, HOSTILE, IRIS, NASTY, PROFILE

ROOT = Path(__file__).parents[3]
QUIET = replace(
    IRIS,
    artifact=replace(IRIS.artifact, findings=()),
    scan=replace(IRIS.scan, findings=()),
    observation=replace(IRIS.observation, findings=()) if IRIS.observation else None,
)


def modelarmor(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from modelarmor.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    (tmp_path / "iris.json").write_text(IRIS.dumps())
    (tmp_path / "before.json").write_text(BEFORE.dumps())
    (tmp_path / "quiet.json").write_text(QUIET.dumps())
    return tmp_path


def test_review_shows_text_and_fails_on_grave_findings(evidence: Path) -> None:
    done = modelarmor("review", evidence / "iris.json", "--against", evidence / "before.json")
    assert done.returncode == 1
    assert done.stdout.startswith("Review of models:/iris/4\n")
    assert "Changed since models:/iris/3" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("name", "threshold", "status"),
    [("iris", "never", 0), ("quiet", "high", 0), ("quiet", "medium", 1), ("iris", "critical", 1)],
)
def test_fail_on_says_what_counts(evidence: Path, name: str, threshold: str, status: int) -> None:
    done = modelarmor("review", evidence / f"{name}.json", "--fail-on", threshold)
    assert done.returncode == status


def test_the_page_goes_to_a_file(evidence: Path) -> None:
    page = evidence / "review.html"
    done = modelarmor("review", evidence / "quiet.json", "--format", "html", "-o", page)
    assert (done.returncode, done.stdout) == (0, "")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>\n")
    assert sorted(path.suffix for path in evidence.iterdir()) == [
        ".html",
        ".json",
        ".json",
        ".json",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"format": 1, "artifact": {}}', "missing"),
        ('{"format": 2, "artifact": {}}', "this is no evidence of format 1"),
    ],
)
def test_evidence_that_is_none_is_an_error_that_names_the_file(
    tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "bad.json").write_text(text)
    for arguments in (["review", "bad.json"], ["compliance", "bad.json"]):
        done = modelarmor(arguments[0], tmp_path / arguments[1])
        assert done.returncode == 2
        assert f"modelarmor: error: {tmp_path}/bad.json: " in done.stderr
        assert says in done.stderr


def test_review_of_a_model_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = modelarmor("review", tmp_path / "nothing")
    assert done.returncode == 2
    assert "nothing" in done.stderr.splitlines()[-1]


def test_compliance_of_evidence_and_of_a_policy(evidence: Path) -> None:
    done = modelarmor("compliance", evidence / "quiet.json", "--format", "json")
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)
    assert told["subject"]["policy_digest"] == QUIET.policy_digest
    bare = modelarmor(
        "compliance", PROFILE / "policy.yaml", "--network", PROFILE / "network.yaml", "--strict"
    )
    assert bare.returncode == 1
    assert "met here AC-3  Access Enforcement" in bare.stdout


def test_compliance_is_reported_and_fails_where_a_finding_is_grave(evidence: Path) -> None:
    both = (evidence / "quiet.json", evidence / "iris.json")
    worst = max(IRIS.findings, key=lambda finding: -SEVERITIES.index(finding.severity)).severity
    done = modelarmor("compliance", *both, "--fail-on", worst)
    assert done.returncode == 1
    assert "AC-3  Access Enforcement" in done.stdout
    assert modelarmor("compliance", *both, "--fail-on", "never").returncode == 0
    assert modelarmor("compliance", both[0], "--fail-on", "info").returncode == 0


def test_a_place_that_is_relative_is_a_mistake() -> None:
    done = modelarmor("compliance", PROFILE / "policy.yaml", "--model", "model")
    assert done.returncode == 2
    assert "--model model: give the absolute path" in done.stderr


@pytest.mark.parametrize("name", ["generate", "review", "compliance"])
def test_help_teaches_by_examples_and_tells_the_exit_status(name: str) -> None:
    done = modelarmor(name, "--help")
    assert done.returncode == 0
    assert f"  modelarmor {name} " in done.stdout
    assert "Exit status: 0" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", "a.yaml", "--evidence", "a.yaml"], "name the same file"),
        (["-o", "-", "--evidence", "-"], "only one of"),
        (["-o", "/nowhere/at/all.yaml"], "there is no directory /nowhere/at"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_the_work(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    done = modelarmor("generate", tmp_path, *arguments)
    assert done.returncode == 2
    assert says in done.stderr


@pytest.mark.parametrize("there", ["p.yaml", "p.evidence.json", "p.network.yaml"])
def test_a_file_that_is_there_is_replaced_only_by_force(tmp_path: Path, there: str) -> None:
    model = tmp_path / "model.txt"
    model.write_text("nothing")
    (tmp_path / there).write_text("by hand")
    wanted = ("generate", model, "--no-run", "-q", "-o", tmp_path / "p.yaml", "--fail-on", "never")
    done = modelarmor(*wanted)
    assert done.returncode == 2
    assert f"{tmp_path / there}: exists" in done.stderr
    assert (tmp_path / there).read_text() == "by hand"
    assert len(list(tmp_path.iterdir())) == 2
    done = modelarmor(*wanted, "--force")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / there).read_text() != "by hand"


def test_never_is_worse_than_critical() -> None:
    assert fails(["critical"], "critical")
    assert fails(["critical"], "info")
    assert not fails(["high"], "critical")
    assert not fails(["critical"], "never")
    assert not fails([], "info")


@pytest.mark.parametrize("made", [IRIS, HOSTILE, replace(IRIS, observation=None)])
def test_a_summary_is_a_few_lines_that_harm_no_terminal(made: Evidence) -> None:
    text = summary(made, {"policy": "p.yaml", "evidence": f"/tmp/{NASTY}"})
    assert len(text.splitlines()) == 10
    assert text.isprintable() or all(line.isprintable() for line in text.split("\n"))
    assert "next: modelarmor review " in text


def test_progress_is_plain_lines_where_nobody_looks_on() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream, Progress(stream) as progress:
        progress("hashing")
        progress("hashing")
        progress(f"loading {NASTY}")
    with os.fdopen(reader) as told:
        lines = told.read().split("\n")
    assert len(lines) == 3
    assert lines[0].endswith("hashing")
    assert all(line.isprintable() for line in lines)


def test_progress_on_a_terminal_is_one_line_that_goes_away() -> None:
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as stream, Progress(stream) as progress:
        progress("hashing")
        progress("loading")
    parts = []
    with contextlib.suppress(OSError):  # the end of a terminal that nobody has open
        while part := os.read(master, 10_000):
            parts.append(part)
    os.close(master)
    told = b"".join(parts).decode()
    assert "\n" not in told
    assert told.count("\r\033[K") == 3
    assert told.endswith("\r\033[K")


def test_quiet_is_quiet() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream, Progress(stream, quiet=True) as progress:
        progress("hashing")
    with os.fdopen(reader) as told:
        assert told.read() == ""
