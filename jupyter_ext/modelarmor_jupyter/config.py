"""What the administrator decides.

A kernelspec says which profile it would like. That is a request: kernelspecs lie in directories
which users write, and what ``kernel.json`` configures beats the server's configuration. So the
limits are the traits of a class of its own, which only the server's configuration sets::

    c.ModelArmor.allowed_profiles = ["notebook", "untrusted-model"]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from traitlets import Bool, List, TraitError, Unicode, validate
from traitlets.config import Configurable

from modelarmor import profiles
from modelarmor.profiles import Profile


class RefusedRequest(ValueError):
    """A kernel that the administrator's configuration, or its place, does not allow."""


class ModelArmor(Configurable):
    """How kernels are confined on this server."""

    default_profile = Unicode(
        "notebook", help="The profile of a kernel whose kernelspec names none."
    ).tag(config=True)

    allowed_profiles = List(
        Unicode(),
        default_value=None,
        allow_none=True,
        help="""The profiles that a kernelspec may ask for. A kernel that asks for another does
        not start. None (the default) allows every profile that is found.""",
    ).tag(config=True)

    profile_path = List(
        Unicode(),
        help="""Directories to look for profiles in, before the places where `modelarmor profiles`
        finds them.""",
    ).tag(config=True)

    workspace = Unicode(
        "",
        help="""The directory that `${WORKSPACE}` stands for in every profile. Empty (the default)
        takes the directory of the notebook. Set it where notebooks lie in the home directory
        itself, which is never a workspace.""",
    ).tag(config=True)

    scratch_directory = Unicode(
        "",
        help="""Where each kernel's private directory is made, which holds its sockets and its
        temporary files. Empty (the default) takes `modelarmor-<uid>` in the temporary directory.
        Keep it short: a socket's path has at most 107 bytes.""",
    ).tag(config=True)

    encrypt = Bool(
        True,
        help="Encrypt the messages of a kernel with CurveZMQ where both ends support it.",
    ).tag(config=True)

    @validate("profile_path", "workspace", "scratch_directory")
    def _absolute(self, proposal: Any) -> Any:
        value = proposal["value"]
        for item in [value] if isinstance(value, str) else value:
            if item and not Path(item).expanduser().is_absolute():
                raise TraitError(
                    f"c.ModelArmor.{proposal['trait'].name}: {item!r} should be an absolute path"
                )
        return value

    def choose(self, requested: str) -> str:
        """The name of the profile for a kernelspec that asks for `requested` (may be empty).

        Raises
        ------
        RefusedRequest
            when the administrator does not allow that profile.
        """
        name = requested or self.default_profile
        allowed = self.allowed_profiles
        if allowed is not None and name not in allowed:
            raise RefusedRequest(
                f"this kernel asks for the profile {name!r}, which this server does not allow"
                f" (allowed: {', '.join(allowed) or 'none'}); choose another kernel, or have"
                " c.ModelArmor.allowed_profiles name it"
            )
        return str(name)

    def load(self, name: str, *, workspace: Path, scratch: Path, prefix: Path) -> Profile:
        """Load the profile `name` for a kernel that works in `workspace`.

        Raises
        ------
        ProfileError, PolicyError
            when there is no such profile, or it is wrong.
        """
        places: Sequence[Path] = [Path(item).expanduser() for item in self.profile_path]
        return profiles.load(
            name,
            workspace=workspace,
            home=Path.home(),
            tmp=scratch,
            prefix=prefix,
            search_path=[*places, *profiles.search_path()],
        )

    def place(self, cwd: Path) -> tuple[Path, Path]:
        """The workspace of a kernel and the directory that it starts in, both resolved.

        Raises
        ------
        RefusedRequest
            when the workspace is the home directory, or contains it.
        """
        here = cwd.resolve()
        workspace = Path(self.workspace).expanduser().resolve() if self.workspace else here
        home = Path.home().resolve()
        if home.is_relative_to(workspace):
            what = "the home directory" if workspace == home else "a parent of the home directory"
            raise RefusedRequest(
                f"{workspace} is {what}: a kernel that may work there could read every credential"
                " in it. Move the notebook into a directory of its own, or set"
                " c.ModelArmor.workspace to the directory that kernels may work in"
            )
        if not workspace.is_dir():
            raise RefusedRequest(f"{workspace} is no directory, so no kernel can work there")
        return workspace, here if here.is_relative_to(workspace) else workspace
