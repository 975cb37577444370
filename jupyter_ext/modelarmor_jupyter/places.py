"""The directories that decide what this server runs, and those that hold its secrets.

Whoever writes in the first chooses the code of the next kernel, the next page or the server itself;
whoever reads the second is its user. A kernel's policy may grant neither.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_core.paths import (
    jupyter_config_dir,
    jupyter_config_path,
    jupyter_data_dir,
    jupyter_path,
    jupyter_runtime_dir,
)

from modelarmor import profiles
from modelarmor.policy.decide import Operation, Table
from modelarmor.policy.model import Policy, Posture

# A name that no policy knows: what is asked for is a file that somebody would add.
_ANY = "modelarmor-probe.json"


def jupyter_directories() -> list[Path]:
    """Jupyter's configuration, data and runtime directories, of the user and of the system."""
    return _resolved(
        [
            *jupyter_config_path(),
            *jupyter_path(),
            jupyter_config_dir(),
            jupyter_data_dir(),
            jupyter_runtime_dir(),
        ]
    )


def deciding_directories(kernel_dirs: Iterable[str] | None = None) -> list[Path]:
    """What must not be writable: Jupyter's directories, kernelspecs, profiles and Python's path."""
    found = KernelSpecManager().kernel_dirs if kernel_dirs is None else kernel_dirs
    return _resolved(
        [
            *jupyter_directories(),
            *found,
            *profiles.search_path(),
            sys.prefix,
            # "" is the current directory, from which this server imports what it still has to
            *(entry or "." for entry in sys.path),
        ]
    )


def secret_directories() -> list[Path]:
    """What must not be readable: the tokens and connection files of servers."""
    return _resolved([jupyter_runtime_dir()])


def reachable(
    policies: Iterable[Policy], posture: Posture, kernel_dirs: Iterable[str] | None = None
) -> list[str]:
    """What a policy grants of these directories, each as a sentence; nothing where all is well."""
    table = Table(tuple(policies), posture)
    wrong = [
        f"it could write in {directory}"
        for directory in deciding_directories(kernel_dirs)
        if _granted(table, "write", directory) or _granted(table, "create", directory)
    ]
    wrong += [
        f"it could read in {directory}"
        for directory in secret_directories()
        if _granted(table, "read", directory)
    ]
    return wrong


def _granted(table: Table, kind: str, directory: Path) -> bool:
    operation = Operation(
        kind,  # type: ignore[arg-type]
        path=str(directory / _ANY),
        source=str(Path(sys.executable).resolve()),
    )
    return table.decide(operation).verdict == "allow"


def _resolved(paths: Iterable[str | Path]) -> list[Path]:
    return list(dict.fromkeys(Path(path).expanduser().resolve() for path in paths))
