"""A model's server at work under its policy."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from modelarmor_mlflow.serving.confined.modelarmor_guard import Limits
from modelarmor_mlflow.serving.endpoint import _MAX_CONNECTIONS, Endpoint
from modelarmor_mlflow.serving.limits import from_signature
from modelarmor_mlflow.serving.server import GUARD, ServeError, Server, Service

from modelarmor.generate.evidence import Evidence
from modelarmor.generate.workload import filled
from tests.ports import free_port

from .conftest import (
    PATIENCE,
    ROW,
    Serve,
    answer_to,
    command,
    wait_for_line,
    with_limits,
    write_model,
)


@contextmanager
def plain(model: Path) -> Iterator[str]:
    """``mlflow models serve``, unconfined; its address."""
    port = free_port()
    options = ["-m", str(model), "-p", str(port), "--env-manager", "local"]
    with subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", *options],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            deadline = time.monotonic() + 90
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def test_it_answers_as_mlflows_own_server_does(serve: Serve, honest: Path) -> None:
    bodies: list[Any] = [ROW, {"inputs": {"a": [1.0, 2], "b": [3.0, 4]}}, {"nothing": 1}]
    with plain(honest) as url, serve(honest) as served:
        for path in ("/ping", "/health", "/version", "/nothing"):
            request = urllib.request.Request(url + path)
            assert served.get(path) == answer_to(request)
        for body in bodies:
            request = urllib.request.Request(
                f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": JSON}
            )
            status, told = answer_to(request)
            ours = served.ask(body)
            assert ours[0] == status
            assert status != 200 or ours[1] == json.loads(told)
    assert served.resources("File") == []


JSON = "application/json"

HOSTILE = """
import os, socket, subprocess
done = []
def attempt(name, act):
    try:
        act()
        done.append(name)
    except BaseException:
        pass
