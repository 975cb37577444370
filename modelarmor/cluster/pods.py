"""What the cluster says of a pod, in few words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from modelarmor.cluster.canary import NOT_CONFINED
from modelarmor.visible import escaped, visible

Standing = Literal["pending", "running", "failed", "ending"]

#: reasons of a waiting container that time does not cure
_HOPELESS: Final = {
    "CreateContainerConfigError": "the container's configuration is refused",
    "CreateContainerError": "the container cannot be made",
    "ErrImageNeverPull": "the image is not on the node, and is not to be pulled",
    "ImageInspectError": "the image is damaged",
    "ImagePullBackOff": "the image cannot be pulled; check its name and its pull secret",
    "InvalidImageName": "the image's name is wrong",
    "RunContainerError": "the container cannot be run; has the image the configured Python?",
}


@dataclass(frozen=True, slots=True)
class PodState:
    """A pod at one moment.

    Attributes:
        standing: whether it will run, runs, cannot or is about to go.
        uid: which pod of this name it is.
        ip: its address, empty before it has one.
        restarts: how often its container was started again.
        code: the exit status of what ended last, None where nothing has.
        why: the reason for its standing, for a person.
        canary: what the canary saw, where it was not denied.
        backing_off: the kubelet waits before it starts the container again.
        node: where it runs.
    """

    standing: Standing
    uid: str
    ip: str = ""
    restarts: int = 0
    code: int | None = None
    why: str = ""
    canary: dict[str, str] | None = None
    backing_off: bool = False
    node: str = ""


def state_of(pod: dict[str, Any]) -> PodState:
    """Read a pod's status."""
    meta, status = pod["metadata"], pod.get("status") or {}
    container: dict[str, Any] = next(iter(status.get("containerStatuses") or []), {})
    state = container.get("state") or {}
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    canary = _canary(ended)
    standing, why = _standing(meta, status, _held_up(status) or state, ended)
    if canary is not None:
        standing, why = "failed", "the canary was not denied"
    return PodState(
        standing,
        str(meta["uid"]),
        str(status.get("podIP") or ""),
        int(container.get("restartCount") or 0),
        ended.get("exitCode"),
        visible(why),
        canary,
        (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff",
        str((pod.get("spec") or {}).get("nodeName") or ""),
    )


def _held_up(status: dict[str, Any]) -> dict[str, Any]:
    """The state of an init container that is held up: it is before the pod's own."""
    for container in status.get("initContainerStatuses") or []:
        state: dict[str, Any] = container.get("state") or {}
        if (state.get("waiting") or {}).get("reason") in (*_HOPELESS, "ErrImagePull"):
            return state
    return {}


def _standing(
    meta: dict[str, Any], status: dict[str, Any], state: dict[str, Any], ended: dict[str, Any]
) -> tuple[Standing, str]:
    lost = status.get("phase") == "Unknown" or status.get("reason") == "NodeLost"
    if meta.get("deletionTimestamp"):
        said = status.get("message") or status.get("reason")
        return "ending", str(said or ("its node was lost" if lost else "it was deleted"))
    if status.get("phase") in ("Failed", "Succeeded"):
        reason = status.get("message") or status.get("reason") or "its container ended"
        return "failed", str(reason)
    waiting = state.get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    if reason in _HOPELESS:
        return "failed", f"{_HOPELESS[reason]} ({reason}: {waiting.get('message') or 'no details'})"
    if state.get("terminated"):
        return "pending", f"its container ended ({ended.get('exitCode')}) and starts again"
    if state.get("running") and lost:  # it may come back, with the kernel's variables
        return "running", f"its node does not answer: {status.get('message') or 'no details'}"
    if state.get("running"):
        return "running", "the container runs; waiting for the policy to be in force"
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return "pending", f"no node takes it: {condition.get('message') or 'no details'}"
    if reason == "ErrImagePull":
        return "pending", f"pulling the image failed: {waiting.get('message') or 'no details'}"
    return "pending", f"waiting for the container ({reason or 'not scheduled yet'})"


#: what the canary looks at (`modelarmor.cluster.canary`)
_SEEN = ("control", "rule", "posture")


def _canary(ended: dict[str, Any]) -> dict[str, str] | None:
    if ended.get("exitCode") != NOT_CONFINED:
        return None
    try:
        said = json.loads(ended.get("message") or "")["canary"]
        # Once a kernel ran, its own code may have written it.
        return {name: escaped(str(said[name])[:60]) for name in _SEEN if name in said}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
