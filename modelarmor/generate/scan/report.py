"""What the look finds, collected: bounded, and each thing once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from modelarmor.generate.evidence import SEVERITIES, Finding, Severity
from modelarmor.visible import escaped

#: findings of one file that are kept
PER_FILE: Final = 60
TOTAL: Final = 5_000
_TEXT: Final = 600

#: ATT&CK and ATLAS, by what a finding is about
EXECUTE: Final = ("T1059.006", "AML.T0011.000")
CARRIES: Final = ("T1059.006", "AML.T0018.002")
EVADE: Final = ("T1027", "AML.T0076")
SUPPLY: Final = ("T1195.001", "AML.T0010")
WRITE: Final = ("T1565.001", "AML.T0018")
READ: Final = ("T1005", "AML.T0025")
EXHAUST: Final = ("T1499", "AML.T0029")
HIJACK: Final = ("T1574", "AML.T0010")
NATIVE: Final = ("T1129", "AML.T0018.002")


@dataclass
class Report:
    """What was found so far."""

    findings: dict[tuple[str, str, str], Finding] = field(default_factory=dict)
    #: paths that some reader looked into to its end
    inspected: set[str] = field(default_factory=set)
    _counts: Counter[str] = field(default_factory=Counter)
    _rooms: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(
        self,
        rule: str,
        severity: Severity,
        title: str,
        *,
        location: str,
        detail: str = "",
        techniques: Sequence[str] = (),
    ) -> None:
        """Note a finding; the worst of one rule, title and file is kept.

        Args:
            rule, severity, title, detail, techniques: as in `Finding`.
            location: path within the model, with a position after the last colon.
        """
        file = location.partition("!")[0].partition(":")[0]
        key = (rule, title, location.partition(":")[0])
        known = self.findings.get(key)
        if known is not None and SEVERITIES.index(known.severity) <= SEVERITIES.index(severity):
            return
        if known is None and not self._has_room(file, severity):
            return
        self.findings[key] = Finding(
            rule=rule,
            severity=severity,
            title=title,
            detail=clip(detail),
            location=clip(location),
            techniques=tuple(techniques),
        )

    def _has_room(self, file: str, severity: Severity) -> bool:
        """Each severity has its own room, so that no flood of small findings hides a grave one."""
        self._counts[file] += 1
        self._rooms[file, severity] += 1
        self._rooms["", severity] += 1
        most = 4 * PER_FILE if severity in ("critical", "high") else PER_FILE
        return self._rooms[file, severity] <= most and self._rooms["", severity] <= TOTAL

    def incomplete(self, location: str, why: str, severity: Severity = "high") -> None:
        """Note that something was not looked into, or not to its end: no pass.

        As grave as what could be there: hiding must not be cheaper than what is hidden. What no
        reader knows is less: nothing that we know of loads it.
        """
        self.add(
            "not-inspected",
            severity,
            "Not looked into, or not to its end",
            location=location,
            detail=why,
            techniques=EVADE,
        )

    @property
    def overflowed(self) -> dict[str, int]:
        """Files with more findings than are kept."""
        return {file: count for file, count in self._counts.items() if count > PER_FILE}


def clip(text: str) -> str:
    """Text of bounded length, without what a terminal or a page would act on."""
    shown = escaped(text[: _TEXT + 1])
    return shown if len(shown) <= _TEXT else shown[:_TEXT] + "…"
