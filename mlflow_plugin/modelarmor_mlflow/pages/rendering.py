"""Values as HTML: everything is escaped, and what comes from a stranger is made visible too."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from modelarmor.generate import review
from modelarmor.generate.evidence import SEVERITIES, Evidence
from modelarmor.generate.review.markup import element, text

_SHEET: Final = "page.css"


def page(template: str, /, **values: Any) -> str:
    """One of our pages; `values` are escaped where they stand."""
    return _environment().get_template(template).render(values)


@cache
def sheet() -> str:
    """The style of every page: the review's own, and what the pages around it need."""
    loader = _environment().loader
    assert loader is not None
    ours, _, _ = loader.get_source(_environment(), _SHEET)
    return review.SHEET.read_text(encoding="utf-8") + ours


def fragment(evidence: Evidence, earlier: Evidence | None) -> Markup:
    """The review itself."""
    return Markup(review.as_fragment(review.review(evidence, earlier)))


def stranger(value: object, limit: int = 400) -> Markup:
    """A text of somebody else's: on one line, nothing in it invisible, its direction its own."""
    return Markup(element("bdi", text(str(value), limit)))


def moment(milliseconds: object) -> Markup:
    """A time, for people and for programs."""
    try:
        when = datetime.fromtimestamp(int(str(milliseconds)) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return Markup("")
    shown = when.strftime("%Y-%m-%d %H:%M UTC")
    return Markup(element("time", shown, datetime=when.strftime("%Y-%m-%dT%H:%M:%SZ")))


def counts(findings: object) -> list[tuple[str, int]]:
    """How many findings there are of each severity, out of the tag that says so."""
    try:
        told = json.loads(str(findings))
        return [(name, int(told[name])) for name in SEVERITIES if name in told]
    except (ValueError, TypeError, RecursionError):
        return []


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader(__package__ or "", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"stranger": stranger, "moment": moment, "counts": counts}
    return made
