"""Files for the browser that stay where the server serves them, whatever a kernel puts there.

The server's file manager writes as the user, unconfined, and it follows symbolic links. A kernel
that may write in the workspace turns the notebook which is open into a link to ``~/.bashrc``, and
the next autosave does what the kernel could not. Checkpoints are written through links, too.

Here a path is resolved first; what lies outside of the root, is hidden, or is Jupyter's own does
not exist. Between that check and the call the kernel may change the path again, so what is read or
written is opened component by component from the root, no link followed.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

from anyio.to_thread import run_sync
from jupyter_server.files.handlers import FilesHandler
from jupyter_server.services.contents.filecheckpoints import AsyncFileCheckpoints
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from tornado import web
from traitlets import Bool, Dict, Instance, Type, Unicode, default

from modelarmor_jupyter.places import jupyter_directories

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NotServed(web.HTTPError, OSError):
    """A path that leads to what is not served.

    As an `OSError` it leaves one entry out of a directory's listing instead of ending it.
    """

    def __init__(self, path: str) -> None:
        super().__init__(404, f"{path} does not lie in what is served")
        self.errno = errno.EACCES


class Tree:
    """The directory that is served.

    Parameters
    ----------
    root
        Its path.
    closed
        Directories in it that are not served, such as Jupyter's own.
    shown
        The one name that begins with a dot and is served all the same.
    """

    def __init__(self, root: Path, closed: Sequence[Path] = (), *, shown: str = "") -> None:
        self.root: Final = root.resolve()
        self._closed = tuple(directory.resolve() for directory in closed)
        self._shown = shown

    def resolve(self, path: str) -> Path:
        """Where `path`, which may not exist, leads.

        Raises
        ------
        PermissionError
            when that is not a place which is served.
        """
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(self.root):
            raise PermissionError(errno.EACCES, f"{path} leads out of the directory that is served")
        below = real.relative_to(self.root).parts
        if any(part.startswith(".") and part != self._shown for part in below):
            raise PermissionError(errno.EACCES, f"{path} leads to a hidden file")
        if any(real.is_relative_to(directory) for directory in self._closed):
            raise PermissionError(errno.EACCES, f"{path} leads to one of Jupyter's own directories")
        return real

    def open(self, path: str, flags: int) -> int:
        """Open the regular file that `path` leads to; what `open` takes as an opener.

        Raises
        ------
        OSError
            when it is no regular file, or is being exchanged for a link meanwhile.
        """
        with self._parent(path) as (directory, name):
            # not blocking: a pipe that a kernel left there would hold the server up
            flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(name, flags, 0o666, dir_fd=directory)
        if stat.S_ISREG(os.fstat(file).st_mode):
            return file
        os.close(file)
        raise PermissionError(errno.EACCES, f"{path} is not a regular file")

    @contextlib.contextmanager
    def replace(self, path: str, **kwargs: Any) -> Iterator[IO[Any]]:
        """Write a file anew, which appears whole or not at all, with the mode of the old one."""
        with self._parent(path) as (directory, name):
            unfinished = f".~{secrets.token_hex(4)}"
            file = os.open(unfinished, _NEW_FILE, 0o666, dir_fd=directory)
            try:
                with open(file, **kwargs) as stream:  # noqa: PTH123 - a descriptor
                    with contextlib.suppress(FileNotFoundError):
                        old = os.stat(name, dir_fd=directory, follow_symlinks=False)
                        if stat.S_ISREG(old.st_mode):
                            os.fchmod(file, stat.S_IMODE(old.st_mode) & 0o777)
                    yield stream
                    stream.flush()
                    os.fsync(file)
                os.rename(unfinished, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                os.unlink(unfinished, dir_fd=directory)
                raise

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The open directory that holds what `path` leads to, and its name in there."""
        real = self.resolve(path)
        if real == self.root:
            raise IsADirectoryError(errno.EISDIR, f"{path} is a directory")
        *between, name = real.relative_to(self.root).parts
        directory = os.open(self.root, _DIRECTORY)
        try:
            for part in between:
                inner = os.open(part, _DIRECTORY, dir_fd=directory)
                os.close(directory)
                directory = inner
            yield directory, name
        finally:
            os.close(directory)


