"""How each contender starts a command.

All start it by a call in this process, as a Jupyter server starts kernels, and all give it the same
environment and Python. They are asked for the same, as far as each can say it: what a profile
grants (or everything) readable, a workspace and a scratch directory writable, and no network but
what the row is about.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks import programs
from modelarmor import profiles
from modelarmor.policy.model import Policy, Posture
from modelarmor.sandbox import CannotConfine, Egress, Resources, Sandbox, Workload
from modelarmor.sandbox.plan import Mode


class Failed(RuntimeError):
    """A contender did not do what a row asks for; the message says why."""


@dataclass(frozen=True)
class Place:
    """A contender's own directories, so that none finds another's caches.

    Attributes:
        work: the workspace, where commands run; `benchmarks.programs` is copied there.
        scratch: for temporary files and caches.
        profile: this project's notebook profile, filled in for these directories.
        env: what every contender's commands get: what that profile lets through and sets.
    """

    work: Path
    scratch: Path
    profile: profiles.Profile
    env: Mapping[str, str]

    @classmethod
    def make(cls, base: Path) -> Place:
        """Make the directories below ``base``."""
        work, scratch = base / "work", base / "scratch"
        for directory in (work, scratch):
            directory.mkdir(parents=True)
        shutil.copy(programs.__file__, work / "programs.py")
        profile = profiles.load(
            "notebook", workspace=work, home=Path.home(), tmp=scratch, prefix=Path(sys.prefix)
        )
        return cls(work, scratch, profile, profile.environ(os.environ))


@dataclass(frozen=True)
class Confinement:
    """What this project's sandbox enforces in a row.

    Attributes:
        reads: what becomes of opens for reading under these policies. It is what the row is about,
            so it is checked.
    """

    policies: Sequence[Policy]
    posture: Posture = field(default_factory=Posture)
    network: Egress = field(default_factory=Egress.unrestricted)
    resources: Resources = field(default_factory=Resources)
    reads: Mode | None = None


@dataclass(frozen=True)
class Setting:
    """What a row asks the contenders for.

    Attributes:
        ours: makes this project's configuration for a place.
        denied: files that must stay unreadable, for contenders that know only such lists.
        port: the TCP port on loopback that must be reachable.
    """

    ours: Callable[[Place], Confinement]
    denied: tuple[str, ...] = ()
    port: int | None = None


class Running(Protocol):
    """A command that was started."""

    def wait(self, timeout: float | None = None) -> int: ...

    def kill(self) -> None: ...


Start = Callable[[Sequence[str]], Running]
#: readies a contender for a setting; what it returns is what is timed
Contender = Callable[[Place, Setting], Start]


def _unconfined(place: Place, _: Setting) -> Start:
    def start(command: Sequence[str]) -> Running:
        return subprocess.Popen(
            command,
            cwd=place.work,
            env=place.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    return start


def _modelarmor(place: Place, setting: Setting) -> Start:
    ours = setting.ours(place)

    def start(command: Sequence[str]) -> Running:
        workload = Workload(
            name="benchmark",
            command=command,
            policies=ours.policies,
            posture=ours.posture,
            network=ours.network,
            resources=ours.resources,
            env=place.env,
            cwd=place.work,
        )
        try:
            process = Sandbox.start(workload, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        except CannotConfine as error:
            raise Failed(str(error)) from error
        if ours.reads not in (None, process.plan.modes["read"]):
            process.close()
            raise Failed(
                f"this row is about opens in mode {ours.reads!r}, but the planner chose"
                f" {process.plan.modes['read']!r} for its policy; change the row's policy"
            )
        return process

    return start


def bubblewrap_command(place: Place, setting: Setting) -> list[str]:
    """bubblewrap's command line up to the command.

    Everything is read-only but the place's own directories, and secrets are masked.
    """
    words = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    for directory in (place.work, place.scratch):
        words += ["--bind", str(directory), str(directory)]
    for name in (".ssh", ".gnupg", ".aws", ".config/gcloud", ".kube", ".docker"):
        if (secret := Path.home() / name).is_dir():
            words += ["--tmpfs", str(secret)]
    for file in dict.fromkeys(("/etc/shadow", "/etc/gshadow", *setting.denied)):
        if Path(file).is_file():
            words += ["--ro-bind", "/dev/null", file]
    words += ["--unshare-pid", "--unshare-ipc", "--die-with-parent", "--new-session"]
    # ipykernel ends when the process of this number is not its parent
    words += ["--unsetenv", "JPY_PARENT_PID"]
    if setting.port is None:
        words.append("--unshare-net")
    return [*words, "--"]


def _bubblewrap(place: Place, setting: Setting) -> Start:
    prefix = bubblewrap_command(place, setting)
    start = _unconfined(place, setting)
    return lambda command: start([*prefix, *command])


class _Sandlocked:
    """A command in sandlock, with `Popen`'s manners."""

    def __init__(self, process: Any) -> None:
        self._process = process

    def wait(self, timeout: float | None = None) -> int:
        return int(self._process.wait(timeout).exit_code)

    def kill(self) -> None:
        self._process.kill()


def sandlock(place: Place, setting: Setting) -> Start:
    """sandlock without the features that cost most (``policy_fn``, handlers).

    Files are denied only where a row is about that. Commands must be started by the main thread:
    they end with the thread that started them.
    """
    from sandlock import Sandbox as Sandlock  # type: ignore[import-untyped]
    from sandlock import StdioMode

    options: dict[str, Any] = {
        "fs_readable": ["/"],
        "fs_writable": [str(place.work), str(place.scratch), "/dev"],
        "fs_denied": [file for file in setting.denied if Path(file).exists()],
        "net_allow": [] if setting.port is None else [f"127.0.0.1:{setting.port}"],
        "clean_env": True,
        "env": dict(place.env),
        "cwd": str(place.work),
    }

    def start(command: Sequence[str]) -> Running:
        try:
            process = Sandlock(**options).popen(
                list(command), stdin=StdioMode.NULL, stdout=StdioMode.NULL, stderr=StdioMode.NULL
            )
        except Exception as error:  # it raises many kinds
            raise Failed(f"{type(error).__name__}: {error}") from error
        return _Sandlocked(process)

    return start


UNCONFINED, OURS, BUBBLEWRAP, SANDLOCK = "unconfined", "ModelArmor", "bubblewrap", "sandlock"
CONTENDERS: Mapping[str, Contender] = {
    UNCONFINED: _unconfined,
    OURS: _modelarmor,
    BUBBLEWRAP: _bubblewrap,
    SANDLOCK: sandlock,
}


def missing() -> dict[str, str]:
    """The contenders that are not installed, and what to do."""
    lacking = {}
    if shutil.which("bwrap") is None:
        lacking[BUBBLEWRAP] = "not installed (package bubblewrap)"
    if importlib.util.find_spec("sandlock") is None:
        lacking[SANDLOCK] = "not installed (pip install sandlock)"
    return lacking
