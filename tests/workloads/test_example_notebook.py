"""The notebook that the README opens, run as its reader runs it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from modelarmor_jupyter.provisioner import ModelArmorProvisioner
from nbclient import NotebookClient

from modelarmor.alerts import Alert
from tests.ports import sockets_of_its_own

NOTEBOOK = Path(__file__).parents[2] / "examples" / "malicious-model" / "malicious-model.ipynb"
KEY, SHELL, NETWORK, STAY = (
    "read ~/.ssh/id_rsa",
    "start a shell",
    "connect to 192.0.2.1:80",
    "append to ~/.bashrc",
)


@dataclass
class Run:
    """What came of a run: the kernel's own word, the server's record, and what it did."""

    home: Path
    workspace: Path
    attempts: dict[str, tuple[str, str]]
    printed: str
    record: list[Alert]

    def recorded(self, operation: str, resource: str) -> list[str]:
        """Names of the policies by which that was refused."""
        return [
            alert.PolicyName
            for alert in self.record
            if alert.Action == "Block"
            and alert.Operation == operation
            and resource in alert.Resource
        ]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with something to lose; the real one is not touched."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_rsa").write_text("a private key\n")
    (home / ".bashrc").write_text("# as it was\n")
    monkeypatch.setenv("HOME", str(home))
    return home


def run(home: Path, kernel: str = "") -> Run:
    """Run all cells with a kernel, or with that which the notebook names."""
    workspace = home.parent / "work"
    workspace.mkdir()
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("attempts"))
    client = NotebookClient(
        notebook,
        timeout=100,
        kernel_name=kernel or notebook.metadata.kernelspec.name,
        resources={"metadata": {"path": str(workspace)}},
    )
    client.create_kernel_manager()
    with sockets_of_its_own(client.km), client.setup_kernel():
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
        provisioner = client.km.provisioner
        confined = isinstance(provisioner, ModelArmorProvisioner)
        page = provisioner.recorder.after(0) if confined else None
    told = eval(notebook.cells[-1].outputs[0]["data"]["text/plain"], {"__builtins__": {}})
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return Run(
        home,
        workspace,
        {what: (result, why) for what, result, why in told},
        "".join(output.get("text", "") for output in outputs),
        [alert for _, alert in page.alerts] if page else [],
    )


def assert_home_untouched(home: Path) -> None:
    assert (home / ".bashrc").read_text() == "# as it was\n"
    assert (home / ".ssh" / "id_rsa").read_text() == "a private key\n"


def assert_model_works(done: Run) -> None:
    """Before and after the code was put in front of it, and with the same score."""
    scores = [line for line in done.printed.splitlines() if "wines recognised" in line]
    assert len(scores) == 2
    assert scores[0] == scores[1]
    assert int(scores[0].split("%")[0]) > 90


def test_each_attempt_of_the_model_is_refused_and_recorded(home: Path) -> None:
    done = run(home)
    assert {what: result for what, (result, _) in done.attempts.items()} == dict.fromkeys(
        (KEY, SHELL, NETWORK, STAY), "refused"
    )
    assert all("Permission denied" in why for _, why in done.attempts.values())
    profile = "modelarmor-untrusted-model"
    assert done.recorded("File", str(home / ".ssh" / "id_rsa")) == [f"{profile}-credentials"]
    assert done.recorded("Process", "id > pwned.txt") == [f"{profile}-programs"]
    assert "NetworkPolicy" in done.recorded("Network", "AF_INET type=SOCK_STREAM")
    assert done.recorded("File", str(home / ".bashrc")) == [f"{profile}-persistence"]
    assert_home_untouched(home)
    assert list(done.workspace.iterdir()) == []
    assert_model_works(done)


def test_a_home_with_nothing_in_it_is_refused_as_well(home: Path) -> None:
    (home / ".ssh" / "id_rsa").unlink()
    (home / ".ssh").rmdir()
    (home / ".bashrc").unlink()
    done = run(home)
    assert {result for result, _ in done.attempts.values()} == {"refused"}
    assert done.recorded("File", str(home / ".ssh" / "id_rsa"))
    assert not (home / ".bashrc").exists()


def test_the_everyday_kernel_gives_the_model_a_shell_that_gets_it_nothing(home: Path) -> None:
    done = run(home, "modelarmor-notebook")
    assert done.attempts.pop(SHELL)[0] == "SUCCEEDED"
    assert {result for result, _ in done.attempts.values()} == {"refused"}
    assert done.recorded("File", str(home / ".ssh" / "id_rsa"))
    assert done.recorded("File", str(home / ".bashrc"))
    assert (done.workspace / "pwned.txt").read_text().startswith(f"uid={os.getuid()}")
    assert_home_untouched(home)
    assert_model_works(done)


def test_without_a_sandbox_the_attempts_succeed(home: Path) -> None:
    """What shows that the attempts are real. Where the connection leads is not ours to say."""
    done = run(home, "python3")
    assert done.attempts[KEY] == ("SUCCEEDED", "14 characters read")
    assert done.attempts[SHELL][0] == "SUCCEEDED"
    assert done.attempts[STAY][0] == "SUCCEEDED"
    assert done.attempts[NETWORK][0] != "refused"
    assert (done.workspace / "pwned.txt").exists()
    assert (home / ".bashrc").read_text() == "# as it was\n# a line that a model added\n"
    assert done.record == []
    assert_model_works(done)


def test_the_notebook_is_committed_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
    assert len(cells) > 5
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
