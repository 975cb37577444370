"""Loads a model and asks it, phase by phase, as its parent says. Runs inside of the sandbox.

A program of its own: it must run in an environment that has no ModelArmor, so it imports nothing
but the standard library until it knows the model. Its word is not evidence. What it says (that a
phase ended, what the loader noted) is the model's word too, since the model runs in this process,
and the parent uses it only to tell phases apart.

One JSON object a line on standard input, one answer each on standard output. What the model itself
prints goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: notes are shortened here; the parent bounds the whole line again
_NOTE = 300
_TEXT = "a short text"


class _NotAsked(Exception):
    """The model cannot be asked anything: nobody knows what it takes."""


class _Task:
    """One model, its loader and what it is asked."""

    def __init__(self, root: Path, flavour: str, loader: str, files: list[dict[str, str]]) -> None:
        self.root = root
        self.flavour = flavour
        self.loader = loader
        self.files = files
        self.notes: list[str] = []
        self.given: Any = None
        self.asked = ""
        self.predict: Callable[[Any], Any] | None = None
        self.example: Callable[[], Any] = self._unknown

    @staticmethod
    def _unknown() -> Any:
        raise _NotAsked("nothing tells what it takes: no example, no signature, no shape")

    def load(self) -> None:
        if (self.root / "MLmodel").is_file():
            _load_mlflow(self)
            return
        kind = next((kind for name, kind in _KINDS.items() if self.loader.startswith(name)), "")
        if not kind:
            raise ValueError("no loader is known for it; name an MLflow model or one model file")
        directory = self.root if self.root.is_dir() else self.root.parent
        _LOADERS[kind](self, directory / self._main_file(kind))

    def _main_file(self, kind: str) -> str:
        """The file, or for what is a directory the file in it, that a loader is given."""
        if self.root.is_file():
            return self.root.name
        names = sorted((item["path"] for item in self.files), key=lambda n: (n.count("/"), n))
        formats = {item["path"]: item["format"].rpartition("+")[2] for item in self.files}
        wanted, called = _FORMATS[kind], _NAMES.get(kind)
        for name in names:
            if formats[name] in wanted or Path(name).name == called:
                return name
        raise ValueError(f"no file of {kind} is in it")

    def note(self, text: str) -> None:
        self.notes.append(text[:_NOTE])


# ---- MLflow's own directories ------------------------------------------------------------------


def _load_mlflow(task: _Task) -> None:
    import mlflow
    from mlflow.models import Model

    metadata = Model.load(str(task.root))
    if "python_function" in metadata.flavors:
        model = mlflow.pyfunc.load_model(str(task.root))
        task.predict = model.predict
    else:
        loaded = importlib.import_module(f"mlflow.{task.flavour}").load_model(str(task.root))
        task.predict = getattr(loaded, "predict", loaded)
    task.example = lambda: _mlflow_example(task, metadata)


def _mlflow_example(task: _Task, metadata: Any) -> Any:
    if metadata.saved_input_example_info:
        try:
            task.asked = "input_example"
            return metadata.load_input_example(str(task.root))
        except Exception as error:
            task.note(f"the input example cannot be read: {error}")
    signature = metadata.signature
    if signature is not None and signature.inputs is not None:
        task.asked = "signature"
        return _from_signature(signature.inputs)
    raise _NotAsked("the model has neither an input example nor a signature")


def _from_signature(schema: Any) -> Any:
    import numpy
    import pandas

    if schema.is_tensor_spec():
        tensors = {
            spec.name: numpy.zeros([1 if n < 0 else n for n in spec.shape], dtype=spec.type)
            for spec in schema.inputs
        }
        return tensors if schema.has_input_names() else next(iter(tensors.values()))
    if not schema.has_input_names():
        return pandas.DataFrame([[_of_type(spec.type) for spec in schema.inputs]])
    row = {spec.name: _of_type(spec.type) for spec in schema.inputs}
    frame = pandas.DataFrame([row])
    for spec in schema.inputs:
        numpy_type = getattr(spec.type, "to_numpy", None)
        if numpy_type is not None:
            frame[spec.name] = frame[spec.name].astype(numpy_type())
    return frame


def _of_type(kind: Any) -> Any:
    """A value of an MLflow type, by its name (mlflow.types.schema)."""
    import datetime

    name = getattr(kind, "name", type(kind).__name__).lower()
    if name == "array":
        return [_of_type(kind.dtype)]
    if name == "object":
        return {item.name: _of_type(item.dtype) for item in kind.properties}
    if name == "map":
        return {"key": _of_type(kind.value_type)}
    values: dict[str, Any] = {
        "boolean": True,
        "integer": 1,
        "long": 1,
        "float": 1.0,
        "double": 1.0,
        "binary": b"a",
        "datetime": datetime.datetime(2024, 1, 1),
    }
    return values.get(name, _TEXT)


# ---- single files, by what they are ------------------------------------------------------------


def _load_pickle(task: _Task, file: Path) -> None:
    import pickle

    with file.open("rb") as stream:
        head = stream.read(2)
        stream.seek(0)
        if file.suffix == ".joblib" or head[:1] != b"\x80":
            import joblib

            loaded = joblib.load(file)
        else:
            try:
                loaded = pickle.load(stream)
            except pickle.UnpicklingError:
                import joblib  # arrays beside the pickle

                loaded = joblib.load(file)
    _ask_estimator(task, loaded)


def _load_skops(task: _Task, file: Path) -> None:
    from skops import io

    trusted = io.get_untrusted_types(file=file)
    if trusted:
        task.note(f"skops types that had to be trusted: {', '.join(trusted)}")
    _ask_estimator(task, io.load(file, trusted=trusted))


def _ask_estimator(task: _Task, loaded: Any) -> None:
    """Scikit-learn's interface, which many others have too."""
    task.predict = getattr(loaded, "predict", None) or (loaded if callable(loaded) else None)
    names = getattr(loaded, "feature_names_in_", None)
    count = getattr(loaded, "n_features_in_", None)
    if count is None and hasattr(loaded, "parameters"):
        return  # a torch module: it takes anything
    if count is not None:

        def example() -> Any:
            import numpy

            rows = numpy.zeros((2, int(count)))
            if names is None:
                return rows
            import pandas

            return pandas.DataFrame(rows, columns=list(names))

        task.asked, task.example = "default", example


