"""The few words of Gomega that the data has."""

from __future__ import annotations

import pytest

from . import gomega


@pytest.mark.parametrize(
    ("assertion", "output", "holds"),
    [
        ('MatchRegexp("cat.*Permission denied")', "cat: /x: Permission denied", True),
        ('MatchRegexp("cat.*Permission denied")', "cat:\nPermission denied", False),
        (r'MatchRegexp("data1\\.txt")', "data1xtxt", False),
        ("MatchRegexp(`(?i)permission denied`)", "Permission Denied", True),
        ('ContainSubstring("a \\"b\\"")', 'a "b"', True),
        ('Not(MatchRegexp("denied"))', "denied", False),
        ('Not MatchRegexp("denied")', "denied", False),
        ('Not Not(ContainSubstring("denied"))', "denied", False),
        ('Not Not(ContainSubstring("denied"))', "fine", True),
        ('And(ContainSubstring("a"), Not(ContainSubstring("b")))', "a", True),
        ('Or(ContainSubstring("a"), ContainSubstring("b"))', "c", False),
    ],
)
def test_an_assertion_means_what_upstream_wrote(assertion: str, output: str, holds: bool) -> None:
    assert gomega.parse(assertion)(output) is holds


def test_any_lines_do_not_take_forever() -> None:
    page = gomega.parse(r'MatchRegexp("<html>((?:.*\r?\n?)*)</html>")')
    assert page("<html>\nx\n</html>\n")
    assert not page("<html>" + "x" * 10_000)


@pytest.mark.parametrize(
    "text", ["Foo()", "MatchRegexp(x)", 'Not(MatchRegexp("a")', 'Equal("a") b']
)
def test_what_is_not_known_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="not understood"):
        gomega.parse(text)


def test_assertions_that_hold_of_everything_are_none() -> None:
    assert gomega.vacuous(None)
    assert gomega.vacuous('MatchRegexp(".*")')
    assert not gomega.vacuous('MatchRegexp(".*denied")')
