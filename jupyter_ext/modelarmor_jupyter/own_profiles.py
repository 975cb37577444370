"""The user's own profiles: saved from one that there is, listed in the launcher, deleted.

A profile is a directory and its kernelspec another. Each appears whole or not at all, since it is
made beside its place and then renamed, and nothing is ever overwritten.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml
from jupyter_core.paths import jupyter_data_dir

from modelarmor import profiles
from modelarmor.profiles import Profile

#: names that mean something else where a profile's could stand
_RESERVED: Final = frozenset({"preview"})
_MAX_LOGO: Final = 256 << 10
_PROVISIONER: Final = "modelarmor-provisioner"


class NameTaken(ValueError):
    """There is a profile or a kernelspec of that name."""


class NotOwn(ValueError):
    """A profile that is not the user's own to delete."""


def is_own(profile: Profile) -> bool:
    """Whether the profile is one of the user's own."""
    return profile.directory.parent == profiles.user_directory()


def check_name(name: str, path: Sequence[Path]) -> None:
    """Raise unless a new profile can be called `name`, given those that are found on `path`.

    Raises
    ------
    ValueError
        when that cannot be a profile's name.
    NameTaken
        when there is a profile or a kernelspec of that name.
    """
    if not profiles.is_name(name) or name in _RESERVED:
        raise ValueError(
            f"{name!r:.80} cannot name a profile; take lower-case letters, digits and hyphens"
        )
    there = (profiles.user_directory() / name, _kernel_directory(name))
    if name in profiles.names(path) or any(map(os.path.lexists, there)):
        raise NameTaken(f"there is a profile or a kernel called {name!r} already; choose another")


def save(
    name: str,
    *,
    base: Profile,
    title: str,
    description: str,
    policy: str,
    kernel_spec: dict[str, Any],
    check: Callable[[Path], None],
) -> Path:
    """Save a profile that is `base` with a policy more, and a kernelspec for it.

    Parameters
    ----------
    name
        What to call it; see `check_name`.
    base
        The profile whose files are copied.
    title, description
        What people are told of it.
    policy
        The document that is added, with templates.
    kernel_spec
        The kernelspec to copy, as ``kernel.json`` has it.
    check
        Called with the directory in which the profile's own lies, before anybody can find it; what
        it raises stops the saving.

    Returns
    -------
    Path
        The profile's directory.

    Raises
    ------
    NameTaken
        when there is a profile or a kernelspec of that name.
    OSError
        when it cannot be written.
    """
    target, kernel = profiles.user_directory() / name, _kernel_directory(name)
    with _beside(target) as made, _beside(kernel) as made_kernel:
        _write_profile(made, name, base, title, description, policy)
        check(made.parent)
        _write_kernel(made_kernel, name, base, kernel_spec)
        _appear(made, target)
        try:
            _appear(made_kernel, kernel)
        except BaseException:
            shutil.rmtree(target)
            raise
    return target


def delete(name: str) -> None:
    """Delete one of the user's own profiles and the kernelspec that starts it.

    Kernels that run under it go on, restarts included.

    Raises
    ------
    NotOwn
        when there is no such profile among them.
    OSError
        when it cannot be removed.
    """
    target = profiles.user_directory() / name
    if not profiles.is_name(name) or not (target / "profile.yaml").is_file() or target.is_symlink():
        raise NotOwn(f"{name!r:.80} is none of your own profiles, so it cannot be deleted here")
    kernel = _kernel_directory(name)
    if _starts(kernel, name):
        _vanish(kernel)
    _vanish(target)


def _kernel_directory(name: str) -> Path:
    return Path(jupyter_data_dir()) / "kernels" / f"modelarmor-{name}"


# --- what is written


def _write_profile(
    to: Path, name: str, base: Profile, title: str, description: str, policy: str
) -> None:
    facts = yaml.safe_load((base.directory / "profile.yaml").read_text(encoding="utf-8"))
    told = {"title": title, "displayName": f"Python 3 (confined: {name})"}
    facts = {**facts, **told, "description": description}
    text = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=100)
    (to / "profile.yaml").write_text(
        f"# Made from the profile {base.name}.\n\n{text}", encoding="utf-8"
    )
    policies = (base.directory / "policy.yaml").read_text(encoding="utf-8")
    added = f"---\n# What is granted besides.\n{policy}"
    (to / "policy.yaml").write_text(
        f"{_renamed(policies, base.name, name).rstrip()}\n{added}", encoding="utf-8"
    )
    network = base.directory / "network.yaml"
    if network.exists():
        text = _renamed(network.read_text(encoding="utf-8"), base.name, name)
        (to / "network.yaml").write_text(text, encoding="utf-8")


def _renamed(text: str, old: str, new: str) -> str:
    """The documents under the new profile's name, so that both can be applied to one cluster."""
    old = re.escape(old)
    text = re.sub(rf"(?m)^(\s*modelarmor\.io/profile: ){old}$", rf"\g<1>{new}", text)
    return re.sub(rf"(?m)^(\s*name: modelarmor-){old}(-[-a-z0-9]+)?$", rf"\g<1>{new}\g<2>", text)


def _write_kernel(to: Path, name: str, base: Profile, kernel_spec: dict[str, Any]) -> None:
    metadata = {
        **kernel_spec.get("metadata", {}),
        "kernel_provisioner": {"provisioner_name": _PROVISIONER, "config": {"profile": name}},
    }
    spec = {
        **kernel_spec,
        "display_name": f"Python 3 (confined: {name})",
        "metadata": metadata,
    }
    (to / "kernel.json").write_text(json.dumps(spec, indent=2) + "\n", encoding="utf-8")
    for logo in _logos(base.directory):
        shutil.copyfile(logo, to / logo.name)


def _logos(directory: Path) -> Iterator[Path]:
    shipped = profiles.search_path()[-1] / "notebook"
    found = [*directory.glob("logo-*.svg"), *directory.glob("logo-*.png")]
    for logo in found or shipped.glob("logo-*.svg"):
        if logo.is_file() and not logo.is_symlink() and logo.stat().st_size <= _MAX_LOGO:
            yield logo


def _starts(kernel: Path, profile: str) -> bool:
    """Whether the kernelspec in `kernel` is one of ours for this profile."""
    try:
        spec = json.loads((kernel / "kernel.json").read_text(encoding="utf-8"))
        return bool(spec["metadata"]["kernel_provisioner"]["config"]["profile"] == profile)
    except (OSError, ValueError, KeyError, TypeError):
        return False


# --- appearing and vanishing whole


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A new directory of the same name, in a hidden one beside `target`; gone in the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=target.parent) as hidden:
        made = Path(hidden) / target.name
        made.mkdir()
        yield made


def _appear(made: Path, target: Path) -> None:
    try:
        # fails where there is a directory with anything in it
        os.rename(made, target)  # noqa: PTH104  the call is what is meant
    except OSError as error:
        if target.exists():
            raise NameTaken(f"{target} has appeared meanwhile; choose another name") from error
        raise


def _vanish(directory: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".old-", dir=directory.parent) as hidden:
        directory.rename(Path(hidden) / directory.name)
