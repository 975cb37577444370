"""Runs the stand-in's pods as processes of this machine, and has their policies enforced.

A pod's command is run as it stands, in a directory of the pod's own: where a container would see
a volume at its mountPath, the process is told the volume's directory, in command, environment
and policy alike. What KubeArmor would enforce is enforced by the embedded sandbox: every
KubeArmorPolicy of the namespace whose selector fits the pod's labels when its container starts,
with the posture of the namespace's annotations. What is not there: namespaces of the kernel,
images, cgroups, users, NetworkPolicies.
"""

from __future__ import annotations

import asyncio
import base64
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from modelarmor.alerts import Alert
from modelarmor.policy import document
from modelarmor.policy.model import Policy, Posture
from modelarmor.sandbox import Sandbox, Workload
from tests.cluster.apiserver.server import ApiServer
from tests.cluster.apiserver.store import Object, Resource

_POD: Resource = ("", "pods")
_POLICY: Resource = ("security.kubearmor.com", "kubearmorpolicies")
_GRACE_SECONDS = 2.0


class Kubelet:
    """Schedules, runs, restarts and ends pods."""

    def __init__(self, server: ApiServer, directory: Path) -> None:
        self._server, self._directory = server, directory
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, Any] = {}
        #: images that can be pulled; None: every one
        self.images: set[str] | None = None
        #: what lies in PersistentVolumeClaims, by their names
        self.claims: dict[str, Path] = {}
        #: why no node takes a pod; empty: one does
        self.unschedulable = ""
        #: hears what the policies of a pod refused or audited, on another thread
        self.reports: Callable[[Object, Alert], None] = lambda _pod, _alert: None
        #: whether KubeArmor acts
        self.enforces = True
        #: pods whose node nobody hears of, by uid: their containers run, whatever is asked of them
        self.lost: set[str] = set()
        server.store.listeners.append(self._changed)

    async def stop(self) -> None:
        """End every pod."""
        for uid in list(self._tasks):
            self._kill(uid)
            self._tasks[uid].cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for process in self._processes.values():
            process.kill()
            process.wait()

    @property
    def running(self) -> int:
        """How many containers run."""
        return sum(process.poll() is None for process in self._processes.values())

    def evict(self, namespace: str, name: str) -> None:
        """End a pod as a node under pressure does."""
        pod = self._server.store.objects[_POD][namespace, name]
        self._status(pod, {"reason": "Evicted", "message": "The node was low on memory"})
        self._server.store.delete(_POD, namespace, name)

    def lose(self, namespace: str, name: str) -> None:
        """Lose the node of a pod, and evict the pod, as the node's controller does in the end."""
        pod = self._server.store.objects[_POD][namespace, name]
        why = {"phase": "Unknown", "reason": "NodeLost", "message": "Node node-1 is unresponsive"}
        self._status(pod, why)
        self.lost.add(pod["metadata"]["uid"])
        self._server.store.delete(_POD, namespace, name)

    def find(self) -> None:
        """Lost nodes are back, and do what they were asked to."""
        lost, self.lost = self.lost, set()
        for uid in lost:
            self._kill(uid)

    def _changed(self, kind: str, resource: Resource, item: Object) -> None:
        if resource != _POD:
            return
        uid = item["metadata"]["uid"]
        if kind == "ADDED":
            self._tasks[uid] = asyncio.get_running_loop().create_task(self._run(item))
        elif uid in self.lost:
            return
        elif kind == "MODIFIED" and "deletionTimestamp" in item["metadata"]:
            if uid not in self._processes:
                self._tasks[uid].cancel()
            self._kill(uid)

    def _kill(self, uid: str) -> None:
        process = self._processes.get(uid)
        if process is not None and process.poll() is None:
            process.terminate()
            asyncio.get_running_loop().call_later(_GRACE_SECONDS, _kill, process)

    async def _run(self, pod: Object) -> None:
        try:
            if self.unschedulable:
                condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
                condition["message"] = self.unschedulable
                self._status(pod, {"phase": "Pending", "conditions": [condition]})
                await asyncio.Event().wait()
            image = pod["spec"]["containers"][0]["image"]
            if self.images is not None and image not in self.images:
                why = f'failed to pull "{image}": not found'
                for reason in ("ErrImagePull", "ImagePullBackOff"):
                    self._container(pod, {"waiting": {"reason": reason, "message": why}}, "Pending")
                await asyncio.Event().wait()
            await self._containers(pod)
        except asyncio.CancelledError:
            pass
        meta = pod["metadata"]
        if (meta["namespace"], meta["name"]) in self._server.store.objects[_POD]:
            self._server.store.remove(_POD, meta["namespace"], meta["name"])

    async def _containers(self, pod: Object) -> None:
        meta, last, restarts = pod["metadata"], None, 0
        await asyncio.to_thread(self._prepare, pod)
        while not self._ending(pod):
            process, message = await asyncio.to_thread(self._start, pod)
            self._processes[meta["uid"]] = process
            self._container(pod, {"running": {"startedAt": _NOW}}, "Running", restarts, last)
            if self._ending(pod):  # it was deleted while it started
                process.kill()
            code = await asyncio.to_thread(process.wait)
            if hasattr(process, "close"):
                process.close()
            said = message.read_text() if message.exists() else ""
            ended = {"exitCode": code % 256, "reason": "Error" if code else "Completed"}
            ended |= {"message": said, "startedAt": _NOW, "finishedAt": _NOW}
            last = {"terminated": ended}
            message.unlink(missing_ok=True)
            restarts += 1
            if not self._ending(pod):
                self._container(pod, last, "Running", restarts - 1, last)

    def _ending(self, pod: Object) -> bool:
        meta = pod["metadata"]
        known = self._server.store.objects[_POD].get((meta["namespace"], meta["name"]))
        return known is None or "deletionTimestamp" in known["metadata"]

    def _prepare(self, pod: Object) -> None:
        """Run the init containers, which nothing confines."""
        for container in pod["spec"].get("initContainers") or []:
            command, env, _ = self._command(pod, container)
            subprocess.run(command, env=env, check=True, cwd=self._directory)

    def _command(
        self, pod: Object, container: Object
    ) -> tuple[list[str], dict[str, str], dict[str, str]]:
        """What a container runs, with which environment, and where its volumes are."""
        root = self._root(pod)
        places = self._volumes(pod, container, root)
        places["/dev/termination-log"] = str(root / "message")
        env: dict[str, str] = {}
        for item in container["env"]:
            env[item["name"]] = _moved(expanded(item["value"], env), places)
        words = [_moved(expanded(word, env), places) for word in container["command"]]
        env["PATH"] = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        return words, env, places

    def _root(self, pod: Object) -> Path:
        return self._directory / str(pod["metadata"]["uid"])[:8]

    def output(self, pod: Object) -> str:
        """What the container wrote: its log."""
        file = self._root(pod) / "output"
        return file.read_text() if file.exists() else ""

    def _start(self, pod: Object) -> tuple[Any, Path]:
        root = self._root(pod)
        container = pod["spec"]["containers"][0]
        command, env, places = self._command(pod, container)
        message = root / "message"
        cwd = Path(_moved(container.get("workingDir", str(root)), places))
        output = (root / "output").open("ab")
        with output:
            if not self.enforces:
                return (
                    subprocess.Popen(
                        command,
                        env=env,
                        cwd=cwd,
                        stdout=output,
                        stderr=output,
                        stdin=subprocess.DEVNULL,
                    ),
                    message,
                )
            workload = Workload(
                pod["metadata"]["name"],
                command,
                self._policies(pod, places),
                self._posture(pod),
                env=env,
                cwd=cwd,
            )
            process = Sandbox.start(
                workload,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                alerts=lambda alert: self.reports(pod, _seen(alert, places)),
            )
        return process, message

    def _volumes(self, pod: Object, container: Object, root: Path) -> dict[str, str]:
        volumes = {item["name"]: item for item in pod["spec"]["volumes"]}
        places = {}
        for mount in container["volumeMounts"]:
            if mount["mountPath"].startswith("/dev/"):
                continue
            volume = volumes[mount["name"]]
            directory = root / mount["name"]
            directory.mkdir(parents=True, exist_ok=True)
            if "secret" in volume:
                self._secret(pod, volume["secret"], directory)
            elif claim := volume.get("persistentVolumeClaim"):
                directory = self.claims[claim["claimName"]]
            places[mount["mountPath"]] = str(directory)
        for mount in container["volumeMounts"]:
            if source := volumes[mount["name"]].get("configMap"):
                self._config(pod, source, Path(places[mount["mountPath"]]), places)
        return places

    def _secret(self, pod: Object, source: Object, directory: Path) -> None:
        key = (pod["metadata"]["namespace"], source["secretName"])
        secret = self._server.store.objects["", "secrets"][key]
        texts = {name: text.encode() for name, text in (secret.get("stringData") or {}).items()}
        texts |= {name: base64.b64decode(text) for name, text in (secret.get("data") or {}).items()}
        for item in source["items"]:
            file = directory / item["path"]
            if not file.exists():
                file.write_bytes(texts[item["key"]])
                file.chmod(source["defaultMode"])

    def _config(self, pod: Object, source: Object, directory: Path, places: dict[str, str]) -> None:
        key = (pod["metadata"]["namespace"], source["name"])
        data = self._server.store.objects["", "configmaps"][key]["data"]
        for item in source["items"]:
            text = data[item["key"]]
            if item["key"].endswith(".json"):  # what a program is told, with paths of its container
                text = _moved(text, places)
            (directory / item["path"]).write_text(text)

    def _policies(self, pod: Object, places: dict[str, str]) -> list[Policy]:
        found = []
        labels = pod["metadata"]["labels"]
        for item in self._server.store.list(_POLICY, pod["metadata"]["namespace"], ""):
            wanted = item["spec"]["selector"]["matchLabels"]
            if wanted.items() <= labels.items():
                kept = {key: item[key] for key in ("apiVersion", "kind", "spec")}
                kept["metadata"] = {"name": item["metadata"]["name"]}
                found += document.load(_moved(yaml.safe_dump(kept, width=1 << 20), places))
        return found

    def _posture(self, pod: Object) -> Posture:
        namespace = self._server.store.objects["", "namespaces"]["", pod["metadata"]["namespace"]]
        said = namespace["metadata"].get("annotations") or {}
        parts = ("file", "network", "capabilities")
        return Posture(*(said.get(f"kubearmor-{part}-posture", "audit") for part in parts))

    def _container(
        self, pod: Object, state: Object, phase: str, restarts: int = 0, last: Object | None = None
    ) -> None:
        container = {
            "name": pod["spec"]["containers"][0]["name"],
            "image": pod["spec"]["containers"][0]["image"],
            "imageID": "",
            "ready": "running" in state,
            "restartCount": restarts,
            "state": state,
            "lastState": last or {},
        }
        running = {"podIP": "127.0.0.1"} if phase == "Running" else {}
        self._status(pod, {"phase": phase, "containerStatuses": [container]} | running)

    def _status(self, pod: Object, status: Object) -> None:
        meta = pod["metadata"]
        key = (meta["namespace"], meta["name"])
        if key in self._server.store.objects[_POD]:
            self._server.store.patch(_POD, *key, {"status": status, "spec": {"nodeName": "node-1"}})


_NOW = "2026-01-01T00:00:00Z"


def expanded(text: str, env: dict[str, str]) -> str:
    """What Kubernetes makes of a word: $(NAME) is a variable that is known, $$ is $."""

    def known(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else env.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", known, text)


def _moved(text: str, places: dict[str, str]) -> str:
    for path in sorted(places, key=len, reverse=True):
        text = re.sub(re.escape(path) + r"(?![\w-])", places[path], text)
    return text


def _seen(alert: Alert, places: dict[str, str]) -> Alert:
    """The alert with the paths that the container would see."""

    def back(text: str) -> str:
        for path in sorted(places, key=lambda path: len(places[path]), reverse=True):
            text = text.replace(places[path], path)
        return text

    return replace(alert, Resource=back(alert.Resource), Source=back(alert.Source))


def _kill(process: Any) -> None:
    if process.poll() is None:
        process.kill()
