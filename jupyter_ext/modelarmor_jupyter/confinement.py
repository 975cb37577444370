"""What confines a kernel: its profile, and what this server adds to every profile.

A kernel must not decide how the next one is confined. Profiles, kernelspecs and Jupyter's own
configuration lie in the home directory, out of a kernel's reach; where a workspace lies around
them, or record mode opens the home directory, Block rules are added that keep them out of reach.

Record mode is the default posture ``audit``: what no rule names happens and is recorded. Block
rules hold, and what a profile gives to be read only stays unchanged; otherwise a kernel could
change the programs that run next, this server's among them. On a cluster those lie in an image, so
there a profile is recorded by itself.

The widget is imported inside of the sandbox. An installation has it in the Python environment,
which every profile gives to be read; a checkout that is installed in place has it elsewhere, so
there this package may be read besides.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from jupyter_core.paths import jupyter_config_dir, jupyter_data_dir, jupyter_runtime_dir

from modelarmor import profiles
from modelarmor.policy.decide import Operation, OperationKind, Table
from modelarmor.policy.model import Outcome, PathRule, Policy, Posture, Rule
from modelarmor.profiles import Profile

#: the names of the policies that are added
GUARD_POLICY: Final = "modelarmor-guard"
RECORDING_POLICY: Final = "modelarmor-recording"
WIDGET_POLICY: Final = "modelarmor-widget"

_GUARDED: Final = Outcome(
    "Block",
    9,
    ("MITRE", "MITRE_T1562_impair_defenses"),
    "Profiles, kernelspecs and Jupyter's own files are out of a kernel's reach",
)
_UNCHANGED: Final = Outcome(
    "Block", 8, ("MITRE", "MITRE_T1574_hijack_execution_flow"), "Read only, also in record mode"
)
_READABLE: Final = Outcome("Allow", 0, (), "The widget's code")
_PACKAGE: Final = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120
_CHANGING: Final[tuple[OperationKind, ...]] = ("write", "create", "delete", "metadata")
_READING: Final[tuple[OperationKind, ...]] = ("read", "list")


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a kernel runs under, from the start that chose it to the next that chooses another.

    Attributes:
        profile: the profile, as it was found.
        policies: its policies and those that this server adds.
        posture: the profile's, or ``audit`` while recording.
        recording: whether this is record mode.
        first: the number of the first alert that belongs to it.
    """

    profile: Profile
    policies: tuple[Policy, ...]
    posture: Posture
    recording: bool = False
    first: int = 1


def confine(
    profile: Profile,
    *,
    recording: bool,
    workspace: Path,
    own: Iterable[Path],
    secret: Iterable[Path] = (),
    first: int = 1,
) -> Confinement:
    """Put together what a kernel will run under.

    Parameters
    ----------
    profile
        With its templates filled.
    recording
        Whether what no rule names is recorded instead of refused.
    workspace
        Where the kernel works.
    own
        Directories that a kernel must never change: see `own_directories`.
    secret
        Those that it must not read either.
    first
        The number that the next alert will have.

    Raises
    ------
    ValueError
        when the workspace lies in one of them, or the profile grants one in a way that no further
        rule outweighs.
    """
    posture = Posture.all("audit") if recording else profile.posture
    policies = (*profile.policies, *_widget(profile))
    if recording:
        policies = (*policies, _unchanged(policies))
    kinds: dict[str, tuple[OperationKind, ...]] = dict.fromkeys(_resolved(own), _CHANGING)
    kinds |= dict.fromkeys(_resolved(secret), (*_CHANGING, *_READING))
    guard = _guard(policies, posture, workspace.resolve(), kinds)
    return Confinement(profile, (*policies, *([guard] if guard else [])), posture, recording, first)


def recorded(profile: Profile) -> Profile:
    """The profile as a pod is recorded under it.

    What it gives to be read only is so by a Block rule, instead of the Allow rule: of two rules on
    one key KubeArmor knows only one.

    Parameters
    ----------
    profile
        With its templates filled.
    """
    policies = (
        replace(policy, file=tuple(_kept(rule) for rule in policy.file))
        for policy in profile.policies
    )
    return replace(profile, policies=tuple(policies), posture=Posture.all("audit"))


def _kept(rule: PathRule) -> PathRule:
    return replace(rule, outcome=_UNCHANGED) if _readable(rule) else rule


def keeps_unchanged(rule: Rule | None) -> bool:
    """Whether record mode put it there, where the profile permits reading alone."""
    return rule is not None and rule.outcome == _UNCHANGED


