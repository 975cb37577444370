"""What a client of a Jupyter server is told of kernels in pods: a real server, a real kernel."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from modelarmor.alerts import Alert
from tests.cluster.conftest import BLOCK, NAMESPACE, RECORDINGS, Here, cluster
from tests.cluster.relay.standin import StandIn, encoded, relay
from tests.jupyter.server import CONFINED, Home, RemoteKernel, Server

_SECONDS = 60
#: by which hook KubeArmor sees an access to a file; the rest is not told apart here
_HOOKS = {
    "read": "FILE_OPEN", "list": "FILE_OPEN", "write": "FILE_PERMISSION", "create": "PATH_MKNOD",
    "delete": "PATH_UNLINK", "metadata": "PATH_CHMOD", "": "SECURITY_BPRM_CHECK",
}  # fmt: skip
_VISIBILITY = "kubearmor-visibility"
_LAUNCH = "https://schema.modelarmor.dev/jupyter/launch/v1"


class Around:
    """A cluster and its relay, on an event loop beside the test's."""

    def __init__(self, directory: Path) -> None:
        self.here: Here
        self.standin = StandIn()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._stack = AsyncExitStack()
        self.do(self._open(directory))

    async def _open(self, directory: Path) -> None:
        self.here = await self._stack.enter_async_context(cluster(directory))
        await self._stack.enter_async_context(relay(self.standin))

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_SECONDS)

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        async def run() -> None:
            function(*arguments)

        self.do(run())

    def annotate(self, namespace: str, annotations: dict[str, str]) -> None:
        """Make a namespace."""
        self.call(self.here.server.namespace, namespace, annotations)

    def reported(self, pod: Any, alert: Alert) -> None:
        """Have the relay send what a pod's policies said, as KubeArmor's BPF enforcer would."""
        meta = pod["metadata"]
        hook = _HOOKS[alert.EventData.get("Access", "read") if alert.Operation == "File" else ""]
        said = {name: value for name, value in asdict(alert).items() if value}
        said |= {"Enforcer": "BPFLSM", "Data": f"lsm={hook}", "ATags": []}
        said.pop("EventData", None)
        said |= {"NamespaceName": meta["namespace"], "PodName": meta["name"]}
        self._loop.call_soon_threadsafe(self.standin.send, encoded(**said))

    def alert(self, pod: str, resource: str, **more: Any) -> None:
        """Have the relay send what KubeArmor would."""
        said = {
            "NamespaceName": NAMESPACE,
            "PodName": pod,
            "PolicyName": pod,
            "Operation": "File",
            "Resource": resource,
            "Source": "/usr/bin/python3 -m ipykernel_launcher",
            "ProcessName": "/usr/bin/python3",
            "Data": "lsm=FILE_OPEN",
            "Action": "Block",
            "Result": "Permission denied",
            "Enforcer": "BPFLSM",
        }
        self.call(self.standin.send, encoded(**(said | more)))

    def close(self) -> None:
        self.do(self._stack.aclose())
        self.do(_settled())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()

    def config(self, **more: Any) -> str:
        """The server's configuration."""
        pods = {**self.here.config["KernelPods"], **more}
        pods.setdefault("images", dict.fromkeys(("notebook", "untrusted-model"), "a/notebook"))
        pods.pop("image")
        return "\n".join(f"c.KernelPods.{name} = {value!r}" for name, value in pods.items())

    @contextmanager
    def server(self, home: Home, **more: Any) -> Iterator[Server]:
        made = home.server(self.config(**more))
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture
def around(tmp_path: Path) -> Iterator[Around]:
    made = Around(tmp_path)
    yield made
    made.close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "u")


def state_of(kernel: RemoteKernel) -> Any:
    return kernel.server.get(f"modelarmor/api/kernels/{kernel.id}")


def restarted(kernel: RemoteKernel, **body: Any) -> Any:
    return kernel.server.post(f"modelarmor/api/kernels/{kernel.id}/restart", body)


