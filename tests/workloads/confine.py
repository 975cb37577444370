"""``python -m tests.workloads.confine JOB``: run a command under a profile, and print what came.

It is a process of its own because the user that is confined starts the sandbox. As root it becomes
another user where the job says so; what bars that user's way to the interpreter and to this
checkout is covered, in a mount namespace of this process only.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from modelarmor import profiles
from modelarmor.sandbox import CannotConfine, Sandbox, Workload
from tests.escapes.battery import enter_namespaces, open_way

_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
_ROOT = Path(__file__).parents[2]


def become(uid: int) -> None:
    """Be the user ``uid`` from here on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) < 0 or libc.mount(
        b"none", b"/", None, _MS_REC | _MS_PRIVATE, None
    ):
        raise OSError(ctypes.get_errno(), "no mount namespace can be had")
    open_way([Path(sys.base_prefix), Path(sys.prefix), _ROOT])
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if not os.access(sys.executable, os.X_OK) or not os.access(_ROOT / "modelarmor", os.R_OK):
        raise OSError(f"user {uid} can read neither {sys.executable} nor {_ROOT}")


def serve(targets: list[str]) -> None:
    """Answer each connection to one of ``host:port``; first in a network of this process alone."""
    if not enter_namespaces():
        raise OSError("no network namespace can be had")
    for target in targets:
        host, _, port = target.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, int(port)), family=family)
        threading.Thread(target=_answer, args=(listener,), daemon=True).start()
        with socket.create_connection((host, int(port)), timeout=5) as sock:
            assert sock.recv(100) == b"connected", target


def _answer(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"connected")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run ``job["command"]`` confined; its status, output and alerts."""
    os.environ["HOME"] = job["home"]
    workspace, tmp = Path(job["workspace"]), Path(job["tmp"])
    profile = profiles.load(
        job["profile"],
        workspace=workspace,
        home=Path(job["home"]),
        tmp=tmp,
        prefix=Path(sys.prefix),
    )
    workload = Workload(
        "work",
        job["command"],
        profile.policies,
        profile.posture,
        profile.network,
        profile.resources,
        env=profile.environ(os.environ),
        cwd=Path(job["cwd"]),
    )
    process = Sandbox.start(
        workload, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with process:
        assert process.stdout is not None
        output = process.stdout.read().decode(errors="replace")
        status = process.wait(60)
    page = process.recorder.after(0, 10_000)
    return {
        "status": status,
        "output": output,
        "alerts": [alert.to_json() for _, alert in page.alerts],
    }


def main() -> None:
    """Print the outcome as JSON: ``unavailable`` when this machine does not allow the experiment,
    ``refused`` when the sandbox did not start the command."""
    job = json.loads(sys.argv[1])
    try:
        if job["serve"]:
            serve(job["serve"])
        if job["uid"] != os.getuid():
            become(job["uid"])
    except (OSError, subprocess.CalledProcessError) as error:
        print(json.dumps({"unavailable": str(error)}))
        return
    try:
        outcome = run(job)
    except CannotConfine as error:
        outcome = {"refused": str(error)}
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
