"""The file of alerts that `modelarmor serve --alerts` and deployments write."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from modelarmor_mlflow.serving import commands


def _write(file: Path, lines: int) -> None:
    handler = commands._alerts_file(file)
    for number in range(lines):
        handler.handle(logging.makeLogRecord({"msg": f'{{"alert": "%s {number}"}}'}))
    handler.close()


def test_flood_of_alerts_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_MAX_ALERTS", 10_000)
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
    monkeypatch.setattr(commands, "_MAX_ALERTS", 100)
    link = tmp_path / "alerts.jsonl"
    link.symlink_to(tmp_path / "elsewhere")
    _write(link, 50)
    assert link.is_symlink()
    assert len((tmp_path / "elsewhere").read_text().splitlines()) == 50


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        commands._alerts_file(tmp_path / "missing" / "alerts.jsonl")
