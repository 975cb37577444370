"""Every route, every verb: who may, and what a hostile request gets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from .server import CONFINED, TOKEN, Home, RemoteKernel, Server

#: route, verb, and what it answers to an empty request that may
ROUTES = [
    ("kernels", "GET", 200),
    ("kernels/{id}", "GET", 200),
    ("kernels/{id}/alerts", "GET", 200),
    ("kernels/{id}/alerts/1/explanation", "GET", 200),
    ("kernels/{id}/restart", "POST", 400),
    ("profiles", "GET", 200),
    ("profiles", "POST", 400),
    ("profiles/preview", "POST", 400),
    ("profiles/notebook", "GET", 200),
    ("profiles/nonesuch", "DELETE", 404),
]
POSTS = [path for path, verb, _ in ROUTES if verb == "POST"]

# What an authorizer is asked, line by line.
AUTHORIZER = """
from jupyter_server.auth import AllowAllAuthorizer
class Listening(AllowAllAuthorizer):
    def is_authorized(self, handler, user, action, resource):
        with open({log!r}, "a") as log:
            print(handler.request.method, handler.request.path, action, resource, file=log)
        return True
c.ServerApp.authorizer_class = Listening
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "asked"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, log: Path) -> Iterator[Server]:
    server = Home(tmp_path_factory.mktemp("t")).server(AUTHORIZER.format(log=str(log)))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def kernel(server: Server) -> Iterator[RemoteKernel]:
    with server.kernel(CONFINED) as kernel:
        kernel.run("try: open('/etc/shadow')\nexcept OSError: pass")
        kernel.about("/etc/shadow")
        yield kernel


def _url(kernel: RemoteKernel, path: str) -> str:
    return f"{kernel.server.url}modelarmor/api/{path.format(id=kernel.id)}"


def test_every_route_of_the_extension_is_in_the_table() -> None:
    """So that a route that is added is asked the questions below."""
    from modelarmor_jupyter import handlers, profile_handlers

    verbs = {
        (name, verb)
        for room in (handlers, profile_handlers)
        for name, item in vars(room).items()
        if isinstance(item, type) and issubclass(item, handlers.Handler)
        for verb in ("get", "post", "put", "patch", "delete")
        if verb in vars(item)
    }
    assert len(verbs) == len(ROUTES)


@pytest.mark.parametrize(("path", "verb", "status"), ROUTES)
def test_a_route_answers_only_who_may_ask(
    kernel: RemoteKernel, log: Path, path: str, verb: str, status: int
) -> None:
    url = _url(kernel, path)
    for headers in ({}, {"Authorization": "token x"}, {"Cookie": "_xsrf=x"}):
        assert requests.request(verb, url, headers=headers, timeout=60).status_code == 403

    log.write_text("")
    assert kernel.server.http.request(verb, url, timeout=30).status_code == status
    asked = log.read_text().split("\n")[0].split()
    action = "read" if verb == "GET" else "write"
    assert asked[0] == verb
    assert asked[2:] == [action, "modelarmor"]


@pytest.mark.parametrize(("path", "verb", "status"), ROUTES)
def test_a_page_of_another_site_cannot_use_the_users_cookie(
    kernel: RemoteKernel, path: str, verb: str, status: int
) -> None:
    browser = requests.Session()
    browser.get(f"{kernel.server.url}api/status", params={"token": TOKEN}, timeout=60)
    assert any(name.startswith("username") for name in browser.cookies.get_dict())
    url = _url(kernel, path)
    if verb == "GET":
        assert browser.get(url, timeout=30).status_code == status
        return

    assert browser.request(verb, url, json={}, timeout=60).status_code == 403
    page = browser.get(f"{kernel.server.url}login", timeout=60)
    assert page.status_code == 200
    token = {"X-XSRFToken": browser.cookies["_xsrf"]}
    assert browser.request(verb, url, headers=token, timeout=30).status_code == status


@pytest.mark.parametrize("verb", ["POST", "PUT", "PATCH", "DELETE", "GET"])
def test_a_verb_that_a_route_has_not_is_refused(kernel: RemoteKernel, verb: str) -> None:
    for path in {path for path, _, _ in ROUTES}:
        if (path, verb) in {(known, its) for known, its, _ in ROUTES} or "nonesuch" in path:
            continue
        if path == "profiles/notebook" and verb == "DELETE":  # it has; notebook is nobody's own
            continue
        assert kernel.server.http.request(verb, _url(kernel, path), timeout=60).status_code == 405


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"[" * 60_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b" " * 70_000 + b"{}",
        b'{"unknown": 1}',
        json.dumps({"kernel_id": ["x"], "seqs": None, "name": "n"}).encode(),
        json.dumps({"profile": {"a": 1}, "record": 1}).encode(),
        json.dumps({"kernel_id": "x" * 60_000, "name": "n"}).encode(),
    ],
    ids=lambda body: body[:12].decode("ascii", "replace"),
)  # fmt: skip
def test_a_hostile_body_is_a_bad_request(kernel: RemoteKernel, path: str, body: bytes) -> None:
    answer = kernel.server.http.post(_url(kernel, path), data=body, timeout=30)

    assert answer.status_code == 400, answer.text
    assert answer.json()["message"]


