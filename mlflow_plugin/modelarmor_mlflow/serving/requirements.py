"""What a model says that it needs: which Python, and which packages.

The files are the model's, so they are hostile. A requirements file is a small language of pip's
that can name other files, other indexes, repositories and directories; only its plain part is taken
here, a package of the index with its version, and the rest is refused by line.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from modelarmor import _yaml
from modelarmor_mlflow.serving.server import ServeError

#: files that MLflow writes (https://mlflow.org/docs/latest/ml/model/dependencies/)
PYTHON_ENV: Final = "python_env.yaml"
CONDA: Final = "conda.yaml"
REQUIREMENTS: Final = "requirements.txt"
#: of one file, in bytes, and of all together
MAX_BYTES: Final = 1 << 16
MAX_REQUIREMENTS: Final = 1000

_VERSION: Final = re.compile(r"3\.[0-9]{1,3}(\.[0-9]{1,3})?", re.ASCII)
_CONDA_PYTHON: Final = re.compile(r"python *={1,2} *([0-9.]{1,12})", re.ASCII)
_CONDA_PIP: Final = re.compile(r"pip( *[<>=!~]=? *[0-9.,<>=]{1,40})?", re.ASCII)
_COMMENT: Final = re.compile(r"(^|\s)#.*")
_CURE: Final = (
    "only packages of an index, with or without a version, can be asked for; build the environment"
    " yourself and serve in it with --python FILE"
)


@dataclass(frozen=True, slots=True)
class Needs:
    """What an environment is to hold."""

    #: ``3.11`` or ``3.11.7``; empty where any will do
    python: str
    #: requirements as packaging writes them, sorted, each once
    packages: tuple[str, ...]


def needs(model: Path) -> Needs:
    """Read what an MLflow model needs.

    Args:
        model: its directory.

    Raises:
        ServeError: it does not say, says something that is not done here, or does not need MLflow,
            which serves it.
    """
    if (model / PYTHON_ENV).exists():
        python, entries = _python_env(model)
    elif (model / CONDA).exists():
        python, entries = _conda(model)
    elif (model / REQUIREMENTS).exists():
        python, entries = "", _lines(model)
    else:
        raise ServeError(
            f"{model.name}: the model does not say what it needs: there is no {PYTHON_ENV},"
            f" {CONDA} or {REQUIREMENTS} in it; serve it in an environment of yours with --python"
            " FILE"
        )
    packages: dict[str, str] = {}
    for place, text in entries:
        requirement = _requirement(place, text)
        packages[str(requirement)] = canonicalize_name(requirement.name)
        if len(packages) > MAX_REQUIREMENTS:
            raise ServeError(f"{place}: more than {MAX_REQUIREMENTS} requirements")
    if "mlflow" not in packages.values():
        raise ServeError(
            f"{model.name}: mlflow is not among the model's requirements, and its scoring server"
            f" is what serves; add it to {REQUIREMENTS} and log the model again, or serve it with"
            " --env-manager local"
        )
    if python and not _VERSION.fullmatch(python):
        raise ServeError(f"{model.name}: Python {python[:40]!r} is no version of Python 3")
    return Needs(python, tuple(sorted(packages)))


Entries = Iterator[tuple[str, str]]


def _python_env(model: Path) -> tuple[str, Entries]:
    """``python``, ``build_dependencies`` (of no use here: nothing is built outside), and these."""
    document = _document(model / PYTHON_ENV)
    return _text(PYTHON_ENV, document.get("python", "")), _entries(
        model, PYTHON_ENV, document.get("dependencies")
    )


def _conda(model: Path) -> tuple[str, Entries]:
    """The part of an environment of conda's that pip would install."""
    listed = _document(model / CONDA).get("dependencies")
    python, packages = "", list[Any]()
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, dict) and set(entry) == {"pip"} and isinstance(entry["pip"], list):
            packages += entry["pip"]
        elif isinstance(entry, str) and (match := _CONDA_PYTHON.fullmatch(entry.strip())):
            python = match[1]
        elif not (isinstance(entry, str) and _CONDA_PIP.fullmatch(entry.strip())):
            raise ServeError(
                f"{CONDA}: {_yaml.show(entry)} is a package of conda's, which is not installed"
                " here; build the environment with conda and serve in it with --python FILE"
            )
    return python, _entries(model, CONDA, packages)


def _entries(model: Path, file: str, listed: object) -> Entries:
    if not isinstance(listed, list):
        raise ServeError(f"{file}: dependencies: should be a list")
    for number, entry in enumerate(listed, 1):
        text = _text(f"{file}: dependency {number}", entry)
        if text.split() == ["-r", REQUIREMENTS]:
            yield from _lines(model)
        else:
            yield f"{file}: dependency {number}", text


def _lines(model: Path) -> Entries:
    try:
        text = _bytes(model / REQUIREMENTS).decode()
    except UnicodeDecodeError:
        raise ServeError(f"{REQUIREMENTS}: is no text in UTF-8") from None
    for number, line in enumerate(text.splitlines(), 1):
        plain = _COMMENT.sub("", line).strip()
        if plain:
            yield f"{REQUIREMENTS} line {number}", plain


def _requirement(place: str, text: str) -> Requirement:
    """One requirement; `text` is refused where pip would read more in it than a package."""
    shown = repr(text[:200])
    # pip puts variables of its environment in for ${NAME}, and joins lines that end in \
    if text.startswith("-") or "$" in text or "\\" in text or " --" in text:
        raise ServeError(f"{place}: {shown} is an option of pip's; {_CURE}")
    try:
        requirement = Requirement(text)
    except (InvalidRequirement, RecursionError):
        raise ServeError(f"{place}: {shown} is no requirement; {_CURE}") from None
    if requirement.url is not None:
        raise ServeError(f"{place}: {shown} names an address; {_CURE}")
    return requirement


def _document(file: Path) -> dict[Any, Any]:
    try:
        document = _yaml.loads(_bytes(file))
    except ValueError as error:
        raise ServeError(f"{file.name}: {error}") from None
    if not isinstance(document, dict):
        raise ServeError(f"{file.name}: should be a mapping")
    return document


def _text(place: str, value: object) -> str:
    if not isinstance(value, str):
        raise ServeError(f"{place}: {_yaml.show(value)} should be a text; quote it")
    return value.strip()


def _bytes(file: Path) -> bytes:
    """The contents of a plain file of the model's own, bounded."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ServeError(f"{file.name}: cannot be read: {error.strerror}") from None
    with open(descriptor, "rb") as stream:  # noqa: PTH123  a descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ServeError(f"{file.name}: is no plain file")
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ServeError(f"{file.name}: is larger than {MAX_BYTES} bytes")
    return data
