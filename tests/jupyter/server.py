"""A real Jupyter server in a process of its own, and what a browser does with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import websocket

TOKEN = "a-token"
CONFINED = "modelarmor-notebook"
UNTRUSTED = "modelarmor-untrusted-model"
_START_SECONDS = 40


class Server:
    """A server that runs on `root`, with the home directory and configuration of a `Place`."""

    def __init__(self, root: Path, config: str, env: dict[str, str]) -> None:
        self.runtime = root / ".server"
        self.runtime.mkdir(exist_ok=True)
        (self.runtime / "jupyter_server_config.py").write_text(config)
        self.log = self.runtime / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "jupyter_server",
                    "--no-browser",
                    "--allow-root",
                    f"--IdentityProvider.token={TOKEN}",
                    "--ServerApp.allow_unauthenticated_access=False",
                    "--ServerApp.port=0",
                    f"--ServerApp.root_dir={root}",
                ],
                env={
                    **os.environ,
                    "JUPYTER_CONFIG_DIR": str(self.runtime),
                    "JUPYTER_RUNTIME_DIR": str(self.runtime),
                    "PYTHONWARNINGS": "ignore",
                    **env,
                },
                stdout=log,
                stderr=log,
            )
        self.url = self._url()
        self.http = requests.Session()
        self.http.headers["Authorization"] = f"token {TOKEN}"

    def _url(self) -> str:
        info = self.runtime / f"jpserver-{self.process.pid}.json"
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                url = str(json.loads(info.read_text())["url"])
                if requests.get(url + "api", timeout=5).status_code in (200, 403):
                    return url
            except (OSError, ValueError):
                time.sleep(0.02)
        raise AssertionError(f"the server did not start:\n{self.log.read_text()}")

    def get(self, path: str, **query: object) -> Any:
        """The JSON at `path`; fails unless the answer is 200."""
        answer = self.http.get(f"{self.url}{path}", params=query, timeout=30)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.json()

    def post(self, path: str, body: object) -> requests.Response:
        return self.http.post(f"{self.url}{path}", json=body, timeout=90)

    def status(self, path: str, **query: object) -> int:
        return self.http.get(f"{self.url}{path}", params=query, timeout=30).status_code

    def start(self, kernelspec: str, notebook: str = "work/n.ipynb") -> requests.Response:
        """Open a notebook as JupyterLab does."""
        return self.http.post(
            f"{self.url}api/sessions",
            json={
                "path": notebook,
                "name": notebook,
                "type": "notebook",
                "kernel": {"name": kernelspec},
            },
            timeout=60,
        )

    @contextmanager
    def kernel(self, kernelspec: str, notebook: str = "work/n.ipynb") -> Iterator[RemoteKernel]:
        answer = self.start(kernelspec, notebook)
        assert answer.status_code == 201, answer.text
        kernel_id = answer.json()["kernel"]["id"]
        kernel = RemoteKernel(self, kernel_id)
        try:
            yield kernel
        finally:
            kernel.socket.close()
            self.http.delete(f"{self.url}api/kernels/{kernel_id}", timeout=30)

    def listen(self, path: str) -> websocket.WebSocket:
        return websocket.create_connection(
            self.url.replace("http", "ws", 1) + path,
            header={"Authorization": f"token {TOKEN}"},
            timeout=30,
        )

    def stop(self) -> None:
        self.http.close()
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class RemoteKernel:
    """A kernel of a server, spoken to over its websocket as a browser does."""

    def __init__(self, server: Server, kernel_id: str) -> None:
        self.server = server
        self.id = kernel_id
        self.socket = server.listen(f"api/kernels/{kernel_id}/channels")

    def reconnect(self) -> None:
        """Connect anew, as JupyterLab does after a restart: only then the server waits until the
        kernel's broadcasts arrive again."""
        self.socket.close()
        self.socket = self.server.listen(f"api/kernels/{self.id}/channels")

    def send(self, code: str) -> str:
        """Ask for the execution of `code`; the id of the request."""
        msg_id = uuid.uuid4().hex
        self._send("execute_request", msg_id, {"code": code, "silent": False})
        return msg_id

    def run(self, code: str) -> Cell:
        """Execute `code` and wait for its end."""
        return self.finish(self.send(code))

    def finish(self, msg_id: str) -> Cell:
        """Wait for the end of a request."""
        cell = Cell(msg_id)
        idle = replied = False
        while not (idle and replied):
            message = json.loads(self.socket.recv())
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            content = message["content"]
            match message["msg_type"]:
                case "stream":
                    cell.said += content["text"]
                case "error":
                    cell.said += f"{content['ename']}: {content['evalue']}"
                case "execute_reply":
                    cell.execution_count = content["execution_count"]
                    replied = True
                case "status" if content["execution_state"] == "idle":
                    idle = True
        return cell

    def finish_all(self, msg_ids: Iterable[str]) -> None:
        """Wait for the end of requests that were sent together, whose messages come mixed."""
        waiting = {(msg_id, what) for msg_id in msg_ids for what in ("idle", "execute_reply")}
        while waiting:
            message = json.loads(self.socket.recv())
            what = message["content"].get("execution_state", message["msg_type"])
            waiting.discard((message["parent_header"].get("msg_id"), what))

    def alerts(self, after: int = 0, limit: int = 1000) -> Any:
        path = f"modelarmor/api/kernels/{self.id}/alerts"
        return self.server.get(path, after=after, limit=limit)

    def about(self, resource: str, action: str = "", count: int = 1) -> list[Any]:
        """The entries of the record about a resource, once there are `count`: a moment later."""
        deadline = time.monotonic() + 60
        while True:
            found = [
                item
                for item in self.alerts()["alerts"]
                if resource in item["alert"].get("Resource", "")
                and action in item["alert"].get("Action", "")
            ]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, f"{len(found)} of {count} about {resource}"

    def _send(self, msg_type: str, msg_id: str, content: dict[str, Any]) -> None:
        header = {
            "msg_id": msg_id,
            "msg_type": msg_type,
            "session": "s",
            "username": "u",
            "date": "",
            "version": "5.3",
        }
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        self.socket.send(json.dumps({**message, "channel": "shell"}))


class Cell:
    """What came of an execution."""

    def __init__(self, msg_id: str) -> None:
        self.msg_id = msg_id
        self.execution_count = 0
        self.said = ""


class Home:
    """A home with secrets and a workspace below it, and servers that run there."""

    def __init__(self, top: Path) -> None:
        self.path = top / "h"
        self.workspace = self.path / "work"
        self.scratch = top / "s"
        self.workspace.mkdir(parents=True)
        (self.path / ".ssh").mkdir()
        (self.path / ".ssh" / "id_ed25519").write_text("a private key\n")
        (self.path / ".bashrc").write_text("# as it was\n")

    def server(self, config: str = "", env: dict[str, str] | None = None) -> Server:
        config = f"c.ModelArmor.scratch_directory = {str(self.scratch)!r}\n{config}"
        own = {"HOME": str(self.path), "SECRET_TOKEN": "the server's"}
        return Server(self.path, config, {**own, **(env or {})})