attempt("shell", lambda: subprocess.run(["/bin/sh", "-c", "true"], check=True))
attempt("secret", lambda: open({secret!r}).read())
attempt("start-up file", lambda: open({startup!r}, "w"))
attempt("own model", lambda: open({own!r}, "a"))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", {port}), 2))
attempt("listen", lambda: socket.create_server(("127.0.0.1", 0)))
attempt("datagram", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
attempt("environment", lambda: open(f"/proc/{{os.getppid()}}/environ").read())
return done
"""


def test_a_hostile_model_is_refused_what_it_tries_and_each_is_recorded(
    serve: Serve, tmp_path: Path
) -> None:
    secret, startup = tmp_path / "secret", tmp_path / "startup"
    secret.write_text("secret")
    place = tmp_path / "hostile"
    with socket.create_server(("127.0.0.1", 0)) as outside:
        attempts = HOSTILE.format(
            secret=str(secret),
            startup=str(startup),
            own=str(place / "MLmodel"),
            port=outside.getsockname()[1],
        )
        write_model(place, attempts)
        startup.unlink(missing_ok=True)  # saving the model asked it for its example
        with serve(place) as served:
            assert served.ask() == (200, {"predictions": []})
    files, programs = served.resources("File"), served.resources("Process")
    network = served.resources("Network")
    assert {str(secret), str(startup), str(place / "MLmodel")} <= set(files)
    assert any(name.startswith(("/bin/sh", "/usr/bin/")) for name in programs)
    assert len(network) >= 3
    assert not startup.exists()


def test_a_server_that_reaches_a_limit_says_so_and_starts_again(
    serve: Serve, evidence: Evidence, tmp_path: Path
) -> None:
    greedy = write_model(
        tmp_path / "greedy",
        """
        import os
        if model_input["a"][0] == 7.0 and "MODELARMOR_SOCKET" in os.environ:
            held = bytearray(3 << 30)
            for page in range(0, len(held), 4096):
                held[page] = 1
        return [1.0]
        """,
    )
    with serve(greedy, known=with_limits(evidence, memory="1Gi")) as served:
        assert served.ask()[0] == 200
        body = json.dumps({"dataframe_records": [{"a": 7.0, "b": 1.0}]}).encode()
        request = urllib.request.Request(
            served.server.url + "/invocations", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.status >= 500
        except (urllib.error.HTTPError, OSError):
            pass
        status, _ = served.ask()  # the port stays taken: this waits for the new one
        assert status == 200
        assert served.server.restarts <= 1
        reported = served.resources("Resource") or [line for line in served.said if "limit" in line]
        assert reported, (served.said, served.server.recorder.after(0).alerts)


def test_a_worker_that_ends_is_started_again(serve: Serve, tmp_path: Path) -> None:
    mortal = write_model(
        tmp_path / "mortal",
        """
        import os
        if model_input["a"][0] == 7.0 and "MODELARMOR_SOCKET" in os.environ:
            os._exit(9)
        return [1.0]
        """,
    )
    with serve(mortal) as served:
        with pytest.raises((urllib.error.HTTPError, OSError)):
            served.ask({"dataframe_records": [{"a": 7.0, "b": 1.0}]})
        assert served.ask()[0] == 200
        assert served.server.restarts == 1
        assert any("exit status 9" in line and "starting again" in line for line in served.said)


def test_a_model_that_cannot_be_loaded_is_an_error_with_the_reason(
    evidence: Evidence, tmp_path: Path
) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {loader_module: nothing.here}}\n")
    service = Service(name="broken", model=tmp_path, python=Path(sys.executable), port=0)
    with (
        Server(
            service,
            lambda scratch: filled(evidence, model=tmp_path, prefix=Path(sys.prefix), tmp=scratch),
            lambda line: None,
        ) as server,
        pytest.raises(ServeError, match="broken: the server did not start: exit status"),
    ):
        server.run()


def test_requests_go_round_several_workers(serve: Serve, tmp_path: Path) -> None:
    which = write_model(tmp_path / "which", "import os\nreturn [os.getpid()]")
    with serve(which, workers=2) as served:
        told: set[int] = set()
        deadline = time.monotonic() + PATIENCE  # one of them may still be loading the model
        while len(told) < 2 and time.monotonic() < deadline:
            told.add(served.ask()[1]["predictions"][0])
    assert len(told) == 2


def test_under_audit_nothing_of_the_policy_is_refused_and_all_is_reported(
    serve: Serve, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    reader = write_model(tmp_path / "reader", f"return [open({str(secret)!r}).read()]")
    with serve(reader, audit=True) as served:
        assert served.ask() == (200, {"predictions": ["secret"]})
    alerts = served.server.recorder.after(0, 10_000).alerts
    told = [alert for _, alert in alerts if alert.Resource == str(secret)]
    assert [alert.Action for alert in told] == ["Audit"]


def _told(url: str, token: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_guard_refuses_what_the_signature_does_not_name(serve: Serve, honest: Path) -> None:
    with serve(honest, limits=from_signature(honest)) as served:
        endpoint = Endpoint(served.server, "127.0.0.1", 0, "the-token-of-it", {"model": "m/1"})
        try:
            status, told = served.ask({"dataframe_records": [{"a": 1.0}]})
            assert (status, told["error_code"]) == (400, "BAD_REQUEST")
            assert served.ask()[0] == 200
            deadline = 200
            while not served.server.traffic.by_status.get("200") and deadline:
                deadline -= 1
                served.server._stopping.wait(0.05)
            status, text = _told(endpoint.url + "/metrics", "the-token-of-it")
            assert status == 200
            assert b'modelarmor_requests_total{status="200"} 1.0' in text
            assert b'operation="Request",policy="InputGuard"} 1.0' in text
            assert b"modelarmor_ready 1.0" in text
            status, text = _told(endpoint.url + "/alerts?after=0&limit=1000", "the-token-of-it")
            alerts = [item["alert"] for item in json.loads(text)["alerts"]]
            guarded = [alert for alert in alerts if alert["Enforcer"] == GUARD]
            assert [alert["Message"] for alert in guarded] == ["column 'b' is missing"]
            state = json.loads(_told(endpoint.url + "/state", "the-token-of-it")[1])
            assert state["ready"] and state["plan"]["rules"] and state["model"] == "m/1"
            for path in ("/alerts", "/state", "/metrics", "/"):
                assert _told(endpoint.url + path, "another-token")[0] == 401
            assert _told(endpoint.url + "/alerts?after=-1", "the-token-of-it")[0] == 400
            assert _told(endpoint.url + "/nothing", "the-token-of-it")[0] == 404
        finally:
            endpoint.close()


def test_the_alerts_endpoint_has_a_bounded_number_of_connections(tmp_path: Path) -> None:
    service = Service(name="m/1", model=tmp_path, python=Path(sys.executable), port=0)
    server = Server(service, lambda scratch: pytest.fail("started"), lambda line: None)
    endpoint = Endpoint(server, "127.0.0.1", 0, "the-token-of-it", {})
    address = ("127.0.0.1", int(endpoint.url.rpartition(":")[2]))
    idle = [socket.create_connection(address, PATIENCE) for _ in range(_MAX_CONNECTIONS)]
    try:
        for connection in idle:  # each is being read from before there is one more
            connection.sendall(b"GET /state HTTP/1.1\r\n")
        with socket.create_connection(address, PATIENCE) as more:
            assert more.recv(1) == b""
        for connection in idle:
            connection.sendall(b"Authorization: Bearer the-token-of-it\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.0 200"
        while idle:
            idle.pop().close()
        deadline = time.monotonic() + PATIENCE
        while True:  # a place is free when the thread of a connection has ended
            try:
                assert _told(endpoint.url + "/state", "the-token-of-it")[0] == 200
                break
            except OSError:
                assert time.monotonic() < deadline
    finally:
        for connection in idle:
            connection.close()
        endpoint.close()


def test_what_the_process_says_of_itself_is_bounded_and_never_an_enforcers_alert(
    serve: Serve, tmp_path: Path
) -> None:
    liar = write_model(
        tmp_path / "liar",
        r"""
        import json, os
        if path := os.environ.get("MODELARMOR_CHANNEL"):
            with open(path, "wb", buffering=0) as pipe:
                for line in (b"\xff\n", b"[" * 3000 + b"\n", b'{"requests": {"x": -1, "200": "y"}, "seconds": 1}\n',
                             b'{"violation": "made up"}\n', b'{"violation": ["x"]}\n',
                             json.dumps({"violation": "rate", "message": "\x1b[2J", "PolicyName": "x"}).encode() + b"\n"):
                    pipe.write(line)
        return [1.0]
        """,  # noqa: E501
    )
    with serve(liar, limits=Limits()) as served:
        assert served.ask()[0] == 200
        for _ in range(200):
            if served.server.traffic.refused:
                break
            served.server._stopping.wait(0.05)
        assert dict(served.server.traffic.refused) == {"rate": 1}
        alerts = [alert for _, alert in served.server.recorder.after(0).alerts]
        told = [alert for alert in alerts if alert.Enforcer == GUARD]
        assert [(alert.PolicyName, alert.Message) for alert in told] == [(GUARD, r"\x1b[2J")]
        assert set(served.server.traffic.by_status) <= {"200"}


@pytest.fixture
def prints(tmp_path: Path) -> Iterator[tuple[Server, list[str], int, threading.Thread]]:
    """A server, what it says, and where its process prints to, which a thread repeats."""
    reading, writing = os.pipe()
    said: list[str] = []
    service = Service(name="m/1", model=tmp_path, python=Path(sys.executable), port=0)
    server = Server(service, lambda scratch: pytest.fail("started"), said.append)
    stream = os.fdopen(reading, "rb")
    thread = threading.Thread(target=server._repeat, args=(stream,), daemon=True)
    thread.start()
    try:
        yield server, said, writing, thread
    finally:
        thread.join(PATIENCE)
        stream.close()
        server.close()


def test_what_it_prints_is_repeated_line_by_line(
    prints: tuple[Server, list[str], int, threading.Thread],
) -> None:
    _, said, writing, thread = prints
    with os.fdopen(writing, "wb", buffering=0) as out:
        for part in (b"one\ntw", b"o\n\n" + b"3" * 2_500 + b"\n\x1b[2J", b"no newline"):
            out.write(part)
            time.sleep(0.1)  # so that they are read one by one; if not, the lines are the same
    thread.join(PATIENCE)
    assert said[:2] == ["m/1: one", "m/1: two"]
    long = [line.removeprefix("m/1: ") for line in said[2:-1]]
    assert "".join(long) == "3" * 2_500 and len(long) == 3
    assert said[-1].endswith("no newline") and "\x1b" not in said[-1]


def test_what_it_prints_too_fast_is_counted_instead(
    prints: tuple[Server, list[str], int, threading.Thread],
) -> None:
    _, said, writing, thread = prints
    with os.fdopen(writing, "wb") as out:
        out.write(b"".join(b"%d\n" % number for number in range(50_000)))
    thread.join(PATIENCE)
    left_out = [line for line in said if "lines were left out" in line]
    assert left_out and said[0] == "m/1: 0" and len(said) < 10_000
    told = sum(int(line.split()[1]) for line in left_out)
    assert told + len(said) - len(left_out) == 50_000


def test_a_port_that_is_taken_is_an_error_that_names_it(honest: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = Service(name="m", model=honest, python=Path(sys.executable), port=port)
        with pytest.raises(ServeError, match=f"port {port}"):
            Server(service, lambda scratch: pytest.fail("started"), print)


def test_the_command_serves_until_it_is_ended_and_leaves_nothing(
    honest: Path, evidence: Evidence, tmp_path: Path
) -> None:
    file, scratch = tmp_path / "evidence.json", tmp_path / "scratch"
    file.write_text(evidence.dumps())
    scratch.mkdir()
    arguments = ("-m", str(honest), "--unreviewed", "--evidence", str(file))
    with command(*arguments, TMPDIR=str(scratch)) as (process, lines):
        url = wait_for_line(process, lines, "ready at").split()[-1]
        with urllib.request.urlopen(f"{url}/ping", timeout=30) as answer:
            assert answer.status == 200
        assert any("UNREVIEWED" in line for line in lines)
    assert process.returncode == 0
    assert list(scratch.iterdir()) == []


def test_the_command_refuses_what_nobody_can_have_approved(honest: Path) -> None:
    with command("-m", str(honest)) as (process, lines):
        process.wait(60)
    assert process.returncode == 1
    assert "--unreviewed" in "".join(lines)


def test_the_command_refuses_evidence_of_other_bytes(
    honest: Path, evidence: Evidence, tmp_path: Path
) -> None:
    file, other = tmp_path / "evidence.json", tmp_path / "other"
    file.write_text(evidence.dumps())
    shutil.copytree(honest, other)
    (other / "extra.txt").write_text("one more file")
    with command("-m", str(other), "--unreviewed", "--evidence", str(file)) as (process, lines):
        process.wait(60)
    assert process.returncode == 1
    assert "is about other files" in "".join(lines)