def test_whoever_may_not_restart_kernels_may_not_do_it_here(tmp_path: Path) -> None:
    home = Home(tmp_path)
    server = home.server(
        "from jupyter_server.auth import AllowAllAuthorizer\n"
        "class NoRestarts(AllowAllAuthorizer):\n"
        "    def is_authorized(self, handler, user, action, resource):\n"
        "        return not (resource == 'kernels' and 'restart' in handler.request.path)\n"
        "c.ServerApp.authorizer_class = NoRestarts\n"
    )
    try:
        with server.kernel(CONFINED) as kernel:
            answer = server.post(f"modelarmor/api/kernels/{kernel.id}/restart", {})
            assert answer.status_code == 403
            assert "kernels" in answer.json()["message"]
    finally:
        server.stop()


def test_an_alert_that_is_not_in_the_record_is_not_found(kernel: RemoteKernel) -> None:
    for seq, status in (("0", 404), ("999999", 404), ("x", 400), ("-1", 400), ("1" * 40, 400)):
        url = _url(kernel, f"kernels/{{id}}/alerts/{seq}/explanation")
        assert kernel.server.http.get(url, timeout=60).status_code == status


def test_a_kernel_that_is_not_confined_is_told_so(server: Server) -> None:
    with server.kernel("python3", "work/other.ipynb") as other:
        state = server.get(f"modelarmor/api/kernels/{other.id}")
        assert (state["confined"], state["plan"]) == (False, None)
        assert state["why"].startswith("Nothing confines it")
        assert other.alerts()["counts"]["total"] == 0
        for path, body in (
            (f"kernels/{other.id}/restart", {}),
            ("profiles/preview", {"kernel_id": other.id, "seqs": None}),
        ):
            assert server.post(f"modelarmor/api/{path}", body).status_code == 409


# Objects whose keys are what happened, not the interface.
_OPEN = {
    "alert", "by_action", "by_operation", "by_policy", "traps", "resources",
}  # fmt: skip


def _examples() -> dict[str, Any]:
    text = (Path(__file__).parents[2] / "docs" / "rest-api.md").read_text(encoding="utf-8")
    sections = re.split(r"(?m)^## `(\w+) ([^`?]+)[^`]*`$", text)[1:]
    found = zip(sections[::3], sections[1::3], sections[2::3], strict=True)
    return {
        f"{verb} {path}": json.loads(block[1])
        for verb, path, section in found
        if (block := re.search(r"(?s)```json\n(.*?)```", section))
    }


def _alike(said: Any, real: Any, name: str = "") -> None:
    """Assert that an example has the fields, and the types, of a real answer."""
    assert type(said) is type(real), (name, said, real)
    if isinstance(said, dict):
        assert said.keys() <= real.keys(), name
        assert name in _OPEN or said.keys() == real.keys(), (name, said.keys() ^ real.keys())
        for key in said:
            _alike(said[key], real[key], key)
    elif isinstance(said, list) and said and real:
        _alike(said[0], real[0], name)


def test_the_documented_examples_are_what_the_routes_answer(server: Server) -> None:
    said = _examples()
    (server.runtime.parent / "data.csv").write_text("1")
    with server.kernel(CONFINED, "work/documented.ipynb") as kernel:
        kernel.run(f"try: open({str(server.runtime.parent / 'data.csv')!r})\nexcept OSError: pass")
        page = kernel.alerts(after=kernel.about("data.csv")[0]["seq"] - 1)
        of = f"modelarmor/api/kernels/{kernel.id}"
        seq = page["alerts"][0]["seq"]
        ask = {"kernel_id": kernel.id, "seqs": [seq]}
        [state] = [s for s in server.get("modelarmor/api/kernels") if s["kernel_id"] == kernel.id]
        real = {
            "GET kernels": [state],
            "GET kernels/{id}": server.get(of),
            "GET kernels/{id}/alerts": page,
            "GET kernels/{id}/alerts/{seq}/explanation": server.get(
                f"{of}/alerts/{seq}/explanation"
            ),
            "GET profiles": server.get("modelarmor/api/profiles"),
            "GET profiles/{name}": server.get("modelarmor/api/profiles/notebook"),
            "POST profiles/preview": server.post("modelarmor/api/profiles/preview", ask).json(),
            "POST profiles": server.post("modelarmor/api/profiles", {**ask, "name": "d"}).json(),
            "POST kernels/{id}/restart": server.post(f"{of}/restart", {"profile": "d"}).json(),
        }
    assert said.keys() == real.keys()
    for route, answer in real.items():
        _alike(said[route], answer, route)
