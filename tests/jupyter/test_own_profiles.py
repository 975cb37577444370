"""From a refusal to a profile that permits it, by requests to a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelarmor.policy import document

from .server import CONFINED, Home, RemoteKernel, Server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("o"))
    (home.path / "x.csv").write_text("1\n")
    return home


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[Server]:
    server = home.server()
    yield server
    server.stop()


@pytest.fixture
def kernel(server: Server) -> Iterator[RemoteKernel]:
    with server.kernel(CONFINED) as kernel:
        yield kernel


@pytest.fixture(scope="module")
def asking(server: Server, home: Home) -> Iterator[dict[str, Any]]:
    """What a request that can be granted says."""
    with server.kernel(CONFINED, "work/asking.ipynb") as kernel:
        seq = _try(kernel, f"open({str(home.path / 'x.csv')!r})", "x.csv")
        yield {"kernel_id": kernel.id, "seqs": [seq]}


def _own(home: Home, name: str) -> tuple[Path, Path]:
    kernels = home.path / ".local" / "share" / "jupyter" / "kernels"
    return home.path / ".config/modelarmor/profiles" / name, kernels / f"modelarmor-{name}"


def _try(kernel: RemoteKernel, code: str, resource: str) -> int:
    """Run `code`; the number of the alert about `resource`."""
    kernel.run(f"try:\n    {code}\nexcept OSError: pass")
    return int(kernel.about(resource)[-1]["seq"])


def _explain(kernel: RemoteKernel, seq: int) -> Any:
    path = f"modelarmor/api/kernels/{kernel.id}/alerts/{seq}/explanation"
    return kernel.server.get(path)


def _restart(kernel: RemoteKernel, **body: object) -> Any:
    answer = kernel.server.post(f"modelarmor/api/kernels/{kernel.id}/restart", body)
    assert answer.status_code == 200, answer.text
    kernel.reconnect()
    return answer.json()


def test_a_refused_read_is_explained_with_the_rule_that_would_permit_it(
    home: Home, kernel: RemoteKernel
) -> None:
    data = home.path / "x.csv"
    answer = _explain(kernel, _try(kernel, f"open({str(data)!r})", "x.csv"))

    assert answer["decision"]["verdict"] == "block"
    assert answer["decision"]["policy"] == "DefaultPosture"
    assert "the default posture is block" in answer["decision"]["why"]
    assert answer["why_not"] == ""
    assert answer["proposal"]["summary"] == f"Allow reading {data}"
    [policy] = document.load(answer["proposal"]["document"])
    assert [rule.value for rule in policy.file] == [str(data)]
    [change] = answer["proposal"]["changes"]
    assert change == {"effect": "permits", "text": f"read {data} is now allowed"}


def test_a_block_rule_is_named_with_its_line_and_overruled_only_with_a_grave_warning(
    home: Home, kernel: RemoteKernel
) -> None:
    key = home.path / ".ssh" / "id_ed25519"
    answer = _explain(kernel, _try(kernel, f"open({str(key)!r})", "id_ed25519"))

    assert answer["decision"]["policy"] == "modelarmor-notebook-credentials"
    assert answer["decision"]["where"].startswith("spec.file.matchDirectories")
    assert answer["decision"]["line"] > 1
    assert answer["decision"]["severity"] == 9
    assert answer["proposal"]["warnings"][0]["severity"] == "high"


def test_what_no_policy_permits_says_where_to_look(kernel: RemoteKernel) -> None:
    code = "__import__('socket').create_connection(('93.184.215.14', 80), 1)"
    answer = _explain(kernel, _try(kernel, code, "AF_INET"))

    assert answer["proposal"] is None
    assert "network.yaml" in answer["why_not"]
    assert answer["decision"]["policy"] == "NetworkPolicy"


def test_a_profile_is_saved_used_and_deleted(
    home: Home, server: Server, kernel: RemoteKernel
) -> None:
    data = home.path / "data.csv"
    data.write_text("1,2\n")
    read = f"print(open({str(data)!r}).read())"
    seq = _try(kernel, read, "data.csv")
    ask = {"kernel_id": kernel.id, "seqs": [seq]}

    preview = server.post("modelarmor/api/profiles/preview", ask)
    assert preview.status_code == 200, preview.text
    assert preview.json()["base"] == "notebook"
    assert preview.json()["events"] == 1
    assert preview.json()["refused"] == []

    saved = server.post("modelarmor/api/profiles", {**ask, "name": "data", "title": "With data"})
    assert saved.status_code == 201, saved.text
    profile, kernelspec = _own(home, "data")
    assert saved.json()["directory"] == str(profile)
    [policy] = document.load(saved.json()["proposal"]["document"])
    assert policy.name == "modelarmor-data-added"
    assert policy.selector.match_labels == (("modelarmor.io/profile", "data"),)
    assert {item.selector for item in document.load(profile / "policy.yaml", strict=False)} == {
        policy.selector
    }
    # it works elsewhere: what lay in the home directory lies in whoever's home it is
    assert "path: ${HOME}/data.csv" in (profile / "policy.yaml").read_text()
    listed = {item["name"]: item for item in server.get("modelarmor/api/profiles")}
    assert listed["data"]["title"] == "With data"
    assert (listed["data"]["own"], listed["notebook"]["own"]) == (True, False)
    specs = server.get("api/kernelspecs")["kernelspecs"]
    assert specs["modelarmor-data"]["spec"]["display_name"] == "Python 3 (confined: data)"
    assert "logo-svg" in specs["modelarmor-data"]["resources"]
    full = server.get("modelarmor/api/profiles/data")
    assert "modelarmor-data-credentials" in full["policy"]
    assert full["egress"] == []

    assert "PermissionError" in kernel.run(read).said  # nothing changed for a kernel that runs
    assert _restart(kernel, profile="data")["profile"]["title"] == "With data"
    assert kernel.run(read).said.strip() == "1,2"
    assert "PermissionError" in kernel.run(f"open({str(data)!r}, 'a')").said
    with server.kernel("modelarmor-data", "work/second.ipynb") as second:
        assert second.run(read).said.strip() == "1,2"
    assert _explain(kernel, seq)["why_not"].startswith("The profile that the kernel has now")

    assert server.post("modelarmor/api/profiles", {**ask, "name": "data"}).status_code == 409
    gone = server.http.delete(f"{server.url}modelarmor/api/profiles/data", timeout=30)
    assert (gone.status_code, gone.content) == (204, b"")
    assert not profile.exists()
    assert not kernelspec.exists()
    assert "data" not in {item["name"] for item in server.get("modelarmor/api/profiles")}


def test_a_recording_becomes_a_profile_that_permits_it_and_nothing_that_was_blocked(
    home: Home, server: Server, kernel: RemoteKernel
) -> None:
    top = home.path / "set"
    top.mkdir()
    for n in range(8):
        (top / f"{n}.txt").write_text("x")
    work = (
        f"import os\nfor n in os.listdir({str(top)!r}): open({str(top)!r} + '/' + n).read()\n"
        f"open({str(home.path / 'out.txt')!r}, 'w').write('x')\n"
        "print('done')"
    )
    steal = f"open({str(home.path / '.ssh' / 'id_ed25519')!r})"
    kernel.run(steal)
    _restart(kernel, record=True)
    assert kernel.run(work).said.strip() == "done"
    kernel.about("out.txt", "Audit")
    kernel.run(steal)

    ask = {"kernel_id": kernel.id, "seqs": None}
    preview = server.post("modelarmor/api/profiles/preview", ask).json()
    [policy] = document.load(preview["document"])
    granted = {(rule.match, rule.value, rule.read_only) for rule in policy.file}
    assert ("directory", f"{top}/", True) in granted
    assert ("path", str(home.path / "out.txt"), False) in granted
    assert not any(".ssh" in rule.value for rule in policy.file)
    assert any("id_ed25519" in item["what"] for item in preview["refused"])

    saved = server.post("modelarmor/api/profiles", {**ask, "name": "recorded"})
    assert saved.status_code == 201, saved.text
    state = _restart(kernel, profile="recorded")
    assert (state["recording"], state["posture"]["file"]) == (False, "block")
    assert kernel.run(work).said.strip() == "done"
    assert "PermissionError" in kernel.run(steal).said


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"name": "../x"}, 400), ({"name": ""}, 400), ({"name": "A"}, 400), ({"name": 1}, 400),
        ({"name": "preview"}, 400), ({"name": "x" * 64}, 400), ({"name": "x\n"}, 400),
        ({"name": "notebook"}, 409), ({"name": "gpu"}, 409),
        ({"title": ""}, 400), ({"title": "a\nb"}, 400), ({"title": "x" * 200}, 400),
        ({"seqs": []}, 400), ({"seqs": [True]}, 400), ({"seqs": ["1"]}, 400),
        ({"seqs": [0]}, 400), ({"seqs": {}}, 400), ({"seqs": [1] * 2000}, 400),
        ({"seqs": [10**9]}, 404),
        ({"kernel_id": None}, 400), ({"kernel_id": "x"}, 400), ({"kernel_id": {}}, 400),
        ({"kernel_id": "00000000-0000-0000-0000-000000000000"}, 404),
        ({"policy": "apiVersion: v1"}, 400),
    ],
)  # fmt: skip
def test_what_is_wrong_is_not_saved(
    home: Home, server: Server, asking: dict[str, Any], change: dict[str, Any], status: int
) -> None:
    answer = server.post("modelarmor/api/profiles", {**asking, "name": "wrong", **change})

    assert answer.status_code == status, answer.text
    assert answer.json()["message"]
    assert not _own(home, "wrong")[0].exists()


def test_what_is_there_is_neither_overwritten_nor_deleted_by_others(
    home: Home, server: Server, asking: dict[str, Any]
) -> None:
    profile, kernelspec = _own(home, "there")
    kernelspec.mkdir(parents=True)
    mine = json.dumps({"argv": ["x"], "display_name": "Mine", "language": "x"})
    (kernelspec / "kernel.json").write_text(mine)

    body = {**asking, "name": "there"}
    assert server.post("modelarmor/api/profiles", body).status_code == 409
    assert not profile.exists()
    for name in ("notebook", "there", "nonesuch", "%2e%2e%2fthere"):
        url = f"{server.url}modelarmor/api/profiles/{name}"
        assert server.http.delete(url, timeout=30).status_code == 404
    assert (kernelspec / "kernel.json").read_text() == mine
    assert {path.name for path in kernelspec.parent.iterdir()} >= {kernelspec.name}
    assert not list(profile.parent.glob(".*"))


def test_an_administrator_who_lists_profiles_decides_on_own_ones_too(tmp_path: Path) -> None:
    home = Home(tmp_path)
    shadow = _own(home, "notebook")[0]
    shadow.mkdir(parents=True)
    (shadow / "profile.yaml").write_text(
        "title: Mine\ndisplayName: Mine\ndescription: Everything.\n"
    )
    (shadow / "policy.yaml").write_text("")
    server = home.server("c.ModelArmor.allowed_profiles = ['notebook']\n")
    try:
        with server.kernel(CONFINED) as kernel:
            listed = {item["name"]: item for item in server.get("modelarmor/api/profiles")}
            assert (listed["notebook"]["own"], listed["notebook"]["allowed"]) == (False, True)
            assert listed["gpu"]["allowed"] is False
            key = f"open({str(home.path / '.ssh' / 'id_ed25519')!r})"
            seq = _try(kernel, key, "id_ed25519")
            body = {"kernel_id": kernel.id, "seqs": [seq], "name": "mine"}
            answer = server.post("modelarmor/api/profiles", body)
            assert (answer.status_code, "allowed_profiles" in answer.text) == (403, True)
    finally:
        server.stop()
