"""What a user sees of a confined kernel: shield, panel, badges, notification, profiles.

JupyterLab and the kernels are real, and so are the refusals. Waiting is the browser's: until
something is on the page, never for a time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("playwright.sync_api", reason="pip install 'modelarmor[test]'")

from playwright.sync_api import Locator, Route, expect

from .support import CONFINED, Browser, Home, Lab, User

PANEL = Path(__file__).parents[2] / "jupyter_ext" / "modelarmor_jupyter" / "labextension"
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (PANEL / "package.json").exists(), reason="the panel is not bundled here: no npm"
    ),
]

READ_KEY = "try: open('{home}/.ssh/id_ed25519')\nexcept OSError as error: print(error)"
READ_DATA = "try: print(open('{data}').read())\nexcept OSError as error: print(error)"
expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = _lab(tmp_path_factory.mktemp("p"))
    yield lab
    lab.stop()


@pytest.fixture
def user(lab: Lab, browser: Browser) -> Iterator[User]:
    with browser.user(lab) as user:
        yield user
    lab.end_kernels()


def _lab(top: Path, **options: object) -> Lab:
    home = Home(top)
    # JupyterLab asks whether to fetch news, over whatever else there is to see
    asks = home.config / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    asks.mkdir(parents=True)
    (asks / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    (top / "elsewhere").mkdir()
    (top / "elsewhere" / "data.csv").write_text("1,2,3\n")
    return Lab(home, **options)  # type: ignore[arg-type]


def _open(user: User, *cells: str, kernel: str = CONFINED, name: str = "n.ipynb") -> None:
    home = user.lab.home
    places = {"home": home.path, "data": home.top / "elsewhere" / "data.csv"}
    sources = [cell.format(**places) if cell in (READ_KEY, READ_DATA) else cell for cell in cells]
    user.lab.write_notebook(name, sources, kernel=kernel)
    user.open(name)


def _status(user: User) -> Locator:
    return user.page.locator("#jp-main-statusbar .jp-ModelArmor-shield")


def _toolbar(user: User) -> Locator:
    return user.page.locator(".jp-NotebookPanel .jp-Toolbar .jp-ModelArmor-shield")


def _panel(user: User) -> Locator:
    return user.page.locator("#modelarmor-violations")


def _rows(user: User) -> Locator:
    return _panel(user).locator(".jp-ModelArmor-row")


def _badges(user: User) -> Locator:
    return user.page.locator(".jp-ModelArmor-badge")


def _run_cell(user: User, number: int) -> None:
    user.page.evaluate(
        "n => { jupyterapp.shell.currentWidget.content.activeCellIndex = n }", number
    )
    user.command("notebook:run-cell")


def _accept(user: User) -> None:
    user.page.locator(".jp-Dialog-button.jp-mod-accept, .jp-Dialog-button.jp-mod-warn").click()


# --- how a kernel is confined


def test_the_shields_say_how_the_kernel_is_confined(user: User) -> None:
    _open(user, "1 + 1")
    user.run_all()
    expect(_status(user)).to_contain_text("notebook")
    # what every kernel is refused as it starts is in the record, and alarms nobody
    expect(_status(user)).to_have_attribute(
        "aria-label", re.compile(r"^Confined by profile Notebook, 0 violations\. Open")
    )
    expect(_toolbar(user)).to_have_attribute("data-kind", "confined")
    _status(user).click()
    expect(_rows(user).filter(has_text="start-up, expected")).to_have_count(1)


def test_a_kernel_that_is_not_confined_is_visibly_so(user: User) -> None:
    _open(user, "1 + 1", kernel="python3")
    expect(_status(user)).to_contain_text("Not confined")
    expect(_toolbar(user)).to_contain_text("not confined")
    _status(user).click()
    expect(_panel(user).get_by_role("heading", name="Not confined")).to_be_visible()
    expect(_panel(user)).to_contain_text("Nothing confines it")


def test_a_pods_state_says_that_alerts_do_not_arrive_and_what_a_start_waits_for(
    user: User,
) -> None:
    _open(user, "1 + 1")
    _status(user).click()
    expect(_panel(user)).to_be_visible()
    unheard = "alerts do not arrive: the relay refuses this server"
    waits = "no node takes it: 3 Insufficient nvidia.com/gpu"
    starting = {"kernel_id": "11111111-1111-1111-1111-111111111111", "confined": False,
                "execution_state": "starting", "starting": True, "why": waits}  # fmt: skip

    def as_of_pods(route: Route) -> None:
        states = route.fetch().json()
        told = [{**state, "alerts_not_heard": unheard} for state in states]
        route.fulfill(json=[*told, starting])

    user.context.route(re.compile(r"/modelarmor/api/kernels(\?|$)"), as_of_pods)
    user.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(_panel(user)).to_contain_text(unheard)
    expect(_status(user)).to_have_attribute(
        "aria-label", re.compile("what is refused is not shown")
    )
    expect(_panel(user)).to_contain_text(waits)
    user.context.unroute_all(behavior="wait")  # else one that is under way fails with the page


def test_the_shield_opens_the_panel_by_keyboard(user: User) -> None:
    _open(user, "1 + 1")
    expect(_panel(user)).not_to_be_visible()
    _status(user).focus()
    user.page.keyboard.press("Enter")
    expect(_panel(user)).to_be_visible()


def test_the_policy_shows_each_rule_with_its_tier(user: User) -> None:
    _open(user, "1 + 1")
    _status(user).click()
    _panel(user).get_by_role("tab", name="Policy").click()
    plan = user.lab.get(f"modelarmor/api/kernels/{user.kernel_id()}")["plan"]
    rows = _panel(user).locator("tbody tr")
    expect(rows).to_have_count(len(plan["rules"]))
    expect(rows.first).to_contain_text(plan["rules"][0]["tier"])
    expect(_panel(user)).to_contain_text(plan["egress_note"])
    expect(_panel(user)).to_contain_text("8 GiB")


def test_notebook_7_has_the_shield_the_badge_and_the_panel(
    tmp_path: Path, browser: Browser
) -> None:
    lab = _lab(tmp_path, app="notebook")
    try:
        with browser.user(lab) as user:
            _open(user, READ_KEY)
            user.run_all()
            expect(_badges(user)).to_contain_text("id_ed25519")
            _toolbar(user).click()
            expect(_rows(user).filter(has_text="id_ed25519")).to_be_visible()
    finally:
        lab.stop()


# --- what it was refused


def test_a_violation_appears_in_the_panel_the_badge_and_a_notification(user: User) -> None:
    _open(user, READ_KEY, "1 + 1")
    user.run_all()
    toast = user.page.locator(".Toastify__toast").filter(has_text="Violation in n.ipynb")
    expect(toast).to_contain_text("id_ed25519")
    expect(_badges(user)).to_have_count(1)
    expect(_badges(user)).to_contain_text("id_ed25519")
    _status(user).click()
    row = _rows(user).filter(has_text="id_ed25519")
    expect(row).to_contain_text("refused")
    expect(row).to_contain_text("[1]")


def test_the_notification_opens_the_panel_and_comes_once(user: User) -> None:
    _open(user, READ_KEY, READ_KEY)
    user.run_all()
    toast = user.page.locator(".Toastify__toast").filter(has_text="Violation in n.ipynb")
    expect(toast).to_have_count(1)
    toast.get_by_role("button", name="Show").click()
    row = _rows(user).filter(has_text="id_ed25519")
    expect(row).to_contain_text("\u00d72")
    expect(toast).to_have_count(0)


def test_a_badge_goes_when_its_cell_is_run_again(user: User) -> None:
    _open(user, READ_KEY, "1 + 1")
    user.run_all()
    expect(_badges(user)).to_have_count(1)
    user.page.evaluate(
        "jupyterapp.shell.currentWidget.content.widgets[0].model.sharedModel.setSource('2 + 2')"
    )
    _run_cell(user, 0)
    expect(_badges(user)).to_have_count(0)


def test_go_to_cell_finds_the_cell(user: User) -> None:
    _open(user, READ_KEY, *["print('x\\n' * 40)"] * 4)
    user.run_all()
    expect(_badges(user)).to_have_count(1)
    _run_cell(user, 4)
    _status(user).click()
    _rows(user).filter(has_text="id_ed25519").click()
    _panel(user).get_by_role("button", name="Go to cell").click()
    user.page.wait_for_function("jupyterapp.shell.currentWidget.content.activeCellIndex === 0")
    expect(user.page.locator(".jp-Cell").first).to_be_in_viewport()


def test_a_badge_shows_its_cell_alone(user: User) -> None:
    _open(user, READ_KEY, "try: open('/etc/shadow')\nexcept OSError: pass")
    user.run_all()
    expect(_badges(user)).to_have_count(2)
    _badges(user).nth(1).click()
    expect(_rows(user)).to_have_count(1)
    expect(_rows(user)).to_contain_text("/etc/shadow")
    _panel(user).get_by_role("button", name="Clear filters").click()
    expect(_rows(user).filter(has_text="id_ed25519")).to_be_visible()


def test_filters_and_search_narrow_the_list(user: User) -> None:
    _open(user, READ_KEY, "import socket\ntry: socket.socket()\nexcept OSError: pass")
    user.run_all()
    _status(user).click()
    sockets = _rows(user).filter(has_text="AF_INET", has_not_text="start-up")
    expect(sockets).to_be_visible()
    _panel(user).get_by_role("button", name="Filters").click()
    _panel(user).get_by_label("Operation").select_option("File")
    expect(_rows(user)).to_have_count(1)
    expect(_rows(user)).to_contain_text("id_ed25519")
    # Both before anything is drawn again, as on a machine that is busy.
    _panel(user).evaluate(
        """panel => {
            const changes = [['[aria-label=Operation]', ''], ['input', 'af_inet']];
            for (const [selector, value] of changes) {
                const field = panel.querySelector(selector);
                const prototype = Object.getPrototypeOf(field);
                Object.getOwnPropertyDescriptor(prototype, 'value').set.call(field, value);
                field.dispatchEvent(new Event('input', {bubbles: true}));
                field.dispatchEvent(new Event('change', {bubbles: true}));
            }
        }"""
    )
    expect(sockets).to_have_count(1)
    expect(_rows(user).filter(has_text="id_ed25519")).to_have_count(0)
    expect(_panel(user).get_by_role("searchbox")).to_have_value("af_inet")
    _panel(user).get_by_role("button", name="Clear filters").click()
    expect(_panel(user).get_by_role("searchbox")).to_have_value("")
    expect(_rows(user).filter(has_text="id_ed25519")).to_have_count(1)


def test_the_list_is_walked_by_keyboard(user: User) -> None:
    _open(user, READ_KEY, "try: open('/etc/shadow')\nexcept OSError: pass")
    user.run_all()
    _status(user).click()
    expect(_rows(user).filter(has_text="shadow")).to_be_visible()
    _panel(user).get_by_role("listbox").focus()
    user.page.keyboard.press("Home")
    expect(_rows(user).first).to_have_attribute("aria-selected", "true")
    expect(_panel(user).locator(".jp-ModelArmor-detail")).to_contain_text("/etc/shadow")


def test_a_hostile_name_is_text(user: User) -> None:
    keys = user.lab.home.path / ".ssh"
    name = f"{keys}/<img src=x onerror=document.title='owned'>\\u202egnp"
    _open(user, f'try: open("{name}")\nexcept OSError: pass')
    user.run_all()
    _status(user).click()
    row = _rows(user).filter(has_text="<img src=x onerror=document.title='owned'>")
    expect(row).to_contain_text("\\u{202e}gnp")
    row.click()
    expect(_panel(user).locator("dd").first).to_contain_text("<img src=x")
    assert _panel(user).locator("img").count() == 0
    assert _badges(user).locator("img").count() == 0
    assert "owned" not in user.page.title()


def test_the_record_is_exported_as_json_lines(user: User) -> None:
    _open(user, READ_KEY)
    user.run_all()
    _status(user).click()
    expect(_rows(user).filter(has_text="id_ed25519")).to_be_visible()
    with user.page.expect_download() as download:
        _panel(user).get_by_role("button", name="Export").click()
    lines = download.value.path().read_text().splitlines()
    record = user.lab.get(f"modelarmor/api/kernels/{user.kernel_id()}/alerts")["alerts"]
    assert [json.loads(line) for line in lines] == [item["alert"] for item in record]


def test_a_flood_stays_bounded_and_can_be_scrolled(user: User) -> None:
    keys = user.lab.home.path / ".ssh"
    flood = f"for i in range(3000):\n    try: open(f'{keys}/{{i}}')\n    except OSError: pass"
    _open(user, flood)
    _status(user).click()
    user.run_all()
    expect(_panel(user).get_by_role("tab", name="Violations")).to_contain_text("3,0")
    expect(_rows(user).filter(has_text=".ssh/").first).to_be_visible()
    assert _rows(user).count() < 60  # of 3,000: the others are not in the document
    _panel(user).get_by_role("listbox").focus()
    user.page.keyboard.press("End")
    expect(_rows(user).last).to_have_attribute("aria-posinset", re.compile(r"^\d{4}$"))


def test_violations_of_all_kernels_are_one_list(lab: Lab, user: User) -> None:
    with lab.kernel(CONFINED, "other.ipynb") as other:
        other.run("try: open('/etc/gshadow')\nexcept OSError: pass")
        _open(user, READ_KEY)
        user.run_all()
        _status(user).click()
        expect(_rows(user).filter(has_text="id_ed25519")).to_be_visible()
        expect(_rows(user).filter(has_text="gshadow")).to_have_count(0)
        _panel(user).get_by_label("Kernels").select_option("all")
        expect(_rows(user).filter(has_text="gshadow")).to_contain_text("other.ipynb")
        expect(_rows(user).filter(has_text="id_ed25519")).to_contain_text("n.ipynb")


# --- what can be done about it


def test_a_violation_is_explained_and_permitted_by_a_profile_of_ones_own(
    lab: Lab, user: User
) -> None:
    _open(user, READ_DATA)
    user.run_all()
    _status(user).click()
    _rows(user).filter(has_text="data.csv").click()
    _panel(user).get_by_role("button", name="Explain").click()
    explain = _panel(user).locator(".jp-ModelArmor-explain")
    expect(explain.get_by_role("heading", name="Why")).to_be_visible()
    expect(explain).to_contain_text("data.csv")
    explain.get_by_role("button", name="Save as a profile").click()
    dialog = user.page.locator(".jp-Dialog")
    expect(dialog.locator("pre")).to_contain_text("kind: KubeArmorPolicy")
    expect(dialog.locator("pre")).to_contain_text("data.csv")
    before = {profile["name"] for profile in lab.get("modelarmor/api/profiles")}
    dialog.locator("input[name=profile-name]").fill("Not A Name")
    _accept(user)
    expect(dialog.get_by_role("alert")).to_contain_text("is not a name")
    dialog.locator("input[name=profile-name]").fill("notebook")
    _accept(user)
    expect(dialog.get_by_role("alert")).to_contain_text("already")
    assert {profile["name"] for profile in lab.get("modelarmor/api/profiles")} == before
    dialog.locator("input[name=profile-name]").fill("with-data")
    _accept(user)
    toast = user.page.locator(".Toastify__toast").filter(has_text="with-data")
    toast.get_by_role("button", name="Restart Under It").click()
    assert _profile(user) == "notebook"  # nothing is applied without a yes
    _accept(user)
    expect(_status(user)).to_contain_text("with-data")
    user.wait_for_kernel()
    _run_cell(user, 0)
    expect(user.page.locator(".jp-OutputArea-output")).to_contain_text("1,2,3")
    expect(_badges(user)).to_have_count(0)


def test_what_a_block_rule_refuses_is_explained_by_that_rule(user: User) -> None:
    _open(user, READ_KEY)
    user.run_all()
    _status(user).click()
    _rows(user).filter(has_text="id_ed25519").click()
    _panel(user).get_by_role("button", name="Explain").click()
    explain = _panel(user).locator(".jp-ModelArmor-explain")
    expect(explain.locator("code")).to_contain_text(".ssh/")


def test_the_kernel_restarts_under_another_profile(lab: Lab, user: User) -> None:
    _open(user, "import time\nx = 1\ntime.sleep(600)", "print('x' in globals())")
    user.page.evaluate("void jupyterapp.commands.execute('notebook:run-cell-and-select-next')")
    user.page.wait_for_function(
        "jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.status === 'busy'"
    )
    _status(user).click()
    _panel(user).get_by_role("button", name="Restart under").click()
    dialog = user.page.locator(".jp-Dialog")
    listed = {profile["name"] for profile in lab.get("modelarmor/api/profiles")}
    expect(dialog.get_by_role("radio")).to_have_count(len(listed))
    dialog.locator("input[value=untrusted-model]").check()
    _accept(user)
    expect(_status(user)).to_contain_text("untrusted-model")
    user.wait_for_kernel()
    _run_cell(user, 1)
    told = user.page.locator(".jp-Cell").nth(1).locator(".jp-OutputArea-output")
    expect(told).to_contain_text("False")
    expect(user.page.locator(".jp-InputPrompt").first).not_to_contain_text("*")
    assert _profile(user) == "untrusted-model"


def test_record_mode_leads_to_a_profile(lab: Lab, user: User) -> None:
    _open(user, READ_DATA, READ_KEY)
    _status(user).click()
    _panel(user).get_by_role("button", name="Record").click()
    _accept(user)
    expect(_panel(user).get_by_text("Recording. What")).to_be_visible()
    expect(_status(user)).to_contain_text("Recording")
    user.wait_for_kernel()
    user.run_all()
    outputs = user.page.locator(".jp-OutputArea-output")
    expect(outputs.first).to_contain_text("1,2,3")  # what no rule names happens
    expect(outputs.nth(1)).to_contain_text("Permission denied")  # Block rules hold
    expect(_rows(user).filter(has_text="data.csv")).to_contain_text("recorded")
    _panel(user).get_by_role("button", name="Propose a profile").click()
    dialog = user.page.locator(".jp-Dialog")
    expect(dialog.locator(".jp-ModelArmor-changes")).to_contain_text("data.csv")
    expect(dialog.locator("pre")).not_to_contain_text("id_ed25519")
    dialog.locator("input[name=profile-name]").fill("from-recording")
    _accept(user)
    expect(user.page.locator(".Toastify__toast").filter(has_text="from-recording")).to_be_visible()
    assert "from-recording" in {p["name"] for p in lab.get("modelarmor/api/profiles")}
    _panel(user).get_by_role("button", name="Stop recording").click()
    _accept(user)
    expect(_panel(user).get_by_text("Recording. What")).to_have_count(0)
    state = lab.get(f"modelarmor/api/kernels/{user.kernel_id()}")
    assert (state["recording"], state["profile"]["name"]) == (False, "notebook")


def _profile(user: User) -> str:
    state = user.lab.get(f"modelarmor/api/kernels/{user.kernel_id()}")
    return str(state["profile"]["name"])


# --- what goes wrong in between


def test_badge_and_record_survive_a_reload_without_a_new_notification(user: User) -> None:
    _open(user, READ_KEY, "1 + 1")
    with user.page.expect_response(
        lambda answer: (
            "/lab/api/workspaces/" in answer.url
            and '"current":"modelarmor-violations"' in (answer.request.post_data or "")
        )
    ):
        _status(user).click()
    user.run_all()
    expect(_badges(user)).to_have_count(1)
    user.command("docmanager:save")
    # `?reset`, with which the harness begins, would close the panel
    user.page.goto(f"{user.lab.url}lab/tree/n.ipynb", wait_until="domcontentloaded")
    user.wait_for_application()
    expect(_badges(user)).to_contain_text("id_ed25519")
    expect(_rows(user).filter(has_text="id_ed25519")).to_be_visible()  # the panel is open again
    toast = user.page.locator(".Toastify__toast").filter(has_text="Violation in")
    expect(toast).to_have_count(0)
    user.wait_for_kernel()
    _rows(user).filter(has_text="id_ed25519").click()
    _panel(user).get_by_role("button", name="Go to cell").click()
    user.page.wait_for_function("jupyterapp.shell.currentWidget.content.activeCellIndex === 0")


def test_two_browsers_see_the_same_record(lab: Lab, user: User, browser: Browser) -> None:
    _open(user, READ_KEY)
    with browser.user(lab) as other:
        other.open("n.ipynb")
        _status(other).click()
        user.run_all()
        expect(_badges(user)).to_have_count(1)
        expect(_rows(other).filter(has_text="id_ed25519")).to_be_visible()


def test_a_session_that_expires_is_said_and_heals(user: User) -> None:
    _open(user, READ_KEY)
    user.run_all()
    _status(user).click()
    expect(_rows(user).filter(has_text="id_ed25519")).to_be_visible()
    cookies = user.context.cookies()
    user.context.clear_cookies()
    user.context.route("**/*api/**", _without_token)
    user.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(_panel(user).get_by_text("Signed out. What")).to_be_visible()
    expect(_status(user)).to_contain_text("Signed out")
    expect(_rows(user).filter(has_text="id_ed25519")).to_be_visible()  # what was known stays
    user.context.unroute("**/*api/**")
    user.context.add_cookies(cookies)  # type: ignore[arg-type]
    _panel(user).get_by_role("button", name="Try again").click()
    expect(_panel(user).get_by_text("Signed out. What")).to_have_count(0)
    expect(_status(user)).to_contain_text("notebook")


def _without_token(route: Route) -> None:
    # the page that was opened by a link with the token sends it along
    kept = {name: value for name, value in route.request.headers.items() if name != "authorization"}
    route.continue_(headers=kept)


def test_a_restart_of_the_server_is_survived(tmp_path: Path, browser: Browser) -> None:
    lab = _lab(tmp_path)
    server = lab.process
    try:
        with browser.user(lab) as user:
            _open(user, READ_KEY)
            user.run_all()
            _status(user).click()
            expect(_rows(user).filter(has_text="id_ed25519")).to_be_visible()
            lab.stop()
            expect(_status(user)).to_contain_text("No word from the server")
            server = _again(lab)
            # or there is no item any more: the notebook lost its session with the former server
            lost = _status(user).filter(has_text="No word from the server")
            expect(lost).to_have_count(0, timeout=60_000)
            expect(_panel(user).get_by_text("does not answer")).to_have_count(0)
            user.open("n.ipynb")
            user.run_all()
            expect(_badges(user)).to_have_count(1)
    finally:
        server.kill()
        server.wait()


def _again(lab: Lab) -> subprocess.Popen[bytes]:
    """Start the server of `lab` once more, where it was."""
    arguments = [str(argument) for argument in lab.process.args]  # type: ignore[union-attr]
    port = urlsplit(lab.url).port
    arguments[arguments.index("--ServerApp.port=0")] = f"--ServerApp.port={port}"
    with lab.log.open("ab") as log:
        return subprocess.Popen(
            arguments, env={**os.environ, **lab.home.environment()}, stdout=log, stderr=log
        )


# --- the widget


def test_the_widget_shows_and_gives_the_kernel_its_own_record(user: User) -> None:
    make = (
        "from modelarmor_jupyter.widget import ViolationsWidget\n"
        "w = ViolationsWidget(operation='File')\nw"
    )
    _open(user, READ_KEY, make, "print([v['alert']['Resource'] for v in w.violations])")
    _run_cell(user, 0)
    expect(_badges(user)).to_have_count(1)
    _run_cell(user, 1)
    table = user.page.locator(".jp-ModelArmor-widget")
    expect(table).to_contain_text("id_ed25519")
    told = user.page.locator(".jp-Cell").nth(2).locator(".jp-OutputArea-output")
    for _ in range(100):  # the copy comes to the kernel in a message of its own
        _run_cell(user, 2)
        if "id_ed25519" in told.inner_text():
            break
    expect(told).to_contain_text("id_ed25519")
