"""What lies beside a model without being of it, and is therefore in no digest.

MLflow writes ``registered_model_meta`` into each download of a registered model, with the version
that was asked for; evidence, which has the policy in it, may be kept in ``modelarmor/``. Left out
is exactly what nothing loads: these names, at the top, holding only what their writer writes: of
evidence any other JSON document could be the model's weights. Anything else with such a name is a
file of the model, and one to be told of.

Several versions of a registry may share one place, as copies do. So that none writes over what
another rests on, evidence is named by its digest there.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelarmor.generate.artifact.data import Data, FileData
from modelarmor.generate.evidence import Evidence

#: MLflow's `mlflow.store.artifact.models_artifact_repo.REGISTERED_MODEL_META_FILE_NAME`
META: Final = "registered_model_meta"
DIRECTORY: Final = "modelarmor/"
#: what `evidence` names, and the one name of before, so that no digest changes by what it left
_EVIDENCE: Final = re.compile(DIRECTORY + r"evidence(?:-([0-9a-f]{64}))?\.json")
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_MAX: Final = 16 << 20
_META: Final = re.compile(
    rb"(?:model_name: [^\n\r\0#&*!|>%@`{\[]{1,500}\n|model_version: '?[0-9a-zA-Z.]{1,40}'?\n){1,2}"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a file is left out, or why one of these names is not."""

    excluded: bool = False
    problem: str = ""


def evidence(digest: str) -> str:
    """Where the evidence with this digest lies, relative to the model.

    Args:
        digest: ``sha256:…``, `modelarmor.generate.evidence.Evidence.digest`.

    Raises:
        ValueError: it is no digest.
    """
    found = _DIGEST.fullmatch(digest)
    if not found:
        raise ValueError(f"{digest!r:.100} should be sha256: and 64 hexadecimal digits")
    return f"{DIRECTORY}evidence-{found[1]}.json"


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
    if named := _EVIDENCE.fullmatch(path):
        if data.size <= _MAX and _is_evidence(data.read(0, _MAX), named[1]):
            return Verdict(excluded=True)
        return Verdict(problem="it should be evidence, and that with the digest in the name")
    return Verdict(problem=f"{DIRECTORY} holds evidence alone; this is none")


def remove(root: Path) -> None:
    """Take it out of a private copy, so that every byte that is left is in the digest."""
    folder = root / DIRECTORY
    beside = sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    for file in (root / META, *beside):
        if file.is_symlink() or not file.is_file():
            continue
        with FileData(file) as data:
            excluded = judge(file.relative_to(root).as_posix(), data).excluded
        if excluded:
            file.unlink()


def _is_evidence(content: bytes, digest: str | None) -> bool:
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        return False
    return Evidence.recognises(content)