class _InTree:
    """What the contents manager and its checkpoints share: each access to a file."""

    tree: Tree

    @contextlib.contextmanager
    def open(self, os_path: str, mode: str = "r", **kwargs: Any) -> Iterator[IO[Any]]:
        with (
            self.perm_to_403(os_path),  # type: ignore[attr-defined]
            open(os_path, mode, opener=self.tree.open, **kwargs) as file,
        ):
            yield file

    @contextlib.contextmanager
    def atomic_writing(
        self, os_path: str, text: bool = True, encoding: str = "utf-8", **_: Any
    ) -> Iterator[IO[Any]]:
        kind: dict[str, Any] = (
            {"mode": "w", "encoding": encoding, "newline": "\n"} if text else {"mode": "wb"}
        )
        with self.perm_to_403(os_path), self.tree.replace(os_path, **kind) as file:  # type: ignore[attr-defined]
            yield file

    async def _copy(self, src: str, dest: str) -> None:
        with self.open(src, "rb") as old, self.atomic_writing(dest, text=False) as new:
            await run_sync(shutil.copyfileobj, old, new)


class StrictCheckpoints(_InTree, AsyncFileCheckpoints):
    """Checkpoints beside their file, as usual, but never through a link."""

    @property
    def tree(self) -> Tree:  # type: ignore[override]
        return Tree(Path(self.root_dir), jupyter_directories(), shown=self.checkpoint_dir)

    # Where they lie is not configured: another place would be another that has to be hidden.
    checkpoint_dir = Unicode(".ipynb_checkpoints")
    parent: StrictContentsManager

    def _get_os_path(self, path: str) -> str:
        return self.parent._get_os_path(path)

    def checkpoint_path(self, checkpoint_id: str, path: str) -> str:
        found = str(super().checkpoint_path(checkpoint_id, path))  # type: ignore[no-untyped-call]
        with self.perm_to_403(found):
            self.tree.resolve(found)
        return found


class StrictContentsManager(_InTree, AsyncLargeFileManager):  # type: ignore[misc]
    """The files below the root, and nothing that a link leads to elsewhere."""

    # Without `config`: each of these, set to something else, would lead around the rest.
    allow_hidden = Bool(False)
    files_handler_class = Type(FilesHandler)
    files_handler_params = Dict()
    checkpoints_class = Type(StrictCheckpoints)
    checkpoints = Instance(StrictCheckpoints)

    @default("checkpoints")
    def _own_checkpoints(self) -> StrictCheckpoints:
        return StrictCheckpoints(parent=self, log=self.log)

    @default("files_handler_params")
    def _own_files_handler_params(self) -> dict[str, Any]:
        return {"path": self.root_dir}  # asked for by a base class, and used by nobody

    @property
    def tree(self) -> Tree:  # type: ignore[override]
        return Tree(Path(self.root_dir), jupyter_directories())

    def _get_os_path(self, path: str) -> str:
        os_path = str(super()._get_os_path(path))  # type: ignore[no-untyped-call]
        try:
            self.tree.resolve(os_path)
        except OSError as error:
            self.log.warning("not served in strict mode: %s", error)
            raise NotServed(path) from error
        return os_path

    async def _save_large_file(self, os_path: str, content: str, format: str) -> None:
        """Add a chunk to a file that is being uploaded."""
        if format not in {"text", "base64"}:
            raise web.HTTPError(400, "the format of a chunk is text or base64")
        try:
            chunk = content.encode() if format == "text" else base64.b64decode(content)
        except ValueError as error:
            raise web.HTTPError(400, f"the chunk is not {format}: {error}") from error
        with self.open(os_path, "ab") as file:
            await run_sync(file.write, chunk)
