"""A kernel under another profile, and in record mode, by a request to the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modelarmor_jupyter import config

from .server import CONFINED, UNTRUSTED, Home, RemoteKernel, Server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("r"))


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[Server]:
    server = home.server()
    yield server
    server.stop()


def _restart(kernel: RemoteKernel, body: object) -> Any:
    answer = kernel.server.post(f"modelarmor/api/kernels/{kernel.id}/restart", body)
    assert answer.status_code == 200, answer.text
    kernel.reconnect()
    return answer.json()


def test_a_kernel_restarts_under_another_profile_and_keeps_its_record(server: Server) -> None:
    write = "open('written.txt', 'w').write('x')"
    with server.kernel(CONFINED) as kernel:
        assert "Error" not in kernel.run(write).said
        kernel.run("try: open('/etc/shadow')\nexcept OSError: pass")
        before = kernel.about("/etc/shadow")[-1]["seq"]

        state = _restart(kernel, {"profile": "untrusted-model"})

        assert state["kernel_id"] == kernel.id
        assert state["profile"]["name"] == "untrusted-model"
        assert state["recording"] is False
        assert state["last"] >= before > 0
        assert "PermissionError" in kernel.run(write).said
        # as the menu of JupyterLab does it
        again = kernel.server.http.post(f"{server.url}api/kernels/{kernel.id}/restart", timeout=60)
        assert again.status_code == 200
        kernel.reconnect()
        assert "PermissionError" in kernel.run(write).said
        assert server.get(f"modelarmor/api/kernels/{kernel.id}")["profile"] == state["profile"]


def test_record_mode_lets_things_happen_records_them_and_holds_block_rules(
    home: Home, server: Server
) -> None:
    data = home.path / "data.csv"
    data.write_text("1,2\n")
    read = f"print(open({str(data)!r}).read())"
    key = f"open({str(home.path / '.ssh' / 'id_ed25519')!r})"
    with server.kernel(CONFINED) as kernel:
        assert "PermissionError" in kernel.run(read).said

        state = _restart(kernel, {"record": True})

        assert state["recording"] is True
        assert state["posture"] == {"file": "audit", "network": "audit", "capabilities": "audit"}
        assert kernel.run(read).said.strip() == "1,2"
        assert "PermissionError" in kernel.run(key).said
        [recorded] = (item["alert"] for item in kernel.about(str(data), "Audit"))
        assert recorded["PolicyName"] == "DefaultPosture"

        # a restart by the menu keeps what was switched on, and the next request ends it
        server.http.post(f"{server.url}api/kernels/{kernel.id}/restart", timeout=60)
        assert server.get(f"modelarmor/api/kernels/{kernel.id}")["recording"] is True
        assert _restart(kernel, {"record": False})["recording"] is False
        assert "PermissionError" in kernel.run(read).said


def test_record_mode_changes_neither_programs_nor_what_confines(home: Home, server: Server) -> None:
    profiles = home.path / ".config" / "modelarmor" / "profiles" / "evil"
    attempts = {
        "a program": "import json; open(json.__file__, 'a')",
        "the environment": "import ipykernel; open(ipykernel.__file__, 'a')",
        "this server": f"open({config.__file__!r}, 'a')",
        "a profile": f"import os; os.makedirs({str(profiles)!r})",
        "a kernelspec": f"import os; os.makedirs({str(home.path)!r} + "
        "'/.local/share/jupyter/kernels/evil')",
        "a start-up file": f"import os; os.makedirs({str(home.path)!r} + '/.local/bin')",
    }
    with server.kernel(CONFINED) as kernel:
        _restart(kernel, {"record": True})
        for what, code in attempts.items():
            assert "PermissionError" in kernel.run(code).said, what
    assert not profiles.exists()


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"profile": "nonesuch"}, 400, "no profile 'nonesuch'"),
        ({"profile": "../notebook"}, 400, "no profile"),
        ({"profile": 1}, 400, "a name or null"),
        ({"record": "yes"}, 400, "true or false"),
        ({"policy": "x"}, 400, "is no field here"),
        ([], 400, "a JSON object"),
    ],
)
def test_what_is_no_choice_leaves_the_kernel_running(
    server: Server, body: object, status: int, says: str
) -> None:
    with server.kernel(CONFINED) as kernel:
        kernel.run("x = 1")
        answer = server.post(f"modelarmor/api/kernels/{kernel.id}/restart", body)

        assert (answer.status_code, says in answer.json()["message"]) == (status, True), answer.text
        assert kernel.run("print(x)").said.strip() == "1"


def test_the_administrator_limits_what_a_kernel_restarts_under(tmp_path: Path) -> None:
    home = Home(tmp_path)
    server = home.server(
        "c.ModelArmor.allowed_profiles = ['notebook']\nc.ModelArmor.allow_recording = False\n"
    )
    try:
        with server.kernel(CONFINED) as kernel:
            path = f"modelarmor/api/kernels/{kernel.id}/restart"
            for body, says in (
                ({"profile": "untrusted-model"}, "allowed_profiles"),
                ({"profile": "notebook", "record": True}, "allow_recording"),
            ):
                answer = server.post(path, body)
                assert (answer.status_code, says in answer.json()["message"]) == (403, True)
            assert server.post(path, {}).status_code == 200
    finally:
        server.stop()


def test_a_workspace_around_the_profiles_leaves_them_out_of_reach(home: Home) -> None:
    """A workspace that holds what confines: neither the files nor what leads there can change."""
    config = home.path / "work" / "etc" / "conf"
    mine = config / "modelarmor" / "profiles" / "mine"
    mine.mkdir(parents=True)
    (mine / "profile.yaml").write_text("title: mine\n")
    server = home.server(env={"XDG_CONFIG_HOME": str(config)})
    top = config.parent
    attempts = [
        f"open({str(mine / 'profile.yaml')!r}, 'a')",
        f"import os; os.mkdir({str(mine.parent / 'other')!r})",
        f"import os; os.rename({str(mine.parents[1])!r}, {str(home.workspace / 'x')!r})",
        f"import os; os.rename({str(config)!r}, {str(home.workspace / 'x')!r})",
        f"import os; os.rename({str(top)!r}, {str(home.workspace / 'x')!r})",
        f"import os; os.makedirs('evil/profiles'); os.rename('evil', {str(mine.parents[1])!r})",
        f"import os; os.symlink('/tmp', {str(mine.parents[1])!r} + '/profiles/l')",
    ]
    try:
        with server.kernel(CONFINED) as kernel:
            for attempt in attempts:
                assert "PermissionError" in kernel.run(attempt).said, attempt
            assert "Error" not in kernel.run("open('fine', 'w').write('x')").said
    finally:
        server.stop()
    assert (mine / "profile.yaml").read_text() == "title: mine\n"


def test_a_kernel_does_not_work_where_the_profiles_are(home: Home) -> None:
    config = home.path / "work2"
    inside = config / "modelarmor" / "profiles" / "mine"
    inside.mkdir(parents=True)
    server = home.server(env={"XDG_CONFIG_HOME": str(config)})
    try:
        answer = server.start(UNTRUSTED, "work2/modelarmor/profiles/mine/n.ipynb")
        assert answer.status_code == 500
        assert "decides how kernels are confined" in answer.json()["message"]
    finally:
        server.stop()


def test_a_kernel_that_cannot_live_under_a_profile_goes_back_to_the_former(
    home: Home, server: Server
) -> None:
    broken = home.path / ".config" / "modelarmor" / "profiles" / "broken"
    broken.mkdir(parents=True)
    (broken / "profile.yaml").write_text("title: B\ndisplayName: B\ndescription: No Python.\n")
    (broken / "policy.yaml").write_text(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: b}\n"
        "spec:\n  action: Allow\n  file: {matchDirectories: [{dir: /srv/, recursive: true}]}\n"
    )
    with server.kernel(CONFINED) as kernel:
        answer = server.post(f"modelarmor/api/kernels/{kernel.id}/restart", {"profile": "broken"})

        assert answer.status_code == 500
        assert "goes back to the former" in answer.json()["message"]
        assert server.get(f"modelarmor/api/kernels/{kernel.id}")["profile"]["name"] == "notebook"
        kernel.reconnect()
        assert kernel.run("print(1)").said.strip() == "1"
