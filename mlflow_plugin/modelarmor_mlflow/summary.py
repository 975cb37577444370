"""A few lines for people, at the end of a version's description.

The author's text is theirs and is kept; ours stands between two marks that Markdown does not
show. What comes from the model stands in code spans, where it can be neither a link nor a picture.
"""

from __future__ import annotations

import re
from typing import Final

from modelarmor.generate.artifact import own
from modelarmor.generate.evidence import SEVERITIES, Evidence
from modelarmor.generate.review import review
from modelarmor.visible import visible

#: what MLflow's schema holds
MAX_DESCRIPTION: Final = 5_000
_BEGIN: Final = "<!-- modelarmor: the server writes what follows -->"
_END: Final = "<!-- modelarmor: end -->"
_BLOCK = re.compile(rf"\s*{re.escape(_BEGIN)}.*?(?:{re.escape(_END)}|\Z)", re.DOTALL)
_SHOWN = 8


def counts(evidence: Evidence) -> dict[str, int]:
    """How many findings there are of each severity, worst first."""
    found = [finding.severity for finding in evidence.findings]
    return {severity: found.count(severity) for severity in SEVERITIES if severity in found}


def write(evidence: Evidence, review_url: str = "") -> str:
    """The summary of `evidence`, in Markdown."""
    artifact, found = evidence.artifact, counts(evidence)
    told = ", ".join(f"{count} {severity}" for severity, count in found.items())
    lines = [
        f"**ModelArmor**: {_code(artifact.flavour)}, {len(artifact.files)} files,"
        f" {artifact.size} bytes, {_code(artifact.digest[:19])}…",
        "",
        f"Findings: {told or 'none'}.",
    ]
    for finding in evidence.findings[:_SHOWN]:
        place = f" in {_code(finding.location)}" if finding.location else ""
        lines.append(f"- {finding.severity}: {_code(finding.title)}{place}")
    if len(evidence.findings) > _SHOWN:
        lines.append(f"- {len(evidence.findings) - _SHOWN} more")
    lines += ["", *_grants(evidence), _recorded(evidence)]
    lines.append(f"Evidence: {_code(own.evidence(evidence.digest))}.")
    if review_url:
        lines.append(f"[Review this version](<{review_url}>)")
    return "\n".join(lines)


def join(description: str | None, summary: str) -> str | None:
    """The author's `description` with our `summary`, which gives way where both do not fit."""
    theirs = strip(description)
    if not summary:
        return theirs
    room = MAX_DESCRIPTION - len(theirs or "") - len(_BEGIN) - len(_END) - 6
    if room < 200:
        return theirs
    if len(summary) > room:
        summary = summary[: room - 2].rpartition("\n")[0] + "\n…"
    block = f"{_BEGIN}\n\n{summary}\n\n{_END}"
    return f"{theirs}\n\n{block}" if theirs else block


def strip(description: str | None) -> str | None:
    """The author's text alone, whoever wrote our marks into it."""
    while description and _BEGIN in description:  # what is left may make up another
        description = _BLOCK.sub("", description)
    return description


def of(description: str | None) -> str:
    """Our summary in a description; empty where there is none."""
    found = _BLOCK.search(description or "")
    if not found:
        return ""
    return found[0].strip().removeprefix(_BEGIN).removesuffix(_END).strip()


def _grants(evidence: Evidence) -> list[str]:
    """What the policy grants, and what of it nothing that was recorded needed."""
    lines = []
    for capability in review(evidence).capabilities:
        unused = [grant for grant in capability.grants if grant.unobserved]
        if not unused:
            continue
        shown = ", ".join(_code(grant.subject) for grant in unused[:_SHOWN])
        more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
        lines.append(f"- {capability.ability}: {shown}{more}")
    return ["Granted but never observed:", *lines, ""] if lines else []


def _recorded(evidence: Evidence) -> str:
    seen = evidence.observation
    if seen is None:
        return "It was not run."
    return f"Recorded: {', '.join(seen.completed) or 'nothing'}, {seen.predictions} predictions."


def _code(text: str) -> str:
    shown = visible(text, 200).replace("`", "·").replace("<", "·")
    return f"`{shown}`" if shown.strip() else "``"
