"""Small YAML files of ours (a profile, its network policy), read strictly.

A KubeArmorPolicy has a reader of its own, which knows every field and line.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

#: far above what people write by hand; YAML in Python takes seconds for a megabyte
MAX_BYTES = 1 << 16
_MAX_DEPTH = 20


def read(path: Path) -> Any:
    """The one document of a file, as plain data, which nobody may change: it is kept.

    Raises:
        ValueError: it cannot be read, is too large, or is not one document of plain YAML; keys
            that occur twice and aliases are refused, because what they mean surprises a reader.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    return _kept(data)


@lru_cache(maxsize=32)
def _kept(data: bytes) -> Any:
    """`loads`, kept by content: each kernel that starts wants the same few files."""
    return loads(data)


def loads(data: bytes, limit: int = MAX_BYTES) -> Any:
    """The one document of `data`, as plain data; the same errors as `read`.

    Args:
        data: YAML.
        limit: how many bytes are read, at the most.
    """
    if len(data) > limit:
        raise ValueError(f"is larger than {limit} bytes")
    try:
        return yaml.load(data, _Strict)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}is not plain YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"is not plain YAML: {error}") from None


def show(value: object) -> str:
    """Quote a value of a document, shortly, whatever it is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer of thousands of digits, which Python does not print
        return f"this {type(value).__name__}"


def unknown(mapping: Mapping[Any, Any], fields: Iterable[str]) -> list[str]:
    """The keys that are none of ``fields``, quoted for an error."""
    return [show(key) for key in mapping if key not in fields]


class _Strict(yaml.SafeLoader):
    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not used here", problem_mark=mark)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {_MAX_DEPTH} deep")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            raise yaml.MarkedYAMLError(
                problem="a key occurs twice in this mapping", problem_mark=node.start_mark
            )
        return mapping
