"""``python -m tests.examples [--write]``: what each example tries, and which rule stops it.

Runs each notebook confined, with its own kernel, and counts what its cells say and what the
sandbox recorded meanwhile. With ``--write`` the table goes into docs/use-cases.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.examples.support import EXAMPLES, Cell, run
from tests.examples.test_agent import Listeners

PAGE = Path(__file__).parents[2] / "docs" / "use-cases.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->"
PROFILE = "modelarmor-untrusted-model"


@dataclass(frozen=True)
class Case:
    """One example: where its attempts are, and how a line says that one was stopped."""

    name: str
    what: str
    cells: tuple[str, ...]
    attempt: str = r": (SUCCEEDED|refused|failed)"
    stopped: str = ": (refused|failed)"


CASES = (
    Case("malicious-model", "a scikit-learn model with code in its pickle", ("load-code",), "", ""),
    Case(
        "pickle-injection-pytorch", "a PyTorch model with code, by four ways", ("load-code",),
        "the code (RAN|was refused)", "was refused",
    ),
    Case(
        "keras-injection", "Keras models that install software and write, and a graph that does",
        ("load-code", "graph-code"),
    ),
    Case(
        "command-injection-and-data-theft", "an injected agent, and a dataset that leaves",
        ("obey-code", "leave-code"),
    ),
    Case("cryptomining-and-resources", "a miner, and too many open files",
         ("mine-code", "limits-code")),
    Case("adversarial-pytorch", "crafted inputs, PyTorch", ("fgsm-code",), "", ""),
    Case("fgsm-tensorflow", "crafted inputs, TensorFlow", ("fgsm-code",), "", ""),
)  # fmt: skip


def row(case: Case, place: Path) -> str:
    """A line of the table, from a run."""
    work = place / "work"
    shutil.copytree(EXAMPLES / case.name, work)
    listeners = None
    if case.name == "command-injection-and-data-theft":
        listeners = Listeners(place)
        (work / "places.json").write_text(json.dumps(listeners.places))
    try:
        done = run(case.name, work)
    finally:
        if listeners:
            listeners.close()
    cells = [done[name] for name in case.cells]
    stopped = _stopped(case, cells)
    return f"| [{case.name}](../examples/{case.name}) | {case.what} | {stopped} | {_rules(cells)} |"


def _stopped(case: Case, cells: list[Cell]) -> str:
    if case.name == "malicious-model":
        # Its attempts are shown as a table; the record has one rule for each of the four.
        return f"{len({(alert.Operation, alert.PolicyName) for alert in cells[0].refused})} of 4"
    printed = "\n".join(cell.printed for cell in cells)
    if not case.attempt:
        shares = re.findall(r"[\d.]+%", printed)
        return f"nothing: recognised {shares[-1]} instead of {shares[0]}, at an epsilon of 0.3"
    tried, stopped = (len(re.findall(told, printed)) for told in (case.attempt, case.stopped))
    return f"{stopped} of {tried}"


def _rules(cells: list[Cell]) -> str:
    counted = Counter(
        (alert.PolicyName.removeprefix(f"{PROFILE}-").removeprefix("modelarmor-"), alert.Operation)
        for cell in cells
        for alert in cell.refused
    )
    told = [f"{name} ({kind.lower()}, {count})" for (name, kind), count in sorted(counted.items())]
    return ", ".join(told) or "none"


def table() -> str:
    """All of them, in Markdown."""
    lines = ["| example | what | stopped | by (of what, how often) |", "|---|---|---|---|"]
    for case in CASES:
        with tempfile.TemporaryDirectory() as place:
            home = Path(place, "home")
            (home / ".aws").mkdir(parents=True)
            (home / ".ssh").mkdir()
            (home / ".aws" / "credentials").write_text("worthless\n")
            (home / ".ssh" / "id_rsa").write_text("worthless\n")
            os.environ["HOME"] = str(home)
            lines.append(row(case, Path(place)))
            print(lines[-1], file=sys.stderr)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, and print or write."""
    text = table()
    if "--write" not in sys.argv:
        print(text, end="")
        return
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + text + END + rest.split(END, 1)[1])


if __name__ == "__main__":
    main()
