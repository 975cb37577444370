"""The review page in a real browser, on a real MLflow server, with real attackers' pages."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own modules use what others deprecate
    pytest.importorskip("mlflow.server.handlers")

from tests.mlflow.pages import address
from tests.mlflow.support import Reviewer, Server, aliases, refused

_PATIENCE_MS = 90_000
OWNED = "document.title='owned'"
HOSTILE = [
    f"<svg onload={OWNED}>",
    f'"><img src=x onerror="{OWNED}">',
    f"' autofocus onfocus={OWNED} x='",
    f"javascript%3A{OWNED}",
    "x&version=2#y",
]

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def server(tmp_path_factory, browser):
    running = Server(tmp_path_factory.mktemp("pages"), options=["--app-name", "modelarmor"])
    running.configure(
        review_url=f"{running.uri}/modelarmor/review?name={{model}}&version={{version}}"
    )
    with running:
        yield running


@pytest.fixture(scope="module")
def ada(server, tmp_path_factory):
    return Reviewer(tmp_path_factory.mktemp("ada"), "ada").trusted_by(server)


@pytest.fixture
def name(request):
    return f"m-{abs(hash(request.node.nodeid)) % 10**10}"


@contextmanager
def opened(browser, **options):
    """A tab of somebody's browser; `told` has what its console said."""
    context = browser._browser.new_context(accept_downloads=True, **options)
    context.set_default_timeout(_PATIENCE_MS)
    page = context.new_page()
    page.told = []
    page.on("console", lambda message: page.told.append(message.text))
    page.on("dialog", lambda dialog: page.told.append(f"dialog: {dialog.message}"))
    try:
        yield page
    finally:
        context.close()


