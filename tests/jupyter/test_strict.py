"""Strict mode seen from the server: whoever asks, and be it with the token, gets confined kernels.

The browser's side is in ``tests/browser/test_strict.py``. Here the browser is taken to have failed:
each request comes with all the rights of the user.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from modelarmor_jupyter.contents import Tree
from modelarmor_jupyter.messages import without_scripts

from ..browser.support import Home as JupyterHome
from ..browser.support import Lab
from .server import Server

STRICT = (
    'c.ServerApp.kernel_spec_manager_class = "modelarmor_jupyter.specs.StrictKernelSpecManager"\n'
)
CONFINED = "modelarmor-notebook"


class House:
    """A home that is served itself, with secrets, and kernels that are nobody's."""

    def __init__(self, top: Path) -> None:
        self.path = top / "h"
        self.work = self.path / "work"
        self.outside = top / "outside"
        self.data = self.path / ".local" / "share" / "jupyter"
        self.scratch = top / "s"
        for directory in (self.work, self.outside, self.path / ".ssh"):
            directory.mkdir(parents=True)
        (self.path / ".ssh" / "id_ed25519").write_text("a private key\n")
        (self.path / ".bashrc").write_text("# as it was\n")
        (self.outside / "file").write_text("outside\n")
        self.add_kernel("rogue", {"kernel_provisioner": {"provisioner_name": "local-provisioner"}})

    def add_kernel(self, name: str, metadata: dict[str, Any]) -> None:
        spec = self.data / "kernels" / name
        spec.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        facts = {"argv": argv, "display_name": name, "language": "python", "metadata": metadata}
        (spec / "kernel.json").write_text(json.dumps(facts))

    def server(self, config: str = STRICT, **env: str) -> Server:
        config = f"c.ModelArmor.scratch_directory = {str(self.scratch)!r}\n{config}"
        return Server(self.path, config, {"HOME": str(self.path), **env})


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("j"))


@pytest.fixture(scope="module")
def server(house: House) -> Iterator[Server]:
    server = house.server()
    yield server
    server.stop()


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    try:
        yield server
    finally:
        server.stop()


def _request(server: Server, method: str, path: str, **body: object) -> requests.Response:
    return server.http.request(method, f"{server.url}{path}", json=body or None, timeout=60)


# --- it is on, or there is no server


def test_every_requirement_holds(server: Server) -> None:
    answer = server.get("modelarmor/api/strict")

    assert answer["strict"] is True
    assert len(answer["requirements"]) > 10
    assert all(answer["requirements"].values())


def test_without_the_package_there_is_no_server(tmp_path: Path) -> None:
    hidden = tmp_path / "path" / "modelarmor_jupyter"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").touch()  # found first, and nothing in it

    with pytest.raises(AssertionError, match="modelarmor_jupyter"):
        House(tmp_path).server(PYTHONPATH=str(hidden.parent)).stop()


