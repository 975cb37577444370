"""Arrays on disk: NumPy's files, which may hold pickles, and safetensors, which may not.

NumPy's format: numpy/lib/_format_impl.py. safetensors: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import ast
import json
import struct
from typing import Any, Final

from modelarmor.generate.artifact.data import Data
from modelarmor.generate.scan.budget import Budget
from modelarmor.generate.scan.pickles import look as pickles
from modelarmor.generate.scan.report import EVADE, EXHAUST, Report

_MAX_HEADER: Final = 1 << 16
#: safetensors' own limit
_MAX_JSON: Final = 100_000_000


def look_npy(report: Report, data: Data, location: str, budget: Budget) -> None:
    """An array of objects is a pickle behind a header."""
    head = data.read(0, 12)
    wide = head[6:7] >= b"\x02"
    length = int.from_bytes(head[8:12] if wide else head[8:10], "little")
    start = (12 if wide else 10) + length
    header = data.read(12 if wide else 10, min(length, _MAX_HEADER))
    try:
        said: Any = ast.literal_eval(header.decode("latin-1").strip())
        described = str(said["descr"])
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        report.add("npy-malformed", "medium", "An array's header is malformed", location=location,
                   techniques=EVADE)  # fmt: skip
        described = "O"
    if "O" in described or "object" in described:  # NumPy takes the name for the letter
        found = pickles.look(report, data, location, expected=True, start=start, tick=budget.tick)
        if not found:
            report.incomplete(location, "an array of objects without a pickle")
        return
    report.inspected.add(location)


def look_safetensors(report: Report, data: Data, location: str) -> None:
    """Tensors lie one after another and fill the file; what does not fit is told."""
    length = struct.unpack("<Q", data.read(0, 8))[0]
    if length > _MAX_JSON:
        report.add("safetensors-malformed", "medium", "A header larger than its reader takes",
                   location=location, detail=f"{length} bytes", techniques=EXHAUST)  # fmt: skip
        return
    try:
        header = json.loads(data.read(8, length))
        spans = sorted(
            tuple(entry["data_offsets"]) for name, entry in header.items() if name != "__metadata__"
        )
        if not all(isinstance(n, int) for span in spans for n in span):
            raise ValueError("offsets that are no numbers")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        report.incomplete(location, f"safetensors with a broken header: {str(error)[:100]}")
        return
    at = 0
    for begin, end in spans:
        if begin != at or end < begin:
            break
        at = end
    else:
        if at + 8 + length == data.size:
            report.inspected.add(location)
            return
    report.add("safetensors-malformed", "medium", "Tensors do not fill the file", location=location,
               detail=f"bytes that no tensor owns, or that two share, at {at + 8 + length}",
               techniques=EVADE)  # fmt: skip
