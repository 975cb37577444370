"""What a pickle's stack holds, as far as it matters: names that it imports and calls of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


class _Named:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


#: a value that nothing depends on: a long string, a number, a filled container
DATA: Final = _Named("…")
#: a value of which nothing is known, so that it could be anything
UNKNOWN: Final = _Named("?")
MARK: Final = _Named("MARK")

#: items of a container that are kept
KEPT: Final = 24


@dataclass(slots=True, eq=False)
class Global:
    """An imported name."""

    module: str
    name: str

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return self.path


@dataclass(slots=True, eq=False)
class Call:
    """What a call returned."""

    function: Any
    arguments: Any
    state: Any = None

    def __repr__(self) -> str:
        return f"{shown(self.function, 1)}(…)"


@dataclass(slots=True, eq=False)
class Items:
    """A list, a set or a dictionary with what was put into it first."""

    kind: str
    items: list[Any]

    def get(self, key: str) -> Any:
        """The value of a key, of a dictionary."""
        for name, value in zip(self.items[::2], self.items[1::2], strict=False):
            if name == key:
                return value
        return None

    def __repr__(self) -> str:
        return f"{self.kind}(…)"


@dataclass(frozen=True, slots=True)
class Bytes:
    """A stretch of bytes in the file."""

    offset: int
    size: int

    def __repr__(self) -> str:
        return f"<{self.size} bytes>"


def shown(value: Any, depth: int = 3) -> str:
    """A value for people, short."""
    if isinstance(value, str):
        return repr(value[:200]) + ("…" if len(value) > 200 else "")
    if isinstance(value, tuple) and depth:
        inner = ", ".join(shown(item, depth - 1) for item in value[:6])
        return f"({inner}{', …' if len(value) > 6 else ''})"
    if isinstance(value, Call) and depth:
        return f"{shown(value.function, depth - 1)}{shown(value.arguments, depth - 1)}"
    if isinstance(value, Items) and depth:
        inner = ", ".join(shown(item, depth - 1) for item in value.items[:4])
        return f"{value.kind}({inner})"
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 64 else "a long number"
    return repr(value)[:200]