@contextmanager
def attacker(text):
    """Somebody else's site on this machine: a page at any path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            data = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    site = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    try:
        yield site.server_address[1]
    finally:
        site.shutdown()
        thread.join()
        site.server_close()


def decide(page, queue, name, reviewer, tmp_path, decision, reason):
    """From a queue to a recorded decision, as a reviewer does it."""
    page.goto(queue)
    page.get_by_role("link", name=f"{name} version 1").click()
    page.get_by_role("heading", name="Decide").wait_for()
    page.get_by_role("radio", name=decision).check()
    page.get_by_label("Reviewer").select_option(reviewer.name)
    page.get_by_label("Reason, which is recorded").fill(reason)
    if page.get_by_label("Accepted because").count():
        page.get_by_label("Accepted because").fill("the metrics need it")
    page.get_by_role("button", name="Prepare the statement to sign").click()
    with page.expect_download() as started:
        page.get_by_role("button", name="Download the statement").click()
    file = tmp_path / "statement.json"
    started.value.save_as(file)
    command = [sys.executable, "-m", "modelarmor", "sign", str(file), "--yes"]
    command += ["--key", reviewer.secret]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    page.get_by_label("Paste what that printed").fill(done.stdout)
    page.get_by_role("button", name="Record the decision").click()
    page.get_by_role("status").wait_for()


@pytest.mark.parametrize("scripts", [True, False])
def test_reviewer_rejects_then_approves_and_the_version_is_promoted(
    server, ada, browser, name, tmp_path, scripts
):
    server.register(name, {"findings.txt": "critical it opens a socket\n"})
    with opened(browser, java_script_enabled=scripts) as page:
        decide(page, address(server), name, ada, tmp_path, "Reject", "why does it?")
        with refused("rejected by ada", "why does it?"):
            server.client.set_registered_model_alias(name, "champion", "1")
        page.goto(address(server))
        assert page.get_by_role("link", name=f"{name} version 1").count() == 0  # waits no longer

        rejected = address(server, state="rejected")
        decide(page, rejected, name, ada, tmp_path, "Approve", "it is the metrics")
        assert "Approved by ada" in page.get_by_role("region", name="How it stands").inner_text()

        server.client.set_registered_model_alias(name, "champion", "1")
        assert aliases(server, name) == {"champion": "1"}
        page.get_by_role("link", name="Record", exact=True).click()
        page.wait_for_selector("ol.trail > li")  # it does not wait for more than one itself
        trail = page.locator("ol.trail > li").all_inner_texts()
        kinds = [text.split()[0] for text in trail]
        assert kinds == ["promoted", "approve", "reject", "generated"]
        assert "ada" in trail[1] and "it is the metrics" in trail[1]
        assert page.told == []  # nothing of ours is refused by our own policy


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_hostile_runs(server, ada, browser, hostile):
    server.register(
        hostile,
        {
            "findings.txt": f"high <script>{OWNED}</script>\nhigh <img src=x onerror={OWNED}>\n",
            f"<img src=x onerror={OWNED}>": "1",
            "policy.txt": f"  message: <script>{OWNED}</script>\n",
        },
        description=f"<img src=x onerror={OWNED}>",
        tags={"x": f"<script>{OWNED}</script>"},
    )
    with opened(browser) as page:
        page.goto(address(server))
        places = [address(server, path, name=hostile, version="1") for path in ("review", "audit")]
        for place in (address(server), *places):
            page.goto(place)
            page.wait_for_load_state("networkidle")
            assert page.title().endswith("· ModelArmor")
        page.goto(places[0])
        assert f"<script>{OWNED}</script>" in page.locator("#findings").inner_text()
        page.get_by_role("radio", name="Reject").check()
        page.get_by_label("Reviewer").select_option("ada")
        page.get_by_label("Reason, which is recorded").fill(f"<script>{OWNED}</script>")
        page.get_by_role("button", name="Prepare the statement to sign").click()
        page.get_by_role("heading", name="What you sign").wait_for()
        assert page.title().endswith("· ModelArmor")
        assert page.told == []


def test_page_in_a_frame_shows_nothing(server, browser, name):
    server.register(name)
    place = address(server, "review", name=name, version="1")
    with (
        attacker(f'<iframe src="{place}"></iframe><object data="{place}"></object>') as port,
        opened(browser) as page,
    ):
        for host in ("127.0.0.1", "localhost"):
            page.goto(f"http://{host}:{port}/")
            page.wait_for_load_state("networkidle")
            inner = [frame for frame in page.frames if frame is not page.main_frame]
            assert inner
            assert all(name not in frame.content() for frame in inner)
        # MLflow's own pages may be framed by the same site; these may not.
        page.goto(server.uri)
        page.evaluate(
            "place => { const frame = document.createElement('iframe'); frame.src = place;"
            " document.body.append(frame); return new Promise(done => frame.onload = done)"
            ".then(() => true); }",
            place,
        )
        inner = [frame for frame in page.frames if frame is not page.main_frame]
        assert inner and all(name not in frame.content() for frame in inner)


def test_other_sites_send_no_form_and_read_no_page(server, ada, browser, name):
    """Even with an envelope that would be recorded, and with the reviewer's cookie."""
    from modelarmor_mlflow import statements

    version = server.register(name)
    envelope = statements.sign(ada.statement(server, version), ada.signer)
    fields = {"name": name, "version": "1", "envelope": envelope, "token": "x"}
    inputs = "".join(
        f"<input type=hidden name={key} value='{value}'>" for key, value in fields.items()
    )
    form = f'<form method=post action="{address(server, "submit")}">{inputs}</form>'
    with attacker(f"<title>evil</title>{form}") as port, opened(browser) as page:
        page.goto(address(server, "review", name=name, version="1"))
        token = page.locator('input[name="token"]').first.input_value()
        for host in ("127.0.0.1", "localhost"):
            page.goto(f"http://{host}:{port}/")
            # It has found the token out, too.
            page.evaluate("token => document.forms[0].elements.token.value = token", token)
            with page.expect_navigation() as sent:
                page.evaluate("document.forms[0].submit()")
            assert sent.value.status == 403
            assert "not sent from a page of this server" in page.inner_text("main")

            page.goto(f"http://{host}:{port}/")
            read = page.evaluate(
                "place => fetch(place, {credentials: 'include'}).then(a => a.text(), e => 'no')",
                address(server, "review", name=name, version="1"),
            )
            assert read == "no"
    with refused("1 more approval"):
        server.client.set_registered_model_alias(name, "champion", "1")


@pytest.mark.parametrize("model", ["plain", "a b&version=7#x?y=z"])
def test_links_lead_from_mlflow_to_the_review_and_back(server, browser, model):
    server.register(model)
    with opened(browser) as page:
        page.goto(address(server))
        page.get_by_role("link", name=f"{model} version 1").click()
        page.get_by_role("link", name="MLflow's page of this version").click()
        with page.context.expect_page() as tab:  # as MLflow opens links
            page.get_by_role("link", name="Review this version").click()
        tab.value.get_by_role("heading", name=f"{model} version 1").wait_for()
        assert tab.value.url.startswith(f"{server.uri}/modelarmor/review?")


def test_page_is_read_in_the_dark_and_with_the_keyboard(server, ada, browser, name):
    server.register(name, {"findings.txt": "high it opens a socket\n"})
    place = address(server, "review", name=name, version="1")

    def ground(scheme):
        with opened(browser, color_scheme=scheme) as page:
            page.goto(place)
            return page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert ground("light") != ground("dark")
    with opened(browser, viewport={"width": 390, "height": 800}) as page:
        page.goto(place)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.innerText") == "Skip to the content"
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390  # a telephone does not scroll sideways
        unnamed = page.evaluate(
            "[...document.querySelectorAll('input:not([type=hidden]), select, textarea')]"
            ".filter(item => !item.labels.length).length"
        )
        assert unnamed == 0
        assert json.dumps(page.told) == "[]"
