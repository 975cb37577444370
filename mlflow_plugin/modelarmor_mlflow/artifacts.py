"""A version's files: where they are, the same bytes as a private copy, and their digest.

The evidence lies beside the model, in ``modelarmor/``, under a name with its digest: a copy of a
version has its files, and not always its evidence. It is no part of the model
(`modelarmor.generate.artifact.own`): the digest leaves it out, and so does every copy that is made
here, so nothing can hide from the digest under that name and still be loaded.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from modelarmor.generate.artifact import inspect, own
from modelarmor.generate.evidence import MAX_BYTES, Evidence

_MAX_FILES = 200_000
_CHUNK = 1 << 20
#: what stands for itself in an address, of which most names consist
_PLAIN: Final = re.compile(r"[\w/-]+(?:\.[\w/-]+)*", re.ASCII)


class ArtifactError(ValueError):
    """Files that cannot be reached, or that no model should consist of."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a version's files are, as the server reaches them."""

    #: MLflow's artifact repository, and the path in it
    repository: Any
    path: str
    #: whether clients do not reach it themselves, but ask this server's proxy for each file
    proxied: bool = False

    @property
    def local(self) -> Path | None:
        """The directory, where it is one of this machine."""
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        if isinstance(self.repository, LocalArtifactRepository):
            return Path(self.repository.artifact_dir, self.path)
        return None


