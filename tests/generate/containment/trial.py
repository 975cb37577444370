"""One trial: a hostile model, tried without the sandbox and under the policy of a clean one."""

from __future__ import annotations

import functools
import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelarmor.alerts import Alert, Recorder
from modelarmor.generate.evidence import Evidence
from modelarmor.generate.pipeline import generate
from modelarmor.generate.places import Places
from modelarmor.generate.workload import filled, is_expected
from modelarmor.profiles import Profile
from modelarmor.sandbox import Sandbox, Workload
from modelarmor.sandbox.resources import Resources

from .actions import ACTIONS, Action
from .arena import Arena, arena
from .carriers import CARRIERS, Carrier

MIB = 1 << 20
#: a bomb goes a little over the policy's limit; where that is more than a test may use, bombs meet
#: these limits instead
MOST = {"processes": 256, "memory": 768, "disk": 256}
_PATIENCE_S = 100.0
_GENEROUS = {"memory": 6144, "disk": 2048}


@dataclass(frozen=True)
class Trial:
    """A format and the harm that it carries."""

    carrier: Carrier
    action: Action

    @property
    def name(self) -> str:
        return f"{self.carrier.name}: {self.action.name}"

    @property
    def missing(self) -> str:
        """A module that is not installed here, or nothing."""
        return next((m for m in self.carrier.modules if importlib.util.find_spec(m) is None), "")


@dataclass(frozen=True)
class Outcome:
    """What came of one run."""

    #: what happened to its target, or nothing
    effect: str
    status: int | None
    output: str
    errors: str
    #: refusals that were reported
    alerts: tuple[Alert, ...] = ()


def trials() -> list[Trial]:
    """Every harm by the plainest format, and for every format two that tell most."""
    plain = CARRIERS["pickle, exec"]
    chosen = [Trial(plain, action) for action in ACTIONS.values()]
    for carrier in CARRIERS.values():
        if carrier.native:
            chosen += [Trial(carrier, ACTIONS[name]) for name in carrier.native]
        elif carrier is not plain:
            chosen += [Trial(carrier, ACTIONS[name]) for name in carrier.tells]
    return chosen


@functools.cache
def clean_evidence(name: str) -> Evidence:
    """The evidence, and so the policy, of a clean model of the format `name`."""
    carrier = CARRIERS[name]
    with tempfile.TemporaryDirectory(prefix="modelarmor-clean-") as folder:
        directory = Path(os.path.realpath(folder)) / "model"
        directory.mkdir()
        carrier.clean(directory)
        return generate(str(directory))


def evidence_for(carrier: Carrier) -> Evidence:
    """As `clean_evidence`, once for carriers that have the same clean model."""
    same = next(c for c in CARRIERS.values() if c.clean is carrier.clean)
    return clean_evidence(same.name)


