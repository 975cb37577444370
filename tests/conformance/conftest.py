"""The trees that containers start from: built once, gone afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import machine


@pytest.fixture(scope="session")
def images() -> Iterator[machine.Images]:
    if reason := machine.obstacle():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
        yield machine.Images(Path(directory))
