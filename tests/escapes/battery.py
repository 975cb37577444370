"""All attempts for one user: unconfined, to see that each works, then confined.

``python -m tests.escapes.battery UID RESULTS [MODE…] [--only TEXT]``. As root it makes a mount, a
network and an IPC namespace for itself first, so that nothing it does is seen outside: there the
attempts find a metadata service, private addresses and a name server, and an ordinary user finds an
interpreter that otherwise lies in a home directory that it may not enter.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from .arena import HERE, Arena
from .kit import execs, kernel, network, processes, reads, writes
from .kit.calls import ATTEMPTS, Attempt

_REGISTERED = (execs, kernel, network, processes, reads, writes)


MODES = ("deny", "locked", "allow", "fileless", "offline", "limited", "online")
NETWORK_MODES = ("offline", "limited", "online")
ADDRESSES = (
    "169.254.169.254/32", "10.1.2.3/32", "172.16.1.1/32", "192.168.7.7/32", "100.64.1.1/32",
    "203.0.113.5/32", "fd00:ec2::254/128",
)  # fmt: skip
PRIVATE_V4 = ["0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
              "172.16.0.0/12", "192.168.0.0/16"]  # fmt: skip
PRIVATE_V6 = ["::1/128", "fc00::/7", "fe80::/10"]
_CLONE_NEWNS, _CLONE_NEWNET, _CLONE_NEWIPC = 0x20000, 0x40000000, 0x08000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_PATIENCE_S = 15.0
_libc = ctypes.CDLL(None, use_errno=True)


# ---- namespaces


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode())
    _check(result, f"mount {source} on {target}")


def enter_namespaces() -> bool:
    """Leave the machine's mounts, network and IPC alone; returns whether that worked."""
    if _libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC) < 0:
        return False
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    ip = shutil.which("ip") or "/usr/sbin/ip"
    subprocess.run([ip, "link", "set", "lo", "up"], check=True)
    for address in ADDRESSES:
        subprocess.run([ip, "address", "add", address, "dev", "lo"], check=True)
    return True


def open_way(paths: list[Path]) -> None:
    """Make ``paths`` reachable for all: what bars the way is covered, in this namespace only."""
    barred: dict[Path, list[Path]] = {}
    for path in paths:
        for parent in reversed(path.resolve().parents):
            if not parent.stat().st_mode & 1:
                barred.setdefault(parent, []).append(path.resolve())
                break
    for parent, inside in barred.items():
        held = [(path, os.open(path, os.O_PATH)) for path in inside]
        _mount("tmpfs", str(parent), "tmpfs", 0, "mode=755,size=1m")
        for path, fd in held:
            path.mkdir(parents=True, exist_ok=True)
            _mount(f"/proc/self/fd/{fd}", str(path), "", _MS_BIND | _MS_REC)
            os.close(fd)


# ---- one driver: the process that runs attempts, confined or not


class Driver:
    """Sends the names of attempts to ``kit/driver.py`` and reads the answers."""

    def __init__(self, arena: Arena, scratch: Path, *, confined: bool) -> None:
        self._arena = arena
        self._fds = {"friend": arena.friend.dup()}
        for name, kind in (("socket", socket.SOCK_STREAM), ("datagram", socket.SOCK_DGRAM)):
            self._fds[name] = socket.socket(socket.AF_INET, kind)
        numbers = {name: sock.fileno() for name, sock in self._fds.items()}
        place = asdict(arena.place) | {"inherited": numbers}
        command = [arena.place.python, "-I", "-S", f"{arena.place.root}/kit/kit/driver.py",
                   json.dumps(place)]  # fmt: skip
        self.alerts = scratch / "alerts.jsonl"
        self.plan = scratch / "plan.txt"
        self.log = scratch / "errors.txt"
        if confined:
            job = {"command": command, "policy": arena.policy(), "cwd": place["work"],
                   "alerts": str(self.alerts), "plan": str(self.plan),
                   "fds": list(numbers.values()), "egress": _egress(arena)}  # fmt: skip
            command = [sys.executable, "-m", f"{__package__}.confine", json.dumps(job)]
        else:  # two parents of the same user, as the sandbox has
            command = [
                "/bin/sh",
                "-c",
                '/bin/sh -c \'"$@"; exit $?\' sh "$@"; exit $?',
                "sh",
                *command,
            ]
        me = arena.uid == os.getuid()
        user = {} if me else {"user": arena.uid, "group": arena.uid, "extra_groups": []}
        package = HERE.parents[1] if __package__.startswith("tests.") else HERE.parent
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=package,
                env={"PATH": "/usr/bin:/bin", "HOME": place["work"],
                     "TMPDIR": place["work"], "LANG": "C.UTF-8",
                     "PYTHONPATH": str(HERE.parents[1]), "PYTHONDONTWRITEBYTECODE": "1"},
                pass_fds=list(numbers.values()), **user,
            )  # fmt: skip
        if self._line() is None:
            raise RuntimeError(f"the driver does not start: {self.errors()}")

    def errors(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]

    def _line(self) -> dict[str, Any] | None:
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], _PATIENCE_S)[0]:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def run(self, key: str) -> dict[str, Any]:
        assert self.process.stdin
        start = time.time()
        try:
            self.process.stdin.write(json.dumps({"run": key}).encode() + b"\n")
            self.process.stdin.flush()
            answer = self._line()
        except (BrokenPipeError, json.JSONDecodeError):
            answer = None
        return answer or {"evidence": "", "why": "the sandbox ended or does not answer", "errno": 0,
                          "lost": True, "start": start, "end": time.time()}  # fmt: skip

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        for sock in self._fds.values():
            sock.close()