def test_the_printed_file_turns_it_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "modelarmor_jupyter.strict"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with running(Lab(JupyterHome(tmp_path), arguments=[f"--config={printed}"])) as server:
        assert server.get("modelarmor/api/strict")["strict"] is True
        check = subprocess.run(
            [*command, "--check"],
            env={**os.environ, "JUPYTER_RUNTIME_DIR": str(server.runtime)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (check.returncode, check.stdout) == (0, f"{server.url}: strict\n")


def test_the_check_tells_of_a_server_that_is_not_strict(tmp_path: Path) -> None:
    with running(House(tmp_path).server("")) as server:
        check = subprocess.run(
            [sys.executable, "-m", "modelarmor_jupyter.strict", "--check"],
            env={**os.environ, "JUPYTER_RUNTIME_DIR": str(server.runtime)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (check.returncode, "not strict: strict mode is off" in check.stdout) == (1, True)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("c.ServerApp.allow_origin = '*'", "allow_origin"),
        ("c.ServerApp.allow_origin_pat = '.*'", "allow_origin"),
        ("c.ServerApp.disable_check_xsrf = True", "disable_check_xsrf"),
        ("c.ServerApp.jpserver_extensions = {'modelarmor_jupyter': False}", "modelarmor_jupyter"),
        ("c.ModelArmor.allowed_profiles = None", "allowed_profiles"),
        ("c.GatewayClient.url = 'http://127.0.0.1:9'", "gateway"),
        ("c.Strict.image_sources = [\"* 'unsafe-inline'\"]", "image_sources"),
    ],
)
def test_what_cannot_be_strict_does_not_start(tmp_path: Path, setting: str, reason: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s)did not start.*{reason}"):
        House(tmp_path).server(STRICT + setting + "\n").stop()


def test_what_is_configured_otherwise_is_overruled(tmp_path: Path) -> None:
    config = STRICT + (
        "c.ServerApp.terminals_enabled = True\n"
        "c.ServerApp.allow_external_kernels = True\n"
        "c.ServerApp.allow_unauthenticated_access = True\n"
        "c.ContentsManager.allow_hidden = True\n"
        "c.FileContentsManager.checkpoints_class = 'jupyter_server.services.contents."
        "filecheckpoints.AsyncFileCheckpoints'\n"
        "c.KernelProvisionerFactory.default_provisioner_name = 'local-provisioner'\n"
        "c.ModelArmor.allow_recording = True\n"
        "c.ServerApp.tornado_settings = {'headers': {'Content-Security-Policy': 'img-src *'}}\n"
        "c.ServerApp.jpserver_extensions = {'jupyter_server_terminals': 1, 'jupyter_lsp': 1}\n"
    )
    with running(House(tmp_path).server(config)) as server, server.kernel("python3") as kernel:
        assert server.get("modelarmor/api/strict")["strict"] is True
        assert server.get(f"modelarmor/api/kernels/{kernel.id}")["confined"] is True
        assert _request(server, "POST", "api/terminals").status_code in (403, 404)
        assert server.status("lsp/status") == 404
        assert server.status("api/contents/.bashrc") == 404
        header = server.http.get(f"{server.url}api/status", timeout=60).headers
        assert "script-src 'self' 'unsafe-eval'" in header["Content-Security-Policy"]


def test_an_extension_that_is_named_is_loaded(tmp_path: Path) -> None:
    with running(House(tmp_path).server(STRICT + "c.Strict.extensions = ['jupyter_lsp']")) as s:
        assert s.status("lsp/status") == 200
        assert s.get("modelarmor/api/strict")["strict"] is True


# --- kernels


@pytest.mark.parametrize("name", ["python3", "Python3", CONFINED])
def test_every_kernel_that_starts_is_confined(house: House, server: Server, name: str) -> None:
    with server.kernel(name) as kernel:
        assert server.get(f"modelarmor/api/kernels/{kernel.id}")["confined"] is True
        secret = str(house.path / ".ssh" / "id_ed25519")
        assert "PermissionError" in kernel.run(f"open({secret!r})").said


def test_a_kernelspec_with_another_provisioner_is_refused(server: Server) -> None:
    assert server.start("rogue", "work/r.ipynb").status_code == 501
    assert _request(server, "POST", "api/kernels", name="rogue").status_code >= 400
    assert _request(server, "POST", "api/kernels", name="ROGUE").status_code >= 400
    assert "rogue" not in server.get("api/kernelspecs")["kernelspecs"]
    assert server.status("api/kernelspecs/rogue") == 404
    assert "strict mode: the kernel 'rogue'" in server.log.read_text()
    assert server.get("api/kernels") == []


def test_a_session_cannot_change_to_a_kernel_that_is_refused(server: Server) -> None:
    with server.kernel(CONFINED, "work/change.ipynb"):
        [session] = server.get("api/sessions")
        answer = _request(
            server, "PATCH", f"api/sessions/{session['id']}", kernel={"name": "rogue"}
        )
        assert answer.status_code >= 400
        assert all(state["confined"] for state in server.get("modelarmor/api/kernels"))


def test_a_kernel_cannot_be_recorded(server: Server) -> None:
    with server.kernel(CONFINED) as kernel:
        path = f"modelarmor/api/kernels/{kernel.id}/restart"
        answer = _request(server, "POST", path, profile=None, record=True)
        assert answer.status_code == 403, answer.text


def test_a_kernel_works_in_no_place_that_a_link_leads_to(house: House, server: Server) -> None:
    link = house.work / "elsewhere"
    link.symlink_to(house.outside)
    try:
        answer = server.start(CONFINED, "work/elsewhere/n.ipynb")
        assert (answer.status_code, "does not lie in" in answer.text) == (500, True), answer.text
    finally:
        link.unlink()


def test_a_kernel_works_in_no_hidden_place(server: Server) -> None:
    assert server.start(CONFINED, ".ssh/n.ipynb").status_code >= 400
    body = {"name": CONFINED, "path": ".ssh/n.ipynb"}
    answer = server.http.post(f"{server.url}api/kernels", json=body, timeout=30)
    assert answer.status_code >= 400
    assert server.get("api/kernels") == []


def test_a_kernel_may_not_write_where_the_server_imports_from(tmp_path: Path) -> None:
    house = House(tmp_path)
    with running(house.server(PYTHONPATH=str(house.work))) as server:
        answer = server.start(CONFINED)
        assert answer.status_code == 500
        assert f"it could write in {house.work}" in answer.text
        assert server.get("api/kernels") == []


def test_a_kernelspec_that_a_kernel_could_write_does_not_get_it_out(tmp_path: Path) -> None:
    """Jupyter's path leads into the workspace: the kernel is refused, or its kernelspec is."""
    house = House(tmp_path)
    share = house.work / "share"
    with running(house.server(JUPYTER_PATH=str(share))) as server:
        answer = server.start(CONFINED)
        if answer.status_code == 500:
            assert "could write in" in answer.text
            return
        _request(server, "DELETE", f"api/sessions/{answer.json()['id']}")
        with server.kernel(CONFINED) as kernel:
            code = f"import os; os.makedirs({str(share / 'kernels' / 'mine')!r})"
            assert "PermissionError" in kernel.run(code).said


# --- from inside a kernel


@pytest.fixture(scope="module")
def attempts(house: House, server: Server) -> dict[str, str]:
    """What became of each attempt of a kernel at the server that it belongs to."""
    port = server.url.rsplit(":", 1)[1].strip("/")
    pid = server.process.pid
    with server.kernel(CONFINED, "work/other.ipynb") as other, server.kernel(CONFINED) as kernel:
        sockets = next(
            path for path in house.scratch.glob("k-*/connection.json") if path.is_file()
        ).parent
        del other
        codes = {
            "token": f"open({str(server.runtime / f'jpserver-{pid}.json')!r}).read()",
            "runtime": f"import os; os.listdir({str(server.runtime)!r})",
            "cookie": f"open({str(server.runtime / 'jupyter_cookie_secret')!r}, 'rb').read()",
            "configuration": f"open({str(server.runtime / 'jupyter_server_config.py')!r}, 'a')",
            "kernelspec": f"open({str(house.data / 'kernels/rogue/kernel.json')!r}, 'w')",
            "new-kernelspec": f"import os; os.mkdir({str(house.data / 'kernels/mine')!r})",
            "environment": f"open('/proc/{pid}/environ').read()",
            "memory": f"open('/proc/{pid}/mem', 'rb')",
            "command-line": f"open('/proc/{pid}/cmdline').read()",
            "signal": f"import os; os.kill({pid}, 10)",
            "loopback": f"import socket; socket.create_connection(('127.0.0.1', {port}))",
            "loopback-6": f"import socket; socket.create_connection(('::1', {port}))",
            "scratch": f"import os; os.listdir({str(sockets.parent)!r})",
            "launcher": "import jupyter_client as j; m = j.KernelManager(); m.start_kernel()",
        }
        return {name: kernel.run(code).said for name, code in codes.items()}


@pytest.mark.parametrize(
    "attempt",
    ["token", "runtime", "cookie", "configuration", "kernelspec", "new-kernelspec", "environment",
     "memory", "command-line", "signal", "loopback", "loopback-6", "scratch"],
)  # fmt: skip
def test_a_kernel_cannot_reach_its_server(attempts: dict[str, str], attempt: str) -> None:
    assert "Error" in attempts[attempt], attempts[attempt]


def test_what_a_kernel_launches_is_as_confined_as_itself(
    house: House, server: Server, attempts: dict[str, str]
) -> None:
    assert attempts["launcher"] is not None
    assert all(state["confined"] for state in server.get("modelarmor/api/kernels"))
    assert (house.path / ".bashrc").read_text() == "# as it was\n"


# --- files


def _save(server: Server, path: str, text: str = "x", **more: object) -> int:
    body = {"type": "file", "format": "text", "content": text, **more}
    return _request(server, "PUT", f"api/contents/{path}", **body).status_code


def test_files_are_written_and_read_as_usual(house: House, server: Server) -> None:
    (house.work / "mode.sh").write_text("old")
    (house.work / "mode.sh").chmod(0o750)

    assert _save(server, "work/new.txt", "é\n") == 201
    assert (house.work / "new.txt").read_text() == "é\n"
    assert _save(server, "work/mode.sh", "new") == 200
    assert (house.work / "mode.sh").stat().st_mode & 0o777 == 0o750
    assert server.get("api/contents/work/new.txt")["content"] == "é\n"
    shown = server.http.get(f"{server.url}files/work/new.txt", timeout=60)
    assert (shown.text, shown.headers["Content-Type"]) == ("é\n", "text/plain; charset=UTF-8")
    assert _save(server, "work/big.txt", "one ", chunk=1) == 201
    assert _save(server, "work/big.txt", "two", chunk=-1) in (200, 201)
    assert (house.work / "big.txt").read_text() == "one two"


def test_a_checkpoint_is_made_and_restored(house: House, server: Server) -> None:
    _save(server, "work/c.txt", "first")
    path = "api/contents/work/c.txt/checkpoints"
    [made] = [_request(server, "POST", path).json()]
    _save(server, "work/c.txt", "second")

    assert _request(server, "POST", f"{path}/{made['id']}").status_code == 204
    assert (house.work / "c.txt").read_text() == "first"


def test_links_within_the_root_are_followed(house: House, server: Server) -> None:
    (house.work / "data").mkdir()
    (house.work / "near").symlink_to("data")

    assert _save(server, "work/near/f.txt") == 201
    assert (house.work / "data" / "f.txt").read_text() == "x"


@pytest.mark.parametrize("target", ["outside/file", "h/.bashrc", "h/.server/log", "outside/new"])
def test_nothing_is_read_or_written_through_a_link(
    house: House, server: Server, target: str
) -> None:
    real = house.path.parent / target
    before = real.read_bytes() if real.exists() else None
    link = house.work / "link.txt"
    link.symlink_to(real)
    try:
        path = "work/link.txt"
        assert _save(server, path, "poison") == 404
        assert _save(server, path, "poison", chunk=1) == 404
        assert _save(server, path, "poison", chunk=2) == 404
        assert server.status(f"api/contents/{path}") == 404
        assert server.status(f"files/{path}") == 404
        assert _request(server, "POST", f"api/contents/{path}/checkpoints").status_code >= 400
        names = {item["name"] for item in server.get("api/contents/work")["content"]}
        assert "link.txt" not in names
    finally:
        link.unlink()
    after = real.read_bytes() if real.exists() else None
    assert after == before or target.endswith("log")


def test_a_checkpoint_is_not_written_through_a_link(house: House, server: Server) -> None:
    _save(server, "work/k.txt", "poison")
    checkpoints = house.work / ".ipynb_checkpoints"
    checkpoints.mkdir(exist_ok=True)
    (checkpoints / "k-checkpoint.txt").symlink_to(house.path / ".bashrc")

    assert _request(server, "POST", "api/contents/work/k.txt/checkpoints").status_code < 500
    assert (house.path / ".bashrc").read_text() == "# as it was\n"


def test_nothing_is_moved_through_a_link(house: House, server: Server) -> None:
    (house.work / "away").symlink_to(house.outside)
    _save(server, "work/m.txt")

    url = f"{server.url}api/contents/work/m.txt"
    answer = server.http.patch(url, json={"path": "work/away/m.txt"}, timeout=30)

    assert answer.status_code == 404
    assert [path.name for path in house.outside.iterdir()] == ["file"]


def test_a_pipe_does_not_hold_the_server_up(house: House, server: Server) -> None:
    os.mkfifo(house.work / "pipe")

    assert server.status("api/contents/work/pipe") >= 400
    assert server.status("files/work/pipe") >= 400
    assert server.status("api/status") == 200


def test_a_path_that_is_exchanged_after_the_check_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel wins the race: what was a directory when it was checked is a link when opened."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "d").mkdir(parents=True)
    outside.mkdir()
    (root / "d" / "f").write_text("in")
    (outside / "f").write_text("out")
    tree = Tree(root)
    resolve = tree.resolve

    def exchange(path: str) -> Path:
        real = resolve(path)
        if not (root / "d").is_symlink():
            (root / "d").rename(root / "old")
            (root / "d").symlink_to(outside)
        return real

    monkeypatch.setattr(tree, "resolve", exchange)

    with pytest.raises(OSError, match=r"(?i)not a directory|symbolic"):
        os.close(tree.open(str(root / "d" / "f"), os.O_RDONLY))
    (root / "d").unlink()
    (root / "old").rename(root / "d")
    with pytest.raises(OSError), tree.replace(str(root / "d" / "f"), mode="w") as file:
        file.write("poison")
    assert (outside / "f").read_text() == "out"


# --- requests and answers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "nbconvert/webpdf/work/n.ipynb"),
        ("GET", "nbconvert/pdf/work/n.ipynb"),
        ("GET", "nbconvert/latex/work/n.ipynb"),
        ("GET", "nbconvert/script/work/n.ipynb"),
        ("GET", "nbconvert/htmlx/work/n.ipynb"),
        ("GET", "nbconvert/%70df/work/n.ipynb"),
        ("POST", "nbconvert/html"),
        ("PUT", "api/config/jupyter_server_config"),
        ("PATCH", "api/config/jupyter_server_config"),
        ("POST", "lab/api/build"),
        ("POST", "lab/api/extensions"),
        ("POST", "lab/api/plugins"),
    ],
)
def test_a_request_that_would_run_something_else_is_refused(
    server: Server, method: str, path: str
) -> None:
    answer = _request(server, method, path, x=1)

    assert answer.status_code == 403, answer.text
    assert "strict mode" in answer.text


