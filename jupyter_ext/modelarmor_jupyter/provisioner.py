"""The provisioner that starts a kernel confined by a profile.

It is jupyter_client's local provisioner with another way to start the process, so everything that
speaks to kernels (JupyterLab, Notebook, nbclient, papermill) works with it. What differs:

* messages go over ipc sockets in a private directory, not over TCP ports that every process of
  the machine reaches, and encrypted where both ends can;
* the environment is what the profile lets through, not the server's;
* what the kernel is (its profile, its record, its private directory) outlives restarts. Restarting
  calls ``kill(restart=False)``, so only ``cleanup(restart=False)`` says that the kernel is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import zmq
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Unicode

from modelarmor.alerts import Recorder
from modelarmor.sandbox import CannotConfine, Plan, Sandbox, Workload, probe
from modelarmor.sandbox.planner import make_plan
from modelarmor.scratch import Scratch, sweep
from modelarmor.visible import escaped
from modelarmor_jupyter.config import ModelArmor
from modelarmor_jupyter.confined import Confined
from modelarmor_jupyter.confinement import Confinement

#: the first ipykernel that reads Curve keys from its connection file
_CURVE_IPYKERNEL: Final = (7, 3)
_POLL_SECONDS: Final = 0.02
#: how much of what a kernel wrote to its terminal is shown when it dies, in bytes
_LAST_WORDS: Final = 2_000
_EARLY_WORDS: Final = 300


class ModelArmorProvisioner(Confined, LocalProvisioner):
    """Starts a kernel in the sandbox, or not at all."""

    profile = Unicode(
        "",
        help="""The profile that the kernelspec asks for. It is a request: the server's
        `ModelArmor.allowed_profiles` decides.""",
    ).tag(config=True)

    #: a `modelarmor.sandbox.Process`; the base class has a `subprocess.Popen` here
    process: Any = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._settings = ModelArmor(parent=self.parent)
        self._scratch: Scratch | None = None
        self._workspace: Path | None = None
        self._plan: Plan | None = None
        self._launched = False
        self.connection_info = {}  # the base class keeps one for all of its instances
        self.recorder = Recorder(f"kernel {self.kernel_id}", self._settings.record_capacity)

    @property
    def places(self) -> dict[str, Path]:
        """What the templates of profiles stand for in this kernel, as `profiles.load` has it.

        Raises
        ------
        RuntimeError
            before the first start.
        """
        if self._workspace is None or self._scratch is None:
            raise RuntimeError("the kernel has not been started")
        return {
            "workspace": self._workspace,
            "home": Path.home(),
            "tmp": self._scratch.path,
            "prefix": Path(sys.prefix),
        }

    async def ended_early(self) -> str | None:
        """What the kernel said last, if it has ended; None while it runs."""
        return self.last_words()[-_EARLY_WORDS:] if await self.poll() is not None else None

    @property
    def plan(self) -> Plan | None:
        """How each rule of the profile is enforced; None before the first start."""
        return self._plan

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Choose the profile, make the private directory and the connection file.

        Raises
        ------
        RefusedRequest, ProfileError, PolicyError, ScratchError
            when the kernel must not start or cannot; the message is for its user.
        """
        try:
            workspace, cwd = self._settings.place(Path(kwargs.pop("cwd", None) or Path.cwd()))
            if self._scratch is None:
                base = self._base()
                sweep(base)
                self._scratch = Scratch(base)
            self._workspace = workspace
            if not self._confinements:
                self._confinements.append(self._confine(self.profile, recording=False))
            self._adopt_staged()
            self._use_private_sockets(self._scratch)
            kwargs["env"] = self._environment(kwargs.pop("env", os.environ))
            kwargs = await super().pre_launch(**kwargs)
        except BaseException:
            self._give_up()
            raise
        return {**kwargs, "cwd": str(cwd)}

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel confined.

        Raises
        ------
        CannotConfine
            when this machine cannot enforce the profile as it is written.
        """
        confinement = self.confinement
        assert confinement is not None
        workload = Workload(
            name=f"kernel-{self.kernel_id}",
            command=cmd,
            policies=confinement.policies,
            posture=confinement.posture,
            network=confinement.profile.network,
            resources=confinement.profile.resources,
            env=kwargs["env"],
            cwd=Path(kwargs["cwd"]),
        )
        self.started_at = time.time()
        try:
            # Not the server's terminal: a process that holds one can type into it.
            with self._output.open("ab") as output:
                # on a thread: the server answers meanwhile
                self.process = await asyncio.to_thread(
                    Sandbox.start,
                    workload,
                    recorder=self.recorder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except CannotConfine as error:
            reason = f"{error} {self.last_words()}".strip()
            self._give_up()
            raise CannotConfine(reason) from error
        except BaseException:
            self._give_up()
            raise
        self._launched = True
        self._plan = self.process.plan
        self.pid = self.process.pid
        self.cwd = kwargs["cwd"]
        return self.connection_info

    async def wait(self) -> int | None:
        """Wait until the kernel, and with it everything that it started, has ended."""
        process = self.process
        if process is None:
            return 0
        while (status := process.poll()) is None:
            await asyncio.sleep(_POLL_SECONDS)
        process.close()
        self.process = None
        return int(status)

    async def send_signal(self, signum: int) -> None:
        """Send the kernel a signal; one that has ended gets none."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signum)

    async def kill(self, restart: bool = False) -> None:
        """End the kernel and everything that it started, now."""
        if self.process is not None:
            if status := self.process.poll():
                self.log.warning(
                    "kernel %s ended (%d); its last output:\n%s",
                    self.kernel_id,
                    status,
                    self.last_words(),
                )
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()

    async def terminate(self, restart: bool = False) -> None:
        """Ask the kernel to end."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()

    async def cleanup(self, restart: bool = False) -> None:
        """Let go of the private directory, unless the kernel is about to start again."""
        if not restart:
            self._release()

    def resolve_path(self, path_str: str) -> str | None:
        """Nothing: where the server's files are is not for a confined kernel to find out."""
        return None

    def _confine(self, requested: str, *, recording: bool) -> Confinement:
        settings, places = self._settings, self.places
        profile = settings.load(
            settings.choose(requested),
            workspace=places["workspace"],
            scratch=places["tmp"],
            prefix=places["prefix"],
        )
        return settings.confine(
            profile,
            recording=recording,
            workspace=places["workspace"],
            first=self.recorder.last + 1,
        )

    def _check(self, staged: Confinement) -> None:
        report = probe()
        plan = make_plan(
            staged.policies,
            staged.posture,
            egress=staged.profile.network,
            resources=staged.profile.resources,
            capabilities=frozenset(),
            command=[sys.executable],
            machine=report.machine,
        )
        missing = [
            *report.reasons,
            *(f"{rule.rule.place}: {rule.rule.where}: {rule.note}" for rule in plan.unenforceable),
        ]
        if missing:
            raise CannotConfine(
                f"profile {staged.profile.name} cannot be enforced here: {'; '.join(missing)}"
            )

    def _base(self) -> Path | None:
        base = self._settings.scratch_directory
        return Path(base).expanduser() if base else None

    @property
    def _output(self) -> Path:
        assert self._scratch is not None
        return self._scratch.path / "output.log"

    def _use_private_sockets(self, scratch: Scratch) -> None:
        km: Any = self.parent
        km.transport = "ipc"
        km.cache_ports = False
        km.ip = scratch.socket_prefix
        km.connection_file = str(scratch.path / "connection.json")
        # absent before jupyter_client 8.9; what the administrator chose is left alone
        if getattr(km, "transport_encryption", None) == "disabled" and self._can_encrypt():
            km.transport_encryption = "auto"

    def _can_encrypt(self) -> bool:
        if not (self._settings.encrypt and zmq.has("curve")):
            return False
        try:
            version = metadata.version("ipykernel")
        except metadata.PackageNotFoundError:
            return False
        return tuple(map(int, re.findall(r"\d+", version)[:2])) >= _CURVE_IPYKERNEL

    def _environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """What the profile lets through, with private directories for what Python writes."""
        assert self.confinement is not None
        assert self._scratch is not None
        private = {
            name: str(self._scratch.path / directory)
            for name, directory in (
                ("IPYTHONDIR", "ipython"),
                ("MPLCONFIGDIR", "matplotlib"),
                ("TMPDIR", "tmp"),
            )
        }
        passed = {name: value for name, value in inherited.items() if name not in private}
        env = private | self.confinement.profile.environ(passed)
        # ipykernel ends when the process of this number is not its parent
        env.pop("JPY_PARENT_PID", None)
        for name in ("HOME", *private):
            place = Path(env.get(name, "/"))
            if place.is_relative_to(self._scratch.path):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return env

    def _give_up(self) -> None:
        """A start failed: nothing is kept of a kernel that never ran, nor of its new profile."""
        self._drop_staged()
        if not self._launched:
            self._release()

    def _release(self) -> None:
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            scratch.release()

    def last_words(self) -> str:
        """The end of what the kernel wrote to its terminal, without control characters."""
        with contextlib.suppress(OSError), self._output.open("rb") as output:
            size = output.seek(0, os.SEEK_END)
            output.seek(max(0, size - _LAST_WORDS))
            text = output.read().decode("utf-8", "replace").strip()
            return "\n".join(map(escaped, text.splitlines()))
        return ""
