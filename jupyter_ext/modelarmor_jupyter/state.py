"""What a client is told of a kernel, as JSON; docs/rest-api.md describes it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from modelarmor.alerts import Counts
from modelarmor.profiles import Profile
from modelarmor_jupyter.confined import Confined
from modelarmor_jupyter.starting import is_starting


def kernel_state(kernel_id: str, manager: Any) -> dict[str, Any]:
    """The state of a kernel of `manager`, an ``AsyncIOLoopKernelManager`` of a server."""
    provisioner = manager.provisioner
    state: dict[str, Any] = {
        "kernel_id": kernel_id,
        "confined": False,
        # a plain kernel manager has none; that of a server does
        "execution_state": str(getattr(manager, "execution_state", "unknown")),
    }
    if not isinstance(provisioner, Confined):
        return {**state, "why": _why_not(manager)}
    confinement = provisioner.confinement
    if confinement is None or provisioner.plan is None:
        starting = is_starting(kernel_id)
        return {**state, "starting": starting, "why": provisioner.waits_for()}
    unheard = provisioner.not_heard
    return {
        **state,
        "confined": True,
        "profile": facts(confinement.profile),
        "posture": asdict(confinement.posture),
        "recording": confinement.recording,
        "last": provisioner.recorder.last,
        "counts": provisioner.recorder.counts.to_json(),
        **({} if unheard is None else {"alerts_not_heard": unheard}),
    }


def no_alerts() -> dict[str, Any]:
    """What a page of alerts of a kernel that is not confined says."""
    return {"last": 0, "missed": 0, "counts": Counts().to_json(), "alerts": []}


def facts(profile: Profile) -> dict[str, str]:
    """What a person wants to know of a profile."""
    return {
        "name": profile.name,
        "title": profile.title,
        "description": profile.description,
        "display_name": profile.display_name,
    }


def _why_not(manager: Any) -> str:
    spec = manager.kernel_spec
    name = getattr(spec, "display_name", "") or manager.kernel_name
    stanza = (getattr(spec, "metadata", None) or {}).get("kernel_provisioner") or {}
    asked = stanza.get("provisioner_name") if isinstance(stanza, dict) else None
    how = f"which asks for {asked!r}" if asked else "which names no provisioner that confines"
    return (
        f"Nothing confines it: it was started as {name!r}, {how}. Choose a kernel that is"
        " called confined."
    )
