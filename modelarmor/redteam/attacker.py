"""Loads a model, crafts inputs against it and asks it, as its parent says. Runs in the sandbox.

A program of its own, like the one that watches a model: it runs in the model's environment, which
need not have ModelArmor. It is told no labels, so a model that lies in this process cannot claim to
recognise what it does not. What leaves it are numbers, in files whose size the parent knows.

Attacks work in the unit cube, ``input = low + unit * span``, so that one epsilon means the same for
each feature. One JSON object a line on standard input, one answer each on standard output; what
the model prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

_BATCH = 64
#: inputs that show what kind of answers there are
_FIRST = 256
_FLOOR = 1e-12
_PGD_STEPS = 20
#: HopSkipJump: iterations, and queries for one estimate of a direction
_HOPS, _EVALUATIONS = 10, 200
#: random inputs among which HopSkipJump's first one is looked for
_TRIES = 100
_MOST_CLASSES = 1000


class _Session:
    """One model, and what it is asked."""

    def __init__(self, request: dict[str, Any]) -> None:
        import numpy

        self.root = Path(request["root"])
        self.loader: str = request["loader"]
        self.files: list[dict[str, str]] = request["files"]
        self.shape: tuple[int, ...] = tuple(request["shape"])
        self.low = numpy.fromfile("given/low.f32", "float32").reshape(self.shape)
        self.span = numpy.fromfile("given/span.f32", "float32").reshape(self.shape)
        self.batch = _BATCH
        self.queries = 0
        #: inputs, as the model takes them -> a row of scores each
        self.scores: Callable[[Any], Any]
        #: what its classes are called, where they are not simply counted
        self.classes: list[str] | None = None
        #: makes what the attack library takes, with gradients; None where the model has none
        self.with_gradients: Callable[[int], Any] | None = None

    def read(self, name: str) -> Any:
        import numpy

        return numpy.fromfile(f"given/{name}.f32", "float32").reshape((-1, *self.shape))

    def predict(self, units: Any) -> Any:
        """A row of scores for each input of the unit cube."""
        import numpy

        self.queries += len(units)
        inputs = (self.low + units * self.span).astype("float32")
        return numpy.concatenate(
            [self._some(inputs[at : at + self.batch]) for at in range(0, len(inputs), self.batch)]
        )

    def _some(self, inputs: Any) -> Any:
        import numpy

        try:
            return numpy.asarray(self.scores(inputs))
        except Exception:
            if len(inputs) == 1:
                raise
        # What was exported for inputs of one size takes no other.
        self.batch = 1
        return numpy.concatenate([numpy.asarray(self.scores(row[None])) for row in inputs])

    def load(self) -> int:
        """Load the model and see that it answers; how many classes it tells apart."""
        kind, model = _loaded(self)
        _ADAPTERS[kind](self, model)
        rows = self.predict(self.read("x")[:_FIRST])
        if rows.ndim != 2 or rows.shape[1] < 2:
            raise ValueError(f"it is no classifier: it answers with an array of shape {rows.shape}")
        return int(rows.shape[1])


# ---- loading -----------------------------------------------------------------------------------


def _loaded(session: _Session) -> tuple[str, Any]:
    """The library's own object, and which library's."""
    root = session.root
    if (root / "MLmodel").is_file():
        import mlflow.pyfunc
        from mlflow.models import Model

        # MLflow's own names: a Keras model may have been saved as the flavour tensorflow.
        for name in Model.load(str(root)).flavors:
            if name in _KINDS_OF:
                module = importlib.import_module(f"mlflow.{name}")
                return _KINDS_OF[name], module.load_model(str(root))
        return "function", mlflow.pyfunc.load_model(str(root)).predict
    file = root if root.is_file() else _main_file(session)
    if session.loader.startswith("torch."):
        return "torch", _torch_file(file)
    if session.loader.startswith("keras."):
        import keras

        # What the file carries runs in here; it is the sandbox that confines it.
        return "keras", keras.saving.load_model(file, safe_mode=False)
    if session.loader.startswith(("pickle.", "joblib.")):
        import joblib

        return "sklearn", joblib.load(file)
    raise ValueError(
        f"models that {session.loader or 'nothing'} loads are not attacked; name an MLflow model,"
        " or a file of torch, Keras or scikit-learn"
    )


_KINDS_OF = {"pytorch": "torch", "sklearn": "sklearn", "keras": "keras", "tensorflow": "keras"}


def _main_file(session: _Session) -> Path:
    names = [file["path"] for file in session.files if file["format"]]
    if len(names) != 1:
        raise ValueError("name the one file that is the model")
    return session.root / names[0]


def _torch_file(file: Path) -> Any:
    import torch

    try:
        return torch.jit.load(file, map_location="cpu")
    except RuntimeError:
        return torch.load(file, map_location="cpu", weights_only=False)


# ---- libraries ---------------------------------------------------------------------------------


def _adapt_torch(session: _Session, module: Any) -> None:
    import torch

    if not callable(module):
        raise ValueError("the file has weights and no model; save the whole module")
    with contextlib.suppress(NotImplementedError):  # what torch.export gives is for inference
        module.eval()
    low, span = torch.from_numpy(session.low), torch.from_numpy(session.span)

    def ask(inputs: Any) -> Any:
        with torch.no_grad():
            return module(torch.from_numpy(inputs)).numpy()

    session.scores = ask
    form = _form(session)

    def logits(inputs: Any) -> Any:
        found = module(inputs)
        if form == "logits":
            return found
        if form == "probabilities":
            return found.clamp_min(_FLOOR).log()
        one = found.reshape(-1, 1)
        one = one.sigmoid() if form == "logit" else one
        return torch.cat([1 - one, one], dim=1).clamp_min(_FLOOR).log()

    def scores(inputs: Any) -> Any:
        with torch.no_grad():
            return logits(torch.from_numpy(inputs)).numpy()

    session.scores = scores

    class Unit(torch.nn.Module):  # type: ignore[misc]
        """The model, asked about the unit cube."""

        def forward(self, units: Any) -> Any:
            return logits(low + units * span)

    def estimator(classes: int) -> Any:
        from art.estimators.classification import PyTorchClassifier

        return PyTorchClassifier(
            Unit(),
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=session.shape,
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )

    session.with_gradients = estimator


def _adapt_keras(session: _Session, model: Any) -> None:
    import tensorflow as tf

    session.scores = lambda inputs: model(tf.constant(inputs), training=False).numpy()
    form = _form(session)

    def logits(inputs: Any) -> Any:
        found = model(inputs, training=False)
        if form == "logits":
            return found
        if form == "probabilities":
            return tf.math.log(tf.maximum(found, _FLOOR))
        one = tf.reshape(found, (-1, 1))
        one = tf.math.sigmoid(one) if form == "logit" else one
        return tf.math.log(tf.maximum(tf.concat([1 - one, one], axis=1), _FLOOR))

    session.scores = lambda inputs: logits(tf.constant(inputs)).numpy()

    def unit(units: Any, training: bool = False) -> Any:
        return logits(session.low + units * session.span)

    def estimator(classes: int) -> Any:
        from art.estimators.classification import TensorFlowV2Classifier

        return TensorFlowV2Classifier(
            unit,
            nb_classes=classes,
            input_shape=session.shape,
            loss_object=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            clip_values=(0.0, 1.0),
        )

    session.with_gradients = estimator


def _form(session: _Session) -> str:
    """What a network answers with: ``logits``, ``probabilities``, or one number of either kind."""
    import numpy

    found = session.predict(session.read("x")[:_FIRST])
    unit = bool(((found >= 0) & (found <= 1)).all())
    if found.size == len(found):
        return "probability" if unit else "logit"
    sums = bool(numpy.allclose(found.sum(axis=-1), 1, atol=1e-3))
    return "probabilities" if unit and sums else "logits"


def _adapt_sklearn(session: _Session, model: Any) -> None:
    names = getattr(model, "feature_names_in_", None)
    classes = getattr(model, "classes_", None)
    if classes is None or not hasattr(model, "predict_proba"):
        _adapt_function(session, model.predict, names)
        return
    session.classes = [_label(item) for item in classes.tolist()]
    session.scores = lambda inputs: model.predict_proba(_frame(inputs, names))
    if not type(model).__module__.startswith(("sklearn.linear_model", "sklearn.svm")):
        return  # the library knows no gradient of others

    def estimator(_: int) -> Any:
        from art.estimators.classification import SklearnClassifier
        from art.estimators.estimator import LossGradientsMixin

        made = SklearnClassifier(
            model,
            clip_values=(0.0, 1.0),
            preprocessing=(-session.low / session.span, 1 / session.span),
        )
        if not isinstance(made, LossGradientsMixin):
            raise TypeError("the attack library knows no gradient of it")
        return made

    session.with_gradients = estimator


def _adapt_function(session: _Session, predict: Callable[[Any], Any], names: Any = None) -> None:
    """What can only be asked: an MLflow function, or an estimator without probabilities."""
    import numpy

    def scores(inputs: Any) -> Any:
        found = numpy.asarray(predict(_frame(inputs, names)))
        if found.ndim == 2 and found.shape[1] > 1:
            return found
        answers = [_label(item) for item in found.reshape(-1).tolist()]
        if session.classes is None:
            session.classes = sorted(set(answers))
            if len(session.classes) > _MOST_CLASSES or any("." in name for name in session.classes):
                raise ValueError("it is no classifier: its answers are no classes")
        known = {name: number for number, name in enumerate(session.classes)}
        rows = numpy.zeros((len(answers), len(known)), "float32")
        for number, name in enumerate(answers):
            if name in known:
                rows[number, known[name]] = 1
        return rows

    session.scores = scores


def _frame(inputs: Any, names: Any) -> Any:
    if names is None:
        return inputs
    import pandas

    return pandas.DataFrame(inputs, columns=list(names))


def _label(item: Any) -> str:
    """What a class is called; the parent calls labels the same (`modelarmor.redteam.data`)."""
    if isinstance(item, float) and item.is_integer():
        item = int(item)
    return str(item)[:100]


_ADAPTERS: dict[str, Callable[[_Session, Any], None]] = {
    "torch": _adapt_torch,
    "keras": _adapt_keras,
    "sklearn": _adapt_sklearn,
    "function": _adapt_function,
}


# ---- attacks -----------------------------------------------------------------------------------


class _Attacker:
    def __init__(self, session: _Session, classes: int) -> None:
        self._session = session
        self._classes = classes
        self._estimator: Any = None

    @property
    def gradients(self) -> str:
        """Why the model has no gradients; empty where it has."""
        make = self._session.with_gradients
        if make is None:
            return "the model gives no gradients"
        try:
            self._estimator = self._counted(make(self._classes))
            self._estimator.loss_gradient(self._session.read("x")[:1], _one_hot(0, self._classes))
        except Exception as error:
            return f"the model gives no gradients: {type(error).__name__}: {error}"[:300]
        return ""

    def _counted(self, estimator: Any) -> Any:
        """Count what an attack asks: answers and gradients."""
        for name in ("predict", "loss_gradient"):
            setattr(estimator, name, self._counting(getattr(estimator, name)))
        return estimator

    def _counting(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def counted(x: Any, *more: Any, **options: Any) -> Any:
            self._session.queries += len(x)
            return ask(x, *more, **options)

        return counted

    def craft(self, request: dict[str, Any]) -> int:
        """Write what an attack made of the inputs; how often the model was asked for it."""
        _seed(request["seed"])
        units = self._session.read("x")[: request["samples"]]
        self._session.queries = 0
        made = _ATTACKS[request["attack"]](self, units, request.get("epsilon", 0.0))
        made.astype("float32").tofile(f"made/{request['out']}.f32")
        return self._session.queries

    def fgsm(self, units: Any, epsilon: float) -> Any:
        from art.attacks.evasion import FastGradientMethod

        attack = FastGradientMethod(
            self._estimator, norm="inf", eps=epsilon, batch_size=self._session.batch
        )
        return attack.generate(units)

    def pgd(self, units: Any, epsilon: float) -> Any:
        from art.attacks.evasion.projected_gradient_descent import (
            projected_gradient_descent_numpy as pgd,
        )

        attack = pgd.ProjectedGradientDescentNumpy(
            self._estimator,
            norm="inf",
            eps=epsilon,
            eps_step=epsilon / 8,
            max_iter=_PGD_STEPS,
            num_random_init=1,
            batch_size=self._session.batch,
            verbose=False,
        )
        return attack.generate(units)

    def hopskipjump(self, units: Any, _: float) -> Any:
        """The nearest input that is taken for something else; asks only for the class."""
        from art.attacks.evasion import HopSkipJump
        from art.estimators.classification import BlackBoxClassifier

        estimator = BlackBoxClassifier(
            self._session.predict, units.shape[1:], self._classes, clip_values=(0.0, 1.0)
        )
        attack = HopSkipJump(
            estimator,
            norm="inf",
            max_iter=_HOPS,
            init_eval=_EVALUATIONS // 2,
            max_eval=_EVALUATIONS,
            verbose=False,
        )
        first = self._others(units)
        found = units.copy()
        for number, other in enumerate(first):
            if other is not None:  # without one there is nothing to begin with
                one = units[number : number + 1]
                found[number] = attack.generate(one, x_adv_init=other[None].copy())[0]
        return found

    def _others(self, units: Any) -> list[Any]:
        """For each input another that the model takes for something else; None where none is
        found. The library's own search cannot be repeated: it draws without a seed."""
        import numpy

        drawn = numpy.random.default_rng(0).random((_TRIES, *units.shape[1:]), "float32")
        pool = numpy.concatenate([self._session.read("x"), drawn])
        mine = self._session.predict(units).argmax(axis=1)
        theirs = self._session.predict(pool).argmax(axis=1)
        others: list[Any] = []
        for unit, answer in zip(units, mine, strict=True):
            usable = pool[theirs != answer]
            if not len(usable):
                others.append(None)
                continue
            distances = numpy.abs(usable - unit).reshape(len(usable), -1).max(axis=1)
            others.append(usable[distances.argmin()])
        return others


