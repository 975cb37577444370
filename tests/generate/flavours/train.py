"""Trains two small real models of a flavour, in a process of its own.

    python train.py FLAVOUR DIRECTORY

writes DIRECTORY/a and DIRECTORY/b: MLflow's directories, or single files as people pass them on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: MLflow would find these out by loading the model once more
PLAIN: dict[str, Any] = {"pip_requirements": []}


def _iris() -> Any:
    from sklearn.datasets import load_iris

    return load_iris(return_X_y=True, as_frame=True)


def _flowers() -> Any:
    """The same as arrays of single precision."""
    features, target = _iris()
    return features.to_numpy("float32"), target.to_numpy("int64")


def sklearn_skops(at: Path) -> None:
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, target = _iris()
    first = LogisticRegression(max_iter=500).fit(features, target)
    second = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    second.fit(features, target)
    mlflow.sklearn.save_model(first, at / "a", input_example=features[:3], **PLAIN)
    mlflow.sklearn.save_model(second, at / "b", input_example=features[:3], **PLAIN)


def sklearn_pickle(at: Path) -> None:
    import mlflow.sklearn
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.neighbors import KNeighborsClassifier

    features, target = _iris()
    forest = RandomForestClassifier(n_estimators=5, n_jobs=2).fit(features, target)
    neighbours = KNeighborsClassifier().fit(features, target)
    options = {"serialization_format": "pickle", "input_example": features[:3], **PLAIN}
    mlflow.sklearn.save_model(forest, at / "a", **options)
    mlflow.sklearn.save_model(neighbours, at / "b", **options)


def joblib_file(at: Path) -> None:
    import joblib
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.svm import SVC

    features, target = _iris()
    joblib.dump(SVC(probability=False).fit(features, target), at / "a.joblib", compress=3)
    regressor = GradientBoostingRegressor(n_estimators=5).fit(features, target)
    joblib.dump(regressor, at / "b.joblib")


def xgboost(at: Path) -> None:
    import mlflow.xgboost
    from xgboost import XGBClassifier, XGBRegressor

    features, target = _iris()
    first = XGBClassifier(n_estimators=4).fit(features, target)
    second = XGBRegressor(n_estimators=4).fit(features, target)
    mlflow.xgboost.save_model(first, at / "a", input_example=features[:3], **PLAIN)
    mlflow.xgboost.save_model(second, at / "b", input_example=features[:3], **PLAIN)


def lightgbm(at: Path) -> None:
    import mlflow.lightgbm
    from lightgbm import LGBMClassifier, LGBMRegressor

    features, target = _iris()
    first = LGBMClassifier(n_estimators=4, n_jobs=1, verbose=-1).fit(features, target)
    second = LGBMRegressor(n_estimators=4, verbose=-1).fit(features, target)
    mlflow.lightgbm.save_model(first, at / "a", input_example=features[:3], **PLAIN)
    mlflow.lightgbm.save_model(second, at / "b", input_example=features[:3], **PLAIN)


def catboost(at: Path) -> None:
    import mlflow.catboost
    from catboost import CatBoostClassifier, CatBoostRegressor

    features, target = _iris()
    options = {"iterations": 4, "verbose": False, "allow_writing_files": False}
    first = CatBoostClassifier(**options).fit(features, target)
    second = CatBoostRegressor(**options).fit(features, target)
    mlflow.catboost.save_model(first, at / "a", input_example=features[:3], **PLAIN)
    mlflow.catboost.save_model(second, at / "b", input_example=features[:3], **PLAIN)


def onnx(at: Path) -> None:
    import mlflow.onnx
    from skl2onnx import to_onnx
    from sklearn.linear_model import LinearRegression, LogisticRegression

    features, target = _flowers()
    first = LogisticRegression(max_iter=500).fit(features, target)
    second = LinearRegression().fit(features, target)
    options = {"zipmap": False}
    mlflow.onnx.save_model(
        to_onnx(first, features[:1], options=options), at / "a", input_example=features[:3], **PLAIN
    )
    mlflow.onnx.save_model(
        to_onnx(second, features[:1]), at / "b", input_example=features[:3], **PLAIN
    )


def pyfunc(at: Path) -> None:
    import mlflow.pyfunc

    package = at / "shapes_of_flowers"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import json\n\ndef area(frame):\n"
        "    return (frame.iloc[:, 0] * frame.iloc[:, 1]).tolist()\n"
    )
    sys.path.insert(0, str(at))
    import shapes_of_flowers

    features, _ = _iris()

    class Area(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return shapes_of_flowers.area(model_input)

    class Offset(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def load_context(self, context: Any) -> None:
            self.offset = float(Path(context.artifacts["offset"]).read_text())

        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return (model_input.iloc[:, 0] + self.offset).tolist()

    (at / "offset.txt").write_text("1.5")
    example = {"input_example": features[:3], **PLAIN}
    mlflow.pyfunc.save_model(at / "a", python_model=Area(), code_paths=[str(package)], **example)
    mlflow.pyfunc.save_model(
        at / "b", python_model=Offset(), artifacts={"offset": str(at / "offset.txt")}, **example
    )


_FROM_CODE = """
import mlflow
from mlflow.pyfunc import PythonModel


