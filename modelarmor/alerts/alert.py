"""One alert, in KubeArmor's own words.

The fields are those of ``Alert`` in ``protobuf/kubearmor.proto`` of KubeArmor 1.7, with its
spelling and its order, because whatever reads KubeArmor's alerts (a SIEM, ``karmor logs``, a
dashboard) should read ours. A field that nobody filled is ``""``, ``0`` or empty, and is left out
of the JSON, as protobuf's JSON mapping does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

PASSED: Final = "Passed"
DENIED: Final = "Permission denied"

#: the largest JSON text that `Alert.from_json` looks at, in bytes
MAX_JSON = 1 << 20

_NO_STRINGS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """What an enforcer reports about one operation of a workload.

    ``Timestamp`` is in seconds since 1970, ``UpdatedTime`` the same instant as RFC 3339 text in
    UTC with microseconds. ``PID`` and ``PPID`` are as the workload sees them, ``HostPID`` and
    ``HostPPID`` as the host does. ``Severity`` is ``"1"`` to ``"10"``, or empty when
    ``PolicyName`` is ``DefaultPosture``.
    """

    Timestamp: int = 0
    UpdatedTime: str = ""
    ClusterName: str = ""
    HostName: str = ""
    NamespaceName: str = ""
    PodName: str = ""
    ContainerID: str = ""
    ContainerName: str = ""
    HostPID: int = 0
    PPID: int = 0
    PID: int = 0
    UID: int = 0
    PolicyName: str = ""
    Severity: str = ""
    Tags: str = ""
    Message: str = ""
    Type: str = "MatchedPolicy"
    Source: str = ""
    Operation: str = ""
    Resource: str = ""
    Data: str = ""
    Action: str = ""
    Result: str = ""
    ContainerImage: str = ""
    ParentProcessName: str = ""
    ProcessName: str = ""
    HostPPID: int = 0
    Enforcer: str = "ModelArmor"
    Labels: str = ""
    ATags: tuple[str, ...] = ()
    Owner: Mapping[str, str] = field(default_factory=lambda: _NO_STRINGS, hash=False)
    Cwd: str = ""
    TTY: str = ""
    MaxAlertsPerSec: int = 0
    DroppingAlertsInterval: int = 0
    ExecEvent: Mapping[str, str] = field(default_factory=lambda: _NO_STRINGS, hash=False)
    KubeArmorVersion: str = ""
    NodeID: str = ""
    ProcessHash: str = ""
    ParentHash: str = ""
    ResourceHash: str = ""
    HashAlgo: str = ""
    EventData: Mapping[str, str] = field(default_factory=lambda: _NO_STRINGS, hash=False)
    UserName: str = ""

    @property
    def blocked(self) -> bool:
        """Whether the operation was refused."""
        return self.Action == "Block"

    def to_json(self) -> dict[str, Any]:
        """The alert as a JSON object under KubeArmor's names, without the empty fields."""
        return {name: _plain(value) for name in _KINDS if (value := getattr(self, name))}

    @classmethod
    def from_json(cls, source: Mapping[str, Any] | str | bytes) -> Alert:
        """Read what `to_json`, KubeArmor's relay or ``karmor logs --json`` wrote.

        Unknown fields are ignored, so that a newer KubeArmor can be read.

        Parameters
        ----------
        source
            A JSON object, as a mapping or as text of at most `MAX_JSON` bytes.

        Raises
        ------
        ValueError
            when it is not a JSON object, or a field has the wrong type.
        """
        if not isinstance(source, Mapping):
            if len(source) > MAX_JSON:
                raise ValueError(
                    f"an alert of {len(source)} bytes: more than {MAX_JSON} is refused"
                )
            try:
                source = json.loads(source)
            except RecursionError as error:
                raise ValueError("an alert that is nested too deeply") from error
            if not isinstance(source, Mapping):
                raise ValueError(f"an alert is a JSON object, not {type(source).__name__}")
        # protobuf's JSON has no "unset": a missing Type or Enforcer is empty, never our default
        values: dict[str, Any] = {"Type": "", "Enforcer": ""}
        for name, value in source.items():
            kind = _KINDS.get(name)
            if kind is not None and value is not None:
                values[name] = _READERS[kind](name, value)
        return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} of an alert is a string, not {type(value).__name__}")
    return value


def _integer(name: str, value: Any) -> int:
    # protobuf's JSON writes 64-bit numbers as strings
    if isinstance(value, str) and len(value) <= 20:
        try:
            return int(value)
        except ValueError:
            pass
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} of an alert is a whole number, not {value!r:.40}")
    return value


def _strings(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} of an alert is a list of strings, not {type(value).__name__}")
    return tuple(_string(name, item) for item in value)


def _pairs(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} of an alert is an object, not {type(value).__name__}")
    return {_string(name, key): _string(name, item) for key, item in value.items()}


_READERS = {
    "int": _integer,
    "str": _string,
    "tuple[str, ...]": _strings,
    "Mapping[str, str]": _pairs,
}
_KINDS: Final[dict[str, str]] = {item.name: str(item.type) for item in fields(Alert)}