def _egress(arena: Arena) -> list[dict[str, Any]] | None:
    ports = arena.place.ports
    if arena.mode == "offline":
        return []
    if arena.mode == "limited":
        may = [[kind, ports[name]] for kind in ("tcp", "udp") for name in ("allowed", "decoy")]
        return [{"cidr": "127.0.0.1/32", "ports": may}]
    if arena.mode == "online":
        may = [[kind, ports[name]] for kind in ("tcp", "udp") for name in ("forbidden", "decoy")]
        return [{"cidr": "0.0.0.0/0", "except": PRIVATE_V4, "ports": may},
                {"cidr": "::/0", "except": PRIVATE_V6, "ports": may}]  # fmt: skip
    return None


# ---- the battery


def selected(mode: str, uid: int, only: str = "") -> list[str]:
    """The attempts that mean something in a mode to a user; ``locked`` nothing to root."""
    if mode == "locked" and uid == 0:
        return []
    return [
        key
        for key, item in ATTEMPTS.items()
        if mode in item.modes and only in key and not (item.needs == "user" and uid == 0)
    ]


def _scratch(uid: int, mode: str = "") -> Path:
    # Below /tmp everybody may add entries, so there the kernel tier cannot hold a deny-list alone.
    above = "/var/lib" if mode == "locked" and os.getuid() == 0 else None
    path = Path(tempfile.mkdtemp(prefix="modelarmor-escapes-", dir=above))
    path.chmod(0o755)
    if uid != os.getuid():
        (path / "log").mkdir()
        os.chown(path / "log", uid, uid)
    else:
        (path / "log").mkdir()
    return path


def controls(uid: int, layout: str, keys: list[str], *, dns: bool) -> dict[str, dict[str, Any]]:
    """What each attempt does without a sandbox, each in a fresh range."""
    root = _scratch(uid, layout)
    arena = Arena(root, uid, layout, dns=dns)
    found: dict[str, dict[str, Any]] = {}
    driver: Driver | None = None
    try:
        for key in keys:
            if driver is None:
                arena.build()
                driver = Driver(arena, root / "log", confined=False)
            found[key] = answer = driver.run(key)
            answer["changes"] = arena.changes()
            if answer["changes"] or answer.get("lost") or _mess(arena):
                driver.close()
                driver = None
    finally:
        if driver is not None:
            driver.close()
        arena.stop()
        shutil.rmtree(root, ignore_errors=True)
    return found


def _mess(arena: Arena) -> bool:
    return len(os.listdir(arena.place.work)) > 40


