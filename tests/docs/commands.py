"""The page of the command line, from what each command says of itself.

``python -m tests.docs.commands`` writes ``docs/commands.md``; a test compares.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from modelarmor import cli

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "commands.md"

_HEAD = """\
# The command line

Written by `python -m tests.docs.commands`; do not edit. Each command says this with `--help`.
"""


def parsers(
    parser: argparse.ArgumentParser | None = None,
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command's name and parser, the program's own first."""
    parser = parser or cli._parser()
    yield parser.prog, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in dict.fromkeys(action.choices.values()):
                yield from parsers(child)


def render() -> str:
    """The page."""
    os.environ["COLUMNS"] = "96"
    parts = [_HEAD]
    for name, parser in parsers():
        text = parser.format_help().rstrip().replace(str(Path.home()), "~")
        level = "##" if name.count(" ") < 2 else "###"
        parts.append(f"{level} {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render())
