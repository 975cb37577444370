"""Changes the list of trusted keys in the registry's configuration.

The file is the operator's, comments and all, and YAML libraries lose comments. So the keys that
these commands manage are written by them only into a file whose reviewers they can write back
unharmed: everything else in it stays as it is, line by line.
"""

from __future__ import annotations

import copy
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from modelarmor import _yaml
from modelarmor.replacing import replacing

from . import settings
from .keys import PublicKey
from .settings import SettingsError


def add(
    file: Path,
    reviewer: str,
    key: PublicKey,
    *,
    users: list[str],
    expires: datetime | None,
) -> None:
    """Trust a key.

    Args:
        file: the configuration, made where it is missing.
        reviewer: whose key it is.
        users: what MLflow calls the reviewer, beside what is there.
        expires: from when on it is trusted no more.

    Raises:
        SettingsError: the key is trusted already, or the file is wrong.
    """
    data = _read(file)
    for name, item in data.items():
        if any(PublicKey.from_pem(entry["key"]).identifier == key.identifier
               for entry in item.get("keys", []) if "key" in entry):  # fmt: skip
            raise SettingsError(f"{file}: this key is trusted already, as {name}'s")
    entry: dict[str, Any] = {"key": key.pem}
    if expires is not None:
        entry["expires"] = expires.date()
    found = data.setdefault(reviewer, {})
    found.setdefault("keys", []).append(entry)
    if users:
        found["users"] = list(dict.fromkeys([*found.get("users", []), *users]))
    _write(file, data)


def remove(file: Path, identifier: str) -> list[str]:
    """Trust a key no more.

    Args:
        identifier: of the key, or the first 16 digits of it.

    Returns:
        Whose it was.

    Raises:
        SettingsError: no such key is trusted, or the file is wrong.
    """
    data = _read(file)
    names = []
    for name, item in data.items():
        kept = [entry for entry in item.get("keys", []) if not _is(file, entry, identifier)]
        if len(kept) < len(item.get("keys", [])):
            item["keys"] = kept
            names.append(name)
    if not names or len(identifier) < 16:
        raise SettingsError(f"{file}: no key {identifier!r:.80} is trusted (see keys list)")
    _write(file, data)
    return names


def _is(file: Path, entry: dict[str, Any], identifier: str) -> bool:
    key = (
        PublicKey.from_pem(entry["key"])
        if "key" in entry
        else PublicKey.from_file(file.parent / entry["file"])
    )
    return key.identifier.startswith(identifier)


def _read(file: Path) -> dict[str, Any]:
    """The reviewers in the file, which is right as a whole."""
    if not file.exists():
        return {}
    settings.load(file)
    reviewers: dict[str, Any] = (_yaml.read(file) or {}).get("reviewers", {})
    return copy.deepcopy(reviewers)  # what was read is kept, for whoever reads it next


def _write(file: Path, reviewers: dict[str, Any]) -> None:
    """Replace the section of the reviewers, at once or not at all, and only by what is right."""
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    section = yaml.dump(
        {"reviewers": reviewers}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, 0o600) as unfinished:
        unfinished.write_text(_without_reviewers(before) + section, encoding="utf-8")
        unfinished.chmod(file.stat().st_mode & 0o777 if file.exists() else 0o644)
        settings.load(unfinished)


def _without_reviewers(text: str) -> str:
    """The file without the lines of its section ``reviewers``, which is at the top level."""
    kept, inside = [], False
    for line in text.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            inside = line.startswith("reviewers:")
        if not inside:
            kept.append(line)
    while kept and not kept[-1].strip():
        kept.pop()
    return "".join(f"{line}\n" for line in kept)


class _Dumper(yaml.SafeDumper):
    """Writes keys as the blocks of lines that they are."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
