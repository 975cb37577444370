"""A kernel and a server go on answering while bombs go off beside them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks import bombs
from modelarmor.sandbox.probe import probe


@pytest.mark.thorough
@pytest.mark.skipif(not probe().can_confine, reason="nothing can be confined here")
@pytest.mark.timeout(300)
def test_a_kernel_and_a_server_beside_bombs_are_answered(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    seen = asyncio.run(bombs._measure(tmp_path, rounds=1, seconds=6))
    assert set(seen) == {bombs.NOTHING, *bombs.BOMBS}
    for name, one in seen.items():
        assert one.cells, name
        assert one.requests, name
        assert (one.started > 0) == (name != bombs.NOTHING), name
    for name in ("memory", "processes", "disk"):
        assert seen[name].limited, name