def _load_torch(task: _Task, file: Path) -> None:
    import zipfile

    import torch

    members = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else []
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in members):
        _ask_module(task, torch.jit.load(file, map_location="cpu"))
        return
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        task.note(f"weights_only=False was needed: {str(error).splitlines()[0]}")
        loaded = torch.load(file, map_location="cpu", weights_only=False)
    if callable(loaded):
        _ask_module(task, loaded)


def _load_pt2(task: _Task, file: Path) -> None:
    import torch

    program = torch.export.load(file)
    _ask_module(task, program.module())
    if program.example_inputs:
        task.asked = "default"
        positional, named = program.example_inputs
        module = program.module()
        task.example = lambda: positional
        task.predict = lambda given: module(*given, **named)


def _ask_module(task: _Task, module: Any) -> None:
    import torch

    def predict(given: Any) -> Any:
        tensor = given if isinstance(given, torch.Tensor) else torch.as_tensor(given)
        if tensor.dtype == torch.float64:
            tensor = tensor.float()
        with torch.no_grad():
            return module(tensor)

    task.predict = predict


def _load_keras(task: _Task, file: Path) -> None:
    import keras

    try:
        model = keras.saving.load_model(file, safe_mode=True)
    except Exception as error:
        task.note(f"safe_mode=False was needed: {str(error).splitlines()[0]}")
        model = keras.saving.load_model(file, safe_mode=False)

    def example() -> Any:
        import numpy

        shapes = [[n or 1 for n in spec.shape] for spec in model.inputs]
        types = [keras.backend.standardize_dtype(spec.dtype) for spec in model.inputs]
        arrays = [numpy.zeros(shape, kind) for shape, kind in zip(shapes, types, strict=True)]
        return arrays if len(arrays) > 1 else arrays[0]

    task.predict = lambda given: model.predict(given, verbose=0)
    task.asked, task.example = "default", example


