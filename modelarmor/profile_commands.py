"""``modelarmor profiles``."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from . import profiles
from .policy import document


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand, which sets ``run``."""
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
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.name is None:
        return _list(arguments)
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


def _list(arguments: argparse.Namespace) -> int:
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
