"""The documentation says what is so: its page of commands, its commands and its links."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelarmor import cli

from .commands import DOCS, PAGE, render

ROOT = DOCS.parent
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md"])
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:\A|\n\n)((?: {4}.*\n)(?: {4}.*\n|\n(?= {4}))*)")


def _blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each block of code."""
    text = page.read_text(encoding="utf-8")
    yield from _FENCED.findall(text)
    for block in _INDENTED.findall(_FENCED.sub("", text)):
        yield "", textwrap.dedent(block)


def _commands() -> Iterator[tuple[str, str]]:
    """Each line that calls our command, with its page."""
    for page in PAGES:
        if page == PAGE:
            continue
        for language, block in _blocks(page):
            if language not in ("", "sh", "console", "bash", "shell"):
                continue
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                if found := re.match(r"\s*(?:\w*\$ )?(modelarmor .*)", line):
                    yield page.name, found[1]


@pytest.mark.parametrize(("page", "line"), [*_commands()])
def test_a_command_in_the_documentation_is_one(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    for stop in ("|", ">", "2>&1", "&&"):
        if stop in words:
            words = words[: words.index(stop)]
    try:
        cli._parser().parse_args([word for word in words if word != "…"])
    except SystemExit as error:
        assert not error.code, f"{page}: {line}"


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="argparse lays help out differently in each version"
)
def test_the_page_of_commands_is_what_they_say() -> None:
    assert PAGE.read_text() == render(), "run python -m tests.docs.commands"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_documentation_is_python(page: Path) -> None:
    for language, block in _blocks(page):
        if language == "python":
            ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", _FENCED.sub("", page.read_text())):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install 'modelarmor[dev]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "commands" / "index.html").exists()
