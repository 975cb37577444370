"""One container of the fixture: namespaces of its own, and commands run in its root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from . import image

#: what a container's environment says; the image sets nothing else
ENVIRONMENT: Final = {"PATH": image.PATH, "HOME": "/root", "TERM": "xterm", "LC_ALL": "C"}


def obstacle() -> str:
    """Why no machine can be made here; empty when one can."""
    if os.geteuid() != 0:
        return "the cases run in mount and network namespaces, which takes root"
    if lacking := image.missing():
        return f"the fixture needs {', '.join(lacking)}: install them"
    words = ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "true"]
    if subprocess.run(words, check=False, stderr=subprocess.DEVNULL).returncode:
        return "no new namespaces here: CAP_SYS_ADMIN is missing"
    return ""


@dataclass(frozen=True)
class Ran:
    """What a command did. `status` is None when it had to be killed after its time."""

    output: str
    status: int | None
    files: Mapping[str, str] = field(default_factory=dict)


class Images:
    """The trees that machines start from, built once each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def tree(self, *, merged: bool) -> Path:
        root = self._directory / ("merged" if merged else "split")
        if not root.exists():
            image.build(root, merged=merged)
        return root


class Machine:
    """A running container, until it is closed. Changes to its files go with it."""

    def __init__(self, tree: Path, scratch: Path, hostname: str) -> None:
        scratch.mkdir(parents=True)
        self._scratch = scratch
        stdlib = sysconfig.get_path("stdlib")
        mounts = [(os.fspath(path), os.fspath(path)) for path in image.binds().paths]
        mounts.append((stdlib, f"/usr/lib/{Path(stdlib).name}"))
        settings = {
            "image": os.fspath(tree),
            "scratch": os.fspath(scratch),
            "hostname": hostname,
            "binds": list(dict.fromkeys(mounts)),
        }
        agent = Path(__file__).with_name("agent.py")
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child",
             sys.executable, "-I", os.fspath(agent), json.dumps(settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._answer()

    def run(
        self,
        argv: Sequence[str],
        *,
        tty: bool,
        timeout: float = 30,
        files: Mapping[str, str | None] | None = None,
        read: Sequence[str] = (),
    ) -> Ran:
        """Run `argv` in the root, after writing `files` and before reading what there is of `read`.

        A file with the text `None` is removed instead.
        """
        request = {
            "argv": list(argv), "tty": tty, "timeout": timeout, "files": dict(files or {}),
            "read": list(read), "environment": ENVIRONMENT,
        }  # fmt: skip
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return Ran(answer["output"], answer["status"], answer["files"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the container ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End everything in the container; nothing of it stays."""
        self._process.kill()  # unshare takes its child, the namespace's first process, along
        self._process.communicate()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
