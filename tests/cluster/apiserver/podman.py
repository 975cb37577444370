"""Runs the stand-in's pods as real containers, where podman is: `podman kube play` of the manifest.

What differs from the manifest: its volumes are directories of the test's own, filled as the kubelet
fills them; the file system behind the image is this machine's, to be read only; and since no
KubeArmor is here, the container's command runs under the embedded sandbox in the container, by the
policies and the posture that the stand-in was given. User, groups, capabilities, read-only root,
seccomp profile, limits and mounts are the manifest's, by runc.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from modelarmor.policy import document
from modelarmor.policy.model import Posture
from tests.cluster.apiserver.kubelet import Kubelet
from tests.cluster.apiserver.server import ApiServer
from tests.cluster.apiserver.store import Object

IMAGE: Final = "localhost/modelarmor-test:1"
_ROOT: Final = Path(__file__).parents[3]
_ENFORCER: Final = "/run/enforcer"
_MESSAGE: Final = "/dev/termination-log"
_SECONDS: Final = 120
#: of this machine, behind the image
_BEHIND: Final = ("/usr", sys.base_prefix, sys.prefix, str(_ROOT))
#: runc may not raise what this machine has lowered
_CONFIGURATION: Final = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
"""


class Podman:
    """Podman with everything that it keeps in one directory."""

    def __init__(self) -> None:
        #: podman takes no long one
        self._directory = directory = Path(tempfile.mkdtemp(prefix="podman-"))
        configuration = directory / "containers.conf"
        configuration.write_text(_CONFIGURATION)
        self._env = {**os.environ, "CONTAINERS_CONF": str(configuration)}
        self._words = ["podman", "--root", str(directory / "store"), "--storage-driver", "vfs"]
        self._words += ["--runroot", str(directory / "run"), "--cgroup-manager", "cgroupfs"]

    def __call__(self, *words: str, text: str | None = None) -> str:
        """Run it; what it printed."""
        done = subprocess.run(
            [*self._words, *words], env=self._env, input=text, capture_output=True, text=True,
            timeout=_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"podman {words[0]}: {done.stderr.strip()}")
        return done.stdout.strip()

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Run it on; what it prints is to be read."""
        return subprocess.Popen(
            [*self._words, *words], env=self._env, stdout=subprocess.PIPE, text=True
        )

    def close(self) -> None:
        """End and remove everything."""
        self("pod", "rm", "--force", "--all")
        self("rmi", "--force", "--all")
        shutil.rmtree(self._directory)

    def make_image(self, directory: Path) -> None:
        """An image with directories, and with links to what lies behind it."""
        for name in ("etc", "tmp", "proc", "sys", "dev", "run", "mnt", "home", "usr"):
            (directory / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (directory / name).symlink_to(f"usr/{name}")
        (directory / "etc" / "passwd").write_text("user:x:1000:100::/home:/bin/false\n")
        archive = shutil.make_archive(str(directory), "tar", directory)
        path = f"ENV PATH={sys.prefix}/bin:/usr/bin"
        self("import", "--change", path, archive, IMAGE)


@cache
def missing() -> str:
    """Why no container runs here; empty where one does."""
    if absent := [name for name in ("podman", "runc", "catatonit") if shutil.which(name) is None]:
        return f"not installed: {', '.join(absent)}"
    if os.geteuid():
        return "podman is tried as root alone, which hands volumes over to the container's user"
    podman = Podman()
    try:
        with tempfile.TemporaryDirectory() as directory:
            podman.make_image(Path(directory) / "image")
        podman("run", "--rm", "--network=host", "-v=/usr:/usr:ro", IMAGE, "/usr/bin/true")
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return f"no container runs here: {error}"
    finally:
        podman.close()
    return ""


class Container:
    """A container that runs, or has ended."""

    def __init__(self, podman: Podman, name: str) -> None:
        self._podman, self._name = podman, name
        self._waiting = podman.begin("wait", name)
        self._code: int | None = None
        self._lock = threading.Lock()  # the kubelet waits on a thread, and polls on another

    def poll(self) -> int | None:
        """Its exit status, once it has ended."""
        return None if self._waiting.poll() is None else self.wait()

    def wait(self) -> int:
        """Wait for its exit status."""
        with self._lock:
            if self._code is None:
                said, _ = self._waiting.communicate()
                self._code = int(said.strip() or 137)
            return self._code

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal("TERM")

    def kill(self) -> None:
        """End it."""
        self._signal("KILL")

    def _signal(self, name: str) -> None:
        try:
            self._podman("kill", "--signal", name, self._name)
        except RuntimeError:  # it has ended meanwhile
            self.wait()


class PodmanKubelet(Kubelet):
    """A kubelet whose containers are containers."""

    def __init__(self, server: ApiServer, directory: Path) -> None:
        super().__init__(server, directory)
        self.podman = Podman()
        self.podman.make_image(directory / "image")
        self.images = {IMAGE}

    async def stop(self) -> None:
        """End every pod."""
        await super().stop()
        self.podman.close()

    def _start(self, pod: Object) -> tuple[Any, Path]:
        name, root = pod["metadata"]["name"], self._root(pod)
        container = pod["spec"]["containers"][0]
        message = root / "message"
        manifest = self._manifest(pod, self._volumes(pod, container, root), root)
        # --replace: a container that starts again is a new one, with the pod's volumes
        words = ("kube", "play", "--replace", "--network", "host", "-")
        self.podman(*words, text=yaml.safe_dump(manifest))
        return Container(self.podman, f"{name}-{container['name']}"), message

    def _manifest(self, pod: Object, places: dict[str, str], root: Path) -> Object:
        """The pod with its volumes where they are, and its command under the sandbox."""
        spec = json.loads(json.dumps(pod["spec"]))
        (container,) = spec["containers"]
        context = spec["securityContext"]
        for place in {*places.values()}:
            _give(Path(place), context["fsGroup"])
        self._enforcement(pod, root / "enforcer")
        message = root / "message"
        message.touch()
        message.chmod(0o666)
        given = {_ENFORCER: str(root / "enforcer"), _MESSAGE: str(message)}
        given |= {place: place for place in _outermost(_BEHIND)}
        # podman makes /dev/shm itself
        mounts = [item for item in container["volumeMounts"] if item["mountPath"] in places]
        volumes = [_host(item["name"], places[item["mountPath"]]) for item in mounts]
        container["volumeMounts"] = mounts
        for number, (path, place) in enumerate(given.items()):
            volumes.append(_host(f"given-{number}", place))
            container["volumeMounts"].append(
                {"name": f"given-{number}", "mountPath": path, "readOnly": path != _MESSAGE}
            )
        program = [sys.executable, "-I", f"{_ENFORCER}/enforcer.py"]
        if self.enforces:
            container["command"] = [*program, *container["command"]]
        spec |= {"volumes": volumes, "restartPolicy": "Never"}
        metadata = {"name": pod["metadata"]["name"], "labels": pod["metadata"]["labels"]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    def _enforcement(self, pod: Object, directory: Path) -> None:
        """What the enforcer reads: the policies that select the pod, and the posture."""
        directory.mkdir(exist_ok=True)
        (directory / "policies.yaml").write_text(document.dump(self._policies(pod, {})))
        posture: Posture = self._posture(pod)
        told = {part: getattr(posture, part) for part in ("file", "network", "capabilities")}
        (directory / "posture.json").write_text(json.dumps(told))
        source = Path(__file__).with_name("enforcer.py")
        (directory / "enforcer.py").write_text(source.read_text())


def _give(directory: Path, group: int) -> None:
    """A volume as the kubelet hands it over to ``fsGroup``."""
    for place in (directory, *directory.rglob("*")):
        os.chown(place, -1, group)
        if place.is_dir():
            place.chmod(0o2775)


def _outermost(directories: tuple[str, ...]) -> list[str]:
    return [
        one
        for one in dict.fromkeys(directories)
        if not any(one != other and Path(one).is_relative_to(other) for other in directories)
    ]


def _host(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "hostPath": {"path": path}}