def test_a_pods_alert_is_in_its_kernels_record_with_its_cell_and_anothers_is_not(
    around: Around, home: Home
) -> None:
    target = f"127.0.0.1:{around.standin.port}"
    with around.server(home, relay=target) as server, server.kernel(CONFINED) as kernel:
        around.do(around.standin.until_watched())
        pod = f"kernel-{kernel.id}"
        cell = kernel.run("import time; print(time.time())")
        during = _instant(float(cell.said))
        around.alert("kernel-of-another", "/etc/others")
        around.alert(pod, "/etc/elsewhere", NamespaceName="other")
        around.alert(pod, "/etc/shadow", UpdatedTime=during)
        (mine,) = kernel.about("/etc/shadow")
        page = kernel.alerts()
        resources = [item["alert"].get("Resource") for item in page["alerts"]]
        assert resources == ["/etc/shadow"]
        assert page["confined"] is True
        assert page["counts"]["by_action"] == {"Block": 1}
        assert mine["cell"]["attributed"] == "time"
        assert mine["cell"]["msg_id"] == cell.msg_id
        assert mine["cell"]["execution_count"] == cell.execution_count

        state = state_of(kernel)
        assert state["confined"] is True
        assert state["profile"]["name"] == "notebook"
        assert (state["last"], state["alerts_not_heard"]) == (1, "")
        assert {rule["tier"] for rule in state["plan"]["rules"]} == {"kubearmor"}
        assert "modelarmor-notebook" in {rule["policy"] for rule in state["plan"]["rules"]}

        path = f"modelarmor/api/kernels/{kernel.id}/alerts/{mine['seq']}/explanation"
        why = server.get(path)
        assert why["decision"]["verdict"] == "block"
        assert why["decision"]["policy"] in (pod, "DefaultPosture")


def test_a_relay_that_refuses_leaves_the_kernel_confined_and_the_state_says_why(
    around: Around, home: Home
) -> None:
    around.standin.refusal = grpc.StatusCode.PERMISSION_DENIED
    target = f"127.0.0.1:{around.standin.port}"
    with around.server(home, relay=target) as server, server.kernel(CONFINED) as kernel:
        assert kernel.run("print(6 * 7)").said == "42\n"
        state = state_of(kernel)
        assert state["confined"] is True
        assert "no right to read it" in state["alerts_not_heard"]
        assert kernel.alerts()["alerts"] == []


def test_without_a_relay_the_state_says_that_alerts_are_not_shown(
    around: Around, home: Home
) -> None:
    with around.server(home) as server, server.kernel(CONFINED) as kernel:
        assert "c.KernelPods.relay" in state_of(kernel)["alerts_not_heard"]


def test_a_start_says_what_it_waits_for_as_it_happens(around: Around, home: Home) -> None:
    around.here.kubelet.unschedulable = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"
    with around.server(home, launch_seconds=60.0) as server, ThreadPoolExecutor(1) as beside:
        events = server.listen("api/events/subscribe")
        answer = beside.submit(server.start, CONFINED)
        why = ""
        with requests.Session() as http:
            http.headers.update(server.http.headers)
            while "nvidia.com/gpu" not in why and not answer.done():
                while (event := json.loads(events.recv())).get("schema_id") != _LAUNCH:
                    pass
                found = http.get(f"{server.url}modelarmor/api/kernels", timeout=_SECONDS).json()
                for state in found:
                    assert state["kernel_id"] == event["kernel_id"]
                    assert (state["confined"], state["starting"]) == (False, True)
                    why = state["why"]
        assert "no node takes it" in why
        assert "3 Insufficient nvidia.com/gpu" in why
        pod = around.here.only("pods")["metadata"]["name"]
        around.call(around.here.server.store.delete, ("", "pods"), NAMESPACE, pod)
        assert answer.result(_SECONDS).status_code == 500
        events.close()
        assert server.get("modelarmor/api/kernels") == []


def test_another_profile_is_another_pod_and_record_mode_takes_a_namespace(
    around: Around, home: Home
) -> None:
    with around.server(home) as server, server.kernel(CONFINED) as kernel:
        kernel.run("here = 1")
        before = around.here.only("pods")["metadata"]["uid"]

        refused = restarted(kernel, record=True)
        assert refused.status_code == 403
        assert "c.KernelPods.recording_namespace" in refused.text
        assert kernel.run("print(here)").said == "1\n"

        answer = restarted(kernel, profile="untrusted-model")
        assert answer.status_code == 200, answer.text
        assert answer.json()["profile"]["name"] == "untrusted-model"
        after = around.here.only("pods")["metadata"]
        assert after["uid"] != before
        assert after["labels"]["modelarmor.io/profile"] == "untrusted-model"
        kernel.reconnect()
        assert "NameError" in kernel.run("print(here)").said

        # without an image for it nothing is stopped
        refused = restarted(kernel, profile="notebook-online")
        assert refused.status_code == 403
        assert "no image" in json.loads(refused.text)["message"]
        assert kernel.run("print(2)").said == "2\n"