def limits_of(evidence: Evidence) -> tuple[Resources, dict[str, int]]:
    """The policy's limits, at most `MOST`, and what bombs have to exceed: mebibytes, numbers."""
    told = Resources.from_kubernetes(evidence.resources)
    bombs = {
        "processes": min(told.processes or MOST["processes"], MOST["processes"]),
        "memory": min((told.memory or MOST["memory"] * MIB) // MIB, MOST["memory"]),
        "disk": min((told.disk or MOST["disk"] * MIB) // MIB, MOST["disk"]),
    }
    limits = Resources(
        cpu=told.cpu, memory=bombs["memory"] * MIB, processes=bombs["processes"],
        open_files=told.open_files, disk=bombs["disk"] * MIB,
    )  # fmt: skip
    return limits, bombs


def run_free(trial: Trial) -> Outcome:
    """Without the sandbox: in a throwaway home, bounded by rlimits."""
    _, bombs = limits_of(evidence_for(trial.carrier))
    with _prepared(trial, bombs) as place:
        done = subprocess.run(
            _command(trial.carrier, place),
            env={**os.environ, **_environment(place), "HOME": str(place.home)},
            cwd=place.tmp, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S,
            preexec_fn=_bounded, check=False,
        )  # fmt: skip
        place.output = done.stdout.decode(errors="replace")
        return Outcome(
            trial.action.effect(place), done.returncode, place.output,
            done.stderr.decode(errors="replace"),
        )  # fmt: skip


def run_confined(trial: Trial) -> Outcome:
    """Under the policy that was generated for a clean model of the same format."""
    evidence = evidence_for(trial.carrier)
    limits, bombs = limits_of(evidence)
    with _prepared(trial, bombs) as place:
        profile = filled(
            evidence, model=place.model, prefix=Path(sys.prefix), tmp=place.tmp, home=place.home
        )
        if not trial.action.name.endswith("bomb"):
            limits = profile.resources
        outcome = _confined(_workload(trial.carrier, place, profile, limits), place)
        return replace(outcome, effect=trial.action.effect(place))


def run_clean(carrier: Carrier) -> tuple[Outcome, tuple[Alert, ...]]:
    """The clean model under its own policy, and those refusals that the policy does not expect."""
    evidence = evidence_for(carrier)
    _, bombs = limits_of(evidence)
    with arena(**bombs) as place:
        carrier.clean(place.model)
        profile = filled(
            evidence, model=place.model, prefix=Path(sys.prefix), tmp=place.tmp, home=place.home
        )
        outcome = _confined(_workload(carrier, place, profile, profile.resources), place)
        places = Places.of(
            model=place.model, prefix=Path(sys.prefix), tmp=place.tmp, home=place.home
        )
        return outcome, tuple(
            alert for alert in outcome.alerts if not is_expected(evidence, alert, places)
        )


def due(trial: Trial, outcome: Outcome) -> Alert | None:
    """The alert that tells of this harm, if there is one."""
    for alert in outcome.alerts:
        said = " ".join((alert.Operation, alert.Resource, alert.PolicyName, alert.Data))
        if any(word.lower() in said.lower() for word in trial.action.alerts):
            return alert
    return None


@contextmanager
def _prepared(trial: Trial, bombs: Mapping[str, int]) -> Iterator[Arena]:
    with arena(**bombs) as place:
        trial.carrier.clean(place.model)
        targets = place.targets
        for file in sorted(place.model.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        code = f"T = {targets!r}\n{trial.action.code}"
        if trial.carrier.hostile is not None:
            trial.carrier.hostile(place.model, code)
        else:
            trial.carrier.native[trial.action.name](place.model, targets)
        place.begin()
        yield place


def _confined(workload: Workload, place: Arena) -> Outcome:
    out, err = place.root / "out", place.root / "err"
    recorder = Recorder(workload.name)
    with (
        out.open("wb") as stdout,
        err.open("wb") as stderr,
        Sandbox.start(
            workload, recorder=recorder, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        ) as process,
    ):
        status = process.wait(_PATIENCE_S)
    place.output = out.read_text(errors="replace")
    alerts = (alert for _, alert in recorder.after(0, 10_000).alerts)
    return Outcome(
        "", status, place.output, err.read_text(errors="replace"),
        tuple(alert for alert in alerts if alert.blocked),
    )  # fmt: skip


def _command(carrier: Carrier, place: Arena) -> list[str]:
    places = f"MODEL = {str(place.model)!r}\nTMP = {str(place.tmp)!r}\n"
    return [sys.executable, "-c", places + carrier.loader]


def _environment(place: Arena) -> dict[str, str]:
    # PYTHONPATH and the like of whoever runs the tests are no part of the experiment.
    return {
        "CLOUD_TOKEN": place.environment_secret,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": "",
    }


def _workload(carrier: Carrier, place: Arena, profile: Profile, limits: Resources) -> Workload:
    known: dict[str, Any] = {**os.environ, **_environment(place), "HOME": str(place.home)}
    return Workload(
        name="hostile",
        command=_command(carrier, place),
        policies=profile.policies,
        posture=profile.posture,
        network=profile.network,
        resources=limits,
        env=profile.environ(known),
        cwd=place.tmp,
    )


def _bounded() -> None:
    """Limits of the control: bombs are small, and these end one that is not."""
    for what, limit in (
        (resource.RLIMIT_AS, 64 << 30),  # frameworks reserve much; what is touched is bounded below
        (resource.RLIMIT_DATA, _GENEROUS["memory"] * MIB),
        (resource.RLIMIT_FSIZE, _GENEROUS["disk"] * MIB),
        (resource.RLIMIT_CPU, 90),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))
