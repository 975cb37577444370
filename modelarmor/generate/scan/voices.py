"""The scanners that others keep: found, run confined, and what each of them says.

None is a gate, and none is believed when it says that nothing is wrong: what it did not look into,
an exit status that is no verdict, a crash and a time-out are findings. Each runs in its own process
with its own environment: the Python of this one, or those that ``$MODELARMOR_SCANNERS`` names
(interpreters, separated as in ``$PATH``), since modelaudit and modelscan bring a great deal along.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modelarmor.generate.evidence import Finding, Severity
from modelarmor.generate.scan import confine
from modelarmor.generate.scan.report import EVADE, EXECUTE, clip

SETTING: Final = "MODELARMOR_SCANNERS"
_QUIET: Final = {
    "PROMPTFOO_DISABLE_TELEMETRY": "1", "NO_ANALYTICS": "1", "DO_NOT_TRACK": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1", "NO_COLOR": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
}  # fmt: skip
_MAX_FINDINGS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Scanner:
    """A scanner that is installed."""

    name: str
    version: str
    python: Path


@dataclass(frozen=True, slots=True)
class Said:
    """What a scanner said, as far as it came."""

    findings: tuple[Finding, ...] = ()
    #: how many files it looked into
    inspected: int = 0
    #: why it is not complete; empty where it is
    note: str = ""
    failed: bool = False


#: in the order in which they are asked
NAMES: Final = ("picklescan", "modelaudit", "fickling", "modelscan")

_FIND: Final = """
import importlib.metadata, json
found = {}
for name in %r:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def find(names: Sequence[str]) -> dict[str, Scanner]:
    """Those of `names` that are installed, each in the first environment that has it."""
    found: dict[str, Scanner] = {}
    for python in _interpreters():
        missing = tuple(name for name in names if name not in found)
        if not missing:
            break
        try:
            said = subprocess.run(
                [str(python), "-I", "-c", _FIND % (missing,)],
                capture_output=True, timeout=60, check=True,
            )  # fmt: skip
            versions = json.loads(said.stdout)
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
        found |= {name: Scanner(name, str(v)[:40], python) for name, v in versions.items()}
    return found


def _interpreters() -> list[Path]:
    named = os.environ.get(SETTING, "").split(os.pathsep)
    return [Path(sys.executable), *(Path(entry) for entry in named if entry)]


def ask(scanner: Scanner, model: Path, timeout: float) -> Said:
    """Run a scanner on a model, confined.

    Args:
        scanner: which.
        model: a directory or a file.
        timeout: seconds.

    Raises:
        NotConfined: it cannot be confined here.
    """
    driver = Path(__file__).with_name("drivers") / f"{scanner.name}.py"
    prefix = _prefix(scanner.python)
    ended = confine.run(
        [str(scanner.python), "-I", "-B", str(driver), str(model), "{tmp}"],
        model=model, prefix=prefix, timeout=timeout, variables=_QUIET,
    )  # fmt: skip
    source = f"{scanner.name} {scanner.version}".strip()
    if ended.late:
        return Said(note=f"it was ended after {timeout:.0f} s", failed=True)
    if ended.status != 0 or ended.cut:
        reason = "it wrote too much" if ended.cut else f"it ended with status {ended.status}"
        last = ended.errors.strip().rpartition("\n")[2]
        return Said(note=clip(f"{reason}: {last}".rstrip(": ")), failed=True)
    try:
        answer = json.loads(ended.output.strip().rpartition(b"\n")[2])
        return _read(answer, source, model)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Said(note=clip(f"its answer cannot be read: {error}"), failed=True)


def _prefix(python: Path) -> Path:
    return Path(sys.prefix) if python == Path(sys.executable) else python.parent.parent


_SEVERITIES: Final[Mapping[str, Severity]] = {
    "critical": "critical", "high": "high", "medium": "medium", "low": "low", "info": "info",
}  # fmt: skip


def _read(answer: Mapping[str, Any], source: str, model: Path) -> Said:
    """A driver's answer; it comes of a process that read hostile bytes."""
    # A scanner has a finding for each opcode; a reviewer decides once a file and kind.
    groups: dict[tuple[str, Severity, str], list[tuple[str, str]]] = {}
    for item in list(answer["findings"])[:_MAX_FINDINGS]:
        location = _relative(str(item.get("location", "")), model)
        key = (str(item["rule"]), _SEVERITIES[str(item["severity"])], location)
        told = (clip(str(item["title"]))[:200], str(item.get("detail", "")))
        groups.setdefault(key, []).append(told)
    findings = [
        _finding(source, rule, severity, location, told)
        for (rule, severity, location), told in groups.items()
    ]
    notes = [str(note) for note in list(answer.get("incomplete", ()))]
    if len(answer["findings"]) > _MAX_FINDINGS:
        notes.append(f"it has {len(answer['findings'])} findings; {_MAX_FINDINGS} are kept")
    inspected = int(answer["inspected"])
    if inspected == 0:
        notes.insert(0, "it looked into no file")
    return Said(tuple(findings), inspected, clip("; ".join(dict.fromkeys(notes))))


def _finding(
    source: str, rule: str, severity: Severity, location: str, told: Sequence[tuple[str, str]]
) -> Finding:
    titles = list(dict.fromkeys(title for title, _ in told))
    details = list(dict.fromkeys(detail for _, detail in told if detail))
    return Finding(
        rule=f"{source.partition(' ')[0]}-{_kebab(rule)}",
        severity=severity,
        title=titles[0],
        detail=clip("; ".join([*titles[1:], *details])),
        location=clip(location),
        source=source,
        techniques=EXECUTE if severity in ("critical", "high") else EVADE,
    )


def _kebab(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower()).strip("-")[:60] or "finding"


def _relative(location: str, model: Path) -> str:
    """The file that a scanner names, as a path within the model, without a place in it."""
    base = str(model)
    path = location[len(base) :].lstrip("/") if location.startswith(base) else location
    return re.split(r"\s\(|:", path, maxsplit=1)[0] or model.name
