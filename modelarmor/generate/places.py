"""Paths of a run as what they mean: templates for places, stars for names that chance made.

What is kept of an observation must mean the same on another machine and in another run. So a path
begins with the template of the place that it lies in, as in a profile, after a slash:
``/${MODEL}/model.pkl``; and a process number, a random name or a thread's is a star.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from modelarmor import profiles
from modelarmor.policy.decide import Operation

#: a component of a path in scratch that chance made: mkdtemp's and NamedTemporaryFile's names,
#: digests, numbers
_CHANCE: Final = re.compile(
    r"\.?(tmp|pymp-|joblib|loky|torch_|mlflow-?)[A-Za-z0-9_.-]*[A-Za-z0-9_]{4,}"
    r"|[0-9a-f]{8,}(-[0-9a-f]{4,})*|[A-Za-z0-9_]*[0-9][A-Za-z0-9_]{5,}|[0-9]+"
)
_PROC: Final = re.compile(r"/proc/([0-9]+)(?=/|$)")
_TASK: Final = re.compile(r"(/proc/(?:self|other)/task/)[0-9]+")
_DESCRIPTOR: Final = re.compile(r"(/proc/(?:self|other)(?:/task/\*)?/(?:fd|fdinfo)/)[0-9]+")
_SHARED: Final = re.compile(r"/dev/shm/.+")
_ADDRESSED: Final = re.compile(r"/\$\{")
_MOST_ARGUMENTS, _LONGEST_ARGUMENT = 20, 300


@dataclass(frozen=True)
class Places:
    """Which directories of one run the templates stand for.

    Attributes:
        roots: (real path, template) with the deepest first.
    """

    roots: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, **places: Path | None) -> Places:
        """Args: as for `modelarmor.profiles.load`: ``model``, ``prefix``, ``tmp``, ``home`` …"""
        values = profiles.template_values(**places)
        pairs = [(root, name) for name, found in values.items() for root in found]
        # The model's own directory may lie in scratch, and scratch in the home: the deepest wins.
        return cls(tuple(sorted(pairs, key=lambda pair: (-len(pair[0]), pair[1]))))

    def meant(self, path: str) -> str:
        """``path`` as what it means, still beginning with a slash."""
        if _ADDRESSED.match(path):  # a file that somebody called ${MODEL}, to be taken for it
            return path.replace("${", "$%7B")
        for root, name in self.roots:
            if path == root or path.startswith(root.rstrip("/") + "/"):
                rest = path[len(root) :]
                if name == "TMP":
                    rest = "/".join(_star(part) for part in rest.split("/"))
                return f"/${{{name}}}{rest}"
        return path

    def event(self, asked: Operation, own: Sequence[str] = ()) -> Operation:
        """The operation with what its paths mean.

        Args:
            asked: as it was seen.
            own: process numbers of the caller; what is of another process in ``/proc`` is told.
        """
        path = self.meant(asked.path) if asked.path else ""
        path = _PROC.sub(lambda found: _process(found, own), path, count=1)
        path = _DESCRIPTOR.sub(r"\1*", _TASK.sub(r"\1*", path))
        path = _SHARED.sub("/dev/shm/*", path)
        arguments = tuple(
            self.text(argument)[:_LONGEST_ARGUMENT] for argument in asked.args[:_MOST_ARGUMENTS]
        )
        source = self.meant(asked.source) if asked.source else ""
        return replace(asked, path=path, source=source, parent="", args=arguments)

    def text(self, argument: str) -> str:
        """What is said, with the templates of the places that are named in it."""
        for root, name in self.roots:
            argument = argument.replace(root, f"${{{name}}}")
        return argument


def real(asked: Operation, values: Mapping[str, Sequence[str]]) -> list[Operation]:
    """An operation of the evidence as it is somewhere: one for each directory that is meant.

    Args:
        asked: with templates.
        values: template name -> directories, as `modelarmor.profiles.template_values` gives them.
    """

    def filled(path: str) -> list[str]:
        for name, roots in values.items():
            mark = f"/${{{name}}}"
            if path == mark or path.startswith(mark + "/"):
                return [root + path[len(mark) :] for root in roots]
        return [path]

    return [
        replace(asked, path=path, source=source)
        for path in (filled(asked.path) if asked.path else [""])
        for source in (filled(asked.source) if asked.source else [""])
    ]


def shown(path: str) -> str:
    """A path of the evidence for people: ``${MODEL}/model.pkl``."""
    return path[1:] if path.startswith("/${") else path


def _star(component: str) -> str:
    return "*" if _CHANCE.fullmatch(component) else component


def _process(found: re.Match[str], own: Sequence[str]) -> str:
    return "/proc/self" if found[1] in own else "/proc/other"
