"""What the documentation shows is run: each command and each piece of code, or it says why not.

In one directory that has what the pages have a reader make, in the order of the pages. The tutorial
is run as a whole, by ``tests/mlflow/test_tutorial.py``.
"""

from __future__ import annotations

import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelarmor.sandbox.probe import probe

from .commands import PAGE
from .test_docs import PAGES, ROOT, _blocks

pytestmark = pytest.mark.timeout(300)

#: how a command begins, and why it is not run here
NOT_RUN = {
    r"./run-(lab|tests)": "sets up an environment and installs into it",
    r"modelarmor generate models:/": "a registry's model; tests/mlflow/test_tutorial.py",
    r"modelarmor (approve|reject|revoke|sign|registry) ": "needs a registry; tests/mlflow",
    r"modelarmor keys new ada$": "asks for a passphrase on the terminal",
    r"modelarmor redteam ": "attacks a classifier, a minute; tests/redteam/test_redteam.py",
    r"modelarmor serve ": "a server; tests/mlflow/test_tutorial.py and tests/mlflow/serving",
    r"modelarmor deploy models:": "needs a cluster; tests/cluster/test_model_pods.py",
    r"(mlflow|export MLFLOW_\w+=\S+$|pip install)": "a server; tests/mlflow/test_tutorial.py",
    r"kubectl ": "needs a cluster; tests/cluster",
    r"(cd labextension|npm |share=|rm -rf \$share|ln -s )": "needs Node.js and an index",
    r"python -m venv ~/scanners": "installs scanners from an index",
    r"MODELARMOR_SCANNERS=": "needs the scanners of the line above; tests/generate/scan",
    r"jupyter lab --config=": "a server; tests/jupyter/test_strict.py",
    r"python -P -m modelarmor_jupyter.strict ": "asks a server; tests/jupyter/test_strict.py",
}


@dataclass
class Command:
    """One command of a page, with what the page shows that it says."""

    page: str
    line: str
    shown: list[str]

    def __str__(self) -> str:
        return f"{self.page}: {self.line}"


def commands() -> Iterator[Command]:
    """All of them, but the tutorial's."""
    for page in PAGES:
        if page == PAGE or page.name == "tutorial.md":
            continue
        for language, block in _blocks(page):
            if (
                language == "console"
                or (language == "" and "modelarmor " in block)
                or (language in ("sh", "bash", "shell"))
            ):
                yield from _commands_of(page.name, block, prompted=language == "console")


def _commands_of(page: str, block: str, *, prompted: bool) -> Iterator[Command]:
    current: Command | None = None
    for line in re.sub(r"\\\n\s*", " ", block).splitlines():
        found = re.match(r"\w*\$ (.*)" if prompted else r"(.*\S.*)", line)
        if found:
            if current:
                yield current
            words = re.sub(r"\s+#.*", "", found[1]).strip()
            current = Command(page, words, [])
        elif current and line.strip():
            current.shown.append(line)
    if current:
        yield current


def why_not(command: Command) -> str:
    """Why it is not run; empty for one that is."""
    return next((why for start, why in NOT_RUN.items() if re.match(start, command.line)), "")


class _Model:
    """What the README's model does as it is unpickled; the last is a file of the reader's home."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, (
            "import os, socket\n"
            "home = os.path.expanduser('~')\n"
            "for act in (lambda: open(home + '/.ssh/id_rsa'), socket.socket,"
            "            lambda: open(home + '/.bashrc', 'a')):\n"
            "    try: act()\n"
            "    except OSError: pass\n",
        )


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A home directory, and one with what the pages have a reader make."""
    place = tmp_path_factory.mktemp("reader")
    home, work = place / "home", place / "work"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_rsa").write_text("worthless\n")
    (home / ".bashrc").write_text("\n")
    shutil.copytree(ROOT / "examples", work / "examples")
    (work / "model").mkdir()
    (work / "model" / "model.pkl").write_bytes(pickle.dumps({"weights": [1.0]}))
    (work / "model.pkl").write_bytes(pickle.dumps(_Model()))
    (work / "scratch").mkdir()
    return home, work


