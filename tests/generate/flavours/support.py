"""Models of every flavour, their evidence, and their life under the policy that was generated."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from modelarmor import __version__
from modelarmor.alerts import Alert
from modelarmor.generate import workload
from modelarmor.generate.artifact import open_model
from modelarmor.generate.evidence import Evidence
from modelarmor.generate.observe import observe
from modelarmor.generate.observe.session import RUNNER
from modelarmor.generate.places import Places
from modelarmor.generate.synthesize import synthesize
from modelarmor.profiles import Profile
from modelarmor.sandbox import Sandbox, Workload

HERE = Path(__file__).parent
#: how often models are asked, where 1000 and 250 times take minutes: Keras' own predict() does
PREDICTIONS = {"keras3": (250, 50), "keras_h5": (250, 50)}
#: what is asked of models that do not tell what they take
GIVEN = {"torchscript": {"inputs": [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]]}}


@cache
def models(flavour: str, directory: Path) -> list[Path]:
    """Two models of a flavour of `train.FLAVOURS` below ``directory``, trained on first use."""
    place = directory / flavour
    place.mkdir()
    command = [sys.executable, str(HERE / "train.py"), flavour, str(place)]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = sorted(place.glob("[ab]")) + sorted(place.glob("[ab].*"))
    assert len(found) == 2, found
    return found


def evidence_of(model: Path, *, given: Any = None, prefix: Path | None = None) -> Evidence:
    """Watched and written, without the scanners, which are not at issue here."""
    with open_model(model) as opened:
        observation = observe(opened, input=given, prefix=prefix, timeout=300)
        draft = synthesize(opened.artifact, None, observation)
        return Evidence(
            artifact=opened.artifact,
            observation=observation,
            policy=draft.policy,
            network=draft.network,
            resources=draft.resources,
            reasons=draft.reasons,
            expected_denials=draft.expected_denials,
            generator=__version__,
        )


@dataclass
class Served:
    """What came of serving under the policy."""

    status: int
    output: str
    #: not foreseen by the evidence
    violations: list[Alert] = field(default_factory=list)
    #: refused on purpose
    expected: list[Alert] = field(default_factory=list)
    suppressed: int = 0


def profile_of(evidence: Evidence, model: Path, tmp: Path, prefix: Path) -> Profile:
    return workload.filled(evidence, model=model, prefix=prefix, tmp=tmp)


def serve(
    evidence: Evidence,
    chosen: list[Path],
    tmp: Path,
    *,
    predictions: Sequence[int] = (1000, 250),
    given: Any = None,
    prefix: Path | None = None,
) -> Served:
    """Load models and ask them ``predictions`` times, under the policy, in block."""
    environment = Path(sys.prefix) if prefix is None else prefix
    tmp.mkdir(parents=True)
    tmp = tmp.resolve()
    code = [tmp / "worker.py", tmp / "runner.py"]
    for target, source in zip(code, (HERE / "worker.py", RUNNER), strict=True):
        target.write_bytes(source.read_bytes())
    place = chosen[0] if len(chosen) == 1 else chosen[0].parent
    profile = profile_of(evidence, place, tmp, environment)
    told = []
    for model, count in zip(chosen, predictions, strict=False):
        with open_model(model) as opened:
            artifact = opened.artifact
            files = [{"path": file.path, "format": file.format} for file in artifact.files]
            told.append(
                {
                    "count": count,
                    "given": given,
                    "root": str(opened.root),
                    "flavour": artifact.flavour,
                    "loader": artifact.loader,
                    "files": files,
                }
            )
    python = environment / "bin" / "python"
    served = Served(-1, "")
    places = Places.of(model=place, prefix=environment, tmp=tmp, home=Path.home())

    def note(alert: Alert) -> None:
        expected = workload.is_expected(evidence, alert, places)
        (served.expected if expected else served.violations).append(alert)

    process = Sandbox.start(
        Workload(
            "served",
            [str(python), "-B", str(code[0]), str(code[1]),
             *(json.dumps(each) for each in told)],
            profile.policies,
            profile.posture,
            profile.network,
            profile.resources,
            # The machine is shared, and 4 threads ask at a time.
            env=profile.environ(
                {"PATH": f"{environment}/bin:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
            ),
            cwd=tmp,
        ),
        alerts=note,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        served.output = process.stdout.read().decode(errors="replace")
        served.status = process.wait(300)
        served.suppressed = process.recorder.counts.suppressed
    return served