class Longest(PythonModel):
    def predict(self, context, model_input, params=None):
        return [len(str(row)) for row in model_input.iloc[:, 0]]


mlflow.models.set_model(Longest())
"""
_CHAIN = '''
import mlflow
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableLambda
from mlflow.pyfunc import PythonModel


class Chain(PythonModel):
    """A chain of LangChain's whose language model is a function: there is no network here."""

    def __init__(self):
        prompt = PromptTemplate.from_template("Tell of {subject}")
        self.chain = prompt | RunnableLambda(lambda asked: asked.to_string().upper())

    def predict(self, context, model_input, params=None):
        return [self.chain.invoke({"subject": row}) for row in model_input.iloc[:, 0]]


mlflow.models.set_model(Chain())
'''


def from_code(at: Path) -> None:
    import mlflow.pyfunc
    import pandas

    example = pandas.DataFrame({"text": ["roses", "violets"]})
    for name, code in (("a", _FROM_CODE), ("b", _CHAIN)):
        file = at / f"{name}_model.py"
        file.write_text(code)
        mlflow.pyfunc.save_model(at / name, python_model=str(file), input_example=example, **PLAIN)


def _perceptron() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3), torch.nn.Softmax(dim=1)
    ).eval()


def _convolution() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 4)), torch.nn.Conv1d(1, 2, 3), torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    ).eval()  # fmt: skip


def torch_pt2(at: Path) -> None:
    import mlflow.pytorch

    features, _ = _flowers()
    for name, model in (("a", _perceptron()), ("b", _convolution())):
        mlflow.pytorch.save_model(model, at / name, input_example=features[:3], **PLAIN)


def torch_pickle(at: Path) -> None:
    import mlflow.pytorch

    features, _ = _flowers()
    for name, model in (("a", _perceptron()), ("b", _convolution())):
        mlflow.pytorch.save_model(
            model, at / name, serialization_format="pickle", input_example=features[:3], **PLAIN
        )


def torchscript(at: Path) -> None:
    import torch

    features, _ = _flowers()
    for name, model in (("a", _perceptron()), ("b", _convolution())):
        torch.jit.save(torch.jit.trace(model, torch.as_tensor(features[:2])), at / f"{name}.pt")


def transformers(at: Path) -> None:
    import mlflow.transformers
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        PreTrainedTokenizerFast,
        pipeline,
    )

    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "roses", "are", "red", "violets"]
    known = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=known, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    classifier = pipeline("text-classification", model=model, tokenizer=tokenizer)
    mlflow.transformers.save_model(classifier, at / "a", input_example=["roses are red"], **PLAIN)
    model.save_pretrained(at / "b")
    tokenizer.save_pretrained(at / "b")


def _network() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3, "softmax")]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    features, target = _flowers()
    model.fit(features, target, epochs=1, verbose=0)
    return model


def _functional() -> Any:
    import keras

    entry = keras.Input((4,))
    middle = keras.layers.LayerNormalization()(entry)
    return keras.Model(entry, keras.layers.Dense(1)(middle))


def keras3(at: Path) -> None:
    import mlflow.keras
    from mlflow.models import infer_signature

    features, _ = _flowers()
    for name, model in (("a", _network()), ("b", _functional())):
        # MLflow 3.17 writes a Keras model's input example before there is a directory for it
        signature = infer_signature(features, model.predict(features[:3], verbose=0))
        mlflow.keras.save_model(model, str(at / name), signature=signature, **PLAIN)


def keras_h5(at: Path) -> None:
    for name, model in (("a", _network()), ("b", _functional())):
        model.save(at / f"{name}.h5")


def saved_model(at: Path) -> None:
    for name, model in (("a", _network()), ("b", _functional())):
        model.export(at / name, verbose=False)


FLAVOURS: dict[str, Callable[[Path], None]] = {
    train.__name__: train
    for train in (
        sklearn_skops, sklearn_pickle, joblib_file, xgboost, lightgbm, catboost, onnx, pyfunc,
        from_code, torch_pt2, torch_pickle, torchscript, transformers, keras3, keras_h5,
        saved_model,
    )
}  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    FLAVOURS[sys.argv[1]](Path(sys.argv[2]))
