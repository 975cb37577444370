"""HDF5: Keras's older format, and the weights of its newer one.

The library reads it where it is installed (h5py); this runs confined. Without it, configurations
are still found by their bytes, and the file counts as not looked into to its end.
"""

from __future__ import annotations

import io
from typing import Any, Final

from modelarmor.generate.artifact.data import Data
from modelarmor.generate.scan import keras
from modelarmor.generate.scan.budget import Budget
from modelarmor.generate.scan.report import READ, Report

_MAX_OBJECTS: Final = 200_000
_CONFIGS: Final = ("model_config", "training_config", "layer_config")


class _Stream(io.RawIOBase):
    """Data as a file for h5py."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._data.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        content = self._data.read(self._at, len(buffer))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def look(report: Report, data: Data, location: str, budget: Budget) -> None:
    """Look at the configuration, and for what leads out of the file."""
    keras.look_within(report, data, location, budget)
    try:
        import h5py
    except ImportError:
        report.incomplete(location, "HDF5 is read to its end by h5py, which is not installed")
        return
    try:
        with h5py.File(_Stream(data), "r") as file:
            _look_file(report, file, location, budget, h5py)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        report.incomplete(location, f"HDF5 that h5py cannot read: {str(error)[:200]}")
        return
    report.inspected.add(location)


def _look_file(report: Report, file: Any, location: str, budget: Budget, h5py: Any) -> None:
    pending = [file]
    seen: set[Any] = set()
    while pending:
        group = pending.pop()
        budget.tick()
        _look_attributes(report, group, location)
        for name in group:
            if len(seen) > _MAX_OBJECTS:
                report.incomplete(location, f"HDF5 of more than {_MAX_OBJECTS} objects")
                return
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                _outside(report, location, f"{name}: a link to {link.filename!r}")
                continue
            if isinstance(link, h5py.SoftLink):
                continue
            item = group[name]
            key = h5py.h5o.get_info(item.id).addr
            if key in seen:
                continue
            seen.add(key)
            if isinstance(item, h5py.Group):
                pending.append(item)
            elif isinstance(item, h5py.Dataset):
                _look_attributes(report, item, location)
                if item.external:
                    _outside(report, location, f"{name}: data in {item.external[0][0]!r}")
                if item.is_virtual:
                    _outside(report, location, f"{name}: data of other files")


def _look_attributes(report: Report, item: Any, location: str) -> None:
    for name in _CONFIGS:
        if name in item.attrs:
            value = item.attrs[name]
            content = value.encode() if isinstance(value, str) else bytes(value)
            keras.look_config(report, content, f"{location}!{name}")


def _outside(report: Report, location: str, detail: str) -> None:
    report.add("hdf5-external", "high", "HDF5 that reads other files", location=location,
               detail=detail, techniques=READ)  # fmt: skip
