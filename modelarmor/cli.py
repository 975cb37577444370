"""The command line. What a subcommand does lives beside what it drives; this only wires it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import __version__, profile_commands
from .cluster import commands as cluster_commands
from .generate import commands as generate_commands
from .policy import commands as policy_commands
from .redteam import commands as redteam_commands
from .sandbox import commands as sandbox_commands

_EXAMPLES = """\
examples:
  modelarmor doctor                         what this machine can enforce
  modelarmor profiles                       the profiles there are
  modelarmor run --profile notebook -- python train.py
                                            run a command confined
  modelarmor explain policy.yaml --read ~/.ssh/id_rsa
                                            what a policy says of one operation, and why
  modelarmor lint policy.yaml               what in a policy does not mean what it seems to
  modelarmor generate ./model -o model.yaml a policy for a model, from what is seen of it
  modelarmor review model.evidence.json     what to know before that model is promoted
  modelarmor redteam ./model --data test.npz
                                            how it bears inputs that are crafted against it

Exit status: 0 when all is well; 1 when the answer is no (a command's --help says what it asks); 2
for a mistake in the command line or a file. run answers with the command's own status, and with 125
when the command cannot be confined.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        argv: the arguments, instead of the process's own.

    Raises:
        KeyboardInterrupt: somebody pressed Ctrl-C; `modelarmor.__main__` says what becomes of it.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help(sys.stderr)
        print("\nmodelarmor: error: name a command", file=sys.stderr)
        return 2
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()  # so that a closed pipe is noticed here
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:  # our errors are ValueErrors that say what to do
        print(f"modelarmor: error: {_said(error)}", file=sys.stderr)
        return 2
    return status


def _said(error: ValueError | OSError) -> str:
    if isinstance(error, OSError) and isinstance(error.filename, str | bytes):
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="modelarmor",
        description="Run notebooks and models that nobody has vouched for, inside a sandbox that"
        " a policy describes.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"modelarmor {__version__}")
    parser.set_defaults(run=None)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    sandbox_commands.add_parsers(subparsers)
    policy_commands.add_parsers(subparsers)
    generate_commands.add_parsers(subparsers)
    redteam_commands.add_parsers(subparsers)
    cluster_commands.add_parsers(subparsers)
    profile_commands.add_parsers(subparsers)
    _add_mlflow(subparsers)
    return parser


def _add_mlflow(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The registry's commands live in the plugin, which imports MLflow only as they run."""
    try:
        from modelarmor_mlflow import commands
    except ImportError:  # the core alone is installed
        return
    commands.add_parsers(subparsers)
