"""What is said of a cluster, by its API over a real socket."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelarmor.cli import main
from modelarmor.cluster.doctor import NEEDED
from tests.cluster.relay.standin import StandIn, relay

BLOCK = {f"kubearmor-{part}-posture": "block" for part in ("file", "network", "capabilities")}
SEEN = {"kubearmor-visibility": "process,file,network"}


class Api:
    """The few answers of an API server that are asked for; a path that has none is 404."""

    def __init__(self) -> None:
        self.forbidden: set[str] = set()
        self.denied: set[tuple[str, str]] = set()
        self.answers: dict[str, Any] = {
            "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
            | dict.fromkeys(
                ("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "platform"), ""
            ),
            "/apis/security.kubearmor.com/v1": {
                "kind": "APIResourceList",
                "groupVersion": "security.kubearmor.com/v1",
                "resources": [
                    {
                        "name": "kubearmorpolicies",
                        "kind": "KubeArmorPolicy",
                        "namespaced": True,
                        "singularName": "",
                        "verbs": ["create"],
                    }
                ],
            },
        }
        self.nodes(one="bpf", two="bpf")
        self.annotate(BLOCK | SEEN)
        self.daemons(kubearmor=(2, 2), cilium=(2, 2))
        self.throttling(alertThrottling="false")

    def nodes(self, **enforcers: str) -> None:
        self.answers["/api/v1/nodes"] = _list(
            {
                "metadata": {
                    "name": name,
                    "labels": {"kubearmor.io/enforcer": value} if value else {},
                }
            }
            for name, value in enforcers.items()
        )

    def annotate(self, annotations: dict[str, str], name: str = "kernels") -> None:
        self.answers[f"/api/v1/namespaces/{name}"] = {
            "metadata": {"name": name, "annotations": annotations}
        }

    def daemons(self, **sets: tuple[int, int]) -> None:
        self.answers["/apis/apps/v1/daemonsets"] = _list(
            {
                "metadata": {"name": name, "labels": {"kubearmor-app": name}},
                "spec": {"selector": {}, "template": {}},
                "status": {
                    "numberReady": ready,
                    "desiredNumberScheduled": wanted,
                    "currentNumberScheduled": wanted,
                    "numberMisscheduled": 0,
                },
            }
            for name, (ready, wanted) in sets.items()
        )

    def throttling(self, **data: str) -> None:
        self.answers["/api/v1/configmaps"] = _list(
            [{"metadata": {"name": "kubearmor-config"}, "data": data}]
        )

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        path, _, query = path.partition("?")
        path = path.rstrip("/")
        if path in self.forbidden:
            return 403, {"message": f"{path} is forbidden"}
        if path.endswith("/selfsubjectaccessreviews"):
            asked = body["spec"]["resourceAttributes"]
            what = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
            allowed = (asked["verb"], what) not in self.denied
            return 201, body | {"status": {"allowed": allowed}}
        if path not in self.answers:
            return 404, {"message": f"{path} is not there"}
        found = self.answers[path]
        if "kubearmor-app%3Dkubearmor" in query:
            items = [i for i in found["items"] if i["metadata"]["name"] == "kubearmor"]
            return 200, found | {"items": items}
        return 200, found


def _list(items: Any) -> dict[str, Any]:
    return {"kind": "List", "metadata": {}, "items": list(items)}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    made = Api()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            status, answer = made.answer(self.path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        ],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("MODELARMOR_RELAY", "127.0.0.1:1")
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def ask(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def doctor(namespace: str = "kernels", *more: str) -> tuple[int, dict[str, dict[str, str]]]:
        command = ["doctor", "--cluster", "--json", "--namespace", namespace, *more]
        status = main([*command, "--kubeconfig", str(tmp_path / "config")])
        return status, {item["name"]: item for item in json.loads(capsys.readouterr().out)}

    return doctor


def test_a_cluster_that_can_is_found_to(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ready, done = threading.Event(), threading.Event()
    standin = StandIn()

    async def serve() -> None:
        async with relay(standin):
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait(60)
    monkeypatch.setenv("MODELARMOR_RELAY", f"127.0.0.1:{standin.port}")
    try:
        status, checks = ask()
    finally:
        done.set()
        thread.join()
    assert status == 0
    assert checks.pop("relay")["state"] == "warning"  # it is not encrypted
    assert {check["state"] for check in checks.values()} == {"ok"}


def test_each_link_that_is_missing_is_named_with_its_cure(ask: Any, api: Api) -> None:
    del api.answers["/apis/security.kubearmor.com/v1"]
    api.nodes(one="none", two="")
    api.annotate({"kubearmor-file-posture": "audit"})
    api.daemons(**{"kube-flannel-ds": (1, 1)})
    api.denied = {("create", "kubearmorpolicies"), ("delete", "pods")}
    status, checks = ask()
    assert status == 1
    missing = {name for name, check in checks.items() if check["state"] == "missing"}
    assert missing == {
        "policies", "daemon", "enforcer", "namespace", "network policies", "relay",
        "rights: kubearmorpolicies", "rights: pods",
    }  # fmt: skip
    assert all(checks[name]["cure"] for name in missing)
    assert "may not delete in kernels" in checks["rights: pods"]["found"]
    assert "kubearmor-file-posture=block" in checks["namespace"]["cure"]


def test_the_right_to_forward_ports_is_for_servers_outside(ask: Any, api: Api) -> None:
    api.denied = {("get", "pods/portforward")}
    check = ask()[1]["rights: pods/portforward"]
    assert check["state"] == "warning"
    assert "outside of the cluster" in check["cure"]


def test_what_may_not_be_read_is_not_known_and_not_assumed(ask: Any, api: Api) -> None:
    api.forbidden = {"/api/v1/nodes", "/apis/apps/v1/daemonsets", "/api/v1/configmaps"}
    checks = ask()[1]
    for name in ("enforcer", "daemon", "throttling", "network policies"):
        assert checks[name]["state"] == "unknown"
        assert "cannot be known" in checks[name]["found"]


def test_a_plugin_that_nobody_knows_is_no_promise(ask: Any, api: Api) -> None:
    api.daemons(kubearmor=(1, 2), somebodys=(2, 2))
    checks = ask()[1]
    assert checks["network policies"]["state"] == "unknown"
    assert checks["daemon"]["found"] == "ready on 1 of 2 nodes"


def test_what_only_hides_alerts_is_a_warning(ask: Any, api: Api) -> None:
    api.annotate(BLOCK)
    api.throttling()
    api.nodes(one="bpf", two="none")
    checks = ask()[1]
    for name in ("namespace", "enforcer"):
        assert checks[name]["state"] == "warning"
    assert checks["throttling"]["state"] == "unknown"
    api.throttling(alertThrottling="true", maxAlertPerSec="7")
    assert "after 7 alerts" in ask()[1]["throttling"]["found"]


def test_apparmor_takes_none_of_the_profiles(ask: Any, api: Api) -> None:
    api.nodes(one="bpf", two="apparmor")
    check = ask()[1]["enforcer"]
    assert check["state"] == "warning" and check["found"].endswith("on two")
    api.nodes(two="apparmor")
    assert ask()[1]["enforcer"]["state"] == "missing"


def test_a_namespace_that_kubearmor_leaves_alone_is_named(ask: Any, api: Api) -> None:
    api.annotate(BLOCK | SEEN, "kube-system")
    assert "enforces nothing in kube-system" in ask("kube-system")[1]["namespace"]["found"]


def test_the_namespace_of_record_mode_has_to_audit(ask: Any, api: Api) -> None:
    assert "not recorded but refused" in ask("kernels", "--recording")[1]["namespace"]["found"]
    api.annotate(dict.fromkeys(BLOCK, "audit") | SEEN)
    assert ask("kernels", "--recording")[1]["namespace"]["state"] == "ok"
    confined = ask()[1]["namespace"]
    assert confined["state"] == "missing" and "--recording" in confined["cure"]


def test_the_table_for_people_has_the_cures(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["doctor", "--cluster", "--namespace", "nowhere"]
    assert main([*command, "--kubeconfig", str(tmp_path / "config")]) == 1
    said = capsys.readouterr().out
    assert "unknown  namespace" in said and "→" in said


def test_no_kubeconfig_is_a_mistake_with_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none").write_text("apiVersion: v1\nkind: Config\n")
    assert main(["doctor", "--cluster", "--kubeconfig", str(tmp_path / "none")]) == 2
    assert "cannot be used" in capsys.readouterr().err


def test_the_rights_that_are_looked_for_are_those_of_the_documented_role() -> None:
    page = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()
    (role,) = (
        item
        for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
        for item in yaml.safe_load_all(block)
        if isinstance(item, dict) and item.get("kind") == "Role"
    )
    granted = {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if "/" not in resource
    }
    assert granted == {(group, resource): set(verbs) for group, resource, verbs in NEEDED}
