"""What is said of a model before it is loaded: our own fail-closed look, and others' scanners.

The look (`look`) reads every file for what could run; the voices (`voices`) are scanners that
others keep. Both run confined (`confine`). Their findings stand side by side with who says so;
nobody's silence is a pass.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from modelarmor import __version__
from modelarmor.generate.evidence import SEVERITIES, Artifact, Finding, Scan, Severity, Voice
from modelarmor.generate.scan import confine
from modelarmor.generate.scan import voices as scanners
from modelarmor.generate.scan.report import EVADE, WRITE, clip

__all__ = ["VOICES", "scan"]

#: who can be asked; ``modelarmor`` is our own look
VOICES: Final = ("modelarmor", *scanners.NAMES)
#: asked where nothing else is said; not to have the first two is a finding
_ALWAYS: Final = ("modelarmor", "picklescan")

Progress = Callable[[str], None]


def scan(
    root: Path,
    artifact: Artifact,
    *,
    progress: Progress | None = None,
    voices: Sequence[str] | None = None,
    timeout: float | None = None,
) -> Scan:
    """Ask every voice about a model.

    Args:
        root: where it is.
        artifact: what `modelarmor.generate.artifact` found there; the look must see the same bytes.
        progress: told what is being done.
        voices: some of `VOICES`; all that are installed if left out.
        timeout: seconds for each voice; by the size of the model if left out.

    Raises:
        ValueError: a voice that nobody knows.
    """
    tell = progress or (lambda _: None)
    wanted = VOICES if voices is None else tuple(voices)
    if unknown := [name for name in wanted if name not in VOICES]:
        raise ValueError(f"no voice {unknown[0]!r:.60}; known are {', '.join(VOICES)}")
    seconds = timeout or 300 + artifact.size / 20e6 + len(artifact.files) / 50
    merged = _Merged(artifact)
    if "modelarmor" in wanted:
        _look(merged, root, seconds, tell)
    installed = scanners.find([name for name in wanted if name in scanners.NAMES])
    for name in wanted:
        if name == "modelarmor":
            continue
        if name not in installed:
            merged.absent(name, wanted=name in _ALWAYS or voices is not None)
            continue
        tell(f"Asking {name} {installed[name].version}")
        _ask(merged, installed[name], root, seconds)
    return merged.scan()


class _Merged:
    """What was said so far."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.voices: list[Voice] = []
        self.findings: list[Finding] = []
        self.inspected: set[str] = set()

    def absent(self, name: str, *, wanted: bool) -> None:
        note = (
            f"not installed: pip install {name}, or name the Python of an environment that has it"
            f" in ${scanners.SETTING}"
        )
        self.voices.append(Voice(name=name, status="absent", note=note))
        if wanted:
            self._say("scanner-absent", "medium", f"{name} was not asked", note, name)

    def failed(self, name: str, version: str, note: str, severity: Severity = "medium") -> None:
        self.voices.append(Voice(name=name, version=version, status="failed", note=note))
        self._say("scanner-failed", severity, f"{name} failed", note, f"{name} {version}".strip())

    def _say(self, rule: str, severity: Severity, title: str, detail: str, source: str) -> None:
        self.findings.append(
            Finding(
                rule=rule,
                severity=severity,
                title=title,
                detail=detail,
                source=source,
                techniques=EVADE,
            )
        )

    def incomplete(self, voice: Voice) -> None:
        self.voices.append(voice)
        self._say("scanner-incomplete", "medium", f"{voice.name} did not look into everything",
                  voice.note, f"{voice.name} {voice.version}".strip())  # fmt: skip

    def scan(self) -> Scan:
        every = {finding.fingerprint: finding for finding in self._weighed()}
        order = sorted(
            every.values(),
            key=lambda item: (
                SEVERITIES.index(item.severity), item.source != "modelarmor", item.rule,
                item.location,
            ),
        )  # fmt: skip
        return Scan(
            voices=tuple(self.voices),
            findings=tuple(order),
            uninspected=tuple(
                file.path for file in self.artifact.files if file.path not in self.inspected
            ),
        )

    def _weighed(self) -> Iterator[Finding]:
        """Critical is what runs something dangerous by evidence.

        Where our look read a file to its end and saw nothing run, another's word is `high`: often
        it is about code that the format carries by design.
        """
        ours = {
            re.split(r"[:!]", finding.location)[0]
            for finding in self.findings
            if finding.source == "modelarmor" and finding.severity == "critical"
        }
        for finding in self.findings:
            place = finding.location
            if (
                finding.source != "modelarmor"
                and finding.severity == "critical"
                and place in self.inspected - ours
            ):
                yield replace(finding, severity="high")
            else:
                yield finding


