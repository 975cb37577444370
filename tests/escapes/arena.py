"""The range: a tree with secrets, a read-only part and a workspace, and what lives beside it.

::

    <root>/site/work/             the workspace, writable
               safe/deep/secret.txt   hidden by path        safe/deep/vault/   hidden with all in it
               readonly/          read-only                 links/             other names of those
               bin/denied         may not run               kit/               the attempts
          /run/                   services' sockets
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from .kit.calls import Range

HERE = Path(__file__).parent
KIT = HERE / "kit"
_SOCKETS = ("stream", "dgram", "seqpacket")
_WATCHED = ("safe", "readonly", "bin", "links")


def compile_kit(folder: Path, token: str) -> None:
    """Build the two C programs once; the attempts get copies."""
    compiler = os.environ.get("CC", "cc")
    subprocess.run(
        [compiler, "-O2", "-pthread", "-o", folder / "probe", KIT / "probe.c"], check=True
    )
    subprocess.run(
        [
            compiler,
            "-O2",
            "-nostdlib",
            "-static-pie",
            "-fPIE",
            "-fno-stack-protector",
            f'-DTOKEN="{token}"',
            "-o",
            folder / "denied",
            KIT / "denied.c",
        ],
        check=True,
    )


class Arena:
    """Builds the range for one user, notices what changed in it, and builds it again."""

    def __init__(self, root: Path, uid: int, mode: str, *, dns: bool = False) -> None:
        self.uid, self.mode = uid, mode
        self.token = secrets.token_hex(16)
        self._root, self._site, self._dns = root, root / "site", dns
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._states: dict[str, tuple[object, ...]] = {}
        self._victim: dict[str, int] = {}
        self.friend, self._other_end = socket.socketpair()
        root.chmod(0o755)
        (root / "run").mkdir(mode=0o755)
        (root / "built").mkdir()
        if uid != os.getuid():
            os.chown(root / "run", uid, uid)
        compile_kit(root / "built", self.token)
        site = str(self._site)
        self.place = Range(
            mode=mode, uid=uid, root=site, work=f"{site}/work", safe=f"{site}/safe",
            deep=f"{site}/safe/deep", secret=f"{site}/safe/deep/secret.txt",
            vault=f"{site}/safe/deep/vault", inner=f"{site}/safe/deep/vault/inner.txt",
            readonly=f"{site}/readonly", data=f"{site}/readonly/data.txt", links=f"{site}/links",
            bin=f"{site}/bin", denied=f"{site}/bin/denied", probe=f"{site}/kit/probe",
            python=os.path.realpath(sys.executable), disk=_disk(),
            sockets={"abstract": f"modelarmor-{secrets.token_hex(4)}",
                     **{name: f"{root}/run/{name}.sock" for name in _SOCKETS}},
        )  # fmt: skip
        self._before: dict[str, object] = {}

    # ---- the tree

    def build(self) -> None:
        """(Re)build the tree and restart what lives outside."""
        self.stop()
        shutil.rmtree(self._site, ignore_errors=True)
        for name in ("work", "safe/deep/vault", "readonly/empty", "readonly/sub", "links", "bin"):
            (self._site / name).mkdir(parents=True)
        shutil.copytree(KIT, self._site / "kit/kit", ignore=shutil.ignore_patterns("__pycache__"))
        built = self._root / "built"
        shutil.copy(built / "probe", self._site / "kit/probe")
        shutil.copy(built / "denied", self._site / "bin/denied")
        self._write("safe/deep/secret.txt", self.token + "\n")
        self._write("safe/deep/vault/inner.txt", self.token + "\n")
        self._write("readonly/data.txt", "data\n")
        self._write("work/decoy", "decoy\n")
        self._write("work/secret.txt", "decoy\n")
        self._write("work/decoy.sh", "#!/bin/sh\necho decoy\n", 0o755)
        for name, target in {"alias": "safe/deep/secret.txt", "data-alias": "readonly/data.txt",
                             "denied-alias": "bin/denied"}.items():  # fmt: skip
            os.link(self._site / target, self._site / "links" / name)
        os.symlink(self.place.secret, self._site / "links/tosecret")
        for name in ("safe/deep/secret.txt", "readonly/data.txt"):
            os.setxattr(self._site / name, "user.note", b"note")
        self._own()
        if os.getuid() == 0:
            self._write("private", self.token + "\n", 0o600)
            os.chown(self._site / "private", 1, 1)
            shutil.copy(built / "probe", self._site / "suid")
            (self._site / "suid").chmod(0o4755)
        self._start()
        self._before = self.fingerprint()
        self._states = {name: _state(process) for name, process in self._processes.items()}

    def _write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self._site / name
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)

    def _own(self) -> None:
        """Everything is the user's, or in ``locked`` all but the workspace somebody else's."""
        if self.uid == os.getuid():
            return
        top = self._site / "work" if self.mode == "locked" else self._site
        for folder, _, files in os.walk(top):
            for path in (folder, *(os.path.join(folder, file) for file in files)):
                os.chown(path, self.uid, self.uid, follow_symlinks=False)

    def fingerprint(self) -> dict[str, object]:
        """What the protected files are: names, owners, modes, times of change, content."""
        seen: dict[str, object] = {}
        for top in _WATCHED:
            for folder, _, files in os.walk(self._site / top):
                for path in (folder, *(os.path.join(folder, file) for file in files)):
                    seen[os.path.relpath(path, self._site)] = _facts(path)
        for name in _SOCKETS:
            seen[name] = os.path.exists(self.place.sockets[name])
        return seen

    def changes(self) -> list[str]:
        """Protected names that are not what they were, and the death of the process outside."""
        now, before = self.fingerprint(), self._before
        names = sorted(k for k in now.keys() | before.keys() if now.get(k) != before.get(k))
        names += [f"process outside ({name})" for name, process in self._processes.items()
                  if _state(process) != self._states[name]]  # fmt: skip
        return names

    # ---- beside it

    def _start(self) -> None:
        user = (
            {}
            if self.uid == os.getuid()
            else {"user": self.uid, "group": self.uid, "extra_groups": []}
        )
        command = [sys.executable, "-I", "-S", str(HERE / "outside.py")]
        sockets = {"token": self.token, "sockets": self.place.sockets, "dns": self._dns}
        server = subprocess.Popen([*command, "server", json.dumps(sockets)], stdout=subprocess.PIPE)
        victim = subprocess.Popen(
            [*command, "victim", self.place.secret, str(self._other_end.fileno())],
            stdout=subprocess.PIPE, pass_fds=[self._other_end.fileno()],
            env={"TOKEN": self.token}, **user,  # type: ignore[call-overload]
        )  # fmt: skip
        self._processes = {"server": server, "victim": victim}
        assert server.stdout
        assert victim.stdout
        ports = json.loads(server.stdout.readline())
        self._victim = json.loads(victim.stdout.readline())
        self.place = replace(
            self.place, ports={**ports, "shm": self._victim["key"]}, victim=self._victim["pid"],
            victim_tid=self._victim["pid"], victim_fd=self._victim["fd"],
            victim_address=self._victim["address"], token_size=len(self.token),
        )  # fmt: skip

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        self._processes = {}
        if self._victim:
            libc = ctypes.CDLL(None)
            libc.shmctl(self._victim["segment"], 0, None)
            libc.mq_unlink(f"/modelarmor-{self._victim['pid']}".encode())
            self._victim = {}

    def policy(self) -> str:
        return json.dumps(_policy(self.place))  # YAML is a superset


def _facts(path: str) -> tuple[object, ...]:
    info = os.lstat(path)
    content = b""
    if os.path.isfile(path) and not os.path.islink(path):
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).digest()
    return (info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns,
            info.st_ctime_ns, content)  # fmt: skip


def _state(process: subprocess.Popen[bytes]) -> tuple[object, ...]:
    """Whether a process runs, and what others could have done to it."""
    if process.poll() is not None:
        return ("ended",)
    folder = Path("/proc", str(process.pid))
    fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
    return (fields[0] in (b"T", b"t"), fields[16], fields[38], (folder / "limits").read_bytes(),
            (folder / "oom_score_adj").read_bytes(), (folder / "coredump_filter").read_bytes(),
            os.sched_getaffinity(process.pid))  # fmt: skip


def _disk() -> str:
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            device, point, *_ = line.split()
            if point == "/" and device.startswith("/dev/"):
                return device
    return "/dev/sda"


def _policy(a: Range) -> dict[str, Any]:
    """The policy of a mode, as plain data."""
    spec: dict[str, Any] = {"selector": {"matchLabels": {"workload": "escape"}}, "severity": 7}
    if a.mode == "allow":
        prefix = os.path.realpath(sys.base_prefix)
        tops = sorted({"/usr/", "/bin/", "/lib/", "/lib64/", "/proc/", prefix.rstrip("/") + "/"})
        readable = [{"dir": top, "recursive": True, "readOnly": True} for top in tops]
        spec["process"] = {
            "matchPaths": [{"path": p} for p in sorted({a.python, a.probe})],
            "matchDirectories": [{"dir": "/usr/bin/", "recursive": True},
                                 {"dir": "/bin/", "recursive": True}],
        }  # fmt: skip
        spec["file"] = {"matchDirectories": [
            *readable,
            {"dir": a.work + "/", "recursive": True},
            {"dir": a.root + "/kit/", "recursive": True, "readOnly": True},
            {"dir": a.readonly + "/", "recursive": True, "readOnly": True},
        ]}  # fmt: skip
        action = "Allow"
    else:
        spec["process"] = {"matchPaths": [{"path": a.denied}]}
        spec["file"] = {
            "matchPaths": [{"path": a.secret}, {"path": a.denied}],
            "matchDirectories": [{"dir": a.vault + "/", "recursive": True},
                                 {"dir": a.readonly + "/", "recursive": True, "readOnly": True}],
        }  # fmt: skip
        if a.mode == "fileless":
            spec["presets"] = [{"name": "filelessExec"}]
        action = "Block"
    return {"apiVersion": "security.kubearmor.com/v1", "kind": "KubeArmorPolicy",
            "metadata": {"name": f"escape-{a.mode}", "namespace": "default"},
            "spec": {**spec, "action": action}}  # fmt: skip
