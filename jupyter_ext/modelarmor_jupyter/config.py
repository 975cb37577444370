"""What the administrator decides.

A kernelspec says which profile it would like. That is a request: kernelspecs lie in directories
which users write, and what ``kernel.json`` configures beats the server's configuration. So the
limits are the traits of a class of its own, which only the server's configuration sets::

    c.ModelArmor.allowed_profiles = ["notebook", "untrusted-model"]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from traitlets import Bool, Enum, Int, List, TraitError, Unicode, validate
from traitlets.config import Configurable

from modelarmor import profiles
from modelarmor.profiles import Profile
from modelarmor_jupyter.confinement import Confinement, confine, own_directories, secret_directories

#: the most alerts that a kernel's record may be made to hold; each takes 2 to 8 KB
_MAX_RECORD = 1_000_000


class RefusedRequest(ValueError):
    """A kernel that the administrator's configuration, or its place, does not allow."""


class ModelArmor(Configurable):
    """How kernels are confined on this server."""

    enforcer = Enum(
        ["auto", "local", "kubernetes"],
        default_value="auto",
        help="""What confines kernels: the sandbox of this machine (`local`), or KubeArmor in a pod
        of their own (`kubernetes`). `auto` takes pods where `c.KernelPods.image` or
        `c.KernelPods.images` is set, and the sandbox elsewhere.""",
    ).tag(config=True)

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

    allow_recording = Bool(
        True,
        help="""Whether a kernel may be restarted in record mode, in which what its profile does
        not name happens and is recorded instead of being refused. Block rules hold in it, and what
        the profile gives to be read only stays unchanged.""",
    ).tag(config=True)

    record_capacity = Int(
        10_000,
        min=1,
        max=_MAX_RECORD,
        help="""How many alerts are kept of each kernel. Older ones fall out of the record, never
        out of the counts. An alert takes about 2 KB, and at most 8 KB.""",
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

    def allows(self, name: str) -> bool:
        """Whether the administrator allows the profile `name`."""
        return self.allowed_profiles is None or name in self.allowed_profiles

    def choose(self, requested: str) -> str:
        """The name of the profile for a kernelspec that asks for `requested` (may be empty).

        Raises
        ------
        RefusedRequest
            when the administrator does not allow that profile.
        """
        name = requested or self.default_profile
        if not self.allows(name):
            raise RefusedRequest(
                f"this kernel asks for the profile {name!r}, which this server does not allow"
                f" (allowed: {', '.join(self.allowed_profiles) or 'none'}); choose another kernel,"
                " or have c.ModelArmor.allowed_profiles name it"
            )
        return str(name)

    def search_path(self) -> list[Path]:
        """Where profiles are looked for; the first of a name wins.

        Where the administrator says which profiles are allowed, the user's own come last: a
        profile of one's own that is called ``notebook`` is not what ``notebook`` means there.
        """
        found = [*(Path(item).expanduser() for item in self.profile_path), *profiles.search_path()]
        if self.allowed_profiles is not None:
            found.sort(key=lambda place: place == profiles.user_directory())  # a stable sort
        return found

    def load(self, name: str, *, workspace: Path, scratch: Path, prefix: Path) -> Profile:
        """Load the profile `name` for a kernel that works in `workspace`.

        Raises
        ------
        ProfileError, PolicyError
            when there is no such profile, or it is wrong.
        """
        return profiles.load(
            name,
            workspace=workspace,
            home=Path.home(),
            tmp=scratch,
            prefix=prefix,
            search_path=self.search_path(),
        )

    def confine(
        self, profile: Profile, *, recording: bool, workspace: Path, first: int
    ) -> Confinement:
        """What a kernel runs under; `first` is the number that its next alert will have.

        Raises
        ------
        RefusedRequest
            when record mode is not allowed, or the kernel could change how others are confined.
        """
        if recording:
            self.check_recording()
        own = own_directories(
            (Path(item).expanduser() for item in self.profile_path),
            workspace=workspace,
            recording=recording,
        )
        try:
            return confine(
                profile,
                recording=recording,
                workspace=workspace,
                own=own,
                secret=secret_directories(),
                first=first,
            )
        except ValueError as error:
            raise RefusedRequest(str(error)) from error

    def check_recording(self) -> None:
        """Raise `RefusedRequest` where record mode is not allowed."""
        if not self.allow_recording:
            raise RefusedRequest(
                "this server does not allow record mode; have c.ModelArmor.allow_recording be True"
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