_ATTACKS = {
    "fgsm": _Attacker.fgsm,
    "pgd": _Attacker.pgd,
    "hopskipjump": _Attacker.hopskipjump,
}


def _one_hot(number: int, classes: int) -> Any:
    import numpy

    return numpy.eye(classes, dtype="float32")[[number]]


def _seed(seed: int) -> None:
    import sys

    import numpy

    random.seed(seed)
    numpy.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)
    if tensorflow := sys.modules.get("tensorflow"):
        tensorflow.random.set_seed(seed)


# ---- the conversation --------------------------------------------------------------------------


class _Conversation:
    def __init__(self) -> None:
        self._session: _Session | None = None
        self._attacker: _Attacker | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "load":
            return self._load(request)
        assert self._session is not None and self._attacker is not None
        if request["do"] == "attack":
            return {"queries": self._attacker.craft(request)}
        import numpy

        rows = self._session.predict(self._session.read(request["file"]))
        rows.argmax(axis=1).astype(numpy.int32).tofile("made/answers.i32")
        names = self._session.classes
        return {"classes": rows.shape[1] if names is None else names}

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        self._session = _Session(request)
        classes = self._session.load()
        self._attacker = _Attacker(self._session, classes)
        if not request["attacks"]:
            return {"classes": classes}
        try:
            import art
        except ImportError as error:
            return {
                "error": f"the attack library is missing in the model's environment ({error});"
                " run pip install 'modelarmor[redteam]' there"
            }
        return {
            "classes": classes,
            "no_gradients": self._attacker.gradients,
            "library": str(art.__version__)[:20],
        }


def _main() -> None:
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    conversation = _Conversation()
    for line in requests:
        try:
            answer = conversation.answer(json.loads(line))
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _main()