def do(command: str, reader: tuple[Path, Path]) -> subprocess.CompletedProcess[str]:
    """Run it as a reader does."""
    home, work = reader
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "MODELARMOR_REGISTRY_CONFIG": str(home / "registry.yaml"),
    }
    return subprocess.run(
        ["bash", "-c", command], cwd=work, env=environment, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def made_before(command: str, reader: tuple[Path, Path]) -> None:
    """What an earlier line of another page has made; what the line itself makes is not there."""
    _, work = reader
    if "iris.evidence.json" in command and not (work / "iris.evidence.json").exists():
        assert do("modelarmor generate ./model --no-run -q -o iris.yaml", reader).returncode < 2
    if " -o iris.yaml" in command:
        for file in work.glob("iris.*"):
            file.unlink()
    if " ada.pub " in command:
        made = do(
            "modelarmor keys new ada --no-passphrase && cp ~/.config/*/keys/ada.pub .", reader
        )
        assert made.returncode == 0, made.stdout


RUN = [command for command in commands() if not why_not(command)]


@pytest.mark.skipif(not probe().can_confine, reason="nothing can be confined here")
@pytest.mark.parametrize("command", RUN, ids=str)
def test_a_command_does_what_the_page_shows(command: Command, reader: tuple[Path, Path]) -> None:
    made_before(command.line, reader)
    done = do(command.line, reader)
    assert done.returncode in (0, 1), done.stdout  # 1: it says no
    assert "Traceback" not in done.stdout, done.stdout
    said = done.stdout.replace(str(reader[0]), "/home/ada")
    at = 0
    for line in command.shown:
        parts = re.sub(r"python3\.\d+", "…", line).split("…")
        found = re.compile(f"^{'.*'.join(map(re.escape, parts))}$", re.MULTILINE).search(said, at)
        assert found, f"should say {line!r}, and said\n{said}"
        at = found.start()


def test_what_is_not_run_is_in_a_page() -> None:
    lines = [command.line for command in commands()]
    for start in NOT_RUN:
        assert any(re.match(start, line) for line in lines), f"{start}: no page has it"
    assert len(RUN) > 10
    for command in RUN:
        assert shlex.split(command.line)[0] in ("modelarmor", "python"), command


# --- Python


def python() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for language, block in _blocks(page):
            if language == "python":
                yield page.name, block


@pytest.mark.parametrize(
    ("page", "block"), [each for each in python() if not each[1].startswith("c.")]
)
def test_code_of_a_page_runs(page: str, block: str, reader: tuple[Path, Path]) -> None:
    pytest.importorskip("anywidget" if "widget" in block else "modelarmor")
    made_before("iris.evidence.json", reader)
    (reader[1] / "snippet.py").write_text(block)
    done = do("python -W ignore snippet.py", reader)
    assert done.returncode == 0, f"{page}: {done.stdout}"


@pytest.mark.parametrize(("page", "block"), [each for each in python() if each[1][:2] == "c."])
def test_configuration_of_a_page_names_what_there_is(page: str, block: str) -> None:
    pytest.importorskip("modelarmor_jupyter.config", reason="pip install 'modelarmor[jupyter]'")
    from jupyter_server.serverapp import ServerApp
    from modelarmor_jupyter.config import ModelArmor
    from modelarmor_jupyter.pods import KernelPods
    from modelarmor_jupyter.strict import Strict
    from traitlets.config import Config

    known = {each.__name__: each for each in (ServerApp, ModelArmor, KernelPods, Strict)}
    config = Config()
    exec(compile(block, page, "exec"), {"c": config})
    assert config
    for section, values in config.items():
        traits = known[section].class_traits(config=True)
        for name, value in values.items():
            assert name in traits, f"{section}.{name}"
            traits[name]._validate(known[section].__new__(known[section]), value)


# --- YAML


def _registry(file: Path) -> None:
    from modelarmor_mlflow import keys, settings

    keys.new("ada", passphrase=None, place=file.parent)
    (file.parent / "digits.npz").write_bytes(b"")
    settings.load(file)


def _guard(file: Path) -> None:
    from modelarmor_mlflow.serving import limits

    assert limits.read(file).columns


def _manifests(file: Path) -> None:
    for document in yaml.safe_load_all(file.read_text()):
        for each in document if isinstance(document, list) else [document]:
            assert {"apiVersion", "kind"} <= each.keys() or {"apiGroups", "verbs"} <= each.keys()


READERS: dict[str, Callable[[Path], None]] = {
    "mlflow-registry.md": _registry,
    "redteam.md": _registry,
    "review-page.md": _registry,
    "serving.md": _guard,
    "kubernetes.md": _manifests,
}


@pytest.mark.parametrize(
    ("page", "block"),
    [(page.name, text) for page in PAGES for kind, text in _blocks(page) if kind == "yaml"],
)
def test_a_file_of_a_page_is_read_by_what_reads_it(page: str, block: str, tmp_path: Path) -> None:
    if READERS[page] in (_registry, _guard):
        pytest.importorskip("modelarmor_mlflow.settings", reason="pip install 'modelarmor[mlflow]'")
    file = tmp_path / "file.yaml"
    file.write_text(block)
    READERS[page](file)