def test_terminals_do_not_exist(server: Server) -> None:
    assert _request(server, "POST", "api/terminals").status_code == 404


def test_a_notebook_is_exported_to_html(house: House, server: Server) -> None:
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
    (house.work / "n.ipynb").write_text(json.dumps(notebook))

    assert server.status("nbconvert/html/work/n.ipynb") == 200


@pytest.mark.parametrize(
    "path",
    ["", "lab", "tree", "login", "api", "api/status", "api/kernelspecs", "nothing", "files/nothing",
     "files/work/page.html", "files/work/image.svg", "nbconvert/html/work/n.ipynb",
     "static/favicons/favicon.ico", "static/lab/index.html", "modelarmor/api/kernels",
     "lab/api/settings", "api/contents/work", "logout"],
)  # fmt: skip
def test_every_answer_carries_the_policy(house: House, server: Server, path: str) -> None:
    for name in ("page.html", "image.svg"):
        (house.work / name).write_text("<svg/>")

    answer = server.http.get(f"{server.url}{path}", timeout=30, allow_redirects=False)

    policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self' 'unsafe-eval';" in policy
    assert "unsafe-inline'" not in policy.split("style-src")[0]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("name", ["a.js", "a.mjs", "a.JS", "a.wasm", "a.cjs", "a.jsx"])
