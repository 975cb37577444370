"""The guard of a model's pod, as files of its ConfigMap."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Final

from modelarmor.generate.evidence import Evidence
from modelarmor_mlflow.serving.confined.modelarmor_guard import GuardError, Limits
from modelarmor_mlflow.serving.confined.modelarmor_pod import LIMITS
from modelarmor_mlflow.serving.limits import from_signature

#: what the pod's Python is given to run, with its port
PROGRAM: Final = "modelarmor_pod.py"
_PROGRAMS: Final = ("modelarmor_guard.py", "modelarmor_scoring.py", PROGRAM)


def signed(model: Path, evidence: Evidence) -> Limits | None:
    """The limits that the model's signature names; None where its files are not at hand.

    Raises:
        GuardError: its MLmodel is not the one that the evidence is about, or cannot be read.
    """
    file = model / "MLmodel"
    if not file.is_file():
        return None
    known = {item.path: item.sha256 for item in evidence.artifact.files}
    if hashlib.sha256(file.read_bytes()).hexdigest() != known.get("MLmodel"):
        raise GuardError(f"{file} is not the one that the evidence is about")
    return from_signature(model)


def files(limits: Limits | None) -> Mapping[str, str]:
    """The guard's programs and its limits, by their names; None: those of every model."""
    room = resources.files("modelarmor_mlflow.serving.confined")
    texts = {name: room.joinpath(name).read_text(encoding="utf-8") for name in _PROGRAMS}
    return texts | {LIMITS: json.dumps((limits or Limits()).to_json(), sort_keys=True)}