def own_directories(
    more: Iterable[Path] = (), *, workspace: Path, recording: bool = False
) -> list[Path]:
    """What decides over kernels: the places of profiles and kernelspecs.

    Parameters
    ----------
    more
        Further places of profiles.
    workspace
        Where the kernel works.
    recording
        Also what this server, or an unconfined Python or shell of this user, runs unasked.
    """
    # the last is the package's own
    found = [*more, *profiles.search_path()[:-1], Path(jupyter_data_dir())]
    if recording:
        found += [Path(site.getusersitepackages()), Path.home() / ".local" / "bin"]
        found += _imported(workspace)
    return found


def _imported(workspace: Path) -> Iterator[Path]:
    """Where this server's code comes from, unless the workspace or the home directory is in it."""
    inside = [os.path.realpath(workspace), os.path.realpath(Path.home())]
    for entry in dict.fromkeys([*sys.path, str(Path(profiles.__file__).parent)]):
        place = Path(os.path.realpath(entry))
        if place.is_dir() and not any(Path(item).is_relative_to(place) for item in inside):
            yield place


def secret_directories() -> list[Path]:
    """What decides over this server: its configuration, and the tokens of those that run."""
    return [Path(jupyter_config_dir()), Path(jupyter_runtime_dir())]


def _resolved(directories: Iterable[Path]) -> Iterator[str]:
    for directory in (Path(os.path.realpath(item)) for item in directories):
        # `modelarmor` in the configuration directory: a kernel that may exchange it has its way
        own = directory.parts[-2:] == ("modelarmor", "profiles")
        yield str(directory.parent if own else directory)


def _widget(profile: Profile) -> Iterator[Policy]:
    """A rule that lets this package be read, where only the posture refuses it."""
    table = Table(profile.policies, Posture())
    said = table.decide(Operation("read", f"{_PACKAGE}/widget.py"))
    if said.verdict == "block" and said.rule is None:
        rule = PathRule(
            _READABLE, match="directory", value=f"{_PACKAGE}/", recursive=True, read_only=True
        )
        yield Policy("KubeArmorPolicy", WIDGET_POLICY, outcome=_READABLE, file=(rule,))


def _unchanged(policies: Iterable[Policy]) -> Policy:
    """For each directory and file that may be read only, a rule that says so.

    An Allow rule with ``readOnly`` leaves changes to the posture, which now is ``audit``. A Block
    rule with ``readOnly`` at the same place permits the same and refuses changes by itself.
    """
    rules = [
        replace(rule, outcome=_UNCHANGED)
        for policy in policies
        for rule in policy.file
        if _readable(rule)
    ]
    return Policy("KubeArmorPolicy", RECORDING_POLICY, outcome=_UNCHANGED, file=tuple(rules))


def _readable(rule: PathRule) -> bool:
    return rule.outcome.action == "Allow" and rule.read_only


def _guard(
    policies: Sequence[Policy],
    posture: Posture,
    workspace: Path,
    kinds: Mapping[str, Sequence[OperationKind]],
) -> Policy | None:
    """Rules that keep each directory from operations of its kinds; None where none is needed."""
    for directory in kinds:
        if workspace.is_relative_to(directory):
            raise ValueError(
                f"{workspace} is in {directory}, which decides how kernels are confined; choose a"
                " workspace outside of it"
            )
    table = Table(policies, posture)
    open_to_it = [item for item in kinds if _touches(table, item, kinds[item])]
    if not open_to_it:
        return None
    rules = [
        *(
            PathRule(_GUARDED, match="directory", value=f"{item}/", recursive=True)
            for item in open_to_it
        ),
        # the directories on the way there, which could be moved aside with what they hold
        *(
            PathRule(_GUARDED, match="path", value=way, read_only=True)
            for way in _ways(open_to_it, workspace)
            if table.decide(Operation("delete", way)).verdict == "allow"
        ),
    ]
    guard = Policy("KubeArmorPolicy", GUARD_POLICY, outcome=_GUARDED, file=tuple(rules))
    guarded = Table([*policies, guard], posture)
    for item in open_to_it:
        if _touches(guarded, item, kinds[item]):
            raise ValueError(
                f"this profile grants {item}, which decides how kernels are confined; a profile"
                " that does is not used here"
            )
    return guard


def _touches(table: Table, directory: str, kinds: Iterable[OperationKind]) -> bool:
    return any(
        table.decide(Operation(kind, path)).verdict == "allow"
        for kind in kinds
        for path in (directory, f"{directory}/a", f"{directory}/a/b")
    )


def _ways(directories: Sequence[str], workspace: Path) -> list[str]:
    """The directories between the workspace, or the home directory, and each of `directories`."""
    tops = (workspace, Path(os.path.realpath(Path.home())))
    found = {
        str(parent)
        for directory in directories
        for parent in Path(directory).parents
        if any(parent != top and parent.is_relative_to(top) for top in tops)
    }
    return sorted(found - set(directories))
