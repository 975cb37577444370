"""``docs/conformance.md`` from a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .runner import CONTRADICTIONS, Result

_HEAD: Final = """\
# Conformance with KubeArmor's own tests

Written by `python -m tests.conformance`; do not edit. `pytest tests/conformance` runs the same.

KubeArmor's end-to-end tests say what its users may rely on: a policy, commands in a container, and
for each command whether it is refused and which alert appears. The cases were taken from the tests
of KubeArmor 1.7 (Apache-2.0) as data; the data is not part of this repository, and is looked for in
`../shared/conformance/kubearmor_cases.json` or where `$MODELARMOR_CONFORMANCE` points.

## How they are run

* Each pod, container or host of a case is a container of its own (mount, network, process, IPC and
  host name namespaces) on a root directory put together from this machine's programs as the
  images are: with `/bin`, `/sbin` and `/lib` as directories where the image has them so (Ubuntu
  18.04, Debian 9, Alpine), merged into `/usr` where not.
* In it, `modelarmor run --posture block --capabilities docker --policy … -- COMMAND` runs what the
  case runs: Python, helper and command all see the same paths. No other policy is involved, and a
  step that applies or deletes a policy, or annotates a namespace, does so between commands.
* Which policies are a workload's is `modelarmor.policy.select`, fed with the labels of upstream's
  manifests.
* A command has a terminal where upstream's has one, and is run once; upstream tries for ten
  seconds.
* An outcome is the case's own assertion on the output. Where there is none, *refused* is
  "Permission denied" or a failure of the command, *allowed* is neither (for the older shell
  scenarios: exit status 0, as upstream compares it).
* An alert is compared as upstream does: policy name, severity, action, result, message and
  namespace as a whole, resource, source, data and container by a part. Only the names of namespace
  and container are added by the runner, as a cluster's daemon would.
* Expected *logs* are KubeArmor's telemetry of what passed, which the sandbox does not write;
  instead the command must not have been refused. Counts of telemetry are not checked.
* `40.114.177.156` and every name resolve to a web server in the container's network.

"""


def page(cases: Sequence[Mapping[str, Any]], results: Sequence[Result]) -> str:
    """The whole page, for a run of all `cases` that can be run."""
    by_case = {result.case: result for result in results}
    passed = sum(result.passed for result in results)
    commands = sum(result.commands for result in results)
    lines = [
        "## Result",
        "",
        f"**{passed} of {len(results)} cases pass** ({commands} commands). {len(cases)} cases are"
        f" in the data; {len(cases) - len(results)} need a cluster or KubeArmor's daemon.",
        "",
    ]
    if failures := [result for result in results if not result.passed]:
        lines += ["| Does not pass | Why |", "|---|---|"]
        lines += [f"| {each.case} | {_why(each)} |" for each in failures]
        lines.append("")
    lines += ["| Case | What it shows | Enforcement upstream | Result |", "|---|---|---|---|"]
    lines += [_row(case, by_case[case["id"]]) for case in cases if case["id"] in by_case]
    lines += ["", "## Not run", "", "| Case | Title | Why |", "|---|---|---|"]
    lines += [
        f"| {case['id']} | {_cell(case['title'])} | {_cell(case['local_interpreter_note'])} |"
        for case in cases
        if case["id"] not in by_case
    ]
    return _HEAD + "\n".join(lines) + "\n"


def _row(case: Mapping[str, Any], result: Result) -> str:
    outcome = f"pass ({len(result.checks)} checks)" if result.passed else "**fails**"
    skipped = [str(each) for each in case["upstream_skip"]]
    enforcers = ", ".join(skipped) if skipped else "both"
    title = case["title"] if case["format"] == "ginkgo" else ", ".join(case["features"])
    return f"| {case['id']} | {_cell(title)} | {_cell(enforcers)} | {outcome} |"


def _why(result: Result) -> str:
    return _cell(
        CONTRADICTIONS.get(result.case) or "; ".join(result.problems) or "nothing to check"
    )


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())[:400]
