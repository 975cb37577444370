"""The figures of docs/kubernetes-scale.md are those of the program that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import scale

PAGE = Path(__file__).parents[2] / "docs" / "kubernetes-scale.md"


def test_a_kernel_costs_the_calls_that_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--launched", "3", "--seconds", "0.5", "--servers", "50"]) == 0
    said = capsys.readouterr().out
    assert "5.0 calls to start, 2.0 to end; 6.0 pod events of 40 KiB" in said
    page = PAGE.read_text()
    assert "| calls to start | 5.0:" in page
    assert "| calls to end | 2.0:" in page
    assert "6 pod events of 40 KiB, 2 policy events of 50 KiB" in page
    for figure in ("20,000", "50,000", "2,270 on the node", "227 of 256"):
        assert figure in said
        assert figure.removesuffix(" on the node") in page
