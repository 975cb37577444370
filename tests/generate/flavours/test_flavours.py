"""Models of every flavour, served under the policy that was generated for one of them, in block.

The policy is that of the first model. The second, of the same flavour, is served under it too: what
is granted is what such a model needs, not what one run happened to touch.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from modelarmor import profiles
from modelarmor.generate.evidence import Evidence
from modelarmor.policy.lint import entry_cost, lint
from modelarmor.policy.model import Posture
from tests.generate.flavours import support, train
from tests.generate.flavours.conftest import evidence

#: lint findings that every generated policy has, and why they stay: docs/generate.md
KNOWN = {
    "MA101", "MA111", "MA207", "MA208", "MA210", "MA309", "MA312", "MA401", "MA402", "MA403",
    "MA413", "MA416", "MA417", "MA418",
}  # fmt: skip


CONTAINER: dict[str, Any] = {
    "model": Path("/opt/ml/model"), "prefix": Path("/usr/local"), "tmp": Path("/tmp/model"),
    "home": Path("/home/model"), "workspace": Path("/tmp/model"),
}  # fmt: skip


#: one of each kind of library; the others are tried with --thorough
USUAL = ("sklearn_skops", "onnx", "from_code", "torch_pickle")


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name in USUAL else pytest.mark.thorough)
        for name in train.FLAVOURS
    ]
)
def flavour(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.mark.timeout(900)
def test_a_model_serves_under_its_policy_without_a_violation(
    flavour: str, trained: Path, tmp_path: Path
) -> None:
    made = evidence(flavour, trained)
    assert made.observation is not None
    assert made.observation.completed == ("start", "load", "serve"), made.observation.error
    assert not [f for f in made.findings if f.severity in ("critical", "high", "medium")]
    asked = support.PREDICTIONS.get(flavour, (1000, 250))
    served = support.serve(
        made, support.models(flavour, trained), tmp_path / "scratch",
        predictions=asked, given=support.GIVEN.get(flavour),
    )  # fmt: skip
    assert served.status == 0, served.output[-3000:]
    assert f"asked {sum(asked)}" in served.output
    told = [(alert.Operation, alert.Resource, alert.PolicyName) for alert in served.violations]
    assert told == [] and served.suppressed == 0
    # What is refused on purpose is named in the evidence, and is little.
    assert len(served.expected) < 40


@pytest.mark.timeout(900)
def test_its_policy_has_no_error_on_any_enforcer(flavour: str, trained: Path) -> None:
    """Filled in as in a container: a directory's name may be long elsewhere, and lint says so."""
    policies = profiles.fill(evidence(flavour, trained).policy, name=flavour, **CONTAINER)
    found = lint(policies, posture=Posture())
    assert [finding for finding in found if finding.severity == "error"] == []
    assert {finding.rule for finding in found} <= KNOWN
    assert entry_cost(policies) <= 230


def _relocated(made: Evidence, at: Path) -> Path:
    """The environment elsewhere: what the model was seen to use of it, under another prefix."""
    assert made.observation is not None
    source = Path(sys.prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = Path("lib") / version / "site-packages"
    marker = f"/${{PREFIX}}/{packages}/"
    tops = {
        event.operation.path.removeprefix(marker).partition("/")[0]
        for event in made.observation.events
        if event.operation.path.startswith(marker)
    }
    # of a module that is a file only what was compiled from it is opened
    tops |= {path.name for path in (source / packages).glob("*.py")}
    (at / packages).mkdir(parents=True)
    (at / "bin").mkdir()
    (at / "bin" / "python").symlink_to((source / "bin" / "python").resolve())
    shutil.copy(source / "pyvenv.cfg", at / "pyvenv.cfg")
    for top in tops:
        origin = source / packages / top
        if origin.is_dir():
            shutil.copytree(origin, at / packages / top, copy_function=_link)
        elif origin.suffix != ".pth" and origin.is_file():
            _link(origin, at / packages / top)
    return at


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy(source, target)


@pytest.mark.timeout(900)
def test_the_policy_holds_where_the_environment_lies_elsewhere(
    trained: Path, tmp_path: Path
) -> None:
    made = evidence("joblib_file", trained)
    prefix = _relocated(made, tmp_path / "another" / "environment")
    served = support.serve(
        made, support.models("joblib_file", trained)[:1], tmp_path / "scratch", prefix=prefix
    )
    assert served.status == 0, served.output[-3000:]
    assert [(alert.Operation, alert.Resource) for alert in served.violations] == []


@pytest.mark.timeout(900)
def test_the_same_model_gives_the_same_policy(trained: Path) -> None:
    """A second observation sees other random names, and says the same."""
    first = evidence("joblib_file", trained)
    second = support.evidence_of(support.models("joblib_file", trained)[0])
    assert (second.policy, second.network, second.resources) == (
        first.policy, first.network, first.resources,
    )  # fmt: skip
    assert first.observation is not None and second.observation is not None
    seen = {event.operation for event in first.observation.events}
    again = {event.operation for event in second.observation.events}
    assert seen ^ again == set()
