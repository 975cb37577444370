"""How much of the machine a workload may use, in the notation of Kubernetes.

Grammar of a quantity: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

from .._yaml import show, unknown

_SUFFIXES: dict[str, Decimal] = {
    **{suffix: Decimal(1000) ** i for i, suffix in enumerate("num", -3)},
    **{suffix: Decimal(1000) ** i for i, suffix in enumerate(["", *"kMGTPE"])},
    **{f"{suffix}i": Decimal(1024) ** i for i, suffix in enumerate("KMGTPE", 1)},
}
# Lengths are bounded so that no quantity costs more than a glance: 1e999999999 is refused unread.
_QUANTITY = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})(.{0,4})", re.ASCII)
_EXPONENT = re.compile(r"[eE][+-]?[0-9]{1,2}", re.ASCII)
_MAX = 2**63 - 1  # a Kubernetes quantity, like the kernel's counters, ends here
_MILLI = Decimal("0.001")

#: Kubernetes name -> (field, whether it counts bytes). ``pids`` and ``open-files`` are no
#: resources of a pod; they are named in the same manner.
_FIELDS = {
    "cpu": ("cpu", False),
    "memory": ("memory", True),
    "pids": ("processes", False),
    "open-files": ("open_files", False),
    "ephemeral-storage": ("disk", True),
}


class ResourceError(ValueError):
    """A resource limit that is not one; names the resource and what would be right."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits of one workload; ``None`` is no limit."""

    #: processors' worth of time
    cpu: float | None = None
    #: bytes
    memory: int | None = None
    processes: int | None = None
    #: open files of one process
    open_files: int | None = None
    #: bytes written to disk
    disk: int | None = None

    @classmethod
    def from_kubernetes(cls, limits: Mapping[str, Any]) -> Resources:
        """Read ``{"cpu": "2", "memory": "4Gi", "pids": 256, …}``.

        Raises:
            ResourceError: an unknown resource, or a value that is no positive quantity.
        """
        if not isinstance(limits, Mapping):
            raise ResourceError(f"should be a mapping, not {type(limits).__name__}")
        values: dict[str, Any] = {}
        for key in unknown(limits, _FIELDS):
            raise ResourceError(f"{key} is no resource here; known are {', '.join(_FIELDS)}")
        for name, value in limits.items():
            field, is_bytes = _FIELDS[name]
            try:
                quantity = parse_quantity(value)
                values[field] = (
                    float(quantity.quantize(_MILLI, ROUND_CEILING))  # as fine as Kubernetes goes
                    if field == "cpu"
                    else _whole(quantity, is_bytes=is_bytes)
                )
            except ResourceError as error:
                raise ResourceError(f"{name}: {error}") from None
        return cls(**values)

    def to_json(self) -> dict[str, float | int]:
        """The limits that are set, by field name."""
        return {field: value for field, value in asdict(self).items() if value is not None}


def parse_quantity(value: object) -> Decimal:
    """The number that a Kubernetes quantity such as ``100m``, ``2``, ``1e3`` or ``4Gi`` stands for.

    Raises:
        ResourceError: it is no quantity, or not within (0, 2**63).
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ResourceError(f"{show(value)} should be a quantity such as 2, 500m or 4Gi")
    if isinstance(value, int) and abs(value) > _MAX:  # before str(), which refuses long integers
        raise ResourceError("the number should be more than 0 and below 2**63")
    text = str(value)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ResourceError(f"{text[:40]!r} is no quantity; write 2, 500m or 4Gi")
    number, suffix = Decimal(match[1]), match[2]
    if _EXPONENT.fullmatch(suffix):
        number *= Decimal(f"1{suffix}")
    elif suffix in _SUFFIXES:
        number *= _SUFFIXES[suffix]
    else:
        near = [known for known in _SUFFIXES if known and known[0].lower() == suffix[0].lower()]
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ResourceError(f"{text!r} has the unknown unit {suffix!r}{hint}")
    if not 0 < number <= _MAX:
        raise ResourceError(f"{text!r} should be more than 0 and below 2**63")
    return number


def _whole(quantity: Decimal, *, is_bytes: bool) -> int:
    if quantity < 1:
        # 128m (milli) for 128M (mega) is a classic; as a limit of one byte it helps nobody.
        cure = "; m is a thousandth, M a million" if is_bytes else ""
        raise ResourceError(f"{quantity.normalize()} is less than one{cure}")
    return int(quantity.to_integral_value(ROUND_CEILING))
