"""Whether an object of the cluster is the one that was asked for.

Between the two stand admission webhooks, PodSecurityPolicies, and the schema of an older KubeArmor,
from whose objects the API server drops every field that it does not know, without a word. What such
a change may take is what nothing else proves: the canary is part of the pod's command, and shows
that one rule of the policy holds, not that the others are still in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from modelarmor.visible import visible

#: an administrator's to set: quotas and limits change them, in value or in how they are written
_THEIRS: Final = frozenset({"resources", "sizeLimit"})
#: dropped by Kubernetes before 1.25, which closes the range but for its first port
_LATER: Final = frozenset({"endPort"})
_SHARED: Final = ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace")
#: container lists of a pod, all of whose members run beside user code or before it
_CONTAINERS: Final = ("containers", "initContainers")
_SHOWN: Final = 5
_SHOWN_CHARACTERS: Final = 300


def changes(asked: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    """What the cluster changed of an object, in words; empty where it is as it was asked for.

    What the API server fills in is no change, nor are a pod's resources.

    Args:
        asked: the object as it was sent.
        made: as the API server has it.
    """
    found = [*_labels(asked, made)]
    wanted, got = asked.get("spec") or {}, made.get("spec") or {}
    found += _lost(wanted, got, "spec")
    found += _lost(asked.get("data"), made.get("data"), "data")
    if asked.get("kind") == "KubeArmorPolicy" and wanted != got:
        found = found or ["spec has more in it"]
    found += _loosened(wanted, got) if asked.get("kind") == "Pod" else ()
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return visible(", ".join(found[:_SHOWN]), _SHOWN_CHARACTERS) + more


def changed_by_the_cluster(kind: str, what: str) -> str:
    """What to say of a change, and who can take it back."""
    if kind == "KubeArmorPolicy":
        cure = "is its KubeArmor older than the policy? Update its CRDs"
    else:
        cure = "have its admission webhooks and policies leave what ModelArmor makes as it is"
    return f"the cluster changed the {kind} ({what}), so it would not confine as intended: {cure}"


def _labels(asked: Mapping[str, Any], made: Mapping[str, Any]) -> Iterator[str]:
    """By its labels a policy finds a pod."""
    wanted, got = (item["metadata"].get("labels") or {} for item in (asked, made))
    yield from (f"the label {key}" for key in wanted if got.get(key) != wanted[key])


def _lost(wanted: Any, got: Any, where: str) -> Iterator[str]:
    """What was asked for and is not so."""
    nothing = wanted in ("", [], None) or (wanted == {} and where.endswith("matchLabels"))
    if nothing:  # written or not, it says the same
        if got:
            yield where
    elif isinstance(wanted, Mapping) and isinstance(got, Mapping):
        for key in sorted(wanted.keys() - _THEIRS - (_LATER - got.keys())):
            yield from _lost(wanted[key], got.get(key), f"{where}.{key}")
    elif isinstance(wanted, list) and isinstance(got, list) and _keyed(wanted) and _keyed(got):
        there = {_key(item): item for item in got}
        for item in wanted:
            yield from _lost(item, there.get(_key(item)), f"{where}[{_key(item)}]")
    elif isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        for index, (one, other) in enumerate(zip(wanted, got, strict=True)):
            yield from _lost(one, other, f"{where}[{index}]")
    elif where.endswith(".image"):
        # an image may come from a mirror, and be pinned; another digest is another image
        if (digest := str(wanted).partition("@")[2]) and not str(got).endswith(f"@{digest}"):
            yield where
    elif wanted != got:
        yield where


def _keyed(items: list[Any]) -> bool:
    """Whether it is a list to which others may add, as to containers, mounts and variables."""
    return all(isinstance(item, Mapping) and _key(item) for item in items)


def _key(item: Mapping[str, Any]) -> str:
    return str(item.get("mountPath") or item.get("name") or "")


def _loosened(wanted: Mapping[str, Any], got: Mapping[str, Any]) -> Iterator[str]:
    """What a pod has beside what was asked for and may not have."""
    yield from (f"spec.{key}" for key in _SHARED if got.get(key))
    for kind in _CONTAINERS:
        mine = {item["name"]: item for item in wanted.get(kind) or []}
        for item in got.get(kind) or []:
            name = item["name"]
            if name not in mine:
                yield f"the container {name}"
                continue
            context = item.get("securityContext") or {}
            if (context.get("capabilities") or {}).get("add"):
                yield f"capabilities of the container {name}"
            if context.get("procMount") not in (None, "Default"):
                yield f"procMount of the container {name}"
            own = {mount["mountPath"] for mount in mine[name].get("volumeMounts") or []}
            for mount in item.get("volumeMounts") or []:
                if mount["mountPath"] not in own:
                    yield f"the mount {mount['mountPath']} of the container {name}"
