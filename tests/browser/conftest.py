"""One browser for the tests of a module; each is skipped, with the reason, where there is none.

Not one for all: its driver keeps an event loop running, which tests elsewhere want for themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .support import Browser, missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run a test once more where the browser itself crashed, and only then."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun="TargetClosedError"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if reason := missing():
        pytest.skip(reason)
    with Browser() as browser:
        yield browser