def locate(location: str) -> Place:
    """The repository of a version's ``storage_location``, as MLflow's own handlers pick it.

    Raises:
        ArtifactError: this server does not reach it.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.server import handlers

    try:
        if urlsplit(location).scheme == "runs":
            location = _of_run(location)
        if handlers._is_servable_proxied_run_artifact_root(location):
            path = handlers._get_proxied_run_artifact_destination_path(location)
            scoped = handlers._get_workspace_scoped_repo_path_if_enabled(path)
            _check_relative(scoped)
            return Place(handlers._get_artifact_repo_mlflow_artifacts(), scoped, proxied=True)
        return Place(handlers._get_artifact_repository_for_uri(location), "")
    except (MlflowException, OSError, KeyError) as error:
        raise ArtifactError(f"{location}: the server does not reach it: {error}") from error


@contextmanager
def copied(location: str, *, limit: int) -> Iterator[Path]:
    """A private copy of a version's files, without evidence; gone afterwards.

    Args:
        location: the version's ``storage_location``.
        limit: refuse a model of more bytes.

    Raises:
        ArtifactError: the files cannot be read, there are none, or they are too large.
    """
    with tempfile.TemporaryDirectory(prefix="modelarmor-registry-") as scratch:
        target = Path(scratch, "model")
        place = locate(location)
        if place.local is not None:
            _copy(place.local, target, limit)
        else:
            _download(place, target, limit)
        _check_addresses(place, target)
        if not any(target.rglob("*")):
            raise ArtifactError(f"{location}: there are no files")
        yield target


def digest(location: str, *, limit: int) -> str:
    """``sha256:…`` of a version's files as they are now.

    Raises:
        ArtifactError: the files cannot be read, there are none, or they are too large.
    """
    place = locate(location)
    if place.local is None:
        with copied(location, limit=limit) as directory:
            return digest_of(directory)
    _check_addresses(place, place.local)
    return digest_of(place.local)


def digest_of(directory: Path) -> str:
    """``sha256:…`` over the paths and bytes of a model's files, without evidence.

    Raises:
        ArtifactError: there are none, or something in it could not be read or leads elsewhere.
    """
    try:
        found = inspect(directory)
    except OSError as error:
        raise ArtifactError(f"{directory}: cannot be read: {error.strerror}") from error
    if not found.files:
        raise ArtifactError(f"{directory}: there are no files")
    if not found.digest:
        what = next(iter(found.findings), None)
        told = f": {what.title} ({what.location} {what.detail})" if what else ""
        raise ArtifactError(f"{directory}: not every file could be read{told}")
    return found.digest


def attach(location: str, evidence: Evidence) -> None:
    """Put evidence beside a version's files; writing it again changes nothing.

    Raises:
        ArtifactError: the server cannot write there.
    """
    place, data = locate(location), evidence.dumps().encode()
    name = PurePosixPath(place.path, own.evidence(evidence.digest))
    try:
        if place.local is not None and _link(Path(place.repository.artifact_dir, name), data):
            return
        with tempfile.TemporaryDirectory(prefix="modelarmor-registry-") as scratch:
            file = Path(scratch, name.name)
            file.write_bytes(data)
            place.repository.log_artifact(str(file), str(name.parent))
    except Exception as error:  # each kind of storage has errors of its own
        raise ArtifactError(f"{location}: the evidence cannot be written: {error}") from error


def read_evidence(location: str, digest: str) -> str:
    """The evidence beside a version's files.

    Raises:
        ArtifactError: it is missing, too large, or not the one with this digest.
    """
    place = locate(location)
    name = str(PurePosixPath(place.path, own.evidence(digest)))
    _check_evidence(place, name)
    with tempfile.TemporaryDirectory(prefix="modelarmor-registry-") as scratch:
        try:
            found = Path(place.repository.download_artifacts(name, dst_path=scratch))
            data = found.read_bytes()
        except Exception as error:
            raise ArtifactError(f"{location}: the evidence cannot be read: {error}") from error
    if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
        raise ArtifactError(f"{location}: the evidence was changed")
    return data.decode()


def _link(file: Path, data: bytes) -> bool:
    """Make a file that is there whole or not at all, whenever this process is killed.

    Half of it would be none of ours, but a file of the model.

    Returns:
        False where the file system cannot do that, or has something else there.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            made = os.open(file.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
        except OSError:  # a network's file system, mostly
            return False
        stream = stack.enter_context(os.fdopen(made, "wb"))
        stream.write(data)
        stream.flush()
        os.fsync(made)
        folder = os.open(file.parent, os.O_DIRECTORY)
        stack.callback(os.close, folder)
        try:
            os.link(f"/proc/self/fd/{made}", file.name, dst_dir_fd=folder, follow_symlinks=True)
        except FileExistsError:
            return file.is_file() and file.read_bytes() == data
    return True


def _check_evidence(place: Place, name: str) -> None:
    """Before it is read: whoever may write beside a model can put anything there."""
    try:
        found = place.repository.list_artifacts(str(PurePosixPath(name).parent))
    except Exception as error:
        raise ArtifactError(f"{name}: the evidence cannot be read: {error}") from error
    for item in found:
        if item.path == name and (item.is_dir or (item.file_size or 0) > MAX_BYTES):
            raise ArtifactError(f"{name}: is no evidence of at most {MAX_BYTES} bytes")


def _of_run(location: str) -> str:
    from mlflow.server import handlers
    from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

    run, path = RunsArtifactRepository.parse_runs_uri(location)
    root = str(handlers._get_tracking_store().get_run(run).info.artifact_uri)
    return f"{root.rstrip('/')}/{path}"


def _check_relative(path: str) -> None:
    if not path or path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise ArtifactError(f"{path!r} leaves the artifact store")


def _check_addresses(place: Place, root: Path) -> None:
    """Refuse files of which a client of the proxy would get others, under the same names.

    A client asks for ``model.pkl?x`` and gets ``model.pkl``; for ``model%2epkl``, the same.
    """
    if not place.proxied:
        return
    for name, _ in _files(root):
        if not _is_its_address(str(PurePosixPath(place.path, name))):
            raise ArtifactError(
                f"{name!r:.200}: MLflow's clients would load another file for this one, as what its"
                " path says in an address is another path; give it a plain name"
            )


def _is_its_address(path: str) -> bool:
    """Whether MLflow's client, asking its server for `path`, is answered with that."""
    if _PLAIN.fullmatch(path):
        return True
    from mlflow.exceptions import MlflowException
    from mlflow.utils.uri import validate_path_is_safe
    from requests import Request, RequestException

    try:
        asked = Request("GET", f"http://server/{path}").prepare().url or ""
        answered: str = validate_path_is_safe(unquote(urlsplit(asked).path.removeprefix("/")))
    except (MlflowException, RequestException, ValueError):
        return False
    return answered == path


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Relative path and place of each file; a link is refused, as it may lead anywhere."""
    if root.is_file() and not root.is_symlink():
        yield root.name, root
        return
    if not root.exists():
        raise ArtifactError(f"{root}: is not there")
    count = 0
    for directory, folders, files in os.walk(root, onerror=_unreadable):
        for name in (*folders, *files):
            file = Path(directory, name)
            kind = file.lstat().st_mode
            if stat.S_ISDIR(kind):
                continue
            if not stat.S_ISREG(kind):
                raise ArtifactError(f"{file}: is no plain file; a model consists of plain files")
            count += 1
            if count > _MAX_FILES:
                raise ArtifactError(f"{root}: has more than {_MAX_FILES} files")
            yield file.relative_to(root).as_posix(), file


def _unreadable(error: OSError) -> None:
    raise ArtifactError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _copy(source: Path, target: Path, limit: int) -> None:
    left = limit
    target.mkdir()
    for path, file in _files(source):
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        with _opened(file) as reader, place.open("xb") as writer:
            while data := reader.read(_CHUNK):
                left -= len(data)
                if left < 0:
                    raise ArtifactError(f"{source}: is larger than {limit} bytes")
                writer.write(data)
    own.remove(target)


def _opened(file: Path) -> Any:
    try:
        return os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise ArtifactError(f"{file}: cannot be read: {error.strerror}") from error


def _download(place: Place, target: Path, limit: int) -> None:
    try:
        _check_size(place, limit)
        landing = target.with_name("download")
        landing.mkdir()
        found = Path(place.repository.download_artifacts(place.path, dst_path=str(landing)))
    except ArtifactError:
        raise
    except Exception as error:  # each kind of storage has errors of its own
        raise ArtifactError(f"{place.path}: cannot be downloaded: {error}") from error
    _copy(found, target, limit)


def _check_size(place: Place, limit: int) -> None:
    """Before anything is downloaded, as a disk that is full stops everybody."""
    left, waiting, count = limit, [place.path], 0
    while waiting:
        for item in place.repository.list_artifacts(waiting.pop()):
            count += 1
            if count > _MAX_FILES:
                raise ArtifactError(f"{place.path}: has more than {_MAX_FILES} files")
            if item.is_dir:
                waiting.append(item.path)
            else:
                left -= item.file_size or 0
            if left < 0:
                raise ArtifactError(f"{place.path}: is larger than {limit} bytes")
