"""``python -m tests.escapes``: run every attempt and write the table to ``docs/escapes.md``."""

from __future__ import annotations

import errno
import os
import platform
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from .run import run, users

TABLE = Path(__file__).parents[2] / "docs" / "escapes.md"
_MODES = {
    "deny": "a deny-list; the hidden files lie in a tree that the user may change",
    "locked": "the same deny-list; the tree is somebody else's (the kernel tier holds it alone)",
    "allow": "an allow-list under posture block",
    "fileless": "the deny-list with the preset filelessExec",
    "offline": "the deny-list without any egress",
    "limited": "the deny-list with egress to one address and two ports",
    "online": "the deny-list with egress to public addresses and two ports only",
}
_MARKS = {"blocked": "blocked", "silent": "blocked, no alert", "escaped": "**PASSES**",
          "limit": "passes (limit)", "untested": "-", "no-control": "control failed"}  # fmt: skip


def _how(row: dict[str, Any]) -> str:
    answer = row["confined"]
    code = answer["errno"]
    word = errno.errorcode.get(code, "") if code else answer["why"]
    if row["verdict"] in ("untested", "limit"):
        return ""
    alerts = [a for a in answer.get("alerts", []) if a["Result"] != "Passed"]
    names = Counter(f"{a['Operation']}/{a['PolicyName']}" for a in alerts)
    alert = names.most_common(1)[0][0] if names else ""
    return " ".join(filter(None, (f"`{word}`" if word else "", f"alert {alert}" if alert else "")))


def _cell(rows: list[dict[str, Any]]) -> str:
    """One user's answers over the modes: one word when they agree."""
    if not rows:
        return "-"
    found = {_MARKS[row["verdict"]] for row in rows}
    if len(found) > 1:
        found.discard("-")
    if len(found) == 1:
        return found.pop()
    return "; ".join(f"{row['mode']}: {_MARKS[row['verdict']]}" for row in rows)


def _clean(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:140]


def table(rows: list[dict[str, Any]]) -> str:
    """The page, from the rows of a real run."""
    uids = users()
    sections: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        sections[row["section"]][row["name"]].append(row)
    counts = {uid: Counter(row["verdict"] for row in rows if row["uid"] == uid) for uid in uids}
    names = {uid: "root" if uid == 0 else "user" for uid in uids}
    lines = [
        "# Ways out, tried", "",
        "Written by `python -m tests.escapes` from a real run; do not edit.", "",
        f"{len({row['key'] for row in rows})} attempts on Linux {platform.release().split('-')[0]}"
        f" ({platform.machine()}), each in every policy that it concerns. Each ran without the"
        " sandbox first: what fails there too proves nothing and is shown as -."
        " A protected file that changed is an escape whatever the attempt says.", "",
        "| | tries | blocked | blocked without the alert that is due | passes (known limit) |"
        " **passes** | not possible here anyway |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for uid in uids:
        c = counts[uid]
        lines.append(
            f"| {names[uid]} | {c.total()} | {c['blocked']} | {c['silent']} | {c['limit']} |"
            f" {c['escaped'] + c['no-control']} | {c['untested']} |"
        )
    lines += ["", "Policies: " + "; ".join(f"*{k}*: {v}" for k, v in _MODES.items()) + ".", ""]
    limits = {row["key"]: row["limit"] for row in rows if row["limit"]}
    lines += ["## Known limits", "", "| attempt | why |", "|---|---|"]
    lines += [f"| {_clean(key)} | {_clean(why)} |" for key, why in limits.items()] + [""]
    for section, attempts in sections.items():
        heads = " | ".join(names[uid] for uid in uids)
        lines += [f"## {section}", "", f"| attempt | {heads} | by what | policies |",
                  "|---|" + "---|" * (len(uids) + 2)]  # fmt: skip
        for name, of in attempts.items():
            cells = " | ".join(_cell([row for row in of if row["uid"] == uid]) for uid in uids)
            how = next((h for row in of if row["verdict"] == "blocked" and (h := _how(row))), "")
            modes = ", ".join(dict.fromkeys(row["mode"] for row in of))
            lines.append(f"| {_clean(name)} | {cells} | {_clean(how)} | {modes} |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    rows = run(users())
    TABLE.write_text(table(rows), encoding="utf-8")
    bad = [row for row in rows if row["verdict"] in ("escaped", "silent", "no-control")]
    for row in bad:
        answer = row["confined"]
        print(row["verdict"], f"uid {row['uid']}", row["mode"], row["key"], "|",
              answer["evidence"][:100], answer["changes"], answer["why"][:100])  # fmt: skip
    print(f"{len(rows)} tries, {len(bad)} to look at; wrote {TABLE}")
    return bool(bad)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.exit(main())
