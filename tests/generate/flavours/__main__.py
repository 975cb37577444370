"""How tight the generated policies are: ``python -m tests.generate.flavours [--write]``.

For each flavour one model is trained, watched, and given its policy; what that grants of this
machine's files is counted against what the model touched and against what a container grants by
default. ``--write`` puts the table into docs/generate.md.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from modelarmor import profiles
from modelarmor.generate.evidence import Evidence
from modelarmor.policy.decide import Operation, Table
from modelarmor.policy.lint import entry_cost, lint
from modelarmor.policy.model import Policy, Posture
from tests.generate.flavours import support, train

PAGE = Path(__file__).parents[3] / "docs" / "generate.md"
BEGIN, END = "<!-- tightness: begin -->", "<!-- tightness: end -->"
_ELSEWHERE = ("/proc", "/sys", "/dev", "/tmp")
CONTAINER: dict[str, Any] = {
    "model": Path("/opt/ml/model"), "prefix": Path("/usr/local"), "tmp": Path("/tmp/model"),
    "home": Path("/home/model"), "workspace": Path("/tmp/model"),
}  # fmt: skip


def machine() -> Counter[str]:
    """How many files each directory of this machine has, on its own file system."""
    counts: Counter[str] = Counter()
    for parent, directories, names in os.walk("/"):
        if parent.startswith(_ELSEWHERE):
            directories.clear()
            continue
        directories[:] = [name for name in directories if not os.path.ismount(f"{parent}/{name}")]
        counts[parent.rstrip("/") + "/"] = len(names)
    return counts


def granted(policies: list[Policy], python: str, files: Counter[str]) -> int:
    """Files that the interpreter may read. Rules for single files are too few to count."""
    table = Table(policies)
    return sum(
        count
        for directory, count in files.items()
        if table.decide(Operation("read", f"{directory}a-file", source=python)).verdict == "allow"
    )


def row(flavour: str, evidence: Evidence, model: Path, files: Counter[str]) -> str:
    assert evidence.observation is not None
    with tempfile.TemporaryDirectory() as tmp:
        profile = support.profile_of(evidence, model, Path(tmp), Path(sys.prefix))
    policies = list(profile.policies)
    python = str(Path(sys.executable).resolve())
    touched = {
        event.operation.path
        for event in evidence.observation.events
        if event.operation.kind in ("read", "list")
    }
    may = granted(policies, python, files)
    contained = profiles.fill(evidence.policy, name=flavour, **CONTAINER)
    found = Counter(finding.severity for finding in lint(contained, posture=Posture()))
    first = profiles.unfilled(evidence.policy, name=flavour)
    grants = len(first[0].process) + len(first[0].file) + len(first[0].network)
    blocks = len(evidence.reasons) - grants - 1
    cells = [
        flavour.replace("_", " "), f"{len(touched):,}", f"{may:,}",
        f"{100 * may / files.total():.0f} %", grants, blocks, entry_cost(contained),
        f"{found['error']} / {found['warning']}", len(evidence.expected_denials),
        f"{evidence.observation.usage.cpu_seconds:.1f}",
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    files = machine()
    lines = [
        f"Of the {files.total():,} files of the machine on which this was made a container's"
        " default grants all to read and to change, every program and every address.",
        "",
        "| flavour | touched | may read | of all files | grants | Blocks | entries of 256 |"
        " lint errors / warnings | expected denials | processor seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory() as directory:
        for flavour in train.FLAVOURS:
            model = support.models(flavour, Path(directory))[0]
            evidence = support.evidence_of(model, given=support.GIVEN.get(flavour))
            lines.append(row(flavour, evidence, model, files))
            print(lines[-1], file=sys.stderr)
    text = "\n".join(lines)
    if "--write" in sys.argv[1:]:
        page = PAGE.read_text(encoding="utf-8")
        table = f"{BEGIN}\n{text}\n{END}"
        page = re.sub(f"{BEGIN}.*?{END}", lambda _: table, page, flags=re.DOTALL)
        PAGE.write_text(page, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
