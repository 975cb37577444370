"""Text: JSON, YAML, XML, templates and the rest, for what a loader does with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from modelarmor.generate.artifact.data import Data
from modelarmor.generate.scan import templates
from modelarmor.generate.scan.pickles import allowed
from modelarmor.generate.scan.report import CARRIES, EXECUTE, READ, Report, clip

_MAX: Final = 64 << 20
_MAX_NODES: Final = 5_000_000
#: names after `_target_`; each is looked up
_MAX_TARGETS: Final = 10_000
#: keys by which transformers, diffusers and peft import code that a model brings or names
_REMOTE: Final = {
    "auto_map": "transformers imports these classes where remote code is trusted",
    "custom_pipelines": "transformers imports these pipelines where remote code is trusted",
    "custom_generate": "transformers runs this generation loop where remote code is trusted",
    "auto_mapping": "peft imports this module",
}
_TARGET: Final = re.compile(r"""["']?_target_["']?\s*[:=]\s*["']?([\w.]+)""")
_PYTHON_TAG: Final = re.compile(r"!!python/|!python/|tag:yaml\.org,2002:python")


def look(report: Report, data: Data, location: str, kind: str) -> None:
    """Look at a text.

    Args:
        report: takes the findings.
        data: the text, in UTF-8.
        location: what to call it.
        kind: as `modelarmor.generate.artifact.formats` has it.
    """
    if data.size > _MAX:
        report.incomplete(location, f"{data.size} bytes of text")
        return
    text = data.read(0, _MAX).decode("utf-8", "replace")
    if kind in ("json", "notebook"):
        _look_json(report, text, location)
    elif "{{" in text or "{%" in text:
        templates.look(report, text, location)
    if kind == "notebook":
        report.add("notebook", "medium", "It carries a notebook", location=location,
                   techniques=CARRIES)  # fmt: skip
    if kind in ("xml", "text") and re.search(r"<!(ENTITY|DOCTYPE[^>]*\[|DOCTYPE[^>]*SYSTEM)", text):
        report.add("xml-entity", "high", "XML that defines entities", location=location,
                   detail="a reader may fetch or expand them", techniques=READ)  # fmt: skip
    if _PYTHON_TAG.search(text):
        report.add("yaml-python-tag", "high", "YAML that makes Python objects", location=location,
                   techniques=EXECUTE)  # fmt: skip
    _look_targets(report, text, location)
    if kind == "script":
        report.add("script", "medium", "It carries a script", location=location,
                   detail=text.partition("\n")[0], techniques=CARRIES)  # fmt: skip
    report.inspected.add(location)


def _look_targets(report: Report, text: str, location: str) -> None:
    targets: dict[str, None] = {}
    for found in _TARGET.finditer(text):
        targets[found[1]] = None
        if len(targets) > _MAX_TARGETS:
            report.incomplete(location, f"it names more than {_MAX_TARGETS} targets")
            break
    for path in targets:
        _look_target(report, path, location)


def _look_target(report: Report, path: str, location: str) -> None:
    """Hydra's and NeMo's `_target_`: what is instantiated."""
    module, _, name = path.rpartition(".")
    grade = allowed.grade(module, name) if module else "unknown"
    if grade == "danger":
        report.add("config-executes", "critical", f"A configuration calls {path}"[:200],
                   location=location, techniques=EXECUTE)  # fmt: skip
    elif grade == "unknown":
        report.add("config-instantiates", "low", "A configuration names what is instantiated",
                   location=location, detail=path)  # fmt: skip


def _look_json(report: Report, text: str, location: str) -> None:
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except RecursionError:
        report.incomplete(location, "it nests more deeply than is read")
        return
    except ValueError as error:
        report.add("json-malformed", "low", "It is no JSON", location=location,
                   detail=str(error)[:200])  # fmt: skip
        if "{{" in text or "{%" in text:
            templates.look(report, text.encode().decode("unicode_escape", "replace"), location)
        return
    seen: set[str] = set()
    for count, (key, item) in enumerate(_items(value)):
        if count >= _MAX_NODES:
            report.incomplete(location, f"more than {_MAX_NODES} values")
            break
        if isinstance(item, str) and ("{{" in item or "{%" in item) and item not in seen:
            seen.add(item)
            templates.look(report, item, f"{location}!{clip(key)[:60]}")
        elif key in _REMOTE and item:
            report.add("remote-code", "high", "It asks for code that comes with the model",
                       location=location, techniques=CARRIES,
                       detail=f"{key}: {_REMOTE[key]}: {json.dumps(item)[:300]}")  # fmt: skip
        elif key == "trust_remote_code" and item is True:
            report.add("remote-code", "high", "It asks for code that comes with the model",
                       location=location, detail=key, techniques=CARRIES)  # fmt: skip
        elif key == "class_name" and item in ("Lambda", "TFSMLayer", "__lambda__"):
            report.add("keras-lambda", "high", "A Lambda layer carries code",
                       location=location, detail=str(item), techniques=CARRIES)  # fmt: skip


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Each key with its value, and each item of a list with its list's key."""
    pending: list[tuple[str, Any]] = [("", value)]
    while pending:
        key, item = pending.pop()
        yield key, item
        if isinstance(item, dict):
            pending += [(str(name), inner) for name, inner in item.items()]
        elif isinstance(item, list):
            pending += [(key, inner) for inner in item]
