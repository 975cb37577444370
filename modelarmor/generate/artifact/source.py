"""Where a model is: a path, or one of MLflow's addresses, brought here once."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from modelarmor.generate.artifact import own
from modelarmor.generate.artifact.inspection import inspect, public
from modelarmor.generate.artifact.tree import Progress
from modelarmor.generate.evidence import Artifact

_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class ArtifactError(ValueError):
    """A model that is not there or cannot be brought here; says which, why, and what to do."""


@dataclass
class Model:
    """A model that lies on this machine, for as long as this is open.

    Attributes:
        root: its directory or file; a private copy where it was downloaded.
        artifact: what was found there.
    """

    root: Path
    artifact: Artifact
    _private: Path | None = field(default=None, repr=False)

    def close(self) -> None:
        """Remove the private copy, where there is one."""
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)
            self._private = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_model(
    source: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> Model:
    """Find a model, bring it here if it is elsewhere, and inspect it.

    The digest is the same for every way to reach the same bytes: a path, ``models:/X/3``,
    ``models:/X@alias``, ``models:/m-…``, ``runs:/…``. An alias is looked up once.

    Args:
        source: a file, a directory, or an address that MLflow can download from.
        progress: told what is being done.
        cache: the directory below which a private copy is made; the system's for temporary files
            if left out.

    Raises:
        ArtifactError: there is no such model, or MLflow is needed and not there.
    """
    text = os.fspath(source)
    local = _local(text)
    if local is not None:
        return Model(local, inspect(local, text, progress=progress))
    private = Path(tempfile.mkdtemp(prefix="modelarmor-model-", dir=cache))
    try:
        if progress is not None:
            progress(f"Downloading {public(text)}")
        root = _download(text, private)
        own.remove(root)
        return Model(root, inspect(root, text, progress=progress), private)
    except BaseException:
        shutil.rmtree(private, ignore_errors=True)
        raise


def _local(text: str) -> Path | None:
    """The path that `text` means; None where it is an address of something elsewhere."""
    if not text or "\0" in text:
        raise ArtifactError(f"{text!r} is no place where a model could be")
    path = Path(text)
    if text.startswith("file:"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise ArtifactError(f"{text}: a file: address should name no host but localhost")
        path = Path(unquote(parts.path))
    elif _ADDRESS.match(text) and not os.path.lexists(text):
        return None
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArtifactError(
            f"{text}: {reason}. Name a model: a file, a directory, or an address such as"
            " models:/NAME/VERSION"
        ) from None


def _download(uri: str, private: Path) -> Path:
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        import mlflow.artifacts
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise ArtifactError(
            f"{public(uri)}: an address is downloaded by MLflow, which is not installed; run"
            " pip install 'modelarmor[mlflow]', or name a path"
        ) from None
    try:
        place = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(private))
    except (MlflowException, OSError, ValueError, ImportError) as error:
        reason = str(error).partition("\n")[0][:500]
        raise ArtifactError(f"{public(uri)}: MLflow could not download it: {reason}") from error
    root = Path(os.path.realpath(place))
    if not root.is_relative_to(os.path.realpath(private)):
        # A copy of our own is what makes one download enough: nobody else can change it later.
        raise ArtifactError(f"{public(uri)}: MLflow did not make a copy of it in {private}")
    return root
