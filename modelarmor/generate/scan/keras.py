"""Keras: what a model's configuration names, in ``.keras``, HDF5 and beside a SavedModel.

Keras builds whatever its configuration names. Its own layers are fine; a Lambda holds bytecode, and
a name outside of Keras is looked up, or imported (CVE-2025-1550, CVE-2025-9906).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from modelarmor.generate.artifact.data import Data
from modelarmor.generate.scan.budget import Budget
from modelarmor.generate.scan.pickles import allowed
from modelarmor.generate.scan.report import CARRIES, EXECUTE, READ, Report

_MAX_CONFIG: Final = 32 << 20
_MAX_NODES: Final = 500_000
#: where layers, losses and the like of Keras and its sisters come from
_PARTS: Final = re.compile(
    r"(tensorflow\.(python\.)?keras|keras|keras\.src|tf_keras(\.src)?|keras_hub\.src|keras_nlp\.src|"
    r"keras_cv\.src|keras_hub|keras_nlp|keras_cv)"
    r"\.(layers|models|initializers|regularizers|constraints|optimizers|losses|metrics|activations|"
    r"engine|random|dtype_policies|quantizers|samplers|tokenizers|callbacks\.history|src\.layers|"
    r"mixed_precision|trainers)(\.[a-z_0-9.]+)?"
)
_BUILTINS: Final = frozenset({"builtins", "", "None", "tensorflow", "tensorflow.python.framework",
                              "tensorflow.python.framework.dtypes", "keras", "numpy"})  # fmt: skip
_HARMLESS: Final = frozenset({"int", "float", "str", "bool", "tuple", "list", "dict", "slice",
                              "NoneType", "ndarray", "DType", "TensorShape", "Policy"})  # fmt: skip
#: of the top of Keras
_TOP: Final = re.compile(
    r"(tensorflow\.|tf_)?keras(\.src)?\.(Sequential|Model|Functional|Layer|Variable|DTypePolicy|"
    r"DTypePolicyMap|Quantizer|Initializer|Regularizer|Optimizer|Loss|Metric|KerasTensor|"
    r"FloatDTypePolicy|QuantizedDTypePolicy|QuantizedFloat8DTypePolicy)"
)
_CODE_CLASSES: Final = frozenset({"Lambda", "__lambda__"})
_GRAPH_CLASSES: Final = frozenset({"TFSMLayer", "TorchModuleWrapper", "FlaxLayer", "JaxLayer"})
_FETCHES: Final = re.compile(r"get_file|load_(model|weights|data|img|audio)|get_source_inputs")
_PATHS: Final = frozenset({"vocabulary", "filepath", "filename", "vocabulary_file", "merges",
                           "proto", "path"})  # fmt: skip
_BEGIN: Final = re.compile(rb'\{\s*"(class_name|module|config|name|registered_name|keras_version)"')


def look_config(report: Report, content: bytes, location: str) -> None:
    """Look at a configuration, which is JSON."""
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        report.incomplete(location, f"the configuration is no JSON: {str(error)[:200]}")
        return
    _look(report, config, location)
    report.inspected.add(location)


def look_within(report: Report, data: Data, location: str, budget: Budget) -> int:
    """Look at every configuration that stands somewhere in other bytes; returns how many."""
    found = 0
    at = 0
    decoder = json.JSONDecoder()
    while at < data.size and found < 1000:
        budget.tick()
        block = data.read(at, 1 << 20)
        match = _BEGIN.search(block)
        if match is None:
            at += max(1, len(block) - 64)
            if len(block) < 1 << 20:
                break
            continue
        start = at + match.start()
        length = 1 << 16
        end = 1
        while length <= _MAX_CONFIG:
            text = data.read(start, length).decode("latin-1")
            try:
                config, end = decoder.raw_decode(text)
            except (ValueError, RecursionError):
                if start + length >= data.size:
                    break
                length *= 8
                continue
            found += 1
            _look(report, config, f"{location}:{start}")
            break
        at = start + end
    if found >= 1000:
        report.incomplete(location, "more than a thousand configurations")
    return found


def _look(report: Report, config: Any, location: str) -> None:
    for node in _mappings(config, report, location):
        kind = node.get("class_name")
        if isinstance(kind, str):
            _look_object(report, node, kind, location)
        for key in _PATHS & node.keys():
            _look_path(report, key, node[key], location)


def _mappings(config: Any, report: Report, location: str) -> Iterator[dict[str, Any]]:
    """Every mapping, without recursion: a hostile one nests deeply. Strings may hold JSON too."""
    pending = [(config, 0)]
    count = 0
    while pending:
        node, texts = pending.pop()
        count += 1
        if count > _MAX_NODES:
            report.incomplete(location, "a configuration with too many parts")
            return
        if isinstance(node, dict):
            yield node
            pending += [(value, texts) for value in node.values()]
        elif isinstance(node, list):
            pending += [(value, texts) for value in node]
        elif isinstance(node, str) and texts < 2 and node[:1] == "{" and "class_name" in node:
            try:
                pending.append((json.loads(node), texts + 1))
            except (ValueError, RecursionError):
                continue


def _look_object(report: Report, node: dict[str, Any], kind: str, location: str) -> None:
    module = node.get("module")
    module = module if isinstance(module, str) else ""
    config = node.get("config")
    named = config if isinstance(config, str) else kind
    path = f"{module or '?'}.{named}"
    if kind in _CODE_CLASSES:
        report.add("keras-lambda", "high", "A Lambda layer carries code", location=location,
                   detail="bytecode, which runs when the model is loaded or asked; it needs"
                   " safe_mode=False", techniques=CARRIES)  # fmt: skip
    elif kind in _GRAPH_CLASSES:
        report.add("keras-foreign-model", "high", f"A layer ({kind}) loads a model from a path",
                   location=location, detail=json.dumps(config)[:300],
                   techniques=EXECUTE)  # fmt: skip
    elif _FETCHES.fullmatch(named) or ".get_file" in named:
        report.add("keras-fetch", "critical", "It names a function that fetches or reads files",
                   location=location, detail=path, techniques=EXECUTE)  # fmt: skip
    elif (
        module
        and not (_PARTS.fullmatch(module) or _TOP.fullmatch(f"{module}.{kind}"))
        and not (module in _BUILTINS and (named in _HARMLESS or kind in _HARMLESS))
    ):
        _look_foreign(report, node, module, named, location)
    elif ">" in kind or (not module and "." in kind):
        report.add("keras-custom-object", "medium", f"It needs a custom object, {kind[:100]}",
                   location=location, detail="code from elsewhere is registered under this name",
                   techniques=CARRIES)  # fmt: skip


def _look_foreign(
    report: Report, node: dict[str, Any], module: str, named: str, location: str
) -> None:
    path = f"{module}.{named}"
    if allowed.grade(module, named) == "danger":
        report.add("keras-executes", "critical", f"Its configuration names {path}"[:200],
                   location=location, techniques=EXECUTE,
                   detail="Keras imports and calls what a configuration names")  # fmt: skip
    elif module in ("builtins", "__main__") or node.get("registered_name"):
        report.add("keras-custom-object", "medium", f"It needs a custom object, {path}"[:200],
                   location=location, detail="code from elsewhere is registered under this name",
                   techniques=CARRIES)  # fmt: skip
    else:
        report.add("keras-foreign-name", "high", f"Its configuration names {path}"[:200],
                   location=location, techniques=EXECUTE,
                   detail="no part of Keras; Keras may import it")  # fmt: skip


def _look_path(report: Report, key: str, value: Any, location: str) -> None:
    if not isinstance(value, str) or not value:
        return
    if value.startswith(("/", "~", "\\")) or "://" in value or ".." in value.split("/"):
        report.add("keras-reads-file", "high", "A layer reads a file or an address from outside",
                   location=location, detail=f"{key}: {value[:200]}", techniques=READ)  # fmt: skip
