"""Devices and libraries of an accelerator are the interpreter's alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.examples.support import assert_stripped, run

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("cc") is None, reason="compiles a library"),
]
MINE = ("the interpreter opens the device", "the interpreter loads libcuda")
OTHERS = (
    "a child opens the device",
    "a copy of the interpreter opens it",
    "another program loads libcuda",
)


def test_only_the_interpreter_gets_the_device_and_the_library(tmp_path: Path) -> None:
    done = run("cuda-access", tmp_path / "work")
    confined, plain = done["try-code"].printed, done["plain-code"].printed
    for what in MINE:
        assert f"{what}: SUCCEEDED" in confined, confined
    for what in OTHERS:
        assert f"{what}: refused" in confined, confined
        assert f"{what}: SUCCEEDED" in plain, plain
    decided = done["policy-code"].printed
    assert decided.count("-> allowed: read") == decided.count("-> blocked: read") == 2


def test_it_is_committed_without_outputs() -> None:
    assert_stripped("cuda-access")
