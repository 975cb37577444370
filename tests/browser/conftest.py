"""One browser for all tests; each test that needs it is skipped, with the reason, without one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .support import Browser, missing


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if reason := missing():
        pytest.skip(reason)
    with Browser() as browser:
        yield browser
