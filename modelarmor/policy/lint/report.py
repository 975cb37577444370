"""Findings as text, JSON and SARIF 2.1.0."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Final
from urllib.parse import quote

from modelarmor.policy.lint.finding import Check, Finding
from modelarmor.visible import escaped

_COLOURS: Final = {"error": "\033[31m", "warning": "\033[33m", "note": "\033[36m"}
_BOLD: Final = "\033[1m"
_RESET: Final = "\033[0m"
_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"


def as_text(findings: Sequence[Finding], *, colour: bool = False) -> str:
    """Findings for people, grouped by file; a summary as the last line.

    Args:
        findings: in the order to print, which is `lint`'s.
        colour: whether to mark severities by terminal escapes.
    """

    def paint(text: str, code: str) -> str:
        return f"{code}{text}{_RESET}" if colour else text

    lines: list[str] = []
    for file, group in groupby(findings, key=lambda finding: finding.place.file):
        lines.append(paint(escaped(file), _BOLD))
        for finding in group:
            severity = paint(finding.severity, _COLOURS[finding.severity])
            subject = "  ".join(filter(None, (finding.policy, finding.where)))
            lines += [
                f"  {escaped(str(finding.place))}: {severity} {finding.rule} {finding.name}"
                f"  [{', '.join(finding.enforcers)}]",
                f"      {escaped(subject)}",
                f"      {escaped(finding.message)}",
                f"      cure: {escaped(finding.cure)}",
            ]
        lines.append("")
    counts = Counter(finding.severity for finding in findings)
    summary = ", ".join(
        f"{counts[severity]} {severity}{'' if counts[severity] == 1 else 's'}"
        for severity in ("error", "warning", "note")
        if counts[severity]
    )
    return "\n".join([*lines, summary or "no findings"]) + "\n"


def as_json(findings: Sequence[Finding]) -> str:
    """Findings as a JSON array, one object each."""
    entries = [
        {
            "rule": finding.rule,
            "name": finding.name,
            "severity": finding.severity,
            "file": finding.place.file,
            "line": finding.place.line,
            "column": finding.place.column,
            "policy": finding.policy,
            "where": finding.where,
            "message": finding.message,
            "cure": finding.cure,
            "enforcers": list(finding.enforcers),
        }
        for finding in findings
    ]
    return json.dumps(entries, indent=2) + "\n"


def as_sarif(findings: Sequence[Finding], checks: Iterable[Check], *, version: str = "") -> str:
    """Findings as a SARIF 2.1.0 log, as GitHub's code scanning and editors read it.

    Args:
        findings: what was found.
        checks: every check that was run; each becomes a rule with its help text.
        version: of this program, left out where empty.
    """
    known = list(checks)
    index = {check.id: number for number, check in enumerate(known)}
    driver: dict[str, Any] = {
        "name": "modelarmor lint",
        "rules": [
            {
                "id": check.id,
                "name": check.name,
                "shortDescription": {"text": check.name.replace("-", " ")},
                "fullDescription": {"text": check.help},
                "help": {"text": f"{check.help}\n\nMatters on: {', '.join(check.enforcers)}."},
                "defaultConfiguration": {"level": check.severity},
                "properties": {"tags": ["security", *check.enforcers]},
            }
            for check in known
        ],
    }
    if version:
        driver["version"] = version
    results = [
        {
            "ruleId": finding.rule,
            "ruleIndex": index[finding.rule],
            "level": finding.severity,
            "message": {"text": f"{finding.message}. Cure: {finding.cure}."},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": quote(finding.place.file)},
                        "region": {
                            "startLine": max(1, finding.place.line),
                            "startColumn": max(1, finding.place.column),
                        },
                    },
                    "logicalLocations": [
                        {"fullyQualifiedName": f"{finding.policy}.{finding.where}".strip(".")}
                    ],
                }
            ],
        }
        for finding in findings
    ]
    log = {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints",
                  "results": results}],
    }  # fmt: skip
    return json.dumps(log, indent=2) + "\n"
