"""One model, watched: started, led through its phases, ended.

The runner inside says when a phase is over; nobody believes it more than that. It waits for our
word before the next, and we note the time in between by our own clock, so an alert's time tells its
phase. A model that answers in the runner's place can move what it does from one phase to another,
and cannot hide it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from modelarmor.alerts import Recorder
from modelarmor.generate.artifact.tree import Progress
from modelarmor.generate.evidence import Artifact, Finding, Observation, Phase, Usage
from modelarmor.generate.observe import findings as said
from modelarmor.generate.observe.cage import Cage, interpreter, make_cage
from modelarmor.generate.observe.conversation import Conversation, Silent, Tail
from modelarmor.generate.observe.record import Record
from modelarmor.generate.observe.usage import Meter
from modelarmor.generate.places import Places
from modelarmor.sandbox import Sandbox, Workload

RUNNER: Final = Path(__file__).with_name("runner.py")

_MAX_ERROR: Final = 2000
#: seconds that a model has to end by itself when there is nothing more to ask
_GRACE: Final = 10.0


class Model(Protocol):
    """A model that lies somewhere and is described (`modelarmor.generate.artifact.Model`)."""

    @property
    def root(self) -> Path:
        """The model's directory, or its one file."""

    @property
    def artifact(self) -> Artifact:
        """What it is."""


@dataclass
class _Heard:
    """What the runner said, all of it hearsay."""

    completed: list[Phase] = field(default_factory=list)
    error: str = ""
    not_asked: str = ""
    #: it went on after its last answer, until it was ended
    unended: bool = False
    notes: list[str] = field(default_factory=list)
    predictions: int = 0
    input: str = ""


def observe(
    model: Model,
    *,
    input: Any = None,
    progress: Progress | None = None,
    timeout: float = 300.0,
    predictions: int = 3,
    prefix: Path | None = None,
) -> Observation:
    """Load a model and ask it, in a sandbox where it can harm nothing, and tell what it did.

    Args:
        model: where it is and what it is.
        input: what to ask it, in the words of MLflow's scoring server (``{"dataframe_split": …}``,
            ``{"inputs": …}``); its own input example if left out, or what its signature or its
            own shape says.
        progress: told what is being done.
        timeout: seconds for all of it; then it is ended, and what is missing is told.
        predictions: how often it is asked, in several sizes.
        prefix: the Python environment that loads it; the one that runs this program if left out.

    Raises:
        CannotConfine: this machine cannot confine it; nothing was started.
        FileNotFoundError: there is no Python in ``prefix``.
        ProfileError: the model's directory or the environment contains the home directory.
    """
    tell = progress or (lambda _: None)
    environment = Path(sys.prefix) if prefix is None else prefix
    scratch = Path(tempfile.mkdtemp(prefix="modelarmor-observation-")).resolve()
    try:
        runner = scratch / "runner"
        runner.mkdir()
        shutil.copy(RUNNER, runner / "runner.py")
        root = model.root.resolve()
        cage = make_cage(scratch, model=root, prefix=environment, runner=runner)
        session = _Session(model.artifact, root, cage, interpreter(environment), runner)
        heard, usage, output = session.run(
            tell, timeout=timeout, predictions=predictions, given=input
        )
        places = Places.of(
            model=root, prefix=environment, tmp=cage.tmp, home=Path.home(), workspace=runner
        )
        return _observation(session.record, heard, usage, output, cage, places)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _observation(
    record: Record, heard: _Heard, usage: Usage, output: bytes, cage: Cage, places: Places
) -> Observation:
    alerts = record.alerts
    found = [
        *said.leaked(cage.canaries, alerts, output, cage.tmp),
        *said.findings(alerts, places),
    ]
    events, unlisted = record.events(places)
    if unlisted:
        found.append(
            said.unfinished(
                "there were more operations than are listed; what is missing is no part of the"
                " policy, and may be refused",
                rule="operations-unlisted",
            )
        )
    if heard.error:
        found.append(said.unfinished(places.text(heard.error).splitlines()[0]))
    elif heard.not_asked:
        found.append(said.unfinished(heard.not_asked, rule="not-asked"))
    if heard.unended:
        found.append(
            said.unfinished(
                f"it went on for {_GRACE:.0f} s after its last answer, and was ended; what it would"
                " have done later was not seen"
            )
        )
    found += [_noted(places.text(note)) for note in heard.notes]
    return Observation(
        completed=tuple(heard.completed),
        events=events,
        input=heard.input,
        predictions=heard.predictions,
        usage=usage,
        findings=tuple(found),
        unlisted=unlisted,
        error=places.text(heard.error),
    )


