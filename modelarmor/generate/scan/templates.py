"""Jinja templates, which tokenizers render: whether one reaches for more than messages.

Rendered in a sandboxed environment by transformers, and in a plain one by others (CVE-2024-34359).
Reaching out takes an underscored attribute, however it is spelt; chat templates have no use for it.
"""

from __future__ import annotations

import re
from typing import Final

from modelarmor.generate.scan.report import EVADE, EXECUTE, Report

_CODE: Final = re.compile(r"\{\{(.*?)\}\}|\{%(.*?)%\}", re.DOTALL)
_COMMENT: Final = re.compile(r"\{#.*?#\}", re.DOTALL)
_MAX: Final = 1 << 20
#: (what is found, sentence, whether it reaches out for certain)
_REACHES: Final = tuple(
    (re.compile(pattern), sentence)
    for pattern, sentence in (
        (r"__\w|\\x5f|\\u005f|\\137|\\N\{LOW LINE\}|%5f", "it names a private attribute"),
        (r"\|\s*attr\b|\battr\s*\(", "it takes an attribute by a computed name"),
        (r"\|\s*map\s*\(\s*attribute\s*=\s*[^'\")]", "it takes attributes by a computed name"),
        (r"\.\s*_\w|\[\s*['\"]_", "it names a private attribute"),
        (r"\b(lipsum|cycler|joiner|request|url_for|get_flashed_messages|self)\s*[.\[|]",
         "it uses an object of the template engine or a web server"),
        (r"\bconfig\s*[.\[]|\{\{-?\s*config\s*-?\}\}", "it reads the server's configuration"),
        (r"\b(popen|subprocess|os\.system|os\.environ|eval|exec|globals|builtins|mro|subclasses|"
         r"getattr|import_module|urlopen|getenv|environ)\b", "it names functions that act"),
        (r"\bopen\s*\(", "it opens files"),
        (r"^\s*-?\s*(include|import|from|extends)\b", "it loads other templates"),
    )
)  # fmt: skip
_BUILDS: Final = tuple(
    (re.compile(pattern), sentence)
    for pattern, sentence in (
        (r"\[\s*(['\"][^'\"]*['\"]\s*[~+]|\w+\s*~)", "it computes the name of an item"),
        (r"\[[^\]]*\|\s*(join|format|replace|lower|reverse|b64decode)", "it computes a name"),
        (r"\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}", "it spells characters by their numbers"),
        (r"\|\s*(b64decode|base64|from_?hex)", "it decodes something"),
    )
)  # fmt: skip


def look(report: Report, text: str, location: str) -> bool:
    """Look at a template; returns whether it has any code."""
    if len(text) > _MAX:
        report.incomplete(location, f"a template of {len(text)} characters")
        text = text[:_MAX]
    pieces = [a or b for a, b in _CODE.findall(_COMMENT.sub("", text))]
    for piece in pieces:
        for pattern, sentence in _REACHES:
            if found := pattern.search(piece):
                report.add("template-injection", "critical", "A template reaches for code",
                           location=location, techniques=EXECUTE,
                           detail=f"{sentence}: {piece.strip()[max(0, found.start() - 40):][:160]}",
                           )  # fmt: skip
                break
        for pattern, sentence in _BUILDS:
            if pattern.search(piece):
                report.add("template-computes", "medium", "A template computes names",
                           location=location, detail=f"{sentence}: {piece.strip()[:160]}",
                           techniques=EVADE)  # fmt: skip
                break
    return bool(pieces)