def _look(merged: _Merged, root: Path, seconds: float, tell: Progress) -> None:
    """Our own look, in a process and a sandbox of its own."""
    said = _Said(tell)
    try:
        ended = confine.run(
            [sys.executable, "-B", "-m", "modelarmor.generate.scan", str(root), str(seconds)],
            model=root, prefix=Path(sys.prefix), timeout=seconds + 30, line=said.hear,
        )  # fmt: skip
    except confine.NotConfined as error:
        merged.failed("modelarmor", __version__, clip(f"it cannot be confined: {error}"))
        return
    merged.findings += said.findings
    merged.inspected |= said.inspected
    if said.end is None:
        what = "its time was over" if ended.late else f"it ended with status {ended.status}"
        last = ended.errors.strip().rpartition("\n")[2]
        # No milder than what the look says itself where a file takes too long or makes it fail.
        merged.failed(
            "modelarmor", __version__, clip(f"{what} at {said.file or 'its start'}: {last}"), "high"
        )
        return
    if said.end != merged.artifact.digest:
        merged.findings.append(
            Finding(
                rule="changed-while-scanned", severity="high",
                title="What was looked into is not what was digested",
                detail="the model changed, or could not be read whole; copy it and begin again",
                techniques=WRITE,
            )
        )  # fmt: skip
    told = [finding for finding in said.findings if finding.rule == "not-inspected"]
    voice = Voice(
        name="modelarmor", version=__version__, inspected=len(said.inspected),
        status="incomplete" if told else "complete",
        note=f"{len(told)} places were not looked into to their end" if told else "",
    )  # fmt: skip
    merged.voices.append(voice)


class _Said:
    """Our look's lines; the process that writes them reads hostile bytes, and may be taken over."""

    def __init__(self, tell: Progress) -> None:
        self._tell = tell
        self.findings: list[Finding] = []
        self.inspected: set[str] = set()
        self.end: str | None = None
        self.file = ""

    def hear(self, line: bytes) -> None:
        try:
            value = json.loads(line)
            if "file" in value:
                self.file = clip(str(value["file"]))
                self._tell(f"Looking into {self.file}")
            elif "finding" in value:
                self.findings.append(_finding(value["finding"]))
            elif "inspected" in value:
                self.inspected |= {str(path) for path in value["inspected"]}
            elif "end" in value:
                self.end = str(value["end"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.findings.append(
                Finding(
                    rule="not-inspected",
                    severity="high",
                    title="The look said nonsense",
                    location=self.file,
                    techniques=EVADE,
                )
            )


def _finding(value: dict[str, Any]) -> Finding:
    if value["severity"] not in SEVERITIES:
        raise ValueError("no severity")
    return Finding(
        rule=str(value["rule"])[:80],
        severity=value["severity"],
        title=clip(str(value["title"])),
        detail=clip(str(value["detail"])),
        location=clip(str(value["location"])),
        techniques=tuple(str(item)[:40] for item in value["techniques"])[:10],
    )


def _ask(merged: _Merged, scanner: scanners.Scanner, root: Path, seconds: float) -> None:
    try:
        said = scanners.ask(scanner, root, seconds)
    except confine.NotConfined as error:
        merged.failed(scanner.name, scanner.version, clip(f"it cannot be confined: {error}"))
        return
    merged.findings += said.findings
    if said.failed:
        merged.failed(scanner.name, scanner.version, said.note)
    elif said.note:
        merged.incomplete(
            Voice(
                name=scanner.name,
                version=scanner.version,
                status="incomplete",
                inspected=said.inspected,
                note=said.note,
            )
        )
    else:
        merged.voices.append(
            Voice(
                name=scanner.name,
                version=scanner.version,
                status="complete",
                inspected=said.inspected,
            )
        )