def _noted(note: str) -> Finding:
    return Finding(
        rule="loader-note",
        severity="medium" if "=False" in note or "trusted" in note else "info",
        title="The loader noted something",
        detail=note,
        source=said.SOURCE,
    )


class _Session:
    def __init__(
        self, artifact: Artifact, root: Path, cage: Cage, python: Path, runner: Path
    ) -> None:
        self.record = Record()
        self._artifact = artifact
        self._root = root
        self._cage = cage
        self._workload = Workload(
            "observation",
            [str(python), "-I", "-B", str(runner / "runner.py")],
            cage.profile.policies,
            cage.profile.posture,
            cage.profile.network,
            cage.profile.resources,
            env=cage.env,
            cwd=cage.tmp,
            alerts_per_second=None,
        )

    def run(
        self, tell: Progress, *, timeout: float, predictions: int, given: Any
    ) -> tuple[_Heard, Usage, bytes]:
        heard = _Heard()
        until = time.monotonic() + timeout
        recorder = Recorder("observation", capacity=1)
        pipe = subprocess.PIPE
        process = Sandbox.start(
            self._workload,
            recorder=recorder,
            alerts=self.record.add,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )
        with process:
            meter = Meter(process.pid, self._cage.tmp)
            meter.start()
            output = Tail(process.stderr)
            talk = Conversation(process, until)
            try:
                for phase, sentence, request in self._phases(predictions, given):
                    tell(sentence)
                    self.record.begin(phase, time.time())
                    _hear(talk.ask({"phase": phase, **request}), phase, heard)
                    meter.weigh()
                    if heard.error or heard.not_asked:
                        break
                if not heard.error:
                    heard.unended = not talk.end(_GRACE)
            except Silent as reason:
                heard.error = f"{reason}: {output.last_line()}".rstrip(": ")
            finally:
                usage = meter.stop()
                process.close()
        self.record.add_unlisted(recorder.counts.suppressed)
        return heard, usage, output.text()

    def _phases(self, predictions: int, given: Any) -> list[tuple[Phase, str, dict[str, Any]]]:
        artifact = self._artifact
        start = {
            "modules": _modules(artifact),
            "root": str(self._root),
            "flavour": artifact.flavour,
            "loader": artifact.loader,
            "files": [{"path": file.path, "format": file.format} for file in artifact.files],
            "given": given,
        }
        return [
            ("start", "starting its loader", start),
            ("load", "loading the model", {}),
            ("serve", "asking the model", {"count": predictions}),
        ]


def _modules(artifact: Artifact) -> list[str]:
    """What a loader imports before it sees a model. The names are ours, never the model's."""
    if not any(file.path == "MLmodel" for file in artifact.files):
        return []
    known = _FLAVOUR_MODULES.get(artifact.flavour)
    return ["mlflow.pyfunc", *([known] if known else [])]


_FLAVOUR_MODULES: Final[Mapping[str, str]] = {
    name: f"mlflow.{name}"
    for name in (
        "sklearn", "pytorch", "keras", "tensorflow", "transformers", "xgboost", "lightgbm",
        "catboost", "onnx", "statsmodels", "langchain", "prophet", "spacy", "sentence_transformers",
    )
}  # fmt: skip


def _hear(answer: Mapping[str, Any], phase: Phase, heard: _Heard) -> None:
    notes = answer.get("notes")
    if isinstance(notes, list):
        heard.notes = [note for note in notes if isinstance(note, str)][:20]
    error, not_asked = answer.get("error"), answer.get("not_asked")
    if isinstance(error, str) and error:
        heard.error = f"while {said.DURING[phase]}: {error}"[:_MAX_ERROR]
        return
    if isinstance(not_asked, str) and not_asked:
        heard.not_asked = not_asked[:_MAX_ERROR]
        return
    if answer.get("phase") != phase:
        heard.error = f"while {said.DURING[phase]}: it gave an answer that nobody asked for"
        return
    heard.completed.append(phase)
    asked, count = answer.get("input"), answer.get("predictions")
    if phase == "serve" and isinstance(asked, str) and type(count) is int:
        heard.input = asked if asked in _INPUTS else ""
        heard.predictions = max(0, min(count, 10**6))


_INPUTS: Final = frozenset(("input_example", "signature", "given", "default"))
