"""What can load the artifact: MLflow's word for it where there is an MLmodel, else its files'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from modelarmor.generate.artifact.mlmodel import MLmodel
from modelarmor.generate.evidence import ArtifactFile

#: format -> flavour and what loads it; the first that a file has wins
_BY_FORMAT: Final[Mapping[str, tuple[str, str]]] = {
    "saved-model": ("tensorflow", "tf.saved_model.load"),
    "keras": ("keras", "keras.models.load_model"),
    "hdf5": ("keras", "keras.models.load_model"),
    "pt2": ("pytorch", "torch.export.load"),
    "torchscript": ("pytorch", "torch.jit.load"),
    "torch": ("pytorch", "torch.load"),
    "torch-legacy": ("pytorch", "torch.load"),
    "onnx": ("onnx", "onnxruntime.InferenceSession"),
    "gguf": ("gguf", "llama_cpp.Llama"),
    "safetensors": ("safetensors", "safetensors.safe_open"),
    "skops": ("sklearn", "skops.io.load"),
    "catboost": ("catboost", "catboost.CatBoost.load_model"),
    "lightgbm": ("lightgbm", "lightgbm.Booster"),
    "xgboost-ubj": ("xgboost", "xgboost.Booster.load_model"),
    "xgboost-json": ("xgboost", "xgboost.Booster.load_model"),
    "xgboost-binary": ("xgboost", "xgboost.Booster.load_model"),
    "tflite": ("tflite", "tf.lite.Interpreter"),
    "joblib": ("joblib", "joblib.load"),
    "pickle": ("pickle", "pickle.load"),
    "npz": ("numpy", "numpy.load"),
    "npy": ("numpy", "numpy.load"),
}
#: packages whose objects a pickle holds, in the order in which they are looked for
_PICKLED: Final = ("sklearn", "xgboost", "lightgbm", "catboost", "torch", "langchain", "keras")


@dataclass(frozen=True, slots=True)
class Flavour:
    """Names as in `modelarmor.generate.evidence.Artifact`."""

    name: str
    all: tuple[str, ...] = ()
    loader: str = ""


def of(
    files: Sequence[ArtifactFile], mlmodel: MLmodel | None, hints: Mapping[str, Iterable[str]]
) -> Flavour:
    """The flavour of an artifact.

    Args:
        files: what it has.
        mlmodel: its MLmodel, where there is one at the top.
        hints: path -> words that a file's beginning has: packages in a pickle, keys of a JSON.
    """
    if mlmodel is not None:
        return _of_mlmodel(mlmodel)
    found: dict[str, str] = {}
    if loader := _transformers(files, hints):
        found["transformers"] = loader
    for file in files:
        if file.path.rpartition("/")[2] == "saved_model.pb":
            found.setdefault("tensorflow", "tf.saved_model.load")
    for kind, (flavour, loader) in _BY_FORMAT.items():
        for file in files:
            if file.format.rpartition("+")[2] != kind:
                continue
            words = set(hints.get(file.path, ()))
            of_package = next((name for name in _PICKLED if name in words), "")
            if kind in ("joblib", "pickle") and of_package:
                named = {"torch": "pytorch"}.get(of_package, of_package)
                found.setdefault(named, loader)
            found.setdefault(flavour, loader)
    if any("lc" in set(hints.get(file.path, ())) for file in files):
        found.setdefault("langchain", "langchain_core.load.load")
    if any(file.format == "python" for file in files):
        found.setdefault("python", "")
    names = tuple(found)
    return Flavour(names[0], names, found[names[0]]) if names else Flavour("unknown")


def _of_mlmodel(mlmodel: MLmodel) -> Flavour:
    names = [name for name in mlmodel.flavors if name != "python_function"]
    first = names[0] if names else "pyfunc"
    if first == "tensorflow" and str(mlmodel.flavors[first].get("model_type")) == "keras":
        first = "keras"
    every = [first, *names]
    if mlmodel.is_from_code:
        every.append("models-from-code")
    if mlmodel.pyfunc:
        every.append("python_function")
    loader = mlmodel.loader_module or f"mlflow.{first}"
    return Flavour(first, tuple(dict.fromkeys(every)), loader)


def _transformers(files: Sequence[ArtifactFile], hints: Mapping[str, Iterable[str]]) -> str:
    for file in files:
        words = set(hints.get(file.path, ()))
        if file.path.rpartition("/")[2] == "config.json" and words & {
            "model_type",
            "architectures",
        }:
            remote = "auto_map" in words
            return f"transformers.AutoModel.from_pretrained{' with remote code' if remote else ''}"
    return ""
