"""What an environment would be built of: pip's requirements and conda's, and the options in them.

Installing runs code: an index of someone else's, a repository, a source archive. Grammar:
https://pip.pypa.io/en/stable/reference/requirements-file-format/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from modelarmor.generate.evidence import Severity
from modelarmor.generate.scan.report import HIJACK, SUPPLY, Report

#: as pip has it, which joins what ends in a backslash unless it is a comment
_COMMENT: Final = re.compile(r"(^|\s+)#.*$")
_INDEX: Final = re.compile(r"(--extra-index-url|--index-url|-i|--find-links|-f|--trusted-host)\b")
#: what may stand there besides; of others, and of what pip takes for an abbreviation, nobody knows
_OPTIONS: Final[tuple[tuple[re.Pattern[str], Severity], ...]] = (
    (re.compile(r"--(no-index|only-binary|prefer-binary|require-hashes|hash)(?![\w-])"), "low"),
    (
        re.compile(
            r"--(no-binary|config-settings?|global-option|install-option|pre|use-feature)(?![\w-])"
        ),
        "medium",
    ),
)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,\s-]*\])?\s*([=<>!~;,].*)?")
_CHANNELS: Final = frozenset(
    "defaults conda-forge pytorch nvidia main anaconda huggingface intel rapidsai r".split()  # noqa: SIM905
)
_PRELOAD: Final = re.compile(
    r"LD_\w+|DYLD_\w+|PYTHON\w*|PATH|BASH_ENV|ENV|PIP_\w+|\w*_PROXY|\w*_proxy|GIT_\w+|NODE_OPTIONS"
)


def look_lines(report: Report, text: str, location: str) -> None:
    """Look at a requirements file."""
    for number, requirement in _joined(text):
        _look_line(report, requirement, f"{location}:{number}")
    report.inspected.add(location)


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """What is asked for, each with the number of its first line (pip's ``req_file.py``)."""
    first, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        first = first if parts else number
        if line.endswith("\\") and not _COMMENT.match(line):
            parts.append(line.strip("\\"))
            continue
        whole = "".join((*parts, f" {line}" if _COMMENT.match(line) else line))
        parts.clear()
        if requirement := _COMMENT.sub("", whole).strip():
            yield first, requirement
    if requirement := _COMMENT.sub("", "".join(parts)).strip():
        yield first, requirement


def _look_line(report: Report, text: str, location: str) -> None:
    if _INDEX.match(text):
        report.add("requirement-index", "high", "Packages come from an index that the model names",
                   location=location, detail=_hide(text), techniques=SUPPLY)  # fmt: skip
    elif re.match(r"(-r|--requirement|-c|--constraint)\b", text):
        target = text.partition(" ")[2].strip()
        if target not in ("requirements.txt", "constraints.txt"):
            report.add("requirement-file", "high", "Requirements lead to another file",
                       location=location, detail=_hide(text), techniques=SUPPLY)  # fmt: skip
    elif (
        re.match(r"(-e|--editable)\b", text)
        or re.match(r"(git|hg|svn|bzr)\+", text)
        or (re.search(r"@\s*\S+:|://", text))
    ):
        report.add("requirement-url", "high", "A package comes from an address or a repository",
                   location=location, techniques=SUPPLY,
                   detail=f"{_hide(text)}: installing it runs its code")  # fmt: skip
    elif text.startswith("-"):
        severity: Severity = next((grade for known, grade in _OPTIONS if known.match(text)), "high")
        report.add("requirement-option", severity, "An option for pip", location=location,
                   detail=_hide(text), techniques=SUPPLY)  # fmt: skip
    elif re.match(r"[./~]|.*\.(whl|zip|tar\.gz|tgz|tar\.bz2|tar\.xz)\b|.*[/\\]", text):
        report.add("requirement-path", "high", "A package comes from a file", location=location,
                   detail=f"{_hide(text)}: installing it runs its code",
                   techniques=SUPPLY)  # fmt: skip
    elif "$" in text or not _NAME.fullmatch(text):
        report.add("requirement-odd", "medium", "A requirement of an unusual form",
                   location=location, detail=_hide(text), techniques=SUPPLY)  # fmt: skip


def look_conda(report: Report, value: Any, location: str) -> None:
    """Look at a conda environment."""
    if not isinstance(value, Mapping):
        report.incomplete(location, "it is no mapping")
        return
    for channel in _texts(value.get("channels")):
        if channel not in _CHANNELS:
            report.add("conda-channel", "high" if "/" in channel else "medium",
                       "Packages come from a channel that the model names", location=location,
                       detail=_hide(channel), techniques=SUPPLY)  # fmt: skip
    variables = value.get("variables")
    if isinstance(variables, Mapping):
        for name in variables:
            severity: Any = "high" if _PRELOAD.fullmatch(str(name)) else "medium"
            report.add("conda-variable", severity, "The environment sets a variable",
                       location=location, detail=f"{name}={variables[name]}"[:300],
                       techniques=HIJACK)  # fmt: skip
    for entry in value.get("dependencies") or ():
        if isinstance(entry, Mapping):
            for _, line in _joined("\n".join(_texts(entry.get("pip")))):
                _look_line(report, line, location)
        elif isinstance(entry, str) and ("::" in entry or "/" in entry):
            report.add("conda-channel", "medium", "A package comes from a channel of its own",
                       location=location, detail=_hide(entry), techniques=SUPPLY)  # fmt: skip
    report.inspected.add(location)


def look_python_env(report: Report, value: Any, location: str) -> None:
    """Look at MLflow's ``python_env.yaml``."""
    if not isinstance(value, Mapping):
        report.incomplete(location, "it is no mapping")
        return
    for name in ("build_dependencies", "dependencies"):
        for _, line in _joined("\n".join(_texts(value.get(name)))):
            _look_line(report, line, location)
    for name in value.keys() - {"python", "build_dependencies", "dependencies"}:
        report.add("python-env-odd", "medium", "An unknown part of the environment",
                   location=location, detail=str(name)[:200], techniques=HIJACK)  # fmt: skip
    report.inspected.add(location)


def _texts(value: Any) -> Sequence[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else ()


def _hide(text: str) -> str:
    """Without the password of an address."""
    return re.sub(r"://[^/@\s]+@", "://…@", text)[:300]
