"""The Python environment that a model asks for, built in a sandbox of its own.

Building one can run code of the model's choosing: a source package in its requirements is a program
that is run to install it. So only wheels are taken, which are unpacked and not run, unless the
caller allows source packages; and either way the installer is confined. It can write the new
environment and scratch, read the interpreter and the packages that pip is configured to take from
this machine, and reach the indexes that pip is configured with, by the addresses that they have.

An environment that was built is kept, by what it was built from, and is used again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import sysconfig
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelarmor import profiles
from modelarmor.alerts import Alert
from modelarmor.policy.model import Outcome, PathRule, Policy
from modelarmor.replacing import replacing
from modelarmor.sandbox import Egress, Process, Resources, Sandbox, Workload
from modelarmor.sandbox.commands import show_alert
from modelarmor.scratch import Scratch, remove_tree
from modelarmor.visible import escaped
from modelarmor_mlflow.serving import indexes as pip
from modelarmor_mlflow.serving.confined import modelarmor_names
from modelarmor_mlflow.serving.indexes import Indexes, Route
from modelarmor_mlflow.serving.requirements import Needs, needs
from modelarmor_mlflow.serving.server import ServeError

#: the profile that the installer runs under, with the new environment for its workspace
PROFILE: Final = "notebook"
#: what alerts call the installer, and the policy with what is special about it
NAME: Final = "environment"
POLICY: Final = "environment-build"
#: ways to build one, as `mlflow models serve --env-manager` names them
MANAGERS: Final = ("virtualenv", "uv", "conda")

#: raised when environments are built differently, so that none from before is used
_FORMAT: Final = 1
_LIMITS: Final = Resources(memory=8 << 30, processes=512, open_files=4096, disk=30 << 30)
_BUILD_SECONDS: Final = 3600.0
_VENV_SECONDS: Final = 300.0
_ASK_SECONDS: Final = 30.0
#: lines of the installer that are shown, bytes of one, and how many may tell why it failed
_MOST_LINES: Final = 2000
_LONGEST_LINE: Final = 500
_LAST: Final = 12
#: what of a line is shown, and how lines begin that tell of each package that each index lacks
_SHOWN: Final = 160
_NOISE: Final = "WARNING: Location "
#: what any pip asks for and need not get: it names the distribution in its requests
_EXPECTED: Final = frozenset({("File", "/etc")})
#: alerts of a build that are told; the rest are counted
_MOST_ALERTS: Final = 50

#: the environment's interpreter, by the names that policies and servers use
_PROGRAMS: Final = ("python", "python3")

_ASK: Final = "import platform, sys; print(platform.python_version()); print(sys._base_executable)"

Progress = Callable[[str], None]
Tell = Callable[[Alert], None]


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python of this machine, no virtual environment's."""

    file: Path
    version: str


def built(
    model: Path,
    manager: str,
    *,
    progress: Progress,
    allow_source: bool = False,
    alerts: Tell = show_alert,
    directory: Path | None = None,
) -> Path:
    """The interpreter of an environment that holds what a model needs, built if there is none yet.

    Args:
        model: an MLflow model's directory.
        manager: one of `MANAGERS`.
        progress: told what is being done, and what the installer says.
        allow_source: take source packages too, which run in the installer's sandbox to be built.
        alerts: told what the installer was refused.
        directory: where environments are kept (default: `default_directory`).

    Raises:
        ServeError: the model asks for what is not done, or it could not be built.
        CannotConfine: this machine cannot confine the installer; nothing was built.
    """
    check(manager)
    wanted = needs(model)
    python = interpreter(wanted.python, progress)
    place = _private(directory or default_directory())
    with _locked(place, progress):
        _sweep(place)
        configured = pip.configured(python.file)
        key = _key(manager, wanted, python, configured, allow_source=allow_source)
        environment, record = place / key, place / f"{key}.json"
        if not record.exists():
            progress(f"building an environment with Python {python.version} in {environment}")
            try:
                _build(
                    manager, environment, wanted, python, configured, progress, alerts,
                    allow_source=allow_source,
                )  # fmt: skip
            except BaseException:
                _remove(environment)
                raise
            _write(record, {"python": python.version, "requirements": wanted.packages})
        progress(f"environment {environment}")
    return environment / "bin" / "python"


