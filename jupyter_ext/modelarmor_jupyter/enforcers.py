"""The entry point of kernelspecs: the same kernelspec is confined here or on a cluster.

Of what a kernelspec configures, only the wish for a profile is taken. Where and how a kernel runs
is the administrator's to say.
"""

from __future__ import annotations

from typing import Any

from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from modelarmor_jupyter.config import ModelArmor


def provisioner(
    *, kernel_id: str, kernel_spec: Any, parent: Any, profile: str = "", **_wishes: Any
) -> KernelProvisionerBase:
    """The provisioner of one kernel, as `c.ModelArmor.enforcer` says."""
    given = {
        "kernel_id": kernel_id,
        "kernel_spec": kernel_spec,
        "parent": parent,
        "profile": str(profile),
    }
    if on_cluster(parent):
        from modelarmor_jupyter.pods import PodProvisioner

        return PodProvisioner(**given)
    from modelarmor_jupyter.provisioner import ModelArmorProvisioner

    return ModelArmorProvisioner(**given)


def on_cluster(parent: Any) -> bool:
    """Whether kernels run in pods, by the configuration of `parent`."""
    chosen = ModelArmor(parent=parent).enforcer
    if chosen != "auto":
        return bool(chosen == "kubernetes")
    pods = parent.config.get("KernelPods", {}) if parent is not None else {}
    return bool(pods.get("image") or pods.get("images"))
