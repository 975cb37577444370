"""MLflow's file ``MLmodel``, read as plain data.

Its fields: https://mlflow.org/docs/latest/ml/model/#storage-format
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from modelarmor import _yaml

NAME: Final = "MLmodel"
#: a signature of some thousand columns takes a few hundred kilobytes
MAX_BYTES: Final = 1 << 20


class MLmodelError(ValueError):
    """An MLmodel that is not one; says why."""


@dataclass(frozen=True, slots=True)
class MLmodel:
    """What it says."""

    flavors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pyfunc(self) -> Mapping[str, Any]:
        """The flavour ``python_function``, which `mlflow.pyfunc` and serving load."""
        return self.flavors.get("python_function", {})

    @property
    def loader_module(self) -> str:
        """The module that loads it: any that can be imported, the model's own code included."""
        return str(self.pyfunc.get("loader_module") or "")

    @property
    def is_from_code(self) -> bool:
        """Whether loading it means running a script (models from code)."""
        return any("model_code_path" in flavor for flavor in self.flavors.values())


def loads(content: bytes) -> MLmodel:
    """Read an MLmodel.

    Raises:
        MLmodelError: it is no plain YAML (aliases, tags, doubled keys), or has no flavours.
    """
    try:
        value = _yaml.loads(content, MAX_BYTES)
    except ValueError as error:
        raise MLmodelError(f"it {error}") from None
    if not isinstance(value, dict):
        raise MLmodelError("it should be a mapping")
    flavors = value.get("flavors")
    if not isinstance(flavors, dict) or not all(
        isinstance(name, str) and isinstance(flavor, dict) for name, flavor in flavors.items()
    ):
        raise MLmodelError("`flavors` should be a mapping of mappings")
    return MLmodel(flavors, value)
