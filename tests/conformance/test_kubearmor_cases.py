"""Each of KubeArmor's cases that can be run without a cluster, run for real.

The data is not part of the repository: see `docs/conformance.md` for where it comes from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from . import machine, runner

CASES = [case for case in runner.load_cases() if case["local_interpreter"] in runner.RUNNABLE]


def _parameter(case: dict[str, Any]) -> Any:
    reason = runner.CONTRADICTIONS.get(case["id"])
    marks = [pytest.mark.xfail(reason=reason)] if reason else []
    return pytest.param(case, id=case["id"], marks=marks)


@pytest.mark.skipif(not CASES, reason=f"no cases: {runner.data_file()} does not exist")
@pytest.mark.parametrize("case", [_parameter(case) for case in CASES])
def test_case_passes_as_upstream_expects(
    case: dict[str, Any], images: machine.Images, tmp_path: Path
) -> None:
    result = runner.run_case(case, images, tmp_path / "machines")
    assert result.checks, "the case expects nothing that can be looked at"
    assert not result.problems, "\n".join(result.problems)
