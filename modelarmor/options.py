"""Values of options on the command line, for `type` of argparse: bounded, or told what to give."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Final

_LONGEST: Final = 86_400.0  # a day


def whole(least: int, most: int) -> Callable[[str], int]:
    """A reader of whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        # as few digits as `most` has: a long number takes long to read, and Python refuses it
        plain = text.isascii() and text.isdigit() and len(text) <= len(str(most))
        if not plain or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r:.80}: give a number from {least} to {most}")
        return int(text)

    return read


def real(least: float, most: float) -> Callable[[str], float]:
    """A reader of numbers from `least` to `most`."""

    def read(text: str) -> float:
        value = _number(text)
        if not least <= value <= most:
            told = f"give a number from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"{text!r:.80}: {told}")
        return value

    return read


def seconds(text: str) -> float:
    """A time to wait, of a day at most."""
    value = _number(text)
    if not 0 < value <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r:.80}: give seconds, at most {_LONGEST:g}")
    return value


def _number(text: str) -> float:
    """A number; NaN, which is within no bounds, where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
