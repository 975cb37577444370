"""The figures of docs/kubernetes-scale.md are those of the program that says so.

Calls and events are the same everywhere. Sizes and entries are not: the profile's rules hold the
paths that this machine's links lead to.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import scale

PAGE = Path(__file__).parents[2] / "docs" / "kubernetes-scale.md"
#: by how much a size may differ between two machines, of the page's
_MARGIN = 0.25


def number(pattern: str, text: str) -> float:
    """The number that a pattern holds in its group."""
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in {text}"
    return float(found[1].replace(",", ""))


def test_a_kernel_costs_the_calls_that_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--launched", "3", "--seconds", "0.5", "--servers", "50"]) == 0
    said, page = capsys.readouterr().out, PAGE.read_text()
    assert "5.0 calls to start, 2.0 to end; 6.0 pod events of" in said
    assert "| calls to start | 5.0:" in page
    assert "| calls to end | 2.0:" in page
    for figure in ("20,000", "50,000"):
        assert figure in said
        assert figure in page
    for pattern in (
        r"pod events of ([\d,]+) KiB",
        r"policy events of ([\d,]+) KiB",
        r"([\d,]+) of 256 entries",
    ):
        where = said if "entries" not in pattern else said[said.index("  notebook ") :]
        assert number(pattern, where) == pytest.approx(number(pattern, page), rel=_MARGIN)