def _load_saved_model(task: _Task, file: Path) -> None:
    import tensorflow

    model = tensorflow.saved_model.load(str(file.parent))
    if not model.signatures:
        return
    serve = next(iter(model.signatures.values()))
    specs = serve.structured_input_signature[1]

    def example() -> Any:
        def zeros(spec: Any) -> Any:
            shape = [n or 1 for n in spec.shape]
            if spec.dtype == tensorflow.string:
                return tensorflow.fill(shape, _TEXT)
            return tensorflow.zeros(shape, spec.dtype)

        return {name: zeros(spec) for name, spec in specs.items()}

    task.predict = lambda given: serve(
        **{name: tensorflow.cast(value, specs[name].dtype) for name, value in given.items()}
    )
    task.asked, task.example = "default", example


def _load_xgboost(task: _Task, file: Path) -> None:
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(file)
    names = booster.feature_names
    task.predict = lambda given: booster.predict(xgboost.DMatrix(given, feature_names=names))
    task.asked, task.example = "default", lambda: _zeros(booster.num_features())


def _load_lightgbm(task: _Task, file: Path) -> None:
    import lightgbm

    booster = lightgbm.Booster(model_file=str(file))
    task.predict = booster.predict
    task.asked, task.example = "default", lambda: _zeros(booster.num_feature())


def _load_catboost(task: _Task, file: Path) -> None:
    import catboost

    model = catboost.CatBoost()
    model.load_model(str(file))
    task.predict = model.predict
    task.asked, task.example = "default", lambda: _zeros(len(model.feature_names_))


def _zeros(features: int) -> Any:
    import numpy

    return numpy.zeros((2, features))


def _load_onnx(task: _Task, file: Path) -> None:
    import numpy
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    types = {
        "float": "float32",
        "double": "float64",
        "int64": "int64",
        "int32": "int32",
        "bool": "bool",
    }

    def example() -> Any:
        arrays = {}
        for item in session.get_inputs():
            shape = [n if isinstance(n, int) and n > 0 else 1 for n in item.shape]
            kind = item.type.removeprefix("tensor(").removesuffix(")")
            if kind == "string":
                arrays[item.name] = numpy.full(shape, _TEXT, dtype=object)
            else:
                arrays[item.name] = numpy.zeros(shape, types.get(kind, kind))
        return arrays

    task.predict = lambda given: session.run(None, given)
    task.asked, task.example = "default", example


def _load_transformers(task: _Task, file: Path) -> None:
    import torch
    import transformers

    directory = file.parent
    options = {"local_files_only": True, "trust_remote_code": False}
    model = transformers.AutoModel.from_pretrained(directory, **options).eval()

    def predict(given: Any) -> Any:
        with torch.no_grad():
            return model(input_ids=torch.as_tensor(given))

    task.predict = predict
    task.asked, task.example = "default", lambda: torch.zeros((1, 4), dtype=torch.long)


def _load_safetensors(task: _Task, file: Path) -> None:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as tensors:
        for name in tensors.keys():  # noqa: SIM118  not a mapping
            tensors.get_slice(name).get_shape()


def _load_gguf(task: _Task, file: Path) -> None:
    """Only its head: what runs such a file is no Python, and asks for a policy of its own."""
    import struct

    with file.open("rb") as stream:
        magic, version, tensors, pairs = struct.unpack("<4sIQQ", stream.read(24))
    if magic != b"GGUF":
        raise ValueError("the file does not begin as GGUF files do")
    task.note(f"GGUF {version}: {tensors} tensors and {pairs} facts were counted, none was used")


def _load_numpy(task: _Task, file: Path) -> None:
    import numpy

    numpy.load(file, allow_pickle=False)


