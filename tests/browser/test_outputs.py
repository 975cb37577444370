"""What is still drawn in strict mode: the table of docs/strict-mode.md, measured.

Each output is drawn by the code of its library's first page of documentation, on a server as it is
installed and on a strict one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from .support import Browser, Home, Lab, User
from .test_strict import STRICT

TABLE = Path(__file__).parents[2] / "docs" / "strict-mode.md"


@dataclass(frozen=True)
class Output:
    """Something to draw, the CSS selector of what is there once it is drawn, and whether it is."""

    name: str
    code: str
    selector: str
    strict: bool = True


_DISPLAY = "from IPython.display import *\n"
_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg"
    "=="
)
_PLOTLY = (
    "import plotly.graph_objects as go, plotly.io as pio\ngo.{}(data=[go.Scatter(y=[1, 3, 2])])"
)
_VEGA_LITE = {
    "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
    "data": {"values": [{"a": 1, "b": 3}, {"a": 2, "b": 4}]},
    "mark": "line",
    "encoding": {"x": {"field": "a"}, "y": {"field": "b"}},
}
OUTPUTS = [
    Output("HTML tables (pandas)", "import pandas as pd; pd.DataFrame(dict(a=[1]))", "table"),
    Output(
        "HTML with styles (pandas Styler)",
        "import pandas as pd; pd.DataFrame(dict(a=[1])).style.background_gradient()",
        "table style, style + table",
    ),
    Output("Markdown", _DISPLAY + "Markdown('# Title')", ".jp-RenderedMarkdown h1"),
    Output("LaTeX", _DISPLAY + "Math('x^2')", "mjx-container"),
    Output(
        "Mermaid",
        _DISPLAY + "Markdown('```mermaid\\ngraph TD; A-->B\\n```')",
        ".jp-RenderedMermaid img",
    ),
    Output(
        "matplotlib (inline)",
        "import matplotlib.pyplot as plt\n%matplotlib inline\nplt.plot([1, 2]); plt.show()",
        'img[src^="data:image/png"]',
    ),
    Output(
        "SVG images",
        _DISPLAY + "SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"><circle r=\"9\"/></svg>')",
        ".jp-RenderedSVG :is(img, svg)",
    ),
    Output("JSON", _DISPLAY + "JSON({'a': 1})", ".jp-RenderedJSON"),
    Output(
        "images of the workspace",
        "import base64\n"
        f"open('p.png', 'wb').write(base64.b64decode({_PIXEL!r}))\n"
        + _DISPLAY + "display(Markdown('![p](p.png)'))",
        'img[src*="p.png"]',
    ),
    Output("sound in the notebook", _DISPLAY + "Audio([0.0, 0.5] * 99, rate=8000)", "audio"),
    Output("ipywidgets", "import ipywidgets; ipywidgets.IntSlider()", ".widget-slider .noUi-base"),
    Output(
        "ipympl (%matplotlib widget)",
        "%matplotlib widget\nimport matplotlib.pyplot as plt\n"
        "plt.figure(); plt.plot([1, 2]); plt.show()",
        ".jupyter-matplotlib canvas",
    ),
    Output(
        "Vega-Lite, as JupyterLab draws it",
        f"{_DISPLAY}display({{'application/vnd.vegalite.v5+json': {_VEGA_LITE!r}}}, raw=True)",
        ".vega-embed canvas, .vega-embed svg",
    ),
    Output("plotly", _PLOTLY.format("Figure"), ".js-plotly-plot .main-svg"),
    Output(
        "plotly FigureWidget",
        _PLOTLY.format("FigureWidget"),
        ".js-plotly-plot .main-svg",
        strict=False,
    ),
    Output(
        "Bokeh",
        "from bokeh.plotting import figure, show\nfrom bokeh.io import output_notebook\n"
        "from bokeh.resources import INLINE\noutput_notebook(INLINE)\n"
        "p = figure(); p.line([1, 2], [3, 4]); show(p)",
        ".bk-Figure",
        strict=False,
    ),
    Output(
        "anywidget",
        "import anywidget\nclass W(anywidget.AnyWidget):\n"
        "    _esm = \"export default {render({el}) {el.innerHTML = '<i class=any>x</i>'}}\"\nW()",
        "i.any",
        strict=False,
    ),
    Output(
        "JavaScript (`%%javascript`)",
        "%%javascript\nelement.innerHTML = '<i class=js>x</i>'",
        "i.js",
        strict=False,
    ),
    Output(
        "scripts in HTML",
        _DISPLAY + "HTML('<b id=s></b><script>window.s.className = \"on\"</script>')",
        "b.on",
        strict=False,
    ),
    Output("frames (`IFrame`)", _DISPLAY + "IFrame('/api', 99, 99)", "iframe", strict=False),
]  # fmt: skip


# By the browser; in place of a script; the text that stands beside one
REFUSALS = ("Content Security Policy", "strict mode does not show", "Javascript object")


@pytest.fixture(
    scope="module",
    # what is drawn where nothing is strict is tried with --thorough
    params=[pytest.param("ordinary", marks=pytest.mark.thorough), "strict"],
)
def reading(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, browser: Browser
) -> Iterator[Callable[[], tuple[User, bool]]]:
    """Gives the reader, who opens the notebook again where the browser crashed."""
    strict = request.param == "strict"
    lab = Lab(Home(tmp_path_factory.mktemp("b")), STRICT if strict else "")
    readers: list[User] = []

    def reader() -> tuple[User, bool]:
        if not readers or readers[-1].page.is_closed():
            readers.append(users.enter_context(browser.user(lab)))
            readers[-1].open("n.ipynb")
        return readers[-1], strict

    with ExitStack() as users:
        users.callback(lab.stop)
        users.callback(lab.end_kernels)
        lab.write_notebook("n.ipynb", [""])
        yield reader


@pytest.fixture
def reader(reading: Callable[[], tuple[User, bool]]) -> tuple[User, bool]:
    return reading()


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output.name)
def test_an_output_is_drawn_or_not_as_the_table_says(
    reader: tuple[User, bool], output: Output
) -> None:
    user, strict = reader
    user.console.clear()
    user.execute(output.code)
    drawn = user.page.locator(f".jp-OutputArea :is({output.selector})").first

    if strict and not output.strict:
        for _ in range(600):
            said = "\n".join([*user.console, *user.outputs()])
            if any(reason in said for reason in REFUSALS):
                break
            user.page.wait_for_timeout(50)
        else:
            raise AssertionError(f"nothing was refused: {said}")
        assert not drawn.count() or output.selector == "iframe"  # which is there, and empty
    else:
        drawn.wait_for(state="attached", timeout=60_000)


def test_the_table_is_what_was_measured() -> None:
    rows = dict(re.findall(r"^\| (.+?) \| (yes|no) \|", TABLE.read_text(), re.MULTILINE))

    assert rows == {output.name: "yes" if output.strict else "no" for output in OUTPUTS}
