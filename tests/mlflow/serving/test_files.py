"""The files of lines that `modelarmor serve` (`--alerts`, `--log`) and deployments write."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from modelarmor_mlflow.serving import commands


def _write(file: Path, lines: int) -> None:
    with commands._lines_in(file, "--alerts") as write:
        for number in range(lines):
            write(f'{{"alert": "%s {number}"}}')


def test_flood_of_alerts_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_LARGEST_FILE", 10_000)
    file = tmp_path / "alerts.jsonl"
    _write(file, 5_000)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["alerts.jsonl", "alerts.jsonl.1"]
    assert all(item.stat().st_size <= 10_000 for item in tmp_path.iterdir())
    assert file.read_text().splitlines()[-1] == '{"alert": "%s 4999"}'


def test_what_was_written_before_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "alerts.jsonl"
    _write(file, 1)
    _write(file, 1)
    assert file.read_text() == '{"alert": "%s 0"}\n' * 2


def test_link_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_LARGEST_FILE", 100)
    link = tmp_path / "alerts.jsonl"
    link.symlink_to(tmp_path / "elsewhere")
    _write(link, 50)
    assert link.is_symlink()
    assert len((tmp_path / "elsewhere").read_text().splitlines()) == 50


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "missing" / "alerts.jsonl"
    with (
        pytest.raises(ValueError, match=rf"--alerts {file}: No such file"),
        commands._lines_in(file, "--alerts"),
    ):
        pass


def test_what_goes_to_stderr_is_told_to_the_log_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "_LARGEST_FILE", 10_000)
    file = tmp_path / "serve.log"
    with commands._told_to(file):
        for number in range(1_000):
            print("line", number, "\ud800", file=sys.stderr, flush=True)
    assert file.read_text().splitlines()[-1] == "line 999 \\ud800"
    assert sum(item.stat().st_size for item in tmp_path.iterdir()) <= 20_000
    assert capsys.readouterr().err == ""