_LOADERS: dict[str, Callable[[_Task, Path], None]] = {
    "pickle": _load_pickle,
    "skops": _load_skops,
    "torch": _load_torch,
    "pt2": _load_pt2,
    "keras": _load_keras,
    "saved-model": _load_saved_model,
    "xgboost": _load_xgboost,
    "lightgbm": _load_lightgbm,
    "catboost": _load_catboost,
    "onnx": _load_onnx,
    "transformers": _load_transformers,
    "safetensors": _load_safetensors,
    "gguf": _load_gguf,
    "numpy": _load_numpy,
}
#: how the artifact's loader is called -> which of ours does the same; the first that fits
_KINDS = {
    "tf.saved_model.load": "saved-model",
    "keras.models.load_model": "keras",
    "torch.export.load": "pt2",
    "torch.": "torch",
    "onnxruntime.": "onnx",
    "llama_cpp.": "gguf",
    "safetensors.": "safetensors",
    "skops.": "skops",
    "catboost.": "catboost",
    "lightgbm.": "lightgbm",
    "xgboost.": "xgboost",
    "joblib.": "pickle",
    "pickle.": "pickle",
    "numpy.": "numpy",
    "transformers.": "transformers",
}
#: what the bytes of the file are that a loader is given (`modelarmor.generate.artifact.formats`)
_FORMATS = {
    "pickle": {"pickle", "joblib", "gzip", "zlib", "bz2", "xz", "lzma", "lz4"},
    "skops": {"skops"},
    "torch": {"torch", "torchscript", "torch-legacy"},
    "pt2": {"pt2"},
    "keras": {"keras", "hdf5"},
    "saved-model": {"saved-model"},
    "xgboost": {"xgboost-ubj", "xgboost-json", "xgboost-binary"},
    "lightgbm": {"lightgbm"},
    "catboost": {"catboost"},
    "onnx": {"onnx"},
    "transformers": set(),
    "safetensors": {"safetensors"},
    "gguf": {"gguf"},
    "numpy": {"npy", "npz"},
}
_NAMES = {"saved-model": "saved_model.pb", "transformers": "config.json"}


# ---- what is asked -----------------------------------------------------------------------------


def _parse_given(given: Any) -> Any:
    """Input in the words of MLflow's scoring server: ``dataframe_split``, ``inputs`` …"""
    import numpy

    if not isinstance(given, dict):
        return numpy.asarray(given)
    if "dataframe_split" in given or "dataframe_records" in given:
        import pandas

        if "dataframe_records" in given:
            return pandas.DataFrame(given["dataframe_records"])
        split = given["dataframe_split"]
        return pandas.DataFrame(split["data"], columns=split.get("columns"))
    inner = given.get("inputs", given.get("instances", given))
    if isinstance(inner, dict):
        return {key: numpy.asarray(value) for key, value in inner.items()}
    return numpy.asarray(inner)


def _variants(example: Any) -> Iterator[Any]:
    """The same question in other sizes: as it is, its first row, all rows twice; and again."""
    while True:
        yield example
        for change in (_first, _twice):
            try:
                yield change(example)
            except Exception:
                yield example


def _first(rows: Any) -> Any:
    return rows[:1]


def _twice(rows: Any) -> Any:
    import numpy

    if type(rows).__module__.startswith("pandas"):
        import pandas

        return pandas.concat([rows, rows], ignore_index=True)
    if isinstance(rows, numpy.ndarray):
        return numpy.concatenate([rows, rows])
    return rows


def _serve(task: _Task, count: int) -> int:
    if task.predict is None:
        raise _NotAsked("what was loaded cannot be called: it is data")
    if task.given is not None:
        task.asked = "given"
        example = _parse_given(task.given)
    else:
        example = task.example()
    done = 0
    last: Exception | None = None
    for question in _variants(example):
        if done == count:
            break
        try:
            task.predict(question)
        except Exception as error:
            # A model may take exactly one size; the example as it is must work.
            if question is example:
                raise
            last = error
            task.predict(example)
        done += 1
    if last is not None:
        task.note(f"takes only the size of its example: {last}")
    return done


# ---- the conversation --------------------------------------------------------------------------


def _main() -> None:
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    task: _Task | None = None
    for line in requests:
        request = json.loads(line)
        phase = request["phase"]
        answer: dict[str, Any] = {"phase": phase}
        try:
            if phase == "start":
                for name in request["modules"]:
                    _import(name)
                task = _Task(
                    Path(request["root"]), request["flavour"], request["loader"], request["files"]
                )
                task.given = request["given"]
            elif task is not None and phase == "load":
                task.load()
            elif task is not None and phase == "serve":
                answer["predictions"] = _serve(task, request["count"])
                answer["input"] = task.asked
        except _NotAsked as reason:
            answer["not_asked"] = str(reason)
        except BaseException as error:
            answer["error"] = f"{type(error).__name__}: {error}"[:2000]
        if task is not None:
            answer["notes"] = task.notes[:20]
        print(json.dumps(answer), file=answers, flush=True)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name} is not installed here: {error}", file=sys.stderr)


if __name__ == "__main__":
    _main()
