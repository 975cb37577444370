"""KubeArmorPolicy documents: read them, check them, write them.

A document comes from whoever wrote a policy, so it is read as hostile: bounded in size, depth and
number, without YAML's aliases and tags, and whatever is wrong with it is a `PolicyError` that
lists every mistake with its line and what would be right.

What is read: KubeArmorPolicy, KubeArmorClusterPolicy and KubeArmorHostPolicy of
``security.kubearmor.com/v1``, any number in one stream, also inside a ``List`` as ``kubectl get``
prints it. What is written is the same, with no field of our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from . import _nodes, _schema, _write
from ._problems import Log, PolicyError, Problem
from .model import Place, Policy

__all__ = ["PolicyError", "Problem", "dump", "files", "inspect", "load", "load_files"]

Source = str | Path | bytes | TextIO


def inspect(source: Source, *, name: str = "<string>") -> tuple[list[Policy], tuple[Problem, ...]]:
    """Read what can be read and say what is wrong, without raising.

    For tools that look at faulty policies. The policies leave out what was wrong, or hold what was
    probably meant: **never enforce them** if there are problems, since a rule that lost a
    misspelt ``fromSource`` says more than its author did.

    Args:
        source: a `Path` is read; a ``str`` or ``bytes`` is the text itself; or an open text file.
        name: what to call the source in places, if it has no name itself.
    """
    log = Log()
    found: list[Policy] = []
    try:
        text, name = _nodes.read(source, name)
        for node in _nodes.documents(text, name, log):
            found.extend(_schema.policies(node, log))
    except PolicyError as error:
        return found, (*log.problems, *error.problems)
    return found, tuple(log.problems)


def load(source: Source, *, name: str = "<string>", strict: bool = True) -> list[Policy]:
    """Read the policies of a document or of a stream of documents.

    Args:
        source: a `Path` is read; a ``str`` or ``bytes`` is the text itself; or an open text file.
        name: what to call the source in places, if it has no name itself.
        strict: ``False`` gives what `inspect` finds, mistakes notwithstanding.

    Returns:
        The policies in the order of the stream; none if it is empty.

    Raises:
        PolicyError: anything is wrong with the source or with any policy in it; nothing else is
            ever raised for what a source holds.
    """
    policies, problems = inspect(source, name=name)
    if problems and strict:
        raise PolicyError(problems)
    return policies


def load_files(paths: Iterable[str | Path]) -> list[Policy]:
    """Read policies from files, and from the ``*.yaml`` and ``*.yml`` files of directories.

    Raises:
        PolicyError: with the problems of every file.
    """
    policies: list[Policy] = []
    problems: list[Problem] = []
    for file in files(paths, problems):
        found, wrong = inspect(file)
        policies.extend(found)
        problems.extend(wrong)
    if problems:
        raise PolicyError(problems)
    return policies


def files(paths: Iterable[str | Path], problems: list[Problem]) -> Iterator[Path]:
    """The files that are meant: each path, or what a directory has of YAML.

    Args:
        paths: files and directories.
        problems: gets one for each directory that has none.
    """
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        inside = sorted(f for f in path.iterdir() if f.suffix in (".yaml", ".yml"))
        yield from inside
        if not inside:
            problems.append(
                Problem(
                    Place(str(path)), "", "holds no *.yaml file", "name a file or another directory"
                )
            )


def dump(policies: Sequence[Policy]) -> str:
    """Write policies as YAML that `load` reads back to equal ones and ``kubectl apply`` takes.

    What a rule shares with its section or with the whole policy is written there once. Keys come
    in a fixed order, so that two versions of a policy can be compared as text.

    Args:
        policies: the rules of a section are grouped by their list (paths, directories, patterns),
            which is the only order that a document can express.

    Raises:
        PolicyError: a value that no document can hold, such as a path that is not absolute, or a
            rule without severity in a policy that has one (it would inherit it).
    """
    text = _write.text(policies)
    back = load(text, name="<dump>")
    for policy, read in zip(policies, back, strict=True):
        if _write.grouped(policy) != read:
            what = "has a rule that would inherit another severity, tags, message or action"
            raise PolicyError(
                [Problem(policy.place, policy.name, what, "leave those of the policy empty")]
            )
    return text
