"""Regions: never less than the policy permits, and exact exactly where nobody can add entries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelarmor.sandbox.region import Region


def always(_: str) -> bool:
    return True


def never(_: str) -> bool:
    return False


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/secret", "a/plain", "b/deep/file"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path


def test_without_rules_the_root_is_granted(tree: Path) -> None:
    region = Region(True, always)
    assert region.grants() == ["/"]
    assert region.exact
    assert not region.restricts


def test_an_allow_list_grants_its_trees_and_nothing_else(tree: Path) -> None:
    region = Region(False, never)
    region.tree(f"{tree}/a/", True)
    region.path(f"{tree}/b/deep/file", True)
    assert sorted(region.grants()) == [f"{tree}/a", f"{tree}/b/deep/file"]
    assert region.exact


def test_a_hole_is_cut_where_nobody_can_add_entries(tree: Path) -> None:
    region = Region(False, always)
    region.tree(f"{tree}/", True)
    region.path(f"{tree}/a/secret", False)
    assert sorted(region.grants()) == [f"{tree}/a/plain", f"{tree}/b"]
    assert region.exact


def test_a_hole_is_left_to_the_supervisor_where_entries_can_be_added(tree: Path) -> None:
    region = Region(False, never)
    region.tree(f"{tree}/", True)
    region.path(f"{tree}/a/secret", False)
    assert region.grants() == [str(tree)]
    assert not region.exact
    assert str(tree) in region.notes


def test_a_hard_link_to_what_is_withheld_is_withheld_too(tree: Path) -> None:
    os.link(tree / "a/secret", tree / "a/alias")
    region = Region(False, always)
    region.tree(f"{tree}/", True)
    region.path(f"{tree}/a/secret", False)
    assert f"{tree}/a/alias" not in region.grants()


def test_a_symbolic_link_is_not_granted_beside_a_hole(tree: Path) -> None:
    (tree / "a/link").symlink_to(tree / "a/secret")
    region = Region(False, always)
    region.tree(f"{tree}/", True)
    region.path(f"{tree}/a/secret", False)
    assert f"{tree}/a/link" not in region.grants()


def test_an_allow_inside_a_hole_is_granted_again(tree: Path) -> None:
    region = Region(True, always)
    region.tree(f"{tree}/b/", False)
    region.tree(f"{tree}/b/deep/", True)
    grants = region.grants()
    assert f"{tree}/b/deep" in grants
    assert f"{tree}/b" not in grants
    assert "/" not in grants


def test_block_wins_over_allow_on_the_same_key(tree: Path) -> None:
    region = Region(False, always)
    region.tree(f"{tree}/a/", True)
    region.tree(f"{tree}/a/", False)
    assert region.grants() == []


def test_what_a_condition_may_allow_is_granted_whole_and_not_exact(tree: Path) -> None:
    region = Region(False, always)
    region.force(f"{tree}/a/")
    assert region.grants() == [f"{tree}/a"]
    assert not region.exact
    assert region.restricts
