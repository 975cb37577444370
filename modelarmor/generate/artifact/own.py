"""What lies beside a model without being of it, and is therefore in no digest.

MLflow writes ``registered_model_meta`` into each download of a registered model, with the version
that was asked for; evidence, which has the policy in it, may be kept in ``modelarmor/``. Left out
is exactly what nothing loads: these names, at the top, holding only what their writer writes.
Anything else with such a name is a file of the model, and one to be told of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from modelarmor.generate.artifact.data import Data
from modelarmor.generate.artifact.formats import is_json_object

#: MLflow's `mlflow.store.artifact.models_artifact_repo.REGISTERED_MODEL_META_FILE_NAME`
META: Final = "registered_model_meta"
DIRECTORY: Final = "modelarmor/"
EVIDENCE: Final = DIRECTORY + "evidence.json"
APPROVAL: Final = DIRECTORY + "approval.json"
_MAX: Final = 16 << 20
_META: Final = re.compile(
    rb"(?:model_name: [^\n\r\0#&*!|>%@`{\[]{1,500}\n|model_version: '?[0-9a-zA-Z.]{1,40}'?\n){1,2}"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a file is left out, or why one of these names is not."""

    excluded: bool = False
    problem: str = ""


def judge(path: str, data: Data) -> Verdict:
    """Whether the file at `path` is left out of the digest.

    Args:
        path: relative to the model.
        data: its content.
    """
    if path == META:
        # mlflow.utils.yaml_utils.write_yaml, of a name and a version
        if data.size <= 1024 and _META.fullmatch(data.read(0, 1024)):
            return Verdict(excluded=True)
        return Verdict(problem="MLflow writes a name and a version here, and nothing else")
    if not path.startswith(DIRECTORY):
        return Verdict()
    if path in (EVIDENCE, APPROVAL):
        if data.size <= _MAX and is_json_object(data.read(0, _MAX)):
            return Verdict(excluded=True)
        return Verdict(problem="it should be one JSON object")
    return Verdict(problem=f"{DIRECTORY} holds evidence and an approval alone; this is neither")