def confined(uid: int, mode: str, keys: list[str], *, dns: bool) -> dict[str, dict[str, Any]]:
    """What each attempt does in the sandbox, with the alerts that were recorded meanwhile."""
    root = _scratch(uid, mode)
    arena = Arena(root, uid, mode, dns=dns)
    found: dict[str, dict[str, Any]] = {}
    driver: Driver | None = None
    run: list[str] = []
    try:
        for key in keys:
            if driver is None:
                arena.build()
                driver, run = Driver(arena, root / "log", confined=True), []
            found[key] = answer = driver.run(key)
            run.append(key)
            answer["changes"] = arena.changes()
            if answer["changes"] or answer.get("lost"):
                driver.close()
                answer["errors"] = driver.errors()[-400:]
                _attribute(found, run, driver.alerts)
                driver = None
        if driver is not None:
            driver.close()
            _attribute(found, run, driver.alerts)
            driver = None
    finally:
        if driver is not None:
            driver.close()
        arena.stop()
        shutil.rmtree(root, ignore_errors=True)
    return found


def _attribute(found: dict[str, dict[str, Any]], run: list[str], log: Path) -> None:
    """Give each attempt the alerts between its start and the next one's."""
    for key in run:
        found[key].setdefault("alerts", [])
    if not log.exists():
        return
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        alert = json.loads(line)
        when = datetime.fromisoformat(alert["UpdatedTime"]).timestamp()
        before = [key for key in run if found[key]["start"] <= when]
        if before:
            found[before[-1]]["alerts"].append(
                {
                    name: alert.get(name, "")
                    for name in (
                        "Operation",
                        "PolicyName",
                        "Action",
                        "Result",
                        "Resource",
                        "Source",
                        "Data",
                    )
                }
            )


def verdict(item: Attempt, mode: str, uid: int, control: dict[str, Any],
            answer: dict[str, Any]) -> str:  # fmt: skip
    """One of: blocked, silent (blocked, but no alert where one is due), escaped, limit, untested
    (not possible here without the sandbox either), no-control (ought to have been)."""
    # Where only the network is limited, files may be changed; what counts is who was reached.
    out = bool(answer["evidence"]) or (bool(answer["changes"]) and mode not in NETWORK_MODES)
    if out:
        return "limit" if item.limit and not answer["changes"] else "escaped"
    if not control["evidence"] and not control["changes"]:
        excused = item.optional or mode == "locked" or (item.needs == "root" and uid != 0)
        return "untested" if excused else "no-control"
    return "silent" if item.alert and not answer.get("alerts") else "blocked"


def battery(uid: int, modes: tuple[str, ...] = MODES, only: str = "") -> list[dict[str, Any]]:
    """Run everything for one user and say what came of it, one row an attempt and mode."""
    dns = False
    if os.getuid() == 0:
        dns = enter_namespaces()
        if uid:
            open_way([Path(sys.base_prefix), Path(sys.prefix), HERE.parents[1]])
    rows: list[dict[str, Any]] = []
    wanted = {mode: keys for mode in modes if (keys := selected(mode, uid, only))}
    usual = list(
        dict.fromkeys(key for mode, keys in wanted.items() if mode != "locked" for key in keys)
    )
    control = controls(uid, "deny", usual, dns=dns)
    for mode, keys in wanted.items():
        base = controls(uid, "locked", keys, dns=dns) if mode == "locked" else control
        answers = confined(uid, mode, keys, dns=dns)
        for key in keys:
            item = ATTEMPTS[key]
            rows.append({
                "key": key, "section": item.section, "name": item.name, "mode": mode, "uid": uid,
                "limit": item.limit, "needs": item.needs, "alert": item.alert,
                "verdict": verdict(item, mode, uid, base[key], answers[key]),
                "control": base[key], "confined": answers[key],
            })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("uid", type=int)
    parser.add_argument("results", type=Path)
    parser.add_argument("modes", nargs="*", default=MODES)
    parser.add_argument("--only", default="", help="attempts whose name contains this")
    parser.add_argument(
        "--controls", action="store_true", help="unconfined only; for writing attempts"
    )
    arguments = parser.parse_args()
    if arguments.controls:
        dns = os.getuid() == 0 and enter_namespaces()
        if arguments.uid and os.getuid() == 0:
            open_way([Path(sys.base_prefix), Path(sys.prefix), HERE.parents[1]])
        keys = list(
            dict.fromkeys(
                key for mode in MODES for key in selected(mode, arguments.uid, arguments.only)
            )
        )
        rows: Any = controls(arguments.uid, "deny", keys, dns=dns)
    else:
        rows = battery(arguments.uid, tuple(arguments.modes), arguments.only)
    arguments.results.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
