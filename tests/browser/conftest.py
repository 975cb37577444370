"""One browser for the tests of a module; each is skipped, with the reason, where there is none.

Not one for all: its driver keeps an event loop running, which tests elsewhere want for themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .support import Browser, missing


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if reason := missing():
        pytest.skip(reason)
    with Browser() as browser:
        yield browser
