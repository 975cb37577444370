"""Kernelspecs and the start of kernels in strict mode: every kernel is confined, or none starts.

`StrictKernelSpecManager` is the one setting that turns strict mode on. A server whose configuration
names it does not start without it, and making it puts everything else in place, after all
configuration has been read, so that nothing which is configured elsewhere undoes it.

Two things see to it that no kernel runs outside of the sandbox. A kernelspec that names another
provisioner is refused, with a message for its user. Whatever a kernelspec says, all that this
process ever starts a kernel with is a `StrictProvisioner`, or where kernels run in pods, a
`PodProvisioner`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from jupyter_server.serverapp import ServerApp

from modelarmor_jupyter.config import RefusedRequest
from modelarmor_jupyter.enforcers import on_cluster, provisioner
from modelarmor_jupyter.places import reachable
from modelarmor_jupyter.provisioner import ModelArmorProvisioner

PROVISIONER: Final = "modelarmor-provisioner"


class RefusedSpec(NoSuchKernel):
    """A kernelspec that would run a kernel unconfined."""

    def __init__(self, name: str, provisioner: str) -> None:
        super().__init__(name)
        self.provisioner = provisioner

    def __str__(self) -> str:
        return (
            f"the kernel {self.name!r} would be started by {self.provisioner!r}, unconfined, which"
            " strict mode refuses; choose a confined kernel"
        )


class StrictKernelSpecManager(KernelSpecManager):
    """Finds the kernelspecs whose kernels are confined; naming it turns strict mode on."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(self.parent, ServerApp):
            from modelarmor_jupyter.strict import enforce

            enforce(self.parent)

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The kernelspec of that name.

        Raises
        ------
        RefusedSpec
            when it names another provisioner. One that names none is given ours.
        """
        spec = super().get_kernel_spec(kernel_name)
        stanza = spec.metadata.setdefault("kernel_provisioner", {"provisioner_name": PROVISIONER})
        named = stanza.get("provisioner_name") if isinstance(stanza, dict) else stanza
        if named != PROVISIONER:
            error = RefusedSpec(kernel_name, str(named))
            self.log.warning("strict mode: %s", error)  # REST only says that it is not there
            raise error
        return spec


class StrictFactory(KernelProvisionerFactory):
    """Knows one provisioner. It takes the place of jupyter_client's, of which there is one."""

    def is_provisioner_available(self, kernel_spec: KernelSpec) -> bool:
        return True  # another one has been refused by name, and would not be used

    def create_provisioner_instance(
        self, kernel_id: str, kernel_spec: KernelSpec, parent: Any
    ) -> KernelProvisionerBase:
        stanza = kernel_spec.metadata.get("kernel_provisioner") or {}
        profile = stanza.get("config", {}).get("profile", "")
        if on_cluster(parent):
            return provisioner(
                kernel_id=kernel_id, kernel_spec=kernel_spec, parent=parent, profile=profile
            )
        return StrictProvisioner(
            kernel_id=kernel_id, kernel_spec=kernel_spec, parent=parent, profile=profile
        )


class StrictProvisioner(ModelArmorProvisioner):
    """Starts a kernel confined, in the directory that is served, with nothing that decides."""

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Check the place and the policy before anything starts.

        Raises
        ------
        RefusedRequest
            when the kernel would work outside of what is served, or could write or read what
            decides about other kernels. Its message is for the user.
        """
        kwargs["cwd"] = str(self._checked_place(kwargs.get("cwd")))
        kwargs = await super().pre_launch(**kwargs)
        try:
            self._check_policy()
        except RefusedRequest:
            self._give_up()
            raise
        return kwargs

    def _checked_place(self, cwd: str | None) -> Path:
        root = self._root()
        here = Path(cwd).resolve() if cwd else root or Path.cwd()
        if root is None or self.settings.workspace:
            return here  # no server serves anything, or the administrator chose
        # A link that a kernel made would give the next one another workspace.
        if not here.is_relative_to(root):
            raise RefusedRequest(f"{here} does not lie in what this server serves ({root})")
        if any(part.startswith(".") for part in here.relative_to(root).parts):
            raise RefusedRequest(f"{here} is hidden, and no place for a kernel to work in")
        return here

    def _check_policy(self) -> None:
        confinement = self.confinement
        assert confinement is not None
        if wrong := reachable(confinement.policies, confinement.posture):
            raise RefusedRequest(
                "this kernel would not be confined in strict mode: "
                + "; ".join(wrong)
                + ". Move the notebook, or start the server elsewhere"
            )

    def _root(self) -> Path | None:
        server: Any = getattr(self.parent, "parent", None)
        root = getattr(server, "root_dir", None)
        return Path(root).resolve() if root else None
