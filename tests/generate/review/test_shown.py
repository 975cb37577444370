"""The review as text, JSON and a page, of evidence that hates its readers too."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from modelarmor.generate.review import as_html, as_json, as_text, review
from modelarmor.generate.review.words import size
from modelarmor.visible import visible

from .samples import BEFORE, HOSTILE, IRIS

SCHEMA = json.loads(
    files("modelarmor.generate.review").joinpath("schema.json").read_text(encoding="utf-8")
)
REVIEWS = {
    "plain": review(IRIS),
    "changed": review(IRIS, BEFORE),
    "hostile": review(HOSTILE, IRIS),
    "hostile before": review(IRIS, HOSTILE),
}
#: what a terminal or a page would act upon
_CONTROLS = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class _Page(HTMLParser):
    """Collects what a browser would build."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[int] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in ("meta", "col"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("made", REVIEWS.values(), ids=REVIEWS)
def test_the_json_is_as_its_schema_says(made: Any) -> None:
    text = as_json(made)
    assert text.isascii()
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(text))


def test_the_schema_describes_every_object() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    body = json.loads(as_json(REVIEWS["plain"]))
    for key in ("verdicts", "capabilities", "refusals", "changes"):
        broken = {name: value for name, value in body.items() if name != key}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, SCHEMA)


@pytest.mark.parametrize("made", REVIEWS.values(), ids=REVIEWS)
@pytest.mark.parametrize("show", [as_text, as_html], ids=["text", "html"])
def test_nothing_that_a_terminal_or_browser_acts_upon_is_shown(made: Any, show: Any) -> None:
    shown = show(made)
    assert not _CONTROLS.search(shown)
    shown.encode("utf-8")


def test_colour_is_the_only_escape_of_the_text() -> None:
    coloured = as_text(REVIEWS["hostile"], colour=True)
    assert "\x1b[1;31m" in coloured
    plain = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert plain == as_text(REVIEWS["hostile"])


@pytest.mark.parametrize("made", REVIEWS.values(), ids=REVIEWS)
def test_the_page_runs_nothing_and_asks_for_nothing(made: Any) -> None:
    page = _Page(as_html(made))
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "link", "base", "form", "svg"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href", "action", "srcset", "background"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), (tag, attributes)
    metas = [attributes for tag, attributes in page.tags if tag == "meta"]
    policy = next(m for m in metas if m.get("http-equiv") == "Content-Security-Policy")["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "url(" not in as_html(made)
    assert "@import" not in as_html(made)


def test_the_page_says_of_a_hostile_model_the_same_as_of_any() -> None:
    names = [tag for tag, _ in _Page(as_html(REVIEWS["hostile"])).tags]
    assert names.count("h1") == 1
    assert names.count("title") == 1
    assert names.count("style") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in as_html(REVIEWS["hostile"])


@pytest.mark.parametrize("made", REVIEWS.values(), ids=REVIEWS)
def test_headings_and_tables_are_accessible(made: Any) -> None:
    page = _Page(as_html(made))
    assert page.headings[0] == 1
    for above, below in zip(page.headings, page.headings[1:], strict=False):
        assert below <= above + 1
    identifiers = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(identifiers) == len(set(identifiers))
    for tag, attributes in page.tags:
        if tag == "th":
            assert attributes.get("scope") == "col"
        if labelled := attributes.get("aria-labelledby"):
            assert labelled in identifiers
        if tag == "a":
            assert str(attributes["href"])[1:] in identifiers
    assert ("html", {"lang": "en"}) in page.tags


@pytest.mark.parametrize("made", REVIEWS.values(), ids=REVIEWS)
def test_every_point_leads_to_a_part_of_the_page(made: Any) -> None:
    page = as_html(made)
    for point in made.points:
        assert f'id="{point.section}"' in page


def test_the_text_names_what_a_reviewer_asks_for() -> None:
    text = as_text(REVIEWS["changed"])
    for said in (
        "picklescan 1.0.5         1 critical", "fickling                 did not look",
        "granted but never observed:", "Everything else is refused.",
        "No address can be reached", "+ read/write ${TMP}/ and everything below is now allowed",
        "* file changed: model.pkl", "Expected, refused on purpose:",
        "looked into by nobody: code/features.py",
    ):  # fmt: skip
        assert said in text, said


def test_long_hostile_text_is_cut_and_says_so() -> None:
    assert visible("x" * 1000, 10) == "x" * 10 + "… (990 more characters)"
    assert visible("a\x1b[2J\u202eb\ud800\n") == r"a\x1b[2J\u202eb\ud800\n"


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (1023, "1023 B"), (1 << 20, "1.0 MiB"), (3 << 50, "3072.0 TiB")]
)
def test_sizes_are_for_people(count: int, said: str) -> None:
    assert size(count) == said
