"""The page in a browser: nothing runs, nothing is fetched, nothing sticks out, all is printed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelarmor.generate.evidence import Evidence
from modelarmor.generate.review import as_html, review

from .samples import BEFORE, HOSTILE, IRIS

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def shown(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Shows HTML; afterwards nothing may have been fetched, run or complained about."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: said.append(request.url))

    def show(html: str) -> Any:
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        page.goto(file.as_uri())
        assert said == [file.as_uri()]
        return page

    yield show
    assert len(said) <= 1, said
    page.close()


def test_a_hostile_model_runs_nothing_and_keeps_its_place(shown: Any) -> None:
    page = shown(as_html(review(HOSTILE, IRIS)))
    assert page.locator("script, img").count() == 0
    assert page.locator("h1").count() == 1
    assert page.locator("section").count() == 10


@pytest.mark.parametrize("evidence", [IRIS, HOSTILE], ids=["plain", "hostile"])
@pytest.mark.parametrize("width", [360, 768, 1400])
def test_nothing_sticks_out_at_any_width(shown: Any, width: int, evidence: Evidence) -> None:
    page = shown(as_html(review(evidence, BEFORE)))
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_is_folded_on_the_screen_is_printed(shown: Any) -> None:
    page = shown(as_html(review(IRIS, BEFORE)))
    folded = page.locator("details li, details td").first
    assert not folded.is_visible()
    page.emulate_media(media="print")
    assert folded.bounding_box()["height"] > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_either_scheme(shown: Any, scheme: str) -> None:
    page = shown(as_html(review(IRIS, BEFORE)))
    page.emulate_media(color_scheme=scheme)
    worst = page.evaluate(_CONTRAST)
    assert worst["ratio"] >= 4.5, worst  # WCAG 2.2, 1.4.3


#: the least contrast of any text with what lies behind it
_CONTRAST = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number);
    return c.startsWith('color(') ? [m[0]*255, m[1]*255, m[2]*255, m[3] ?? 1]
                                  : [m[0], m[1], m[2], m[3] ?? 1]; };
  const over = (a, b) => [0,1,2].map(i => a[i]*a[3] + b[i]*(1-a[3])).concat([1]);
  const light = c => { const l = c.slice(0,3).map(v => { v /= 255;
    return v <= .04045 ? v/12.92 : ((v+.055)/1.055)**2.4; });
    return .2126*l[0] + .7152*l[1] + .0722*l[2]; };
  let worst = {ratio: 99};
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    let chain = [], p = e;
    while (p) { chain.push(parse(getComputedStyle(p).backgroundColor)); p = p.parentElement; }
    const back = chain.reverse().reduce((under, layer) => over(layer, under), [255,255,255,1]);
    const fore = over(parse(getComputedStyle(e).color), back);
    const [a, b] = [light(fore), light(back)].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < worst.ratio) worst = {ratio, text: e.textContent.slice(0, 60), tag: e.className};
  }
  return worst;
}"""
