"""Measuring a model: attacked in the sandbox, then asked again in a fresh one, and counted here.

The process that crafts is the model's own, so its word is worth nothing. It gives inputs, which
are cut to their epsilon here; a second process, which is not told what the first was given, is
asked about all of them in an order of chance; and who is right is counted outside, where the labels
are. What is measured is how an honest model bears the attacks that were tried, and no more: a
hostile one can still put something harmless in an attack's place.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from modelarmor import profiles
from modelarmor.alerts import Alert
from modelarmor.generate import workload
from modelarmor.generate.artifact import Model, Progress, open_model
from modelarmor.generate.evidence import ATTACKS, Attack, Evidence, Measure, Robustness
from modelarmor.generate.observe.cage import PROFILE, home_of, interpreter, serving_variables
from modelarmor.generate.observe.conversation import Conversation, Silent, Tail
from modelarmor.profiles import Profile
from modelarmor.redteam.data import Labelled
from modelarmor.sandbox import Sandbox, Workload
from modelarmor.sandbox.resources import Resources
from modelarmor.visible import visible

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float32]

ATTACKER: Final = Path(__file__).with_name("attacker.py")
LIBRARY: Final = "adversarial-robustness-toolbox"
EPSILONS: Final = (0.01, 0.03, 0.1, 0.3)
_GRADIENTS: Final[frozenset[Attack]] = frozenset(("fgsm", "pgd"))
_MOST_CLASSES: Final = 1000
_MOST_QUERIES: Final = 1 << 40


class RedTeamError(ValueError):
    """A model that could not be measured; says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is measured.

    Attributes:
        attacks: in this order.
        epsilons: the most that a feature is changed, as shares of its range.
        nearest: so many inputs are attacked by ``hopskipjump``, which asks thousands of times.
        seconds: for all of it; then the model is ended, and nothing was measured.
        memory: bytes.
        prefix: the Python environment with the model's library and the attacks'.
    """

    attacks: Sequence[Attack] = ATTACKS
    epsilons: Sequence[float] = EPSILONS
    nearest: int = 20
    seed: int = 0
    seconds: float = 600.0
    memory: int = 4 << 30
    prefix: Path = field(default_factory=lambda: Path(sys.prefix))
    least_accuracy: float | None = None
    epsilon: float | None = None

    @property
    def every_epsilon(self) -> tuple[float, ...]:
        """Those that are tried, the one that is asked for among them."""
        asked = () if self.epsilon is None else (self.epsilon,)
        return tuple(sorted({*self.epsilons, *asked}))


@dataclass(frozen=True, kw_only=True)
class Crafted:
    """What one attack made of the inputs, and what the model takes that for."""

    attack: Attack
    epsilon: float
    units: Floats
    #: names of classes; filled in once the model was asked
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """A measurement, with what the evidence has no room for."""

    robustness: Robustness
    source: str
    flavour: str
    digest: str
    #: attack -> seconds on this machine
    seconds: Mapping[str, float]
    #: what the sandbox refused meanwhile: (operation, policy) -> how often
    refused: Mapping[tuple[str, str], int]
    given: Labelled
    answers: tuple[str, ...]
    crafted: tuple[Crafted, ...]


def measure(
    source: str | os.PathLike[str],
    data: Labelled,
    options: Options | None = None,
    *,
    evidence: Evidence | None = None,
    progress: Progress | None = None,
) -> Report:
    """Attack a model in the sandbox and count what it still recognises.

    Args:
        source: a file, a directory or an address of MLflow's.
        data: inputs and what they are.
        options: how.
        evidence: whose policy confines the model; without it the profile ``untrusted-model`` does.
        progress: told what is being done.

    Raises:
        RedTeamError: the model could not be measured.
        ArtifactError: there is no such model.
        CannotConfine: this machine cannot confine it; nothing was started.
    """
    how = options or Options()
    tell = progress or (lambda _: None)
    with open_model(source, progress=progress) as model:
        if evidence is not None and evidence.artifact.digest != model.artifact.digest:
            raise RedTeamError(
                f"{source}: its files are {model.artifact.digest}, and the evidence is about"
                f" {evidence.artifact.digest}; generate it again"
            )
        run = _Run(model, data, how, evidence, tell)
        crafted, facts = run.attack()
        answers = run.ask([data.units, *(item.units for item in crafted)])
    crafted = [
        replace(item, answers=given) for item, given in zip(crafted, answers[1:], strict=True)
    ]
    robustness = Robustness(
        data=data.digest,
        samples=len(data.labels),
        recognised=_right(answers[0], data.labels),
        measures=tuple(_counted(item, answers[0], data.labels, facts.queries) for item in crafted),
        not_tried=tuple(facts.not_tried),
        seed=how.seed,
        library=f"{LIBRARY} {facts.library}".strip(),
        least_accuracy=how.least_accuracy,
        epsilon=how.epsilon,
    )
    return Report(
        robustness=robustness,
        source=model.artifact.source,
        flavour=model.artifact.flavour,
        digest=model.artifact.digest,
        seconds=facts.seconds,
        refused=run.refused,
        given=data,
        answers=answers[0],
        crafted=tuple(crafted),
    )


def _right(answers: Sequence[str], labels: Sequence[str]) -> int:
    return sum(answer == label for answer, label in zip(answers, labels, strict=True))


def _counted(
    item: Crafted, clean: Sequence[str], labels: Sequence[str], queries: Mapping[Any, int]
) -> Measure:
    """An input counts where the model knew it before and knows it still."""
    told = zip(clean, item.answers, labels, strict=False)
    return Measure(
        attack=item.attack,
        epsilon=item.epsilon,
        samples=len(item.answers),
        recognised=sum(before == after == label for before, after, label in told),
        queries=queries.get((item.attack, item.epsilon), 0),
    )


@dataclass
class _Facts:
    """What is known of the attacks beside their result."""

    library: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    queries: dict[tuple[str, float], int] = field(default_factory=dict)
    not_tried: list[str] = field(default_factory=list)


class _Run:
    def __init__(
        self,
        model: Model,
        data: Labelled,
        options: Options,
        evidence: Evidence | None,
        tell: Progress,
    ) -> None:
        self._model, self._data, self._options = model, data, options
        self._evidence, self._tell = evidence, tell
        self._until = time.monotonic() + options.seconds
        self._classes: int | None = None
        self.refused: Counter[tuple[str, str]] = Counter()

    # --- crafting

    def attack(self) -> tuple[list[Crafted], _Facts]:
        """Craft inputs with every attack that the model allows."""
        facts = _Facts()
        crafted: list[Crafted] = []
        if "noise" in self._options.attacks:
            crafted += self._noise()
        chosen = [attack for attack in self._options.attacks if attack != "noise"]
        if not chosen:
            return crafted, facts
        with self._process() as inside:
            self._tell("loading the model")
            said = inside.load(attacks=True)
            facts.library = _text(said.get("library"), 20)
            reason = _text(said.get("no_gradients"), 300)
            for attack in chosen:
                if attack in _GRADIENTS and reason:
                    facts.not_tried.append(f"{attack}: {reason}")
                    continue
                began = time.monotonic()
                crafted += self._craft(inside, attack, facts)
                facts.seconds[attack] = round(time.monotonic() - began, 3)
        return crafted, facts

    def _noise(self) -> list[Crafted]:
        """The control: as far as an attack goes, in no particular direction."""
        import numpy

        made = []
        # A seed that the model cannot know, or it could foresee each noisy input.
        generator = numpy.random.default_rng(secrets.randbits(128))
        for epsilon in self._options.every_epsilon:
            draw = generator.normal(0, epsilon, self._data.units.shape)
            made.append(self._within("noise", epsilon, self._data.units + draw))
        return made

    def _craft(self, inside: _Inside, attack: Attack, facts: _Facts) -> list[Crafted]:
        epsilons = self._options.every_epsilon
        if attack in _GRADIENTS:
            made = []
            for epsilon in epsilons:
                self._tell(f"{attack} with epsilon {epsilon:g}")
                units, queries = inside.craft(attack, len(self._data.labels), epsilon)
                made.append(self._within(attack, epsilon, units))
                facts.queries[attack, epsilon] = queries
            return made
        self._tell(f"{attack}: the nearest input that is taken for something else")
        count = min(self._options.nearest, len(self._data.labels))
        units, queries = inside.craft(attack, count)
        facts.queries.update({(attack, epsilon): queries for epsilon in epsilons})
        return [self._if_near(attack, epsilon, units) for epsilon in epsilons]

    def _within(self, attack: Attack, epsilon: float, units: Any) -> Crafted:
        """No further than epsilon from the inputs, whatever was crafted."""
        near = self._data.units[: len(units)]
        cut = (near + (units - near).clip(-epsilon, epsilon)).clip(0, 1).astype("float32")
        return Crafted(attack=attack, epsilon=epsilon, units=cut)

    def _if_near(self, attack: Attack, epsilon: float, units: Floats) -> Crafted:
        """What lies within epsilon; the input itself where the attack needed to go further."""
        import numpy

        near = self._data.units[: len(units)]
        distance = numpy.abs(units - near).reshape(len(units), -1).max(axis=1)
        reached = (distance <= epsilon).reshape(-1, *[1] * (units.ndim - 1))
        return Crafted(attack=attack, epsilon=epsilon, units=numpy.where(reached, units, near))

    # --- asking

    def ask(self, parts: Sequence[Floats]) -> list[tuple[str, ...]]:
        """What the model takes each input for, all of them shuffled, in a process of its own."""
        import numpy

        every = numpy.concatenate(parts)
        order = list(range(len(every)))
        secrets.SystemRandom().shuffle(order)
        self._tell(f"asking about {len(every)} inputs in a fresh process")
        with self._process(every[order]) as inside:
            inside.load(attacks=False)
            names = inside.ask()
        answers = numpy.empty(len(every), dtype=object)
        answers[order] = names
        if not set(names) & set(self._data.labels):
            raise RedTeamError(
                f"the labels ({', '.join(sorted(set(self._data.labels))[:5])}) are none of the"
                f" model's classes ({sorted(set(names))[:5]!a}); call them as the model does"
            )
        cuts = numpy.cumsum([len(part) for part in parts])[:-1]
        return [tuple(part.tolist()) for part in numpy.split(answers, cuts)]

    # --- confining

    def _process(self, asked: Floats | None = None) -> _Inside:
        return _Inside(
            self._model,
            self._data,
            self._options,
            asked=asked,
            evidence=self._evidence,
            until=self._until,
            alerts=self._noted,
        )

    def _noted(self, alert: Alert) -> None:
        if alert.Action == "Block":
            self.refused[alert.Operation, alert.PolicyName] += 1


class _Inside:
    """The program in the sandbox, with a scratch directory that ends with it."""

    def __init__(
        self,
        model: Model,
        data: Labelled,
        options: Options,
        *,
        asked: Floats | None,
        evidence: Evidence | None,
        until: float,
        alerts: Any,
    ) -> None:
        self._model, self._data, self._options, self._asked = model, data, options, asked
        self._evidence, self._until, self._alerts = evidence, until, alerts

    def __enter__(self) -> _Inside:
        self._scratch = Path(tempfile.mkdtemp(prefix="modelarmor-redteam-")).resolve()
        try:
            self._start()
        except BaseException:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()
        os.close(self._made)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _start(self) -> None:
        tmp = self._scratch / "tmp"
        self._lay_out(tmp)
        profile = self._profile(tmp)
        python = interpreter(self._options.prefix)
        known = {"PATH": os.pathsep.join((str(python.parent), "/usr/bin", "/bin"))}
        inherited = {name: value for name, value in os.environ.items() if name in ("LANG", "TZ")}
        env = profile.environ({**inherited, **known})
        env |= {"PYTHONHASHSEED": "0", "TF_DETERMINISTIC_OPS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        pipe = subprocess.PIPE
        self._process = Sandbox.start(
            Workload(
                "redteam",
                [str(python), "-I", "-B", str(tmp / "attacker.py")],
                profile.policies,
                profile.posture,
                profile.network,
                self._limits(),
                env=env,
                cwd=tmp,
            ),
            alerts=self._alerts,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )
        self._output = Tail(self._process.stderr)
        self._talk = Conversation(self._process, self._until)

    def _lay_out(self, tmp: Path) -> None:
        """All of it before the start: nothing is written where the model can lay a link."""
        for name in ("given", "made"):
            (tmp / name).mkdir(parents=True)
        shutil.copy(ATTACKER, tmp / "attacker.py")
        # Who is asked is not told which inputs there were before somebody crafted others of them.
        units = self._data.units if self._asked is None else self._asked
        given = {"x": units, "low": self._data.low, "span": self._data.span}
        for name, array in given.items():
            (tmp / "given" / f"{name}.f32").write_bytes(array.astype("float32").tobytes())
        self._made = os.open(tmp / "made", os.O_RDONLY | os.O_DIRECTORY)

    def _profile(self, tmp: Path) -> Profile:
        root = self._model.root.resolve()
        if self._evidence is not None:
            return workload.filled(self._evidence, model=root, prefix=self._options.prefix, tmp=tmp)
        home = home_of(tmp)
        home.mkdir()
        # No workspace: what the profile says of one, that it is read only, must not be said of TMP.
        nothing = self._scratch / "workspace"
        nothing.mkdir()
        profile = profiles.load(
            PROFILE, workspace=nothing, home=Path.home(), tmp=tmp, prefix=self._options.prefix,
            model=root,
        )  # fmt: skip
        variables = {**profile.variables, **serving_variables(tmp), "HOME": str(home)}
        return replace(profile, variables=variables)

    def _limits(self) -> Resources:
        """An attack needs more than serving does, so not what the policy came with."""
        made = self._data.units.nbytes * 2
        return Resources(
            memory=self._options.memory, processes=512, open_files=4096, disk=made + (256 << 20)
        )

    # --- the conversation

    def load(self, *, attacks: bool) -> Mapping[str, Any]:
        artifact = self._model.artifact
        return self._ask(
            do="load",
            root=str(self._model.root.resolve()),
            loader=artifact.loader,
            files=[{"path": file.path, "format": file.format} for file in artifact.files][:200],
            shape=list(self._data.low.shape),
            attacks=attacks,
        )

    def craft(self, attack: Attack, count: int, epsilon: float = 0.0) -> tuple[Floats, int]:
        """What an attack made of the first `count` inputs, and how many queries it says it took."""
        import numpy

        said = self._ask(
            do="attack", attack=attack, epsilon=epsilon, samples=count, seed=self._options.seed,
            out="crafted",
        )  # fmt: skip
        shape = (count, *self._data.low.shape)
        made = self._take("crafted.f32", count * self._data.low.size * 4)
        units = numpy.frombuffer(made, "float32").reshape(shape)
        if not numpy.isfinite(units).all():
            raise RedTeamError(f"{attack}: what came out is no finite number")
        queries = said.get("queries")
        return units, queries if type(queries) is int and 0 <= queries < _MOST_QUERIES else 0

    def ask(self) -> list[str]:
        """Which class the model takes each input for that was laid out to be asked about."""
        import numpy

        assert self._asked is not None
        classes = self._ask(do="ask", file="x").get("classes")
        answers = numpy.frombuffer(
            self._take("answers.i32", len(self._asked) * 4), "int32"
        ).tolist()
        if type(classes) is int:
            return [str(answer) for answer in answers]
        if not isinstance(classes, list) or len(classes) > _MOST_CLASSES:
            raise RedTeamError("the model's classes are no list of names")
        names = [_text(name, 100) for name in classes]
        return [names[answer] if 0 <= answer < len(names) else "" for answer in answers]

    def _ask(self, **request: Any) -> Mapping[str, Any]:
        try:
            said = self._talk.ask(request)
        except Silent as reason:
            last = visible(self._output.last_line())
            raise RedTeamError(f"{reason}: {last}".rstrip(": ")) from None
        if error := _text(said.get("error"), 500):
            raise RedTeamError(visible(error, 500))
        return said

    def _take(self, name: str, size: int) -> bytes:
        """A file that the program made, of exactly the size that it has to have."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            with open(os.open(name, flags, dir_fd=self._made), "rb") as file:  # noqa: PTH123
                found = file.read(size + 1)
        except OSError as error:
            raise RedTeamError(f"what the model's process made cannot be read: {error}") from None
        if len(found) != size:
            raise RedTeamError(f"what the model's process made has not the {size} bytes it should")
        return found


def _text(value: Any, limit: int) -> str:
    return value[:limit] if isinstance(value, str) else ""
