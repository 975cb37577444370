"""What MLflow would do with the model: run its code, import what it names, build its environment.

No scanner reads these, and each runs code when the model is loaded, even where pickles are
forbidden. Facts: mlflow 3.17 `pyfunc/__init__.py`, `pytorch/__init__.py`, `tensorflow/__init__.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from modelarmor import _yaml
from modelarmor.generate.artifact import mlmodel
from modelarmor.generate.scan import requirements
from modelarmor.generate.scan.pickles import allowed
from modelarmor.generate.scan.report import CARRIES, EVADE, EXECUTE, HIJACK, SUPPLY, Report

_LOADERS: Final = re.compile(r"mlflow(\.[a-z][a-z0-9_]*){1,3}")
#: what MLflow writes there itself
_PICKLE_MODULES: Final = frozenset(
    {"mlflow.pytorch.pickle_module", "pickle", "cloudpickle", "dill"}
)
_KERAS_MODULES: Final = frozenset({"keras", "tensorflow.keras", "tf_keras", "tf.keras"})
#: fields of a flavour that are paths within the model
_PATHS: Final = frozenset({
    "model_path", "data", "pickled_model", "model_data", "code", "python_model", "artifact_path",
    "model_binary", "saved_model_dir", "tokenizer", "preprocessor", "components", "loader_arg",
    "persist_dir", "loader_fn", "agent", "tools", "model_code_path", "model_config", "conda",
    "virtualenv",
    "engine_config", "input_example", "artifact", "path",
})  # fmt: skip
_MAX_NODES: Final = 100_000
#: the names of the other files that it reads, wherever they lie, and how large one may be
_BESIDE: Final = frozenset({
    "pickle_module_info.txt", "keras_module.txt", "requirements.txt", "constraints.txt",
    "conda.yaml", "conda.yml", "environment.yml", "environment.yaml", "python_env.yaml",
})  # fmt: skip
_MAX_BYTES: Final = 1 << 20
#: as what a file that MLmodel names for an environment is read, and how it must be called for that
_ENVIRONMENTS: Final[Mapping[str, frozenset[str]]] = {
    "virtualenv": frozenset({"python_env.yaml"}),
    "conda": frozenset({"conda.yaml", "conda.yml", "environment.yml", "environment.yaml"}),
}


class Places:
    """Which files of an MLflow model are loaded as code."""

    def __init__(self, model: mlmodel.MLmodel | None) -> None:
        self._run: set[str] = set()
        self._directories: set[str] = set()
        for flavor in model.flavors.values() if model else ():
            code = flavor.get("code")
            if isinstance(code, str) and code:
                self._directories.add(code.strip("/") + "/")
            script = flavor.get("model_code_path")
            if isinstance(script, str):
                self._run |= {script, script.rpartition("/")[2]}

    def runs(self, path: str) -> bool:
        """Whether loading the model can run this file."""
        return path in self._run or path.startswith(tuple(self._directories))


def look(report: Report, content: bytes, location: str) -> mlmodel.MLmodel | None:
    """Look at an MLmodel.

    Args:
        report: takes the findings.
        content: of the file.
        location: what to call it.
    """
    try:
        model = mlmodel.loads(content)
    except mlmodel.MLmodelError as error:
        report.add("mlmodel-unreadable", "high", "MLmodel is no plain description of a model",
                   location=location, detail=str(error)[:300], techniques=EVADE)  # fmt: skip
        return None
    _look_loader(report, model, location)
    _look_environment(report, model.pyfunc.get("env"), location)
    for flavor in model.flavors.values():
        _look_flavor(report, flavor, location)
    for key, path in _paths(model.fields):
        # MLflow keeps in model_code_path where the script came from
        if key != "model_code_path" and _leads_out(path):
            report.add("mlmodel-traversal", "high", "MLmodel names a path outside of the model",
                       location=location, detail=f"{key}: {path[:200]}",
                       techniques=HIJACK)  # fmt: skip
    report.inspected.add(location)
    return model


def _leads_out(path: str) -> bool:
    return path.startswith(("/", "~", "\\")) or ".." in re.split(r"[/\\]", path)


def _look_loader(report: Report, model: mlmodel.MLmodel, location: str) -> None:
    loader = model.loader_module
    if loader and not _LOADERS.fullmatch(loader):
        report.add(
            "mlmodel-loader-module", "high", "MLmodel names a loader that is not MLflow's",
            location=location, techniques=EXECUTE,
            detail=f"loader_module: {loader[:200]} is imported and run, from the model's own code"
            " where it has some, whatever is forbidden to pickles",
        )  # fmt: skip
    if model.is_from_code:
        report.add("mlmodel-from-code", "high", "Loading it runs a script of the model",
                   location=location, detail="models from code: model_code_path",
                   techniques=CARRIES)  # fmt: skip


def _look_environment(report: Report, env: Any, location: str) -> None:
    """MLflow builds from whatever file is named; one of another name is not looked at as such."""
    named = env if isinstance(env, Mapping) else {"conda": env}
    for manager, called in _ENVIRONMENTS.items():
        file = named.get(manager)
        if file is not None and str(file).rpartition("/")[2] not in called:
            report.add(
                "mlmodel-environment", "high", "The environment is described by an unusual file",
                location=location, techniques=SUPPLY,
                detail=f"env: {manager}: {str(file)[:200]} is what MLflow installs from, and is"
                f" looked at only where it is called {' or '.join(sorted(called))}",
            )  # fmt: skip


def _look_flavor(report: Report, flavor: Mapping[str, Any], location: str) -> None:
    code = flavor.get("code")
    if code:
        report.add(
            "mlmodel-code-paths", "high", "MLmodel puts code of the model first on Python's path",
            location=location, techniques=HIJACK,
            detail=f"code: {str(code)[:200]}: a module there can stand in for any other",
        )  # fmt: skip
    trusted = flavor.get("skops_trusted_types")
    for kind in trusted if isinstance(trusted, list) else ():
        module, _, kind_name = str(kind).rpartition(".")
        grade = allowed.grade(module, kind_name)
        if grade not in ("construct", "fill"):
            report.add(
                "mlmodel-trusted-type", "critical" if grade == "danger" else "high",
                f"The model declares a type of its own choice safe: {kind}"[:200],
                location=location, detail="skops_trusted_types", techniques=EXECUTE,
            )  # fmt: skip
    own = flavor.get("pickle_module_name") or flavor.get("pickle_module")
    if isinstance(own, str) and own not in _PICKLE_MODULES:
        _look_pickle_module(report, own, location)
    cls = flavor.get("model_class")
    if isinstance(cls, str) and "." in cls:
        module, _, cls_name = cls.rpartition(".")
        if allowed.grade(module, cls_name) not in ("construct", "fill"):
            report.add("mlmodel-model-class", "high", f"MLmodel names a class to make: {cls}"[:200],
                       location=location, techniques=EXECUTE)  # fmt: skip


def _paths(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    pending: list[tuple[str, Any]] = list(fields.items())
    count = 0
    while pending and count < _MAX_NODES:
        key, value = pending.pop()
        count += 1
        if isinstance(value, Mapping):
            pending += [(str(name), item) for name, item in value.items()]
        elif isinstance(value, list):
            pending += [(key, item) for item in value]
        elif isinstance(value, str) and (key in _PATHS or key.endswith(("_path", "_dir", "_file"))):
            yield key, value


def _look_pickle_module(report: Report, module: str, location: str) -> None:
    report.add("mlflow-pickle-module", "high", "A module that the model names is imported first",
               location=location, detail=f"{module[:200]}: MLflow imports it before it loads",
               techniques=EXECUTE)  # fmt: skip


def look_beside(report: Report, path: str, content: bytes) -> bool:
    """Look at a file that MLflow reads for what it names; returns whether it is one.

    Args:
        report: takes the findings.
        path: of the file.
        content: of it; a byte more than a mebibyte tells that there is more.
    """
    name = path.rpartition("/")[2]
    if name not in _BESIDE or not content:
        return False
    if len(content) > _MAX_BYTES:
        # what matters may stand behind any length of blanks
        report.incomplete(path, f"it has more than {_MAX_BYTES} bytes")
        return True
    text = content.decode("utf-8", "replace")
    if name == "pickle_module_info.txt":
        if text.strip() not in _PICKLE_MODULES:
            _look_pickle_module(report, text.strip(), path)
    elif name == "keras_module.txt":
        if text.strip() not in _KERAS_MODULES:
            _look_pickle_module(report, text.strip(), path)
    elif name in ("requirements.txt", "constraints.txt"):
        requirements.look_lines(report, text, path)
    elif name == "python_env.yaml":
        _look_yaml(report, content, path, requirements.look_python_env)
    else:
        _look_yaml(report, content, path, requirements.look_conda)
    report.inspected.add(path)
    return True


def _look_yaml(report: Report, content: bytes, path: str, look: Any) -> None:
    try:
        value = _yaml.loads(content, _MAX_BYTES)
    except ValueError as error:
        report.add("yaml-tricks", "high", "A description of an environment that is no plain YAML",
                   location=path, detail=str(error)[:200], techniques=EVADE)  # fmt: skip
        return
    look(report, value, path)
