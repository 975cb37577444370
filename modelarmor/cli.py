"""The command line. What a subcommand does lives beside what it drives; this only wires it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from . import __version__, profiles
from .cluster import commands as cluster_commands
from .generate import commands as generate_commands
from .policy import commands as policy_commands
from .policy import document
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
    _add_profiles(subparsers)
    _add_mlflow(subparsers)
    return parser


def _add_mlflow(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The registry's commands live in the plugin, which imports MLflow only as they run."""
    try:
        from modelarmor_mlflow import commands
    except ImportError:  # the core alone is installed
        return
    commands.add_parsers(subparsers)


def _add_profiles(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "profiles",
        help="list the profiles, or show one",
        description="List the profiles. With a NAME, show what that one says, its policy filled in"
        " for the workspace, as KubeArmor would take it. Profiles of your own are directories in"
        " ~/.config/modelarmor/profiles or $MODELARMOR_PROFILES.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the profile to show")
    parser.add_argument(
        "--workspace",
        type=Path,
        default=Path("/workspace"),
        metavar="DIR",
        help="fill the policy in for this directory (default: %(default)s)",
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="(default: text)"
    )
    parser.set_defaults(run=_show_profiles)


def _show_profiles(arguments: argparse.Namespace) -> int:
    if arguments.name is None:
        return _list_profiles(arguments)
    profile = _load(arguments.name, arguments.workspace)
    facts = _describe(profile) | {
        "posture": asdict(profile.posture),
        "resources": profile.resources.to_json(),
        "egress": profile.network.to_json(),
        "environment": {"inherit": list(profile.environment), "set": dict(profile.variables)},
        "directory": str(profile.directory),
    }
    if arguments.format == "json":
        documents = list(yaml.safe_load_all(document.dump(profile.policies)))
        print(json.dumps(facts | {"policies": documents}, indent=2))
        return 0
    comment = textwrap.TextWrapper(
        98, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False
    )
    for key, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value)
        print(comment.fill(f"{key}: {text}"))
    print(document.dump(profile.policies), end="")
    return 0


def _list_profiles(arguments: argparse.Namespace) -> int:
    listed = []
    failed = False
    for name in profiles.names():
        try:
            listed.append(_describe(_load(name, arguments.workspace)))
        except ValueError as error:  # one bad profile does not hide the others
            print(f"modelarmor: error: profile {name}: {error}", file=sys.stderr)
            failed = True
    if arguments.format == "json":
        print(json.dumps(listed, indent=2))
    else:
        for profile in listed:
            print(f"{profile['name']}: {profile['title']}")
            print(textwrap.indent(textwrap.fill(profile["description"], 92), "    "), end="\n\n")
    return 2 if failed else 0


def _load(name: str, workspace: Path) -> profiles.Profile:
    # Scratch and model are made for each workload, so these stand for what they will be.
    return profiles.load(
        name,
        workspace=workspace,
        home=Path.home(),
        tmp=Path("/scratch"),
        prefix=Path(sys.prefix),
        model=Path("/model"),
    )


def _describe(profile: profiles.Profile) -> dict[str, Any]:
    return {
        "name": profile.name,
        "title": profile.title,
        "description": profile.description,
        "policy": [policy.name for policy in profile.policies],
    }
