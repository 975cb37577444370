"""Our own look at a model: each file put to every reader that could accept it, fail-closed.

A file that no reader knows, or that one could not read to its end, is told; it never passes. This
parses hostile bytes, in Python alone but for HDF5, and is meant to run confined
(`modelarmor.generate.scan.confine`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from modelarmor.generate.artifact import formats, mlmodel, own, zips
from modelarmor.generate.artifact.data import Data, FileData, NotRegular
from modelarmor.generate.artifact.tree import BLOCK, Entry, TreeDigest, walk
from modelarmor.generate.scan import (
    archives,
    arrays,
    gguf,
    hdf5,
    keras,
    mlflow,
    onnx,
    skops,
    sources,
    tensorflow,
    texts,
    wire,
)
from modelarmor.generate.scan.budget import Budget, OutOfTime
from modelarmor.generate.scan.pickles import look as pickles
from modelarmor.generate.scan.report import EVADE, EXECUTE, NATIVE, Report

_MAX_DEPTH: Final = 6
_SMALL: Final = 1 << 20
#: a name that says: unpickle me
_PICKLE_NAME: Final = re.compile(
    r".*\.(pkl|pickle|pk|p|joblib|jbl|dill|cloudpickle|cpkl|pickled|pt|pth|ckpt|mar|debug_pkl)",
    re.IGNORECASE,
)
#: a tensor's bytes within a torch archive
_STORAGE: Final = re.compile(r".*/(\.?data|weights|constants|tensors|sample_inputs|extra)/[^/]+")
_CHECKPOINT: Final = re.compile(r".*\.data-\d{5}-of-\d{5}")
_TABLE_END: Final = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
#: code for a machine
_NATIVE: Final = frozenset({"elf", "pe", "mach-o", "java-class", "python-bytecode"})
#: formats without code, whose readers give it no chance
_DATA: Final = frozenset({
    "catboost", "lightgbm", "xgboost-ubj", "xgboost-json", "xgboost-binary", "parquet", "arrow",
    "png", "jpeg", "empty",
})  # fmt: skip
_ZIPS: Final = frozenset({"zip", "torch", "torchscript", "pt2", "keras", "skops", "npz"})
#: what a file with a pickle's name may be instead
_CONTAINERS: Final = _ZIPS | formats.COMPRESSED | {"tar", "npy", "hdf5", "empty"}
_TEXT: Final = frozenset({"json", "yaml", "text", "toml", "jinja", "xml", "script", "notebook"})
_SOURCES: Final = re.compile(r".*\.(py|pyw|pyx|pyi)", re.IGNORECASE)
_TORCHSCRIPT_ACTS: Final = re.compile(
    rb"(torch\.(from_file|save|load)|aten::(from_file|save)|ops\.aten\.(from_file|save)|"
    rb"ops\.(?!prim|aten|quantized|torchvision|prims|_quantized|mkldnn_prepacked)\w+\.\w+)"
)
_TFLITE_ACTS: Final = re.compile(rb"Flex(ReadFile|WriteFile|PyFunc|EagerPyFunc|MatchingFiles|LMDB)")


_READERS: Final[Mapping[str, Callable[[Report, Data, str, Budget], None]]] = {
    "npy": arrays.look_npy,
    "safetensors": lambda report, data, location, _: arrays.look_safetensors(
        report, data, location
    ),
    "hdf5": hdf5.look,
    "onnx": onnx.look,
    "saved-model": tensorflow.look,
    "gguf": gguf.look,
}


class Look:
    """One look at one model."""

    def __init__(self, root: Path, *, seconds: float) -> None:
        """Make ready.

        Args:
            root: the model: a directory or a file.
            seconds: that it may take.
        """
        self.report = Report()
        self.digest = TreeDigest()
        self.whole = True
        self._root = root
        self._budget = Budget(seconds=seconds)
        self._code = mlflow.Places(None)

    def run(self, told: Callable[[str], None] = lambda _: None) -> None:
        """Look at every file; `told` is given each path before its turn."""
        entries = []
        for entry in walk(self._root):
            if entry.kind == "file":
                entries.append(entry)
            else:
                self.whole = False
                self.report.incomplete(entry.path, f"{entry.kind}: {entry.note}")
        # MLmodel says which sources are run
        entries.sort(key=lambda entry: (entry.path != mlmodel.NAME, os.fsencode(entry.path)))
        for number, entry in enumerate(entries):
            told(entry.path)
            try:
                self._file(entry)
            except OutOfTime as error:
                self.report.incomplete(entry.path, str(error))
                if "look's" in str(error):
                    self._give_up(entries[number + 1 :])
                    return
            except (
                Exception
            ) as error:  # whatever a file does to a reader, the others get their turn
                self.report.incomplete(entry.path, f"it made the look fail: {error!r}")
        for file, count in self.report.overflowed.items():
            self.report.incomplete(file, f"{count} findings, of which some are left out")

    def _give_up(self, rest: list[Entry]) -> None:
        self.whole = False
        for entry in rest[:1000]:
            self.report.incomplete(entry.path, "the look's time was over")

    def _file(self, entry: Entry) -> None:
        self._budget.begin_file(entry.size)
        try:
            with FileData(entry.place) as data:
                self._hash(entry.path, data)
                if own.judge(entry.path, data).excluded:
                    self.report.inspected.add(entry.path)
                    return
                self._look_file(entry.path, data)
                if data.changed():
                    self.whole = False
        except NotRegular as error:
            self.whole = False
            self.report.incomplete(entry.path, str(error))
        except OSError as error:
            self.whole = False
            self.report.incomplete(entry.path, f"it cannot be read: {error.strerror}")

    def _hash(self, path: str, data: FileData) -> None:
        """What was looked at is what was digested: a model may change between the two."""
        if own.judge(path, data).excluded:
            return
        total = hashlib.sha256()
        buffer = memoryview(bytearray(min(BLOCK, max(1, data.size))))
        at = 0
        while read := os.preadv(data.fd, [buffer], at):
            total.update(buffer[:read])
            at += read
            self._budget.tick()
        self.digest.add(path, total.hexdigest())

    def _look_file(self, path: str, data: Data) -> None:
        name = path.rpartition("/")[2]
        head = data.read(0, _SMALL + 1)
        if name == mlmodel.NAME:
            model = mlflow.look(self.report, head, path)
            if path == mlmodel.NAME:
                self._code = mlflow.Places(model)
            self._look_otherwise(data, path, name)
        elif mlflow.look_beside(self.report, path, head):
            self._look_otherwise(data, path, name)
        else:
            self.look(data, path, name, 0)

    def _look_otherwise(self, data: Data, path: str, name: str) -> None:
        """What MLflow reads as a text of its own may be something else to whoever loads it."""
        if formats.format_of(data, name) in _TEXT:
            self._probe(data, path)
        else:
            self.look(data, path, name, 0)

    # --- any file, of the model or of an archive

    def look(self, data: Data, location: str, name: str, depth: int, around: str = "") -> None:
        """Put one file to every reader that could accept it.

        Args:
            data: its bytes.
            location: what to call it.
            name: its own name.
            depth: archives around it.
            around: the kind of the archive that it is in.
        """
        self._budget.tick()
        if depth > _MAX_DEPTH:
            self.report.incomplete(location, f"archives nested more than {_MAX_DEPTH} deep")
            return
        kind = formats.format_of(data, name)
        base = kind.partition("+")[0]
        torch = around in ("torch", "torchscript", "pt2")
        expected = bool(_PICKLE_NAME.fullmatch(name)) and base not in _CONTAINERS
        found = pickles.look(
            self.report, data, location, expected=expected, tick=self._budget.tick,
            torch=torch, script=around == "torchscript",
        )  # fmt: skip
        known = self._by_kind(base, data, location, name, depth, around)
        behind = base not in _ZIPS and self._archive_behind(data, location, depth)
        if not (known or found or behind):
            self._unknown(data, location, name, around)

    def _archive_behind(self, data: Data, location: str, depth: int) -> bool:
        """A zip archive is found by its end, so anything can stand in front of one."""
        directory = zips.read(data)
        if directory is None or not any(entry.start >= 0 for entry in directory.entries):
            return False
        self.report.add("polyglot", "high", "It is an archive as well as what it begins as",
                        location=location, techniques=EVADE,
                        detail="loaders that look for an archive's end take it for one",
                        )  # fmt: skip

        def member(inner: Data, where: str, called: str) -> None:
            self.look(inner, where, called, depth + 1, formats.kind_of_zip(directory.names))

        archives.look_zip(self.report, data, location, self._budget, member)
        return True

    def _probe(self, data: Data, location: str) -> None:
        """Whether something is a pickle too."""
        pickles.look(self.report, data, location, expected=False, tick=self._budget.tick)

    def _by_kind(
        self, kind: str, data: Data, location: str, name: str, depth: int, around: str
    ) -> bool:
        """Look at it as what it is; False where that is unknown."""
        report, budget = self.report, self._budget

        def member(inner: Data, where: str, called: str) -> None:
            self.look(inner, where, called, depth + 1, kind)

        if name == "saved_model.pb":
            kind = "saved-model"
        if kind in _ZIPS:
            archives.look_zip(report, data, location, budget, member)
            report.inspected.add(location)
        elif kind in formats.COMPRESSED:
            called = re.sub(r"\.(gz|bz2|xz|lzma|z|lz4|zst)$", "", name, flags=re.IGNORECASE)
            archives.look_compressed(report, kind, data, location, budget, member, called)
            report.inspected.add(location)
        elif kind == "tar":
            archives.look_tar(report, data, location, budget, member)
        elif kind in _READERS:
            _READERS[kind](report, data, location, budget)
        elif kind == "tflite":
            self._search(data, location, _TFLITE_ACTS, "tf-read-op", "An operation reaches outside")
        elif kind == "python" or _SOURCES.fullmatch(name):
            self._source(data, location, name, around)
        elif kind in _TEXT:
            self._text(kind, data, location, name, around)
        else:
            return self._plainly(kind, location)
        return True

    def _plainly(self, kind: str, location: str) -> bool:
        """What needs no reader."""
        if kind in _NATIVE:
            self.report.add("native-code", "high", "It carries code for a machine",
                            location=location, detail=kind, techniques=NATIVE)  # fmt: skip
        elif kind not in _DATA:
            return False
        self.report.inspected.add(location)
        return True

    def _source(self, data: Data, location: str, name: str, around: str) -> None:
        if around in ("torchscript", "torch") and "/code/" in f"/{name}":
            title = "TorchScript that reaches outside"
            self._search(data, location, _TORCHSCRIPT_ACTS, "torchscript-acts", title)
            return
        content = data.read(0, _SMALL + 1)
        sources.look(self.report, content, location, loaded=self._code.runs(location))

    def _search(
        self, data: Data, location: str, pattern: re.Pattern[bytes], rule: str, title: str
    ) -> None:
        at = 0
        while at < data.size:
            self._budget.tick()
            block = data.read(at, _SMALL)
            for found in pattern.findall(block):
                text = (found[0] if isinstance(found, tuple) else found).decode("ascii", "replace")
                self.report.add(rule, "critical", title, location=location, detail=text,
                                techniques=EXECUTE)  # fmt: skip
            at += max(1, len(block) - 128)
            if at + 128 >= data.size:
                break
        self.report.inspected.add(location)

    def _text(self, kind: str, data: Data, location: str, name: str, around: str) -> None:
        if around == "skops" and name == "schema.json":
            skops.look(self.report, data, location)
        elif around == "keras" and name in ("config.json", "metadata.json"):
            keras.look_config(self.report, data.read(0, 64 << 20), location)
        elif self._code.runs(location):
            sources.look(self.report, data.read(0, _SMALL + 1), location, loaded=True)
        else:
            texts.look(self.report, data, location, kind)

    def _unknown(self, data: Data, location: str, name: str, around: str) -> None:
        """What no reader claimed: known by where it lies, or told."""
        report = self.report
        if around in ("torch", "torchscript", "pt2") and (
            _STORAGE.fullmatch(f"/{name}") or name.endswith("/version")
        ):
            report.inspected.add(location)
        elif _CHECKPOINT.fullmatch(name) or data.read(max(0, data.size - 8), 8) == _TABLE_END:
            report.inspected.add(location)  # a checkpoint of TensorFlow: its data, its table
        elif name.endswith((".pb", ".model", ".spm", ".pbtxt")):
            self._protobuf(data, location)
        else:
            report.incomplete(location, "no reader knows what it is", "medium")

    def _protobuf(self, data: Data, location: str) -> None:
        try:
            for _ in wire.fields(data, self._budget.tick):
                pass
        except wire.WireError as error:
            self.report.incomplete(location, f"no reader knows what it is: {error}", "medium")
            return
        tensorflow.look_graph(self.report, data, location, self._budget)
        keras.look_within(self.report, data, location, self._budget)
        self.report.inspected.add(location)
