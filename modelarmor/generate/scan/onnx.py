"""ONNX: where its weights are, and whose operators it needs.

Fields: onnx/onnx.proto. Weights may lie in other files, which a runtime opens by the path that the
model gives (CVE-2022-25882, CVE-2024-27318, CVE-2024-5187).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from modelarmor.generate.artifact.data import Data
from modelarmor.generate.scan import wire
from modelarmor.generate.scan.budget import Budget
from modelarmor.generate.scan.report import EXECUTE, NATIVE, READ, Report

_DOMAINS: Final = re.compile(
    r"|ai\.onnx(\.(ml|training|preview(\.training)?))?|com\.microsoft(\.(nchwc|experimental|dml))?|"
    r"org\.pytorch\.aten|com\.ms\.internal\.nhwc"
)
_PYTHON: Final = re.compile(r"PyOp|PyCustomOp|PythonOp\w*|ATen")
_MAX_DEPTH: Final = 32


@dataclass
class _Found:
    locations: set[str] = field(default_factory=set)
    #: (domain, operator)
    operators: set[tuple[str, str]] = field(default_factory=set)
    domains: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)


def look(report: Report, data: Data, location: str, budget: Budget) -> None:
    """Look at every graph, within functions and attributes too."""
    found = _Found()
    try:
        for item in wire.fields(data, budget.tick):
            if item.number == 7:
                _graph(item.part, found, budget, 0)
            elif item.number == 8:
                found.domains |= {i.text for i in wire.fields(item.part) if i.number == 1}
            elif item.number == 25:
                _function(item.part, found, budget)
    except wire.WireError as error:
        report.incomplete(location, f"it is no ONNX model: {error}")
        return
    _tell(report, found, location)
    report.inspected.add(location)


def _function(data: Data, found: _Found, budget: Budget) -> None:
    for item in wire.fields(data, budget.tick):
        if item.number == 7:
            _node(item.part, found, budget, 0)
        elif item.number == 10:
            found.functions.add(item.text)


def _graph(data: Data, found: _Found, budget: Budget, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise wire.WireError(f"graphs nested more than {_MAX_DEPTH} deep")
    for item in wire.fields(data, budget.tick):
        if item.number == 1:
            _node(item.part, found, budget, depth)
        elif item.number == 5:
            found.locations.update(_external(item.part))
        elif item.number == 15:
            for tensor in wire.fields(item.part, budget.tick):
                if tensor.number in (1, 2):
                    found.locations.update(_external(tensor.part))


def _node(data: Data, found: _Found, budget: Budget, depth: int) -> None:
    operator = domain = ""
    for item in wire.fields(data, budget.tick):
        if item.number == 4:
            operator = item.text
        elif item.number == 7:
            domain = item.text
        elif item.number == 5:
            _attribute(item.part, found, budget, depth)
    found.operators.add((domain, operator))


def _attribute(data: Data, found: _Found, budget: Budget, depth: int) -> None:
    for item in wire.fields(data, budget.tick):
        if item.number in (6, 11):
            _graph(item.part, found, budget, depth + 1)
        elif item.number in (5, 10):
            found.locations.update(_external(item.part))


def _external(tensor: Data) -> Iterator[str]:
    for item in wire.fields(tensor):
        if item.number == 13:
            entry = {i.number: i.text for i in wire.fields(item.part)}
            if entry.get(1) == "location":
                yield entry.get(2, "")


def _tell(report: Report, found: _Found, location: str) -> None:
    for place in sorted(found.locations):
        parts = place.replace("\\", "/").split("/")
        if place.startswith(("/", "\\", "~")) or ".." in parts or ":" in parts[0] or "\0" in place:
            report.add("onnx-external-data", "critical", "Weights are read from outside the model",
                       location=location, detail=place[:300], techniques=READ)  # fmt: skip
    for domain, operator in sorted(found.operators):
        if _PYTHON.fullmatch(operator):
            report.add("onnx-python-op", "critical", "An operator runs Python code",
                       location=location, detail=f"{domain}.{operator}",
                       techniques=EXECUTE)  # fmt: skip
    used = {domain for domain, _ in found.operators} | found.domains
    for domain in sorted(used - found.functions):
        if not _DOMAINS.fullmatch(domain):
            report.add(
                "onnx-custom-domain", "medium", f"It needs operators of {domain[:100]!r}",
                location=location, techniques=NATIVE,
                detail="whoever serves it has to load a library with native code for these",
            )  # fmt: skip
