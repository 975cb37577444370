"""Running a notebook as its reader does, and knowing which cell was refused what."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from modelarmor_jupyter.provisioner import ModelArmorProvisioner
from nbclient import NotebookClient

from modelarmor.alerts import Alert, Page, Recorder
from tests.ports import sockets_of_its_own

EXAMPLES = Path(__file__).parents[2] / "examples"
PLAIN = "python3"


@dataclass
class Cell:
    """What came of one cell: what it printed, and what was refused while it ran."""

    printed: str
    refused: Sequence[Alert]

    def refused_by(self, operation: str, resource: str = "") -> set[str]:
        """Names of the policies by which that was refused."""
        return {
            alert.PolicyName
            for alert in self.refused
            if alert.Operation == operation and resource in alert.Resource
        }


def run(example: str, workspace: Path, kernel: str = "") -> dict[str, Cell]:
    """Run all cells of an example, with its own kernel or another; each by its identifier."""
    notebook: Any = nbformat.read(EXAMPLES / example / f"{example}.ipynb", as_version=4)
    workspace.mkdir(exist_ok=True)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name=kernel or notebook.metadata.kernelspec.name,
        resources={"metadata": {"path": str(workspace)}},
    )
    client.create_kernel_manager()
    done: dict[str, Cell] = {}
    with sockets_of_its_own(client.km), client.setup_kernel():
        seen = 0
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
            alerts: list[Alert] = []
            if isinstance(client.km.provisioner, ModelArmorProvisioner):
                page = _settled(client.km.provisioner.recorder, seen)
                alerts = [alert for _, alert in page.alerts if alert.Action == "Block"]
                seen = max([seen, *(at for at, _ in page.alerts)])
            printed = "".join(out.get("text", "") for out in cell.get("outputs", []))
            done[cell.id] = Cell(printed, alerts)
    return done


def _settled(recorder: Recorder, seen: int) -> Page:
    """What is new in the record, which follows its refusals by a moment."""
    last = -1
    while recorder.last != last:
        last = recorder.last
        time.sleep(0.3)
    return recorder.after(seen, 10_000)


def assert_stripped(example: str) -> None:
    """Committed without outputs, and valid."""
    notebook = nbformat.read(EXAMPLES / example / f"{example}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) > 5
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert (EXAMPLES / example / "README.md").is_file()