def test_a_file_of_the_workspace_is_no_script(house: House, server: Server, name: str) -> None:
    (house.work / name).write_text("1")

    answer = server.http.get(f"{server.url}files/work/{name}", timeout=60)
    asked_as = {"Sec-Fetch-Dest": "script"}
    script = server.http.get(f"{server.url}files/work/{name}", headers=asked_as, timeout=60)

    assert answer.status_code == 200
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not any(word in answer.headers["Content-Type"] for word in ("script", "wasm"))
    assert script.status_code == 403


def test_the_page_does_not_hold_the_token(server: Server) -> None:
    page = server.http.get(f"{server.url}lab", timeout=30)

    assert page.status_code == 200
    assert "a-token" not in page.text
    assert "@jupyterlab/javascript-extension" in page.text.split("disabledExtensions")[1]


@pytest.mark.parametrize(
    "sent",
    [
        b'{"data": {"application/javascript": "1", "text/plain": "x"}}',
        b'{"data": {"\\u0061pplication/java\\u0073cript": "1"}}',
        b'{"data": {"state": {"outputs": [{"data": {"text/javascript": "1"}}]}}}',
        b'{"data": {"application/x-javascript": "1", "text/ecmascript": "2"}}',
        b'{"data": {" Application/JavaScript; charset=utf-8": "1"}}',
    ],
)
def test_a_message_keeps_all_but_scripts(sent: bytes) -> None:
    kept = without_scripts(json.loads(sent))

    assert "javascript" not in json.dumps(kept).lower()
    assert "ecmascript" not in json.dumps(kept)
    assert "text/plain" in json.dumps(kept)


def test_the_guard_knows_the_base_url(tmp_path: Path) -> None:
    house = House(tmp_path)
    (house.work / "a.js").write_text("1")
    with running(house.server(STRICT + "c.ServerApp.base_url = '/x/y/'\n")) as server:
        script = {"Sec-Fetch-Dest": "script"}
        own = f"{server.url}static/style/style.min.css"
        theirs = f"{server.url}files/work/a.js"
        assert server.url.endswith("/x/y/")
        assert server.status("nbconvert/pdf/work/n.ipynb") == 403
        assert server.http.get(theirs, headers=script, timeout=60).status_code == 403
        assert server.http.get(own, headers=script, timeout=60).status_code in (200, 404)
        assert "javascript" not in server.http.get(theirs, timeout=60).headers["Content-Type"]
