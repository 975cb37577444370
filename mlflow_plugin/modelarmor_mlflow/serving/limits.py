"""The guard's limits for one model: from its signature, and from data that it was made for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml

from modelarmor import _yaml
from modelarmor_mlflow.serving.confined.modelarmor_guard import (
    Column,
    GuardError,
    Limits,
    Row,
    Space,
    distances,
)

#: the largest MLmodel or guard file that is read, in bytes
_MAX_FILE: Final = 4 << 20
#: how far beyond the data that was seen a number may lie, as a part of the data's span
MARGIN: Final = 0.1
#: known inputs that are compared with each other, to learn how far apart inputs are
_COMPARED: Final = 500
#: fewer say nothing about that
_FEWEST: Final = 100
_NUMERIC: Final = frozenset({"integer", "long", "float", "double"})


def from_signature(model: Path) -> Limits:
    """The limits that the signature in ``model/MLmodel`` names; none where it has none.

    Raises:
        GuardError: the file cannot be read.
    """
    body = _loaded(model / "MLmodel")
    signature = body.get("signature") if isinstance(body, Mapping) else None
    inputs = signature.get("inputs") if isinstance(signature, Mapping) else None
    if not inputs:
        return Limits()
    try:
        entries = json.loads(inputs) if isinstance(inputs, str) else inputs
    except (ValueError, RecursionError):
        raise GuardError(f"{model / 'MLmodel'}: the signature's inputs are no JSON") from None
    if not isinstance(entries, list):
        raise GuardError(f"{model / 'MLmodel'}: the signature's inputs should be a list")
    return Limits(columns=tuple(_column(entry) for entry in entries))


def read(file: Path) -> Limits:
    """Limits that a person wrote, or `with_data` and ``modelarmor guard``: YAML.

    Raises:
        GuardError: it is none; says where.
    """
    body = _loaded(file)
    try:
        return Limits.from_json(body)
    except GuardError as error:
        raise GuardError(f"{file}: {error}") from None


def write(limits: Limits) -> str:
    """The limits as the YAML that `read` takes."""
    return yaml.safe_dump(limits.to_json(), sort_keys=False)


def with_data(limits: Limits, data: Path, *, margin: float = MARGIN) -> Limits:
    """The limits with a range for each number, from a CSV or Parquet file of known inputs.

    Where there are enough of them, also with the distance at which inputs are near: half of that
    which all but a hundredth of the known ones keep from each other.

    Args:
        limits: those of the signature.
        data: what the model was trained or tested on; its operator vouches for it.
        margin: how far beyond the data a number may lie, as a part of the data's span.

    Raises:
        GuardError: the file is neither, or lacks a column of the signature.
    """
    import pandas as pd

    try:
        if data.suffix == ".parquet":
            frame = pd.read_parquet(data)
        elif data.suffix == ".csv":
            frame = pd.read_csv(data)
        else:
            raise GuardError(f"{data}: known inputs are a .csv or a .parquet file")
    except (OSError, ValueError) as error:
        raise GuardError(f"{data}: {error}") from None
    columns = []
    for column in limits.columns:
        if column.shape is not None or column.type not in _NUMERIC:
            columns.append(column)
            continue
        if column.name not in frame.columns:
            raise GuardError(f"{data} has no column {column.name!r}, which the signature names")
        low, high = float(frame[column.name].min()), float(frame[column.name].max())
        if not (math.isfinite(low) and math.isfinite(high)):  # nothing is beyond such a range
            raise GuardError(f"{data}: column {column.name!r} has no numbers, or infinite ones")
        slack = (high - low) * margin
        columns.append(replace(column, minimum=low - slack, maximum=high + slack))
    if not columns:
        raise GuardError("the model has no signature, so no range can be named")
    whole = frame.dropna(subset=[column.name for column in columns if column.name in frame.columns])
    sample = whole.sample(min(len(whole), _COMPARED), random_state=0)
    near = _near(sample.to_dict("records"), columns)
    return replace(limits, columns=tuple(columns), near=near)


def _near(rows: Sequence[Row], columns: Sequence[Column]) -> float | None:
    """Half of the distance that all but a hundredth of the rows keep from every other one."""
    space = Space(columns)
    points = [space.point(row) for row in rows]
    if len(points) < _FEWEST:
        return None
    # A row that is there twice tells nothing, and every one is at no distance from itself.
    others = [[far for far in distances(point, points) if far] for point in points]
    apart = sorted(min(far, default=math.inf) for far in others)
    near = apart[len(apart) // 100] / 2
    return float(f"{near:.3g}") if near < math.inf else None


def _loaded(file: Path) -> Any:
    try:
        with file.open("rb") as source:
            return _yaml.loads(source.read(_MAX_FILE + 1), _MAX_FILE)
    except OSError as error:
        raise GuardError(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise GuardError(f"{file}: {error}") from None


def _column(entry: Any) -> Column:
    if not isinstance(entry, Mapping):
        raise GuardError("an input of the signature should be an object")
    name, kind = entry.get("name", ""), entry.get("type", "")
    if not isinstance(name, str | int):
        raise GuardError(f"an input of the signature has the name {name!r:.60}")
    if kind == "tensor":
        spec = entry.get("tensor-spec")
        shape = spec.get("shape") if isinstance(spec, Mapping) else None
        if not isinstance(shape, list) or not all(type(size) is int for size in shape):
            raise GuardError(f"the tensor {name!r:.60} of the signature has no shape")
        # an object tensor may hold anything; of numbers MLflow converts what it can
        return Column(name=str(name), shape=tuple(shape))
    return Column(
        name=str(name),
        type=kind if isinstance(kind, str) else "",
        required=entry.get("required", True) is not False,
    )
