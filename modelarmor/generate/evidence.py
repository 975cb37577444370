"""What is known of a model: the facts that a policy is generated from and a review rests on.

Plain, immutable data. Each part is made by one module of this room (`artifact`, `scan`,
`observe`, `synthesize`), kept as one JSON document, and read again without any of them. The same
facts give the same bytes, so the document's digest can be signed.
"""

from __future__ import annotations

import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Final, Literal, TypeVar

from modelarmor.policy.decide import Operation

#: grows when a reader of the previous version would misread the document
FORMAT: Final = 1
#: the largest document that is read, in bytes
MAX_BYTES: Final = 64 << 20

Severity = Literal["critical", "high", "medium", "low", "info"]
#: worst first
SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "high", "medium", "low", "info")

#: ``start`` is what the loader does without a model (interpreter, imports), ``load`` reading it,
#: ``serve`` predicting
Phase = Literal["start", "load", "serve"]
PHASES: Final[tuple[Phase, ...]] = ("start", "load", "serve")

_T = TypeVar("_T")


class EvidenceError(ValueError):
    """A document that is no evidence; says where it is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a reviewer should know, and who says so."""

    #: what kind of finding, in kebab case: ``pickle-global-not-allowed``
    rule: str
    severity: Severity
    #: one sentence
    title: str
    #: the facts: names, offsets, what would be right
    detail: str = ""
    #: a path within the artifact, with a position where there is one: ``model.pkl:1234``
    location: str = ""
    #: who says so: ``modelarmor``, ``picklescan 1.0.5``, ``observation``
    source: str = "modelarmor"
    #: MITRE ATT&CK and ATLAS: ``T1059.006``, ``AML.T0011.000``
    techniques: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Names this finding across runs; a waiver is about one of these."""
        told = (self.rule, self.source.partition(" ")[0], self.location, self.title, self.detail)
        return hashlib.sha256("\0".join(told).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFile:
    """One file of a model."""

    #: relative to the model, with ``/``
    path: str
    #: bytes
    size: int
    #: hexadecimal
    sha256: str
    #: what the bytes are, not what the name says: ``pickle``, ``zip``, ``hdf5``, ``onnx`` …
    format: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What was found where the model is."""

    #: as it was asked for: a path or an MLflow URI, without credentials
    source: str
    #: the first that applies: ``sklearn``, ``pytorch``, ``keras``, ``pyfunc`` …
    flavour: str
    #: every flavour that it can be loaded as
    flavours: tuple[str, ...] = ()
    #: what loads it: ``mlflow.sklearn``, ``torch.load`` …; empty where nothing is known to
    loader: str = ""
    files: tuple[ArtifactFile, ...] = ()
    #: ``sha256:…`` over the sorted paths and hashes of the files: it binds the exact bytes
    digest: str = ""
    #: pip requirements as the model names them
    requirements: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """One scanner and how far it came."""

    name: str
    version: str = ""
    #: ``absent``: not installed; the other three but ``complete`` are findings too
    status: Literal["complete", "incomplete", "failed", "absent"]
    #: how many files it looked into
    inspected: int = 0
    #: why it is not complete
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What all voices said, merged."""

    voices: tuple[Voice, ...] = ()
    #: worst first
    findings: tuple[Finding, ...] = ()
    #: files of the artifact that no voice looked into
    uninspected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One operation that was seen, `count` times."""

    phase: Phase
    operation: Operation
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The most that was used of the machine."""

    #: seconds of processor time
    cpu_seconds: float = 0.0
    #: bytes
    memory: int = 0
    #: processes and threads at a time
    processes: int = 0
    #: bytes written
    disk: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the model did when it was loaded and asked, in audit, with nothing real to steal.

    Paths are kept in the profiles' templates (``${MODEL}/…``, ``${PREFIX}/…``), so the evidence
    means the same on another machine.
    """

    #: whether each phase ran to its end
    completed: tuple[Phase, ...] = ()
    events: tuple[Event, ...] = ()
    #: what it was asked: ``input_example``, ``signature``, or empty where it was asked nothing
    input: str = ""
    predictions: int = 0
    usage: Usage = field(default_factory=Usage)
    findings: tuple[Finding, ...] = ()
    #: operations that were counted and not listed; what is missing here was not observed
    unlisted: int = 0
    #: what the model or its loader said when it failed, shortened
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why one rule is in the policy."""

    #: name of the policy document, and the rule in `modelarmor.policy.model.Rule.where`'s words
    policy: str
    rule: str
    #: what the rule is about, as a person reads it
    what: str
    #: ``observed``: seen `count` times in `phases`; ``template``: `origin` names it;
    #: ``finding``: `origin` is the finding's fingerprint
    kind: Literal["observed", "template", "finding"]
    origin: str = ""
    count: int = 0
    phases: tuple[Phase, ...] = ()


Attack = Literal["noise", "fgsm", "pgd", "hopskipjump"]
#: ``noise`` is the control: it takes no aim
ATTACKS: Final[tuple[Attack, ...]] = ("noise", "fgsm", "pgd", "hopskipjump")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """How many inputs a model still recognised when each was changed a little."""

    attack: Attack
    #: the most that any feature was changed, as a share of its range
    epsilon: float
    samples: int
    recognised: int
    #: answers and gradients that the attack asked the model for, by the model's own account
    queries: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"epsilon {self.epsilon}: give a share above 0, at most 1")
        if not 0 <= self.recognised <= self.samples or self.samples < 1 or self.queries < 0:
            raise ValueError(f"{self.recognised} of {self.samples} samples cannot be")

    @property
    def accuracy(self) -> float:
        """Share of the samples."""
        return self.recognised / self.samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Robustness:
    """What a model makes of inputs that were crafted against it (`modelarmor.redteam`)."""

    #: ``sha256:…`` of the labelled inputs that were drawn, and their labels
    data: str
    samples: int
    #: of the inputs as they are
    recognised: int
    measures: tuple[Measure, ...] = ()
    #: attacks that were not made, and why
    not_tried: tuple[str, ...] = ()
    seed: int = 0
    #: which made the attacks: ``adversarial-robustness-toolbox 1.20.1``
    library: str = ""
    #: what was asked for: at least this accuracy at this epsilon
    least_accuracy: float | None = None
    epsilon: float | None = None
    #: why nothing was measured, where it was asked for
    error: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.recognised <= self.samples or (self.samples < 1 and not self.error):
            raise ValueError(f"{self.recognised} of {self.samples} samples cannot be")
        for share in (self.least_accuracy, self.epsilon):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{share}: give a share from 0 to 1")

    @property
    def accuracy(self) -> float:
        """Share of the inputs as they are that the model recognises."""
        return self.recognised / self.samples if self.samples else 0.0

    def worst(self, epsilon: float) -> Measure | None:
        """The measure of the attack that does most at `epsilon`, or at the next that was tried.

        None where nothing but noise was tried so far out.
        """
        reached = [m for m in self.measures if m.epsilon >= epsilon - 1e-9]
        tried = [m.epsilon for m in reached if m.attack != "noise"]
        if not tried:
            return None
        return min(
            (m for m in reached if m.epsilon == min(tried)), key=lambda measure: measure.accuracy
        )

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was asked for and is not met, as a finding that a reviewer has to answer."""
        if self.least_accuracy is None or self.epsilon is None:
            return ()
        shortfall = self.error or self.shortfall(self.least_accuracy, self.epsilon)
        if not shortfall:
            return ()
        return (
            Finding(
                rule="not-robust",
                severity="high",
                title="It was not measured against crafted inputs"
                if self.error
                else "It is less robust against crafted inputs than was asked for",
                detail=shortfall,
                source="redteam",
                techniques=("AML.T0015", "AML.T0043"),
            ),
        )

    def shortfall(self, least_accuracy: float, epsilon: float) -> str:
        """Why this is not enough; empty where it is."""
        worst = self.worst(epsilon)
        if worst is None:
            return f"no attack was tried with an epsilon of {epsilon:g} or more"
        if worst.accuracy >= least_accuracy:
            return ""
        return (
            f"under {worst.attack} with epsilon {worst.epsilon:g} it recognises"
            f" {worst.accuracy:.1%} of the inputs, not {least_accuracy:.1%}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that is known of one version of a model, and the policy that follows."""

    artifact: Artifact
    scan: Scan = field(default_factory=Scan)
    #: None where the model was not run
    observation: Observation | None = None
    #: KubeArmorPolicy documents, YAML
    policy: str = ""
    #: one NetworkPolicy, YAML
    network: str = ""
    #: limits in Kubernetes' words (`modelarmor.sandbox.resources.Resources.from_kubernetes`)
    resources: Mapping[str, str] = field(default_factory=dict, hash=False)
    reasons: tuple[Reason, ...] = ()
    #: operations that the policy refuses on purpose although a benign load makes them
    expected_denials: tuple[Event, ...] = ()
    #: version of ModelArmor
    generator: str = ""
    #: None where nobody measured it
    robustness: Robustness | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Those of every part, worst first."""
        observed = self.observation.findings if self.observation else ()
        measured = self.robustness.findings if self.robustness else ()
        every = {
            finding.fingerprint: finding
            for finding in (*self.artifact.findings, *self.scan.findings, *observed, *measured)
        }
        return tuple(
            sorted(
                every.values(),
                key=lambda item: (SEVERITIES.index(item.severity), item.rule, item.location),
            )
        )

    @property
    def policy_digest(self) -> str:
        """``sha256:…`` of the policy, its network and its resources: what an approval is about."""
        told = json.dumps(
            [self.policy, self.network, dict(self.resources)], sort_keys=True, ensure_ascii=True
        )
        return "sha256:" + hashlib.sha256(told.encode()).hexdigest()

    @property
    def digest(self) -> str:
        """``sha256:…`` of the document."""
        return "sha256:" + hashlib.sha256(self.dumps().encode()).hexdigest()

    def dumps(self) -> str:
        """The document: JSON, the same bytes for the same facts."""
        body = {"format": FORMAT, **_plain(self)}
        return json.dumps(body, sort_keys=True, indent=1, ensure_ascii=True) + "\n"

    @classmethod
    def loads(cls, text: str | bytes) -> Evidence:
        """Read what `dumps` wrote.

        Raises:
            EvidenceError: it is not that, or too large.
        """
        return _read_fields(cls, _body(text), "evidence")

    @classmethod
    def recognises(cls, text: str | bytes) -> bool:
        """Whether its outermost fields are those of evidence, and no others.

        `loads` reads all of it, which takes ten times as long.
        """
        try:
            body = _body(text)
        except EvidenceError:
            return False
        needed = {item.name for item in fields(cls) if item.default is item.default_factory}
        return needed <= body.keys() <= _hints(typing.cast(Any, cls)).keys()


def _body(text: str | bytes) -> dict[str, Any]:
    if len(text) > MAX_BYTES:
        raise EvidenceError(f"evidence of {len(text)} bytes: more than {MAX_BYTES} is refused")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"the evidence is no JSON document: {error}") from None
    if not isinstance(body, dict) or body.pop("format", None) != FORMAT:
        raise EvidenceError(f"this is no evidence of format {FORMAT}; generate it again")
    return body


def _plain(value: Any) -> Any:
    """Data for JSON; what is at its default is left out."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: _plain(content)
            for item in fields(value)
            if (content := getattr(value, item.name)) != _default(item)
        }
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` as an instance of the annotated type `kind`; JSON is hostile until read here."""
    origin = typing.get_origin(kind)
    if is_dataclass(kind):
        return _read_fields(typing.cast(type, kind), value, where)
    if origin in (typing.Union, types.UnionType):
        inner = [option for option in typing.get_args(kind) if option is not type(None)]
        return None if value is None else _read(inner[0], value, where)
    if origin is Literal:
        if value not in typing.get_args(kind) or not isinstance(value, str):
            raise EvidenceError(f"{where}: {value!r:.60} is none of {typing.get_args(kind)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise EvidenceError(f"{where} should be a list")
        item = typing.get_args(kind)[0]
        return tuple(_read(item, entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise EvidenceError(f"{where} should be an object of strings")
        return dict(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise EvidenceError(f"{where} should be {kind.__name__}, not {value!r:.60}")
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Field -> annotated type; asked once, as they are looked up in texts."""
    hints = typing.get_type_hints(kind)
    return {item.name: hints[item.name] for item in fields(typing.cast(Any, kind))}


def _read_fields(kind: type[_T], value: Any, where: str) -> _T:
    if not isinstance(value, dict):
        raise EvidenceError(f"{where} should be an object")
    hints = _hints(typing.cast(Any, kind))
    if unknown := sorted(value.keys() - hints.keys()):
        raise EvidenceError(f"{where} has no {unknown[0]!r:.60}; is it of a newer version?")
    try:
        return kind(
            **{name: _read(hints[name], item, f"{where}.{name}") for name, item in value.items()}
        )
    except TypeError as error:
        raise EvidenceError(f"{where}: {error}") from None
    except ValueError as error:
        if isinstance(error, EvidenceError):
            raise
        raise EvidenceError(f"{where}: {error}") from None
