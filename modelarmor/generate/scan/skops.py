"""skops: the tree of types in ``schema.json``, each of which loading imports.

skops asks its caller which types to trust; MLflow trusts what the model's own MLmodel lists. The
nodes: skops/io/_general.py, _sklearn.py, _numpy.py.
"""

from __future__ import annotations

import json
from typing import Any, Final

from modelarmor.generate.artifact.data import Data
from modelarmor.generate.scan.pickles import allowed
from modelarmor.generate.scan.report import EXECUTE, Report

_MAX: Final = 64 << 20
_MAX_NODES: Final = 2_000_000


def look(report: Report, data: Data, location: str) -> None:
    """Look at the types of ``schema.json``."""
    if data.size > _MAX:
        report.incomplete(location, f"a schema of {data.size} bytes")
        return
    try:
        schema = json.loads(data.read(0, _MAX))
    except (ValueError, RecursionError) as error:
        report.incomplete(location, f"the schema is no JSON: {str(error)[:200]}")
        return
    pending: list[Any] = [schema]
    count = 0
    while pending:
        node = pending.pop()
        count += 1
        if count > _MAX_NODES:
            report.incomplete(location, "a schema of too many parts")
            return
        if isinstance(node, dict):
            _look_node(report, node, location)
            pending += node.values()
        elif isinstance(node, list):
            pending += node
    report.inspected.add(location)


def _look_node(report: Report, node: dict[str, Any], location: str) -> None:
    loader = str(node.get("__loader__", ""))
    names = [(node.get("__module__"), node.get("__class__"))]
    content = node.get("content")
    if isinstance(content, dict):
        names.append((content.get("module_path"), content.get("function")))
        if "func" in content and isinstance(content["func"], str):
            names.append((node.get("__module__"), content["func"]))
    for module, name in names:
        if not isinstance(module, str) or not isinstance(name, str):
            continue
        grade = allowed.grade(module, name)
        if grade in ("construct", "fill") or (loader, module) == ("JsonNode", "builtins"):
            continue
        if (module, name) in _OWN:
            continue
        path = f"{module}.{name}"
        report.add(
            "skops-untrusted-type", "critical" if grade == "danger" else "high",
            f"It imports {path}"[:200], location=location, techniques=EXECUTE,
            detail=f"not on the allow-list; loaded by {loader or 'no'} node"[:200],
        )  # fmt: skip


#: types that skops itself always trusts, which no pickle names in this way
_OWN: Final = frozenset({
    ("builtins", "type"), ("functools", "partial"), ("builtins", "function"),
    ("builtins", "method"), ("builtins", "builtin_function_or_method"), ("numpy", "ufunc"),
    ("scipy.special", "ufunc"), ("operator", "methodcaller"), ("operator", "attrgetter"),
    ("operator", "itemgetter"),
})  # fmt: skip