def default_directory() -> Path:
    """Where environments are kept: ``$XDG_CACHE_HOME/modelarmor/environments``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "modelarmor" / "environments"


def check(manager: str) -> None:
    """Raise where environments are not built this way.

    Raises:
        ServeError: as nothing runs such a manager confined, or it is not there; says what to do.
        ValueError: nobody knows it.
    """
    if manager not in MANAGERS:
        raise ValueError(f"{manager!r} is none of {', '.join(MANAGERS)}")
    if manager == "conda":
        raise ServeError(
            "--env-manager conda: ModelArmor does not run conda confined. --env-manager virtualenv"
            " takes the part of conda.yaml that pip installs; or build the environment with conda"
            " yourself, and serve in it with --python FILE"
        )
    if manager == "uv" and shutil.which("uv") is None:
        raise ServeError(
            "--env-manager uv: there is no uv on PATH; --env-manager virtualenv builds the same"
            " environment with pip"
        )


# --- the interpreter


def interpreter(version: str, progress: Progress) -> Interpreter:
    """A Python of this version, or one that differs in the last number only.

    Args:
        version: ``3.11.7`` or ``3.11``; empty for the one that runs this program.
        progress: told where the last number differs.

    Raises:
        ServeError: there is none.
    """
    ours = Interpreter(
        Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable))),
        platform.python_version(),
    )
    if not version or ours.version == version:
        return ours
    minor = ".".join(version.split(".")[:2])
    near: Interpreter | None = None
    for found in _interpreters(version, minor, ours):
        if found.version == version:
            return found
        if near is None and found.version.startswith(f"{minor}."):
            near = found
    if near is None:
        raise ServeError(
            f"the model asks for Python {version}, and there is none on this machine; install it"
            f" (so that python{minor} is found on PATH, or with pyenv), or serve the model in an"
            " environment of yours with --python FILE"
        )
    if version != minor:
        progress(f"the model asks for Python {version}; taking {near.version}")
    return near


def _interpreters(version: str, minor: str, ours: Interpreter) -> Iterator[Interpreter]:
    yield ours
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    places = [versions / version / "bin" / "python"]
    if found := shutil.which(f"python{minor}"):
        places.append(Path(found))
    places += sorted(versions.glob(f"{minor}.*/bin/python"), reverse=True)
    for place in places:
        if (answer := _asked(place)) is not None:
            yield answer


def _asked(python: Path) -> Interpreter | None:
    """What an interpreter says of itself; None where it does not, as a shim of pyenv's may."""
    try:
        asked = subprocess.run(
            [str(python), "-I", "-c", _ASK],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ASK_SECONDS,
            check=True,
        )
        version, file = asked.stdout.splitlines()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return Interpreter(Path(os.path.realpath(file)), version)


# --- where it is kept


def _private(place: Path) -> Path:
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    real = Path(os.path.realpath(place))
    status = real.stat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise ServeError(f"{real} is not a directory that only you can use; remove it, or chmod it")
    return real


