"""The named profiles: a policy with its network, resources and environment, found and filled in.

A profile is a directory::

    <name>/profile.yaml    title, description, posture, resources, environment
           policy.yaml     KubeArmorPolicy documents, templates in ${WORKSPACE}, ${MODEL},
                           ${PREFIX}, ${HOME} and ${TMP}
           network.yaml    one Kubernetes NetworkPolicy; without it the network is not limited

Templates are filled in what was parsed, never in text, so that a directory with a quote or a
newline in its name stays a directory and cannot become YAML.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from . import _yaml
from .policy import document
from .policy.model import (
    CapabilityRule,
    DnsRule,
    Outcome,
    PathRule,
    Policy,
    Posture,
    ProtocolRule,
    Rule,
    SyscallRule,
    SyscallSource,
)
from .sandbox.network import Egress
from .sandbox.resources import Resources

TEMPLATES = ("WORKSPACE", "MODEL", "PREFIX", "HOME", "TMP")

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # a DNS label: it names policies too
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A template stands in for an absolute path while the policy is parsed, so that the policy's own
# reader can check paths and keep line numbers. No real path begins like this.
_MARK = "/.modelarmor-template-"
_MAX_POLICY_BYTES = 1 << 20

_R = TypeVar("_R", bound=Rule)


class ProfileError(ValueError):
    """A profile that does not exist, cannot be read or does not fit the place; says which."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile whose templates are filled: ready to confine a workload."""

    name: str
    title: str
    description: str
    #: what a Jupyter launcher calls the kernel
    display_name: str
    policies: tuple[Policy, ...]
    posture: Posture
    network: Egress
    resources: Resources
    #: names of variables that the workload may inherit; ``*`` matches any characters
    environment: tuple[str, ...]
    #: variables that it is given
    variables: Mapping[str, str]
    #: where the profile was found
    directory: Path = field(compare=False)

    def environ(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The workload's environment: what of ``inherited`` it may see, and what it is given."""
        allowed = {
            name: value
            for name, value in inherited.items()
            if any(fnmatchcase(name, pattern) for pattern in self.environment)
        }
        return allowed | dict(self.variables)


def search_path() -> list[Path]:
    """Where profiles are looked for, in this order; the first of a name wins.

    ``$MODELARMOR_PROFILES`` (directories, separated as in ``$PATH``), the user's own in
    ``$XDG_CONFIG_HOME/modelarmor/profiles``, then those of this package.
    """
    named = [
        entry for entry in os.environ.get("MODELARMOR_PROFILES", "").split(os.pathsep) if entry
    ]
    for entry in named:
        if not Path(entry).is_absolute():
            raise ProfileError(f"$MODELARMOR_PROFILES: {entry!r} should be an absolute path")
    here = Path(__file__).resolve().parent
    installed = here / "kernel_profiles"
    ours = installed if installed.is_dir() else here.parent / "kernel_profiles"
    return [*map(Path, named), user_directory(), ours]


def user_directory() -> Path:
    """Where the user's own profiles are: ``$XDG_CONFIG_HOME/modelarmor/profiles``."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return config / "modelarmor" / "profiles"


def is_name(text: str) -> bool:
    """Whether a profile can be called ``text``: lower-case letters, digits and inner hyphens."""
    return _NAME.fullmatch(text) is not None


def names(path: Sequence[Path] | None = None) -> list[str]:
    """The names of all profiles on ``path`` (default: :func:`search_path`), sorted."""
    found = {
        file.parent.name
        for directory in (search_path() if path is None else path)
        for file in _glob(directory)
        if _NAME.fullmatch(file.parent.name)
    }
    return sorted(found)


def load(
    name: str,
    *,
    workspace: Path,
    home: Path,
    tmp: Path,
    prefix: Path,
    model: Path | None = None,
    search_path: Sequence[Path] | None = None,
) -> Profile:
    """Find a profile and fill its templates in.

    Args:
        name: the profile's name.
        workspace: ``${WORKSPACE}``, what the workload works on.
        home: ``${HOME}``, the user's home, which the profiles keep out of reach.
        tmp: ``${TMP}``, a scratch directory of this workload alone.
        prefix: ``${PREFIX}``, the Python environment (``sys.prefix``). A rule that names it also
            holds for the installation that a virtual environment was made from.
        model: ``${MODEL}``; without it the rules that name it fall away.
        search_path: where to look, instead of :func:`search_path`.

    Raises:
        ProfileError: there is no such profile, a file of it is wrong, or what a template would
            grant contains the home directory.
        PolicyError: its policy is wrong.
    """
    directory = find(name, search_path)
    values = template_values(workspace=workspace, home=home, tmp=tmp, prefix=prefix, model=model)
    policies = _policies(directory / "policy.yaml", _Filler(values))
    network = directory / "network.yaml"
    facts = _Facts(directory / "profile.yaml")
    return Profile(
        name=name,
        title=facts.text("title"),
        description=facts.text("description"),
        display_name=facts.text("displayName"),
        policies=policies,
        posture=facts.posture(),
        network=Egress.from_network_policy(network) if network.exists() else Egress.unrestricted(),
        resources=facts.resources(),
        environment=facts.inherited(),
        variables=facts.variables(values),
        directory=directory,
    )


def fill(
    text: str,
    *,
    name: str,
    workspace: Path,
    home: Path,
    tmp: Path,
    prefix: Path,
    model: Path | None = None,
) -> tuple[Policy, ...]:
    """Fill the templates of a policy document in, as :func:`load` does with a profile's.

    Args:
        text: KubeArmorPolicy documents with templates.
        name: what to call the document in messages.
        workspace, home, tmp, prefix, model: as for :func:`load`.

    Raises:
        ProfileError: see :func:`load`.
        PolicyError: the document is wrong.
    """
    filler = _Filler(
        template_values(workspace=workspace, home=home, tmp=tmp, prefix=prefix, model=model)
    )
    return tuple(_fill_policy(policy, filler) for policy in unfilled(text, name=name))


def fill_elsewhere(
    text: str, *, name: str, values: Mapping[str, str], links: Mapping[str, str]
) -> tuple[Policy, ...]:
    """Fill the templates in for another machine than this one, such as a container's image.

    Nothing here is looked at: what is a link there is not known but for `links`.

    Args:
        text: KubeArmorPolicy documents with templates.
        name: what to call the document in messages.
        values: the path that each of :data:`TEMPLATES` stands for there.
        links: links there, and the files that they lead to.

    Raises:
        ProfileError: see :func:`load`.
        PolicyError: the document is wrong.
    """
    filler = _Filler(
        {template: (path,) for template, path in values.items()},
        lambda path: links.get(path, path),
        trusted=TEMPLATES,
    )
    return tuple(_fill_policy(policy, filler) for policy in unfilled(text, name=name))


def read(
    paths: Iterable[str | Path],
    *,
    workspace: Path = Path("/workspace"),
    home: Path | None = None,
    tmp: Path = Path("/scratch"),
    prefix: Path = Path(sys.prefix),
    model: Path | None = Path("/model"),
) -> tuple[list[Policy], list[document.Problem]]:
    """Read policies as `document.inspect` does, templates filled in where a file has any.

    Args:
        paths: files, and directories whose ``*.yaml`` and ``*.yml`` files are meant.
        workspace, home, tmp, prefix, model: as for :func:`load`. For looking at rules the defaults
            do, which stand for places that each workload has of its own.

    Raises:
        ProfileError: a template is where none can be, is not known, or stands for nothing.
    """
    policies: list[Policy] = []
    problems: list[document.Problem] = []
    for file in document.files(paths, problems):
        found, wrong = document.inspect(file)
        if any("${" in problem.what for problem in wrong):
            marked = _mark(file.read_text(encoding="utf-8", errors="replace"))
            if model is None and f"{_MARK}MODEL" in marked:
                raise ProfileError(
                    f"{file}: names ${{MODEL}}, the directory of the model that it was made for;"
                    " fill it in: modelarmor generate MODEL -o FILE --fill MODEL=DIR"
                )
            found, wrong = document.inspect(marked, name=str(file))
            filler = _Filler(
                template_values(
                    workspace=workspace,
                    home=Path.home() if home is None else home,
                    tmp=tmp,
                    prefix=prefix,
                    model=model,
                )
            )
            found = [] if wrong else [_fill_policy(policy, filler) for policy in found]
        policies += found
        problems += wrong
    return policies, problems


def unfilled(text: str, *, name: str) -> tuple[Policy, ...]:
    """The policies of a document with templates, each template as an absolute path of no machine.

    For looking at rules: nothing is enforced by such policies. :func:`written` has them as text.

    Raises:
        PolicyError: the document is wrong.
    """
    return tuple(document.load(_mark(text).encode(), name=name))


def stand_in(path: str) -> str:
    """``${MODEL}/x`` as the absolute path that stands for it in what :func:`unfilled` gives."""
    return _mark(path)


def written(policies: Sequence[Policy]) -> str:
    """The document of policies as :func:`unfilled` gives them, with their templates."""
    return _unmark(document.dump(policies))


def templated(
    policies: Sequence[Policy],
    *,
    workspace: Path,
    home: Path,
    tmp: Path,
    prefix: Path,
    model: Path | None = None,
) -> str:
    """Policies as a document for a profile, the inverse of what :func:`load` does with one.

    A path that lies at or below what a template stands for begins with that template again (the
    deepest that fits), so that the profile means the same in another place. Patterns and messages
    are left as they are.

    Args:
        policies: whose templates are filled.
        workspace, home, tmp, prefix, model: as for :func:`load`.

    Raises:
        ProfileError: see :func:`load`; or a path looks like a template.
        PolicyError: a policy that no document can hold.
    """
    values = template_values(workspace=workspace, home=home, tmp=tmp, prefix=prefix, model=model)
    marks = sorted(
        (
            (root.rstrip("/"), _MARK + name)
            for name, roots in values.items()
            for root in roots
            # the installation behind a virtual environment may be the system's own
            if root not in ("/", "/usr", "/usr/local")
        ),
        key=lambda pair: -len(pair[0]),
    )

    def mark(path: str) -> str:
        if _MARK in path or "${" in path:  # whoever named this file would have written a template
            raise ProfileError(f"{path!r}: a path with a template's name in it cannot be written")
        for root, name in marks:
            if path == root or path.startswith(root + "/"):
                return name + path[len(root) :]
        return path

    return _unmark(document.dump([_with_paths(policy, mark) for policy in policies]))


def _with_paths(policy: Policy, change: Callable[[str], str]) -> Policy:
    """The policy with each path and source changed; patterns and names are none."""

    def changed(rule: _R) -> _R:
        if isinstance(rule, PathRule | ProtocolRule | DnsRule | CapabilityRule):
            rule = replace(rule, from_source=tuple(map(change, rule.from_source)))
        if isinstance(rule, PathRule) and rule.match in ("path", "directory"):
            rule = replace(rule, value=change(rule.value))
        return rule

    return replace(
        policy,
        process=tuple(map(changed, policy.process)),
        file=tuple(map(changed, policy.file)),
        network=tuple(map(changed, policy.network)),
        capabilities=tuple(map(changed, policy.capabilities)),
    )


def _glob(directory: Path) -> Iterator[Path]:
    try:
        yield from directory.glob("*/profile.yaml")
    except OSError:  # a directory of the search path that cannot be listed holds no profile of ours
        return


def find(name: str, path: Sequence[Path] | None = None) -> Path:
    """The directory of a profile, looked for on ``path`` (default: :func:`search_path`).

    Raises:
        ProfileError: there is none of this name.
    """
    places = search_path() if path is None else path
    if _NAME.fullmatch(name):  # anything else could leave the directories of the search path
        for place in places:
            if (place / name / "profile.yaml").is_file():
                return place / name
    known = names(places)
    near = get_close_matches(name, known, n=1)
    cure = f"did you mean {near[0]}?" if near else f"known are {', '.join(known) or 'none'}"
    raise ProfileError(f"no profile {name!r}; {cure} (looked in {', '.join(map(str, places))})")


# --- templates


def template_values(**given: Path | None) -> dict[str, tuple[str, ...]]:
    """What each template stands for: real paths, as rules are matched against real paths.

    Args:
        given: a directory for each template, by its name in lower case, as for :func:`load`; a
            virtual environment stands for the installation behind it too.

    Raises:
        ProfileError: a path is none, or what is given contains the home directory.
    """
    home = given["home"]
    assert home is not None
    real_home = Path(os.path.realpath(home))
    values: dict[str, tuple[str, ...]] = {}
    for name, path in given.items():
        paths = [] if path is None else [path]
        if name == "prefix" and path is not None:
            paths += _base_prefix(path)
        values[name.upper()] = tuple(dict.fromkeys(os.path.realpath(item) for item in paths))
        for item in values[name.upper()]:
            if "\0" in item:
                raise ProfileError(f"{name}: {item!r} is no path")
            if name != "home" and real_home.is_relative_to(item):
                holds = f"contains the home directory {real_home}"
                what = "is your home directory" if item == str(real_home) else holds
                raise ProfileError(
                    f"{name}: {item} {what},"
                    " so granting it would grant every credential in there; choose a directory of"
                    " its own"
                    + (" (`modelarmor run --workspace DIR`)" if name == "workspace" else "")
                )
    return values


def _base_prefix(prefix: Path) -> list[Path]:
    """The installation behind a virtual environment: interpreter, standard library, libraries.

    Read from ``pyvenv.cfg`` (https://docs.python.org/3/library/venv.html), whose ``home`` is the
    directory of the base interpreter.
    """
    try:
        text = (prefix / "pyvenv.cfg").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip().lower() == "home":
            return [Path(os.path.realpath(value.strip())).parent]
    return []


def _real(path: str) -> str:
    """What a path is on this machine."""
    # /proc is different for each process, so what its links lead to here means nothing there.
    if path.startswith("/proc/"):
        return path
    real = os.path.realpath(path)
    if real.startswith("/proc/"):
        return path
    return real.rstrip("/") + "/" if path.endswith("/") else real


class _Filler:
    """Fills templates in, and resolves what the rest of a path passes through.

    A value becomes several where a template stands for several paths, and none where it stands
    for nothing.
    """

    def __init__(
        self,
        values: Mapping[str, Sequence[str]],
        real: Callable[[str], str] = _real,
        # What the workload itself may have written is not followed: a link that it left behind in
        # its workspace would turn a rule for the workspace into one for the target.
        trusted: Collection[str] = ("PREFIX", "HOME"),
    ) -> None:
        self._values = values
        self._real = real
        self._trusted = trusted

    def fill(self, value: str, kind: str = "path") -> list[str]:
        name, slash, rest = value.removeprefix(_MARK).partition("/")
        begins = value.startswith(_MARK)
        if (begins and name not in self._values) or _MARK in value[1:] or "${" in value:
            raise ProfileError(
                f"{_unmark(value)}: a path may begin with a template, which is one of "
                + ", ".join(f"${{{known}}}" for known in TEMPLATES)
            )
        if not begins:
            return [self._resolve(value, kind)]
        filled = []
        for root in self._values[name]:
            prefix = _escape(root) if kind == "pattern" else root
            path = f"{prefix}{slash}{rest}"
            filled.append(self._resolve(path, kind) if name in self._trusted else path)
        return list(dict.fromkeys(filled))

    def _resolve(self, path: str, kind: str) -> str:
        return path if kind == "pattern" else self._real(path)


def _mark(text: str) -> str:
    return re.sub(r"\$\{(" + "|".join(TEMPLATES) + r")\}", _MARK + r"\1", text)


def _unmark(text: str) -> str:
    marks = re.escape(_MARK) + "(" + "|".join(TEMPLATES) + ")"
    return re.sub(marks, r"${\1}", text) if _MARK in text else text


def _escape(path: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", path)


def _policies(file: Path, filler: _Filler) -> tuple[Policy, ...]:
    try:
        status = file.stat()
        policies = _parsed(file, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise ProfileError(f"{file}: cannot be read: {error}") from error
    try:
        return tuple(_fill_policy(policy, filler) for policy in policies)
    except ProfileError as error:
        raise ProfileError(f"{file}: {error}") from None


@lru_cache(maxsize=64)
def _parsed(file: Path, _changed: int, _size: int) -> tuple[Policy, ...]:
    """The policies before they are filled; parsed once, as each kernel that starts wants them."""
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(_MAX_POLICY_BYTES + 1)
    except ValueError as error:
        raise ProfileError(f"{file}: cannot be read: {error}") from error
    if len(text) > _MAX_POLICY_BYTES:
        raise ProfileError(f"{file}: is larger than {_MAX_POLICY_BYTES} characters")
    return tuple(document.load(_mark(text).encode(), name=str(file)))


def _fill_policy(policy: Policy, filler: _Filler) -> Policy:
    def fill(rules: Iterable[_R]) -> tuple[_R, ...]:
        return tuple(dict.fromkeys(new for rule in rules for new in _fill_rule(rule, filler)))

    return replace(
        policy,
        process=fill(policy.process),
        file=fill(policy.file),
        network=fill(policy.network),
        capabilities=fill(policy.capabilities),
        syscalls=fill(policy.syscalls),
        outcome=_unmark_outcome(policy.outcome),
        apparmor=_unmark(policy.apparmor),
        source={},  # that of the template, which nobody should take for the policy
    )


def _fill_rule(rule: _R, filler: _Filler) -> Iterator[_R]:
    outcome = _unmark_outcome(rule.outcome)
    if outcome is not rule.outcome:
        rule = replace(rule, outcome=outcome)
    if isinstance(rule, PathRule | ProtocolRule | DnsRule | CapabilityRule) and rule.from_source:
        paths = [path for source in rule.from_source for path in filler.fill(source)]
        if not paths:
            return  # for a source that there is not; without any it would hold for everyone
        rule = replace(rule, from_source=tuple(dict.fromkeys(paths)))
    if isinstance(rule, SyscallRule) and rule.from_source:
        sources = [new for old in rule.from_source for new in _fill_source(old, filler)]
        if not sources:
            return
        rule = replace(rule, from_source=tuple(dict.fromkeys(sources)))
    if isinstance(rule, PathRule) and rule.match != "execname":
        for value in filler.fill(rule.value, rule.match):
            yield rule if value == rule.value else replace(rule, value=value)
    elif isinstance(rule, SyscallRule) and rule.path:
        for value in filler.fill(rule.path):
            yield replace(rule, path=value)
    else:
        yield rule


def _fill_source(source: SyscallSource, filler: _Filler) -> list[SyscallSource]:
    if source.dir:
        return [replace(source, dir=value) for value in filler.fill(source.dir)]
    return [replace(source, path=value) for value in filler.fill(source.path)]


def _unmark_outcome(outcome: Outcome) -> Outcome:
    message = _unmark(outcome.message)
    return outcome if message == outcome.message else replace(outcome, message=message)


# --- profile.yaml

_FIELDS = ("title", "description", "displayName", "posture", "resources", "environment")
_POSTURES = ("file", "network", "capabilities")


class _Facts:
    """``profile.yaml``, checked field by field."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._data = _yaml.read(file)
        except ValueError as error:
            raise self._wrong(str(error)) from error
        self._mapping("document", self._data, _FIELDS)

    def text(self, key: str) -> str:
        value = self._data.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(f"{key}: should be a text")
        return value.strip()

    def posture(self) -> Posture:
        value = self._data.get("posture", "block")
        parts = dict.fromkeys(_POSTURES, value) if isinstance(value, str) else value
        for key, part in self._mapping("posture", parts, _POSTURES).items():
            if part not in ("block", "audit"):
                raise self._wrong(f"posture.{key}: {_yaml.show(part)} should be block or audit")
        return Posture(**parts)

    def resources(self) -> Resources:
        resources = self._mapping("resources", self._data.get("resources", {}), ("limits",))
        try:
            return Resources.from_kubernetes(resources.get("limits", {}))
        except ValueError as error:
            raise self._wrong(f"resources.limits: {error}") from error

    def inherited(self) -> tuple[str, ...]:
        names = self._environment().get("inherit", [])
        if not isinstance(names, list):
            raise self._wrong("environment.inherit: should be a list")
        for name in names:
            if not isinstance(name, str) or not _VARIABLE.fullmatch(name.replace("*", "_")):
                raise self._wrong(
                    f"environment.inherit: {_yaml.show(name)} should be a variable's name,"
                    " in which * may stand for any characters"
                )
        return tuple(names)

    def variables(self, values: Mapping[str, Sequence[str]]) -> dict[str, str]:
        variables = self._mapping("environment.set", self._environment().get("set", {}))
        filled = {}
        for name, value in variables.items():
            if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
                raise self._wrong(f"environment.set: {_yaml.show(name)} is no variable's name")
            if not isinstance(value, str):
                raise self._wrong(f'environment.set.{name}: should be a text; quote it: "1"')
            filled[name] = self._fill_text(f"environment.set.{name}", value, values)
        return filled

    def _fill_text(self, where: str, text: str, values: Mapping[str, Sequence[str]]) -> str:
        def value_of(match: re.Match[str]) -> str:
            if not values.get(match[1]):
                raise self._wrong(f"{where}: {match[0]} stands for nothing here")
            return values[match[1]][0]

        return re.sub(r"\$\{(.*?)\}", value_of, text)

    def _environment(self) -> Mapping[str, Any]:
        value = self._data.get("environment", {})
        return self._mapping("environment", value, ("inherit", "set"))

    def _mapping(
        self, where: str, value: Any, fields: Sequence[str] | None = None
    ) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self._wrong(f"{where}: should be a mapping, not {type(value).__name__}")
        for key in _yaml.unknown(value, value if fields is None else fields):
            raise self._wrong(
                f"{where}: {key} is no field here; known are {', '.join(fields or ())}"
            )
        return value

    def _wrong(self, what: str) -> ProfileError:
        return ProfileError(f"{self._file}: {what}")
