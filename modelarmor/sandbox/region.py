"""What the kernel can be told of a policy: allowed trees, with the holes cut out.

Landlock only grants, and a grant on a directory covers everything below. A policy also takes away.
The two meet by *complement enumeration*: a directory that has a hole somewhere below is not granted
itself, but each of its entries is, except the one that leads to the hole. That is exact as long as
nobody adds entries, so it is done only in directories that the workload cannot write; elsewhere the
grant stays whole, and the supervised tier cuts the hole.

The result never grants less than the policy permits to anybody (it would break what is allowed) and
says whether it grants more (then the supervised tier has to hold the line).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

#: a directory with more entries than this is left whole: each entry costs a kernel rule
MAX_ENTRIES = 20_000
#: what `complement` gives at most: each is a rule, and a start must not take long
MAX_COMPLEMENT = 2000


def complement(holes: set[str], stable: Callable[[str], bool]) -> list[str]:
    """What lies outside of ``holes`` now: trees and files that have no hole in them.

    Links are left out, since what counts is where they lead, and of ``/dev`` all but shared memory.
    A file moved from where nothing is granted to where something is gains by it, which Landlock
    refuses; so nothing is granted if such a file could come to be.

    Args:
        holes: paths without a slash at the end.
        stable: whether nothing is put into a directory to be moved on or run.

    Returns:
        Paths of which none lies below another; none if a directory above a hole is not stable.
    """
    ways = {hole[: m.start()] for hole in holes for m in re.finditer("/", hole)}
    shared = "/dev/shm"
    found = [shared] if shared not in holes | ways and os.path.isdir(shared) else []  # noqa: PTH112
    pending = [""] if "" not in holes else []
    while pending:
        at = pending.pop()
        if not stable(at or "/"):
            return []
        try:
            with os.scandir(at or "/") as entries:
                for entry in entries:
                    path = f"{at}/{entry.name}"
                    if path in holes or entry.is_symlink():
                        continue
                    (pending if path in ways else found).append(path)
        except OSError:
            return []
        if len(found) > MAX_COMPLEMENT:
            return []
    return found


@dataclass
class Region:
    """Where one right (read, write or execute) is granted.

    Attributes:
        default: whether the right is granted where nothing else is said.
        stable: whether nobody in the sandbox can add entries to a directory.
        exact: after `grants`, whether exactly what the policy permits is granted.
    """

    default: bool
    stable: Callable[[str], bool]
    exact: bool = True
    #: directory -> label of it and all below; paths are without the trailing slash, root is ""
    trees: dict[str, bool] = field(default_factory=dict)
    #: single path -> label
    paths: dict[str, bool] = field(default_factory=dict)
    #: directories granted whole, because a condition that the kernel cannot see allows things there
    forced: set[str] = field(default_factory=set)
    notes: dict[str, str] = field(default_factory=dict)

    def tree(self, directory: str, label: bool) -> None:
        key = directory.rstrip("/")
        self.trees[key] = label and self.trees.get(key, True)  # Block wins on the same key

    def path(self, path: str, label: bool) -> None:
        self.paths[path] = label and self.paths.get(path, True)

    def force(self, directory: str) -> None:
        self.forced.add(directory.rstrip("/"))
        self.exact = False

    def holds(self, path: str) -> bool:
        """Whether the rules so far grant a path, looking at those above it alone."""
        if path in self.paths:
            return self.paths[path]
        at = path.rstrip("/")
        while at not in self.trees and at:
            at = at.rpartition("/")[0]
        return self.trees.get(at, self.default)

    @property
    def restricts(self) -> bool:
        """Whether the right is withheld anywhere."""
        return (
            not self.default
            or not all(self.trees.values())
            or not all(self.paths.values())
            or not self.exact
        )

    def grants(self) -> list[str]:
        """Paths to grant; a directory stands for everything below it."""
        self._ways: dict[str, set[str]] = {}
        self._above_holes: set[str] = set()
        for labels in (self.trees, self.paths, dict.fromkeys(self.forced, True)):
            for target, label in labels.items():
                at = target
                while at:
                    parent, _, name = at.rpartition("/")
                    names = self._ways.setdefault(parent, set())
                    if name in names and (label or parent in self._above_holes):
                        break  # the way up from here is known
                    names.add(name)
                    if not label:
                        self._above_holes.add(parent)
                    at = parent
        self._blocked: set[tuple[int, int]] | None = None
        found: list[str] = []
        self._visit("", self.default, found)
        return found

    def _inodes_of_holes(self) -> set[tuple[int, int]]:
        found = set()
        for path, label in self.paths.items():
            if not label:
                try:
                    status = os.lstat(path)
                except OSError:
                    continue
                if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                    found.add((status.st_dev, status.st_ino))
        return found

    def _visit(self, at: str, inherited: bool, found: list[str]) -> None:
        label = self.trees.get(at, inherited)
        own = self.paths.get(at, label)
        if own != label and not os.path.isdir(at or "/"):  # noqa: PTH112  asked often
            label = own
        if at in self.forced:
            found.append(at or "/")
            return
        if label and at not in self._above_holes:
            found.append(at or "/")
        elif not label:
            for name in sorted(self._ways.get(at, ())):
                self._visit(f"{at}/{name}", label, found)
        else:
            self._cut(at, found)

    def _cut(self, at: str, found: list[str]) -> None:
        entries = self._entries(at) if self.stable(at or "/") else None
        if entries is None:
            self.exact = False
            self.notes[at or "/"] = "the workload can add entries here: left to the supervised tier"
            found.append(at or "/")
            return
        ways = self._ways.get(at, set())
        for entry in entries:
            path = f"{at}/{entry.name}"
            if entry.name in ways:
                self._visit(path, True, found)
            elif not entry.is_symlink() and not self._is_alias(entry):
                found.append(path)

    def _entries(self, at: str) -> list[os.DirEntry[str]] | None:
        try:
            with os.scandir(at or "/") as listing:
                entries = []
                for entry in listing:
                    entries.append(entry)
                    if len(entries) > MAX_ENTRIES:
                        return None
        except OSError:
            return None
        return sorted(entries, key=lambda entry: entry.name)

    def _is_alias(self, entry: os.DirEntry[str]) -> bool:
        """Whether a hard link leads to a file that is withheld under another name."""
        if self._blocked is None:  # most regions are not cut anywhere
            self._blocked = self._inodes_of_holes()
        if not self._blocked:
            return False
        status = entry.stat(follow_symlinks=False)
        return (status.st_dev, status.st_ino) in self._blocked