@contextmanager
def _locked(place: Path, progress: Progress) -> Iterator[None]:
    """One build at a time; the kernel lets go of the lock with the process."""
    with (place / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another environment that is being built")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sweep(place: Path) -> None:
    """Remove what a build left behind that was killed: directories that have no record."""
    for item in list(place.iterdir()):
        if item.is_dir() and not item.with_name(f"{item.name}.json").exists():
            _remove(item)


def _remove(environment: Path) -> None:
    if environment.exists():
        remove_tree(environment)


def _write(record: Path, body: Mapping[str, object]) -> None:
    """Say that an environment is finished; beside it, where nothing that it holds can write."""
    with replacing(record) as unfinished:
        unfinished.write_text(json.dumps(body, indent=1))


def _key(
    manager: str, wanted: Needs, python: Interpreter, configured: Indexes, *, allow_source: bool
) -> str:
    facts = [
        _FORMAT, manager, wanted.packages, python.version, str(python.file),
        sysconfig.get_platform(), configured.urls, configured.links, allow_source,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


# --- building


def _build(
    manager: str,
    environment: Path,
    wanted: Needs,
    python: Interpreter,
    configured: Indexes,
    progress: Progress,
    alerts: Tell,
    *,
    allow_source: bool,
) -> None:
    if allow_source and (hosts := configured.secrets()):
        raise ServeError(
            f"pip is configured with a password for {', '.join(hosts)}, which a source package"
            " could read while it is built; leave --allow-source out, or configure an index"
            " without one (PIP_CONFIG_FILE)"
        )
    _make(python, environment)
    before = _identity(environment)
    reached, route = pip.reachable(configured, progress)
    scratch = Scratch(sockets=False)
    try:
        installer = _installer(manager, reached, route, allow_source=allow_source)
        workload = _workload(installer, environment, scratch.path, wanted, python, reached)
        tell = _Counted(alerts)
        process = Sandbox.start(
            workload,
            alerts=tell,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        with process:
            _follow(process, progress)
        tell.finish(progress)
    finally:
        scratch.release()
    _check_made(environment, python, before)


def _make(python: Interpreter, environment: Path) -> None:
    """An environment with nothing but pip in it: made by Python itself, from nothing of a model."""
    try:
        subprocess.run(
            [str(python.file), "-I", "-m", "venv", str(environment)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VENV_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        said = (error.stdout + error.stderr).strip()
        raise ServeError(f"{python.file} makes no virtual environment: {said}") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise ServeError(f"{python.file} makes no virtual environment: {error}") from None


def _identity(environment: Path) -> object:
    """What decides which program the environment's Python is, and what a policy grants with it."""
    settings, programs = environment / "pyvenv.cfg", environment / "bin"
    try:
        status = settings.lstat()
        if programs.is_symlink() or not stat.S_ISREG(status.st_mode) or status.st_size > 1 << 16:
            return None
        return settings.read_bytes(), [os.path.realpath(programs / name) for name in _PROGRAMS]
    except OSError:
        return None


def _check_made(environment: Path, python: Interpreter, before: object) -> None:
    """Refuse an environment whose policy would grant what is not in it.

    A policy that names the environment grants what ``pyvenv.cfg`` says is behind it, and where a
    link in it leads; a source package may have written either.
    """
    if _identity(environment) is None or _identity(environment) != before:
        raise ServeError(
            "the build changed which interpreter the environment runs, so it is not used: a"
            " package in the model's requirements does what none should"
        )
    within = (environment, python.file.parent.parent)
    for directory, names, files in os.walk(environment):
        for name in (*names, *files):
            item = Path(directory, name)
            if item.is_symlink() and not any(
                map(Path(os.path.realpath(item)).is_relative_to, within)
            ):
                raise ServeError(
                    f"the build left a link out of the environment, so it is not used:"
                    f" {str(item.relative_to(environment))[:200]!r}"
                )


@dataclass(frozen=True, slots=True)
class _Installer:
    """A program that installs: how it is called, and what it needs besides."""

    #: ``{python}`` is the environment's interpreter; the requirements file follows
    command: tuple[str, ...]
    variables: Mapping[str, str]
    egress: Egress
    #: where it is, if not in the environment
    program: Path | None = None


def _installer(manager: str, reached: Indexes, route: Route, *, allow_source: bool) -> _Installer:
    if manager == "uv":
        program = Path(os.path.realpath(shutil.which("uv") or "uv"))
        return _Installer(
            (
                str(program), "pip", "install", "--python", "{python}", "--no-config",
                "--no-python-downloads", "--no-cache", "--no-progress", "--compile-bytecode",
                *([] if allow_source else ["--only-binary", ":all:"]), *reached.options_of_uv(),
            ),
            {"SSL_CERT_FILE": reached.certificates} if reached.certificates else {},
            route.with_name_servers(),
            program,
        )  # fmt: skip
    kinds = ["--prefer-binary"] if allow_source else ["--only-binary", ":all:"]
    return _Installer(
        (
            "{python}", "-m", "pip", "install", "--no-cache-dir", "--progress-bar", "off", *kinds
        ),
        {
            **reached.variables(),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            modelarmor_names.NAMES: json.dumps(route.names),
        },
        route.egress,
    )  # fmt: skip


def _workload(
    installer: _Installer,
    environment: Path,
    scratch: Path,
    wanted: Needs,
    python: Interpreter,
    reached: Indexes,
) -> Workload:
    tmp, home, pinned = scratch / "tmp", scratch / "tmp" / "home", scratch / "names"
    for directory in (tmp, home, pinned):
        directory.mkdir(mode=0o700)
    shutil.copyfile(str(modelarmor_names.__file__), pinned / "sitecustomize.py")
    requirements = scratch / "requirements.txt"
    requirements.write_text("".join(f"{line}\n" for line in wanted.packages))
    profile = profiles.load(
        PROFILE,
        workspace=environment,
        home=Path.home(),
        tmp=tmp,
        prefix=python.file.parent.parent,
    )
    path = os.pathsep.join((str(environment / "bin"), "/usr/bin", "/bin"))
    env = profile.environ({"PATH": path, "LANG": "C.UTF-8"})
    env |= {
        "HOME": str(home),
        "PYTHONPATH": str(pinned),
        "PYTHONDONTWRITEBYTECODE": "1",  # what is installed is compiled by the installer itself
        **installer.variables,
    }
    interpreter = str(environment / "bin" / "python")
    command = [part.replace("{python}", interpreter) for part in installer.command]
    given = (*reached.places(), pinned, requirements)
    return Workload(
        NAME,
        [*command, "-r", str(requirements)],
        (*profile.policies, _granted(given, installer.program), _refused()),
        profile.posture,
        installer.egress,
        _LIMITS,
        env=env,
        cwd=tmp,
    )


def _granted(given: Iterable[Path], program: Path | None) -> Policy:
    """What it may read besides: where packages are on this machine, and what it is given."""
    outcome = Outcome("Allow")
    rules = []
    for place in (*given, *([program] if program else [])):
        if place.is_dir():
            rules.append(
                PathRule(
                    outcome, match="directory", value=f"{place}/", recursive=True, read_only=True
                )
            )
        else:
            rules.append(PathRule(outcome, match="path", value=str(place), read_only=True))
    run = (PathRule(outcome, match="path", value=str(program)),) if program else ()
    return Policy("KubeArmorPolicy", POLICY, process=run, file=tuple(rules), outcome=outcome)


def _refused() -> Policy:
    """Shared memory, which the profile grants, is other programs'; an installer has no use for it.

    It is refused as a whole, as a name that is not there yet may be another program's later.
    """
    outcome = Outcome("Block", 5, (), "Shared memory is no part of a build")
    rule = PathRule(outcome, match="directory", value="/dev/shm/", recursive=True)
    return Policy("KubeArmorPolicy", f"{POLICY}-shared-memory", file=(rule,), outcome=outcome)


class _Counted:
    """Tells of alerts, each kind once, and of so many only."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._seen: set[tuple[str, str, str]] = set()
        self._left = 0

    def __call__(self, alert: Alert) -> None:
        kind = (alert.Operation, alert.Resource, alert.PolicyName)
        if kind in self._seen or kind[:2] in _EXPECTED:
            return
        if len(self._seen) == _MOST_ALERTS:
            self._left += 1
            return
        self._seen.add(kind)
        self._tell(alert)

    def finish(self, progress: Progress) -> None:
        """Say how many were not told of."""
        if self._left:
            progress(f"the build was refused {self._left} operations more")


def _follow(process: Process, progress: Progress) -> None:
    """Show what the installer says until it ends.

    Raises:
        ServeError: it failed, or its time was over.
    """
    stream = process.stdout
    assert stream is not None
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(_BUILD_SECONDS, give_up)
    timer.start()
    last: deque[str] = deque(maxlen=_LAST)
    try:
        for number, line in enumerate(iter(lambda: stream.readline(_LONGEST_LINE), b"")):
            text = escaped(line.decode("utf-8", "replace").rstrip())
            last.append(text)
            if text and number < _MOST_LINES and not text.startswith(_NOISE):
                progress(f"  {text.partition(' (from ')[0][:_SHOWN]}")
        status = process.wait()
    finally:
        timer.cancel()
    if late.is_set():
        raise ServeError(f"the environment was not built within {_BUILD_SECONDS:.0f} s")
    if status != 0:
        said = "; ".join(line for line in last if line.startswith("ERROR")) or " ".join(last)
        raise ServeError(
            f"the environment was not built (exit status {status}): {said}{_hint(said)}"
        )


def _hint(said: str) -> str:
    if "No matching distribution" in said or "no usable wheels" in said:
        return (
            ". A package may be there as source only, which is not built unless you allow it with"
            " --allow-source"
        )
    return ""
