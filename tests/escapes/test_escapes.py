"""Each attempt is blocked, or is a known limit with its reason; a control shows that it works."""

from __future__ import annotations

import platform
from typing import Any

import pytest

from .battery import ATTEMPTS, MODES, selected
from .run import run, users

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the attempts are x86_64 calls"),
    pytest.mark.timeout(420),
]

Key = tuple[int, str, str]
CASES: list[Key] = [
    (uid, mode, key) for uid in users() for mode in MODES for key in selected(mode, uid)
]


@pytest.fixture(scope="session")
def rows() -> dict[Key, dict[str, Any]]:
    return {(row["uid"], row["mode"], row["key"]): row for row in run(users())}


def _say(row: dict[str, Any]) -> str:
    answer = row["confined"]
    return (f"{row['key']} ({row['mode']}, uid {row['uid']}): evidence {answer['evidence']!r},"
            f" changed {answer['changes']}, why {answer['why']!r}, alerts {answer.get('alerts')},"
            f" control {row['control']['evidence']!r} {row['control']['why']!r}")  # fmt: skip


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{'root' if not u else 'user'}-{m}-{k}" for u, m, k in CASES]
)
def test_way_out_is_shut(rows: dict[Key, dict[str, Any]], case: Key) -> None:
    row = rows[case]
    if row["verdict"] == "untested":
        pytest.skip(f"not possible here without the sandbox either: {row['control']['why']}")
    assert row["verdict"] in ("blocked", "limit"), _say(row)
    assert not row["confined"].get("lost"), _say(row)


def test_there_are_many_ways() -> None:
    assert len(ATTEMPTS) >= 130


def test_known_limits_are_few_and_still_are_limits(rows: dict[Key, dict[str, Any]]) -> None:
    """A limit that has become blocked should leave the table; this notices."""
    shut = {row["key"] for row in rows.values() if row["limit"] and row["verdict"] == "blocked"}
    still = {row["key"] for row in rows.values() if row["limit"] and row["verdict"] == "limit"}
    assert not shut - still, f"no longer limits: {sorted(shut - still)}"
    assert len(still) <= 12, sorted(still)


def test_attempts_do_not_end_the_sandbox(rows: dict[Key, dict[str, Any]]) -> None:
    assert not [key for key, row in rows.items() if row["confined"].get("lost")]
