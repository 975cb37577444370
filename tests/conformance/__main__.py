"""``python -m tests.conformance [CASE...]``: run the cases and write ``docs/conformance.md``.

With the names of cases (or the start of a name), run only these, tell what went wrong, and write
nothing.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from . import machine, report, runner
from .image import REPOSITORY


def main(wanted: list[str]) -> int:
    cases = runner.load_cases()
    if not cases:
        print(f"no cases: {runner.data_file()} does not exist; ${runner.DATA_VARIABLE} names them")
        return 2
    if reason := machine.obstacle():
        print(reason)
        return 2
    chosen = [c for c in cases if not wanted or c["id"].startswith(tuple(wanted))]
    results: list[runner.Result] = []
    with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
        images = machine.Images(Path(directory, "images"))
        for number, case in enumerate(chosen):
            if case["local_interpreter"] not in runner.RUNNABLE:
                continue
            result = runner.run_case(case, images, Path(directory, "machines", str(number)))
            results.append(result)
            print("pass" if result.passed else "FAIL", result.case, flush=True)
            for problem in result.problems:
                print("    ", problem)
    failed = sum(not result.passed for result in results)
    print(f"{len(results) - failed} of {len(results)} passed")
    if not wanted:
        (REPOSITORY / "docs" / "conformance.md").write_text(report.page(cases, results))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
