"""One pass over a model: every file's bytes are hashed and looked at once."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from modelarmor.generate.artifact import flavour, formats, mlmodel, own
from modelarmor.generate.artifact.data import FileData, NotRegular
from modelarmor.generate.artifact.tree import BLOCK, Entry, Progress, TreeDigest, walk
from modelarmor.generate.evidence import Artifact, ArtifactFile, Finding, Severity

#: files beyond these are in the digest, and are not listed
MAX_LISTED: Final = 100_000
_MAX_FINDINGS: Final = 500
_MAX_REQUIREMENTS: Final = 2_000
_SMALL: Final = 1 << 20
#: bytes between two words of progress
_TELL: Final = 256 << 20
_OUT: Final = ("T1036", "AML.T0010")
_PACKAGES: Final = re.compile(
    rb"(sklearn|xgboost|lightgbm|catboost|torch|langchain(?:_core|_community)?|keras)[.\n_]"
)
_KEYS: Final = re.compile(rb'"(model_type|architectures|auto_map|lc)"\s*:')


def inspect(root: Path, source: str = "", *, progress: Progress | None = None) -> Artifact:
    """What lies at `root`: its files, their digest, its flavour, and what is odd about them.

    Whatever lies there, this ends, needs bounded memory, and raises nothing: what could not be read
    is a finding, and leaves the digest empty, since nothing can vouch for bytes that were not seen.

    Args:
        root: a directory or a file.
        source: what to call it; credentials in an address are left out.
        progress: told what is being done.
    """
    look = _Inspection(progress)
    for entry in walk(root):
        look.add(entry)
    return look.artifact(public(source or str(root)))


def public(source: str) -> str:
    """An address without user, password and query."""
    if "://" not in source:
        return source
    try:
        parts = urlsplit(source)
    except ValueError:
        return source.partition("://")[0] + "://…"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


@dataclass
class _Inspection:
    progress: Progress | None
    files: list[ArtifactFile] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    digest: TreeDigest = field(default_factory=TreeDigest)
    #: every byte that belongs to the model was read
    whole: bool = True
    hints: dict[str, set[str]] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    count: int = 0
    done: int = 0
    told: int = 0

    def add(self, entry: Entry) -> None:
        if entry.kind == "unread":
            self._miss(entry, "unreadable", "medium", "A part of the model could not be read")
        elif entry.kind == "other":
            self._miss(entry, "special-file", "high", "The model has a file that is no data")
        elif entry.kind == "link":
            self._miss(entry, "symlink-out-of-model", "high", "A symbolic link leads elsewhere")
        else:
            self._file(entry)

    def _miss(self, entry: Entry, rule: str, severity: Severity, title: str) -> None:
        self.whole = False
        self._find(rule, severity, title, detail=entry.note, location=entry.path)

    def _find(
        self, rule: str, severity: Severity, title: str, *, detail: str = "", location: str = ""
    ) -> None:
        if len(self.findings) < _MAX_FINDINGS:
            self.findings.append(
                Finding(
                    rule=rule, severity=severity, title=title, detail=_shown(detail),
                    location=_shown(location), techniques=_OUT,
                )
            )  # fmt: skip

    def _file(self, entry: Entry) -> None:
        try:
            with FileData(entry.place) as data:
                sha256, size = self._hash(data, entry.path)
                verdict = own.judge(entry.path, data)
                if verdict.excluded:
                    return
                kind = formats.format_of(data, entry.path)
                self._remember(entry.path, kind, data)
                if data.changed() or size != data.size:
                    self.whole = False
                    self._find(
                        "changed-while-read", "high", "A file changed while it was read",
                        detail="nothing can be said of it; copy the model first",
                        location=entry.path,
                    )  # fmt: skip
        except NotRegular:
            self._miss(entry, "special-file", "high", "The model has a file that is no data")
            return
        except OSError as error:
            self.whole = False
            self._find("unreadable", "medium", "A file could not be read",
                       detail=error.strerror or "", location=entry.path)  # fmt: skip
            return
        if verdict.problem:
            self._find("hostile-metadata", "high", "A file has a name of ours, not its content",
                       detail=verdict.problem, location=entry.path)  # fmt: skip
        self._oddities(entry)
        self.digest.add(entry.path, sha256)
        self.count += 1
        if self.count <= MAX_LISTED:
            self.files.append(ArtifactFile(path=entry.path, size=size, sha256=sha256, format=kind))

    def _hash(self, data: FileData, path: str) -> tuple[str, int]:
        total = hashlib.sha256()
        buffer = memoryview(bytearray(min(BLOCK, max(data.size, 1))))
        size = 0
        while read := os.preadv(data.fd, [buffer], size):
            total.update(buffer[:read])
            size += read
            self.done += read
            if self.progress is not None and self.done >= self.told + _TELL:
                self.told = self.done
                self.progress(f"Hashing: {self.done >> 20} MiB so far, in {path}")
            if size > data.size + BLOCK:  # it grows as it is read
                break
        return total.hexdigest(), size

    def _oddities(self, entry: Entry) -> None:
        if entry.links > 1:
            self._find(
                "hard-link", "low", "A file has another name",
                detail=f"{entry.links} names lead to it: what has one of them can change it",
                location=entry.path,
            )  # fmt: skip
        if entry.note:
            self._find("symlink", "info", "A symbolic link to a file of the model",
                       detail=f"to {entry.note}; it counts as that file", location=entry.path,
                       )  # fmt: skip
        if any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 or c in _INVISIBLE
               for c in entry.path):  # fmt: skip
            self._find("odd-name", "medium", "A name has characters that nobody sees",
                       detail=ascii(entry.path), location=entry.path)  # fmt: skip

    def _remember(self, path: str, kind: str, data: FileData) -> None:
        """What the flavour will be told by."""
        if path in (mlmodel.NAME, "requirements.txt"):
            self.texts[path] = data.read(0, _SMALL + 1)
        if self.count > MAX_LISTED:
            return
        base = kind.rpartition("+")[2]
        if base in ("pickle", "joblib"):
            head = data.read(0, formats.HEAD)
            if "+" in kind:
                head = formats.expand(kind.partition("+")[0], head, formats.HEAD)
            self.hints[path] = {m.decode().partition("_")[0] for m in _PACKAGES.findall(head)}
        elif kind == "json":
            words = {m.decode() for m in _KEYS.findall(data.read(0, formats.HEAD))}
            if words:
                self.hints[path] = words

    def artifact(self, source: str) -> Artifact:
        model = self._mlmodel()
        known = flavour.of(self.files, model, self.hints)
        if self.count > MAX_LISTED:
            self._find("too-many-files", "medium", "The model has more files than are listed",
                       detail=f"{self.count}; {MAX_LISTED} are listed, the digest has all",
                       )  # fmt: skip
        if not self.count:
            self.whole = False
            self._find("empty", "medium", "There is no file to look at")
        return Artifact(
            source=_shown(source),
            flavour=known.name,
            flavours=known.all,
            loader=known.loader,
            files=tuple(sorted(self.files, key=lambda file: os.fsencode(file.path))),
            digest=self.digest.hexdigest() if self.whole else "",
            requirements=tuple(_requirements(self.texts.get("requirements.txt", b""))),
            findings=tuple(self.findings),
        )

    def _mlmodel(self) -> mlmodel.MLmodel | None:
        content = self.texts.get(mlmodel.NAME)
        if content is None:
            return None
        try:
            return mlmodel.loads(content)
        except mlmodel.MLmodelError as error:
            self._find("mlmodel-unreadable", "high", "MLmodel is no plain description of a model",
                       detail=str(error), location=mlmodel.NAME)  # fmt: skip
            return None


#: what turns text around or takes no place: U+200B … U+200F, U+202A … U+202E, U+2060 … U+2069, BOM
_INVISIBLE: Final = frozenset(
    map(chr, [*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF])
)


def _requirements(content: bytes) -> Iterator[str]:
    for line in content.decode("utf-8", "replace").splitlines()[:_MAX_REQUIREMENTS]:
        text = line.strip()
        if text and not text.startswith("#"):
            yield text[:500]


def _shown(text: str) -> str:
    return text if len(text) <= 2_000 else text[:2_000] + "…"
