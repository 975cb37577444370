"""Python source: what it imports and calls, as far as reading tells."""

from __future__ import annotations

import ast
import re
from typing import Final

from modelarmor.generate.scan.report import CARRIES, EXECUTE, Report

_MAX: Final = 1 << 20
_MODULES: Final = frozenset(
    "subprocess socket ctypes pty paramiko pexpect marshal runpy telnetlib ftplib smtplib".split()  # noqa: SIM905
)
_CALLS: Final = re.compile(
    r"exec|eval|compile|__import__|os\.(system|popen|exec\w*|spawn\w*|fork\w*|remove|unlink|kill|"
    r"setuid|putenv|startfile)|subprocess\.\w+|socket\.\w+|ctypes\.\w+|shutil\.rmtree|pty\.\w+|"
    r"(pickle|marshal|dill|cloudpickle|joblib)\.loads?|importlib\.import_module|builtins\.\w+|"
    r"urllib\.request\.\w+|requests\.\w+|httpx\.\w+|runpy\.\w+|webbrowser\.\w+"
)


def look(report: Report, content: bytes, location: str, *, loaded: bool) -> None:
    """Look at a source file.

    Args:
        report: takes the findings.
        content: the source.
        location: what to call it.
        loaded: whether loading the model runs it.
    """
    told = _tells(content)
    when = "runs when the model is loaded" if loaded else "is there to be imported"
    report.add(
        "python-source", "high" if loaded else "medium", "It carries Python source",
        location=location, techniques=CARRIES,
        detail=f"it {when}" + (f"; it uses {', '.join(told[:20])}" if told else ""),
    )  # fmt: skip
    if told:
        report.add(
            "python-source-acts", "high", "Its source reaches out", location=location,
            detail=", ".join(told[:40]), techniques=EXECUTE,
        )  # fmt: skip
    report.inspected.add(location)


def _tells(content: bytes) -> list[str]:
    """Names of what acts, or why nobody knows."""
    if len(content) > _MAX:
        return [f"{len(content)} bytes of source"]
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return [f"source that is no Python 3: {type(error).__name__}"]
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= dict.fromkeys(
                f"import {name.name}" for name in node.names if name.name.split(".")[0] in _MODULES
            )
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in (*_MODULES, "os", "builtins"):
                found[f"from {node.module} import {node.names[0].name}"] = None
        elif isinstance(node, ast.Call):
            path = _path(node.func)
            if path and _CALLS.fullmatch(path):
                found[f"{path}()"] = None
    return list(found)


def _path(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""