def test_what_was_recorded_in_a_pod_becomes_a_profile_under_which_it_runs(
    around: Around, home: Home, tmp_path: Path
) -> None:
    needed = tmp_path / "needed.csv"
    needed.write_text("what the work needs")
    around.annotate(RECORDINGS, dict.fromkeys(BLOCK, "audit") | {_VISIBILITY: BLOCK[_VISIBILITY]})
    around.here.kubelet.reports = around.reported
    target = f"127.0.0.1:{around.standin.port}"
    images = dict.fromkeys(("notebook", "mine"), "a/notebook")
    with (
        around.server(
            home,
            relay=target,
            images=images,
            recording_namespace=RECORDINGS,
            port_forward="always",
        ) as server,
        server.kernel(CONFINED) as kernel,
    ):
        around.do(around.standin.until_watched())
        assert "PermissionError" in kernel.run(f"open({str(needed)!r})").said

        answer = restarted(kernel, record=True)
        assert answer.status_code == 200, answer.text
        state = answer.json()
        assert (state["recording"], state["posture"]["file"]) == (True, "audit")
        assert around.here.only("pods")["metadata"]["namespace"] == RECORDINGS
        assert around.here.left() == {
            plural: [f"kernel-{kernel.id}"]
            for plural in ("secrets", "kubearmorpolicies", "networkpolicies", "pods")
        }
        kernel.reconnect()
        assert kernel.run(f"print(open({str(needed)!r}).read())").said == "what the work needs\n"
        assert "PermissionError" in kernel.run("open('/etc/shadow')").said
        # opened to be changed, and not changed: also where nothing refuses it no harm is done
        assert "PermissionError" in kernel.run("import os; open(os.__file__, 'r+')").said
        kernel.about(str(needed), "Audit")
        kernel.about("/etc/shadow", "Block")
        kernel.about(os.__file__, "Block")

        asked = {"kernel_id": kernel.id, "seqs": None}
        preview = server.post("modelarmor/api/profiles/preview", asked).json()
        assert str(needed) in preview["document"]
        refused = {item["what"].split()[-1]: item["why"] for item in preview["refused"]}
        assert "Block" in refused["/etc/shadow"]
        assert "read only" in refused[os.__file__]
        assert "/run/modelarmor/" not in preview["document"]

        made = server.post("modelarmor/api/profiles", {**asked, "name": "mine"})
        assert made.status_code == 201, made.text
        answer = restarted(kernel, profile="mine")
        assert answer.status_code == 200, answer.text
        assert answer.json()["recording"] is False
        assert around.here.only("pods")["metadata"]["namespace"] == NAMESPACE
        kernel.reconnect()
        assert kernel.run(f"print(open({str(needed)!r}).read())").said == "what the work needs\n"
        assert "PermissionError" in kernel.run(f"open({str(needed.parent / 'other')!r}, 'w')").said


def test_a_profile_under_which_the_kernel_does_not_come_up_gives_the_former_back(
    around: Around, home: Home
) -> None:
    images = {"notebook": "a/notebook", "untrusted-model": "a/missing"}
    around.here.kubelet.images = {"a/notebook"}
    with around.server(home, images=images) as server, server.kernel(CONFINED) as kernel:
        answer = restarted(kernel, profile="untrusted-model")
        assert answer.status_code == 500
        assert "a/missing" in answer.text
        assert "pods" not in around.here.left()
        again = server.post(f"api/kernels/{kernel.id}/restart", {})
        assert again.status_code == 200, again.text
        assert state_of(kernel)["profile"]["name"] == "notebook"
        kernel.reconnect()
        assert kernel.run("print(3)").said == "3\n"


async def _settled() -> None:
    """Connections that were cut have ended when their tasks have."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
