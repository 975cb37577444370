"""``python -m tests.generate.containment``: run every trial and write ``docs/containment.md``."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from modelarmor.profiles import unfilled

from .trial import (
    MOST,
    Outcome,
    Trial,
    due,
    evidence_for,
    run_clean,
    run_confined,
    run_free,
    trials,
)

TABLE = Path(__file__).parents[3] / "docs" / "containment.md"
_HEAD = """\
# Models that carry harm, tried

Written by `python -m tests.generate.containment` from a real run; do not edit.

Each row is a model of one format that carries one harm. It ran twice: without the sandbox, in a
throwaway home with listeners on the loopback and bounded resources, where it has to do its harm or
the row proves nothing; and under the policy that `modelarmor generate` made from a *clean* model of
the same format. Harm is judged by its effect: a secret in the output, a file that changed, what a
listener heard, a process that ended.

Loaders are those of the formats' own libraries, told to trust the model. Two stand for careless
programs that have none: chat templates are rendered by Jinja without its sandbox, and ONNX weights
are read from wherever the model says. *pip install* is refused where pip first looks around, by
`lsb_release`; *requirements* runs a package's `setup.py` as pip would.
"""


def main() -> int:
    """Run all; 1 where a model was not contained, or a control did no harm."""
    started, rows, failed = time.process_time(), [], 0
    for trial in trials():
        if trial.missing:
            rows.append(_row(trial, "", f"not tried: {trial.missing} is not installed", ""))
            continue
        free, confined = run_free(trial), run_confined(trial)
        verdict, told = _verdict(trial, free, confined)
        failed += not verdict.startswith("contained")
        print(f"{trial.name}: {free.effect or 'no effect'} -> {verdict}", file=sys.stderr)
        rows.append(_row(trial, free.effect or "**no effect**", verdict, told))
    clean = list(_clean_rows())
    used = time.process_time() - started + sum(os.times()[2:4])
    contained = sum("| contained" in row for row in rows)
    TABLE.write_text("\n".join([
        _HEAD,
        f"**{contained} of {len(rows)} contained** on Linux {platform.release()}"
        f" ({platform.machine()}), Python {platform.python_version()}; {used:.0f} s of processor"
        " time.",
        "",
        "| format | harm | technique | without the sandbox | under the policy | reported as |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        "Bombs go a little over the policy's limit; where that is more than"
        f" {MOST['processes']} processes, {MOST['memory']} MiB of memory or {MOST['disk']} MiB of"
        " disk, they meet these limits instead.",
        "",
        "## Clean models under the same policies",
        "",
        "The policies are not so narrow that nothing works under them.",
        "",
        "| format | rules | works | refusals that nobody expected |",
        "|---|---|---|---|",
        *clean,
        "",
    ]), encoding="utf-8")  # fmt: skip
    return int(failed > 0 or any("| no |" in row for row in clean))


def _verdict(trial: Trial, free: Outcome, confined: Outcome) -> tuple[str, str]:
    if confined.effect:
        return f"**NOT CONTAINED**: {confined.effect}", ""
    if not free.effect:
        return "proves nothing", ""
    if trial.action.silent:
        return "contained", f"not reported: {trial.action.silent}"
    alert = due(trial, confined)
    if alert is None:
        return "refused, **without an alert**", ""
    return "contained", f"{alert.Operation} by {_policy(alert.PolicyName)}"


def _policy(name: str) -> str:
    """The policy's name without the model's: ``model-0123456789abcdef-credentials``."""
    head, _, rest = name.partition("-")
    return rest.partition("-")[2] or "the allow-list" if head == "model" else name


def _row(trial: Trial, effect: str, verdict: str, told: str) -> str:
    cells = (trial.carrier.name, trial.action.name, trial.action.technique, effect, verdict, told)
    return "| " + " | ".join(cells) + " |"


def _clean_rows() -> Iterator[str]:
    seen = set()
    for carrier in (trial.carrier for trial in trials() if not trial.missing):
        if carrier.clean in seen:
            continue
        seen.add(carrier.clean)
        outcome, surprising = run_clean(carrier)
        policies = unfilled(evidence_for(carrier).policy, name=carrier.name)
        rules = sum(
            len(section)
            for policy in policies
            for section in (
                policy.process, policy.file, policy.network, policy.capabilities, policy.presets,
            )
        )  # fmt: skip
        print(f"clean {carrier.name}: status {outcome.status}", file=sys.stderr)
        works = "yes" if outcome.status == 0 else "no"
        told = ", ".join(sorted({f"{a.Operation} {a.Resource}"[:60] for a in surprising})) or "none"
        yield f"| {carrier.name} | {rules} | {works} | {told} |"


if __name__ == "__main__":
    raise SystemExit(main())
