"""Labelled inputs: what the user vouches for, read from a file and brought into the unit cube."""

from __future__ import annotations

import csv
import hashlib
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float32]

#: bytes, unpacked
_MOST: Final = 1 << 30
#: bytes of a table, each of whose cells becomes an object of Python's
_MOST_TEXT: Final = 128 << 20
_INPUTS: Final = ("x", "X", "inputs", "x_test", "data")
_LABELS: Final = ("y", "labels", "y_test", "target")
#: a column that is everywhere the same has no range; its share of it is next to nothing
_LEAST_SPAN: Final = 1e-6


class DataError(ValueError):
    """Data that cannot be used; says which file and what would be right."""


@dataclass(frozen=True)
class Labelled:
    """Inputs in the unit cube, and what each is.

    Attributes:
        units: ``inputs = low + units * span``; the first dimension counts them.
        labels: one each, in words.
        low, span: of the shape of one input.
    """

    units: Floats
    labels: tuple[str, ...]
    low: Floats
    span: Floats

    @property
    def digest(self) -> str:
        """``sha256:…`` of inputs, labels and range."""
        told = hashlib.sha256(repr((self.units.shape, self.labels)).encode())
        for array in (self.units, self.low, self.span):
            told.update(array.tobytes())
        return "sha256:" + told.hexdigest()


def read(
    file: Path,
    *,
    samples: int,
    seed: int = 0,
    label: str = "",
    limits: tuple[float, float] | None = None,
) -> Labelled:
    """Draw labelled inputs from a file.

    Args:
        file: ``.npz`` with arrays ``x`` and ``y``, or ``.csv`` with a header.
        samples: how many are drawn, at most.
        seed: of the draw.
        label: the column of a table that has the labels; the last one if left out.
        limits: the least and the greatest value that an input can have; if left out, those in the
            file: of each column of a table, of all values together otherwise.

    Raises:
        DataError: it is no such file, or it is too large.
        OSError: it cannot be read.
    """
    import numpy

    try:
        inputs, labels = _archive(file) if file.suffix == ".npz" else _table(file, label)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    if inputs.ndim < 2 or len(inputs) != len(labels) or not len(labels):
        raise DataError(
            f"{file}: {inputs.shape} inputs and {len(labels)} labels do not belong together"
        )
    if not numpy.isfinite(inputs).all():
        raise DataError(f"{file}: an input is no finite number")
    low, span = _range(inputs, limits)
    if ((inputs < low - 1e-6) | (inputs > low + span + 1e-6)).any():
        raise DataError(f"{file}: an input lies outside of the range that --range gives")
    drawn = numpy.sort(numpy.random.default_rng(seed).permutation(len(labels))[:samples])
    units = ((inputs[drawn] - low) / span).clip(0, 1).astype("float32")
    return Labelled(
        units,
        tuple(_name(labels[number]) for number in drawn.tolist()),
        low.astype("float32"),
        span.astype("float32"),
    )


def _archive(file: Path) -> tuple[Any, list[Any]]:
    import numpy

    try:
        with zipfile.ZipFile(file) as packed:
            if sum(item.file_size for item in packed.infolist()) > _MOST:
                raise DataError(f"it holds more than {_MOST >> 20} MiB")
            for item in packed.infolist():
                _check_header(packed, item)
        with numpy.load(file, allow_pickle=False) as arrays:
            inputs = _one_of(arrays, _INPUTS).astype("float64")
            labels = _one_of(arrays, _LABELS)
    except (ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"it is no archive of numbers and labels: {error}") from None
    if labels.ndim == 2 and labels.shape[1] > 1:  # one-hot
        labels = labels.argmax(axis=1)
    return inputs, labels.reshape(-1).tolist()


def _check_header(packed: zipfile.ZipFile, item: zipfile.ZipInfo) -> None:
    """What an array says of its own size, before there is room made for it."""
    from numpy.lib import format as layout

    if not item.filename.endswith(".npy"):
        return
    with packed.open(item) as stream:
        read = {(1, 0): layout.read_array_header_1_0, (2, 0): layout.read_array_header_2_0}
        version = layout.read_magic(stream)
        if version not in read:
            raise DataError(f"{item.filename!a}: an array of the format {version} is not read")
        shape, _, _ = read[version](stream)
    if math.prod(shape) * 8 > _MOST:  # bytes of a number, once it is one of ours
        raise DataError(f"{item.filename!a} has {math.prod(shape)} numbers, which is too many")


def _one_of(arrays: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        if name in arrays:
            return arrays[name]
    raise DataError(f"it has none of the arrays {', '.join(names)}")


def _table(file: Path, label: str) -> tuple[Any, list[Any]]:
    import numpy

    if file.stat().st_size > _MOST_TEXT:
        raise DataError(f"it has more than {_MOST_TEXT >> 20} MiB")
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            header, *rows = [row for row in csv.reader(stream) if row] or [[]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"it is no table in UTF-8: {error}") from None
    if label and label not in header:
        raise DataError(f"there is no column {label!r}; there are {', '.join(header)[:200]}")
    at = header.index(label) if label else len(header) - 1
    try:
        labels = [row.pop(at) for row in rows]
        return numpy.array([[float(cell) for cell in row] for row in rows]), labels
    except (ValueError, IndexError) as error:
        raise DataError(f"a row is not as long as the header, or has no numbers: {error}") from None


def _range(inputs: Any, limits: tuple[float, float] | None) -> tuple[Any, Any]:
    import numpy

    shape = inputs.shape[1:]
    if limits is not None:
        low, high = (numpy.full(shape, limit) for limit in limits)
    elif inputs.ndim == 2:
        low, high = inputs.min(axis=0), inputs.max(axis=0)
    else:
        low, high = numpy.full(shape, inputs.min()), numpy.full(shape, inputs.max())
    return low, numpy.maximum(high - low, _LEAST_SPAN)


def _name(label: Any) -> str:
    """What a class is called; the program inside calls its classes the same."""
    if isinstance(label, str):
        try:
            label = float(label)
        except ValueError:
            return str(label)[:100]
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return str(label)[:100]
