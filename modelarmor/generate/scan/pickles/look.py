"""What a pickle does, as findings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from modelarmor.generate.artifact.data import Data, Part
from modelarmor.generate.evidence import Severity
from modelarmor.generate.scan.pickles import allowed
from modelarmor.generate.scan.pickles.machine import Machine, Reading, Use
from modelarmor.generate.scan.pickles.values import Call, Global, shown
from modelarmor.generate.scan.report import CARRIES, EVADE, EXECUTE, EXHAUST, Report

#: streams in one file that are followed
_MAX_STREAMS: Final = 64
_MAX_NESTED: Final = 10_000
_MAX_DEPTH: Final = 8
#: torch/serialization.py, MAGIC_NUMBER
_TORCH_MAGIC: Final = 0x1950A86A20F9469CFC6C
#: words in bytecode that are worth a reviewer's look
_TELLING: Final = re.compile(
    r"(?:os|posix|subprocess|socket|requests|urllib\S*|httpx|ctypes|shutil|pty|paramiko|base64|"
    r"marshal|pickle|importlib|builtins|__import__|exec|eval|compile|system|popen|Popen|getattr|"
    r"setattr|environ|connect|urlopen|open|unlink|rmtree|chmod|\.ssh\S*|/etc/\S+|https?://\S+)"
)


def look(
    report: Report,
    data: Data,
    location: str,
    *,
    expected: bool,
    tick: Callable[[], None],
    start: int = 0,
    depth: int = 0,
    torch: bool = False,
    script: bool = False,
) -> bool:
    """Follow every pickle at the start of `data`, as each loader would.

    Args:
        report: takes the findings.
        data: the file.
        location: what to call it.
        expected: it says that it is a pickle, so that not being one is a finding.
        tick: called now and then; may raise.
        start: where the first one begins.
        depth: pickles around this one.
        torch: persistent references are torch's, to storages.
        script: it lies in a TorchScript archive, whose own code defines ``__torch__.…``.

    Returns:
        Whether there was a pickle.
    """
    first = Machine(data, start, tick=tick).run()
    if not expected and not _is_pickle(data, first, start):
        return False
    main = _as_joblib(data, start, first, tick)
    following = _following(data, main, tick)
    if len(following) == _MAX_STREAMS:
        report.incomplete(location, f"more than {_MAX_STREAMS} pickles, one behind another")
    readings = [first, *([] if main is first else [main]), *following]
    for reading in readings:
        _tell(report, reading, location, torch=torch, script=script)
    if main is not first and first.how == "stop":
        report.add(
            "pickle-parser-divergence", "high", "It means one thing to joblib, another to pickle",
            location=location, techniques=EVADE,
            detail="read as pickle reads it, it ends where joblib reads an array",
        )  # fmt: skip
    _end(report, data, location, main, readings)
    for reading in readings:
        if len(reading.nested) > _MAX_NESTED:
            report.incomplete(location, f"more than {_MAX_NESTED} pickles within it")
        if reading.nested and depth > _MAX_DEPTH:
            report.incomplete(location, f"pickles within pickles, more than {_MAX_DEPTH} deep")
            continue
        for stretch in reading.nested[:_MAX_NESTED]:
            within = Part(data, stretch.offset, stretch.size)
            look(report, within, f"{location}:{stretch.offset}", expected=True, tick=tick,
                 depth=depth + 1, torch=torch)  # fmt: skip
    if main.how == "stop":
        report.inspected.add(location)
    return True


def _as_joblib(data: Data, start: int, first: Reading, tick: Callable[[], None]) -> Reading:
    """What joblib, which reads arrays between the opcodes, makes of it; else what pickle does."""
    if any(module.startswith("joblib") for module, _ in first.uses):
        reading = Machine(data, start, joblib=True, tick=tick).run()
        if reading.arrays:
            return reading
    return first


def _is_pickle(data: Data, reading: Reading, start: int) -> bool:
    """Whether bytes that nobody calls a pickle are one: they end as one, or get somewhere."""
    if any(_is_name(module, name) for module, name in reading.uses):
        return True
    head = data.read(start, 2)
    if head[:1] == b"\x80" and len(head) == 2 and head[1] <= 5:
        return reading.how in ("stop", "limit") or reading.opcodes > 8
    return reading.how == "stop" and reading.opcodes > 3 and reading.end == data.size


def _is_name(module: str, name: str) -> bool:
    return all(part.isidentifier() for part in f"{module}.{name}".split("."))


def _following(data: Data, before: Reading, tick: Callable[[], None]) -> list[Reading]:
    """Further pickles behind the first: whoever calls load() again gets them."""
    found: list[Reading] = []
    # torch's older format: five pickles, then storages, in which anything can look like one
    most = 4 if before.value == _TORCH_MAGIC else _MAX_STREAMS
    while before.how == "stop" and before.end < data.size and len(found) < most:
        nxt = Machine(data, before.end, tick=tick).run()
        if nxt.opcodes < 2 or (nxt.how == "invalid" and not nxt.uses):
            break
        found.append(nxt)
        before = nxt
    return found


def _end(report: Report, data: Data, location: str, main: Reading, readings: list[Reading]) -> None:
    """How it ended, where that is worth a word."""
    if main.how == "limit":
        report.incomplete(f"{location}:{main.end}", main.note)
    elif main.how in ("truncated", "invalid"):
        report.add(
            "pickle-broken", "medium", "A pickle does not end as one should", location=location,
            detail=f"at byte {main.end}: {main.note}; what stands before is run all the same",
            techniques=EVADE,
        )  # fmt: skip
    else:
        last = max(readings, key=lambda reading: reading.end if reading.how == "stop" else 0)
        rest = data.size - last.end
        legacy = readings[0].value == _TORCH_MAGIC
        if rest > 0 and not legacy and data.read(last.end, min(rest, 4096)).strip(b"\0\r\n "):
            report.add(
                "pickle-trailing-data", "medium", "Bytes follow the end of the pickle",
                location=f"{location}:{last.end}", techniques=EVADE,
                detail=f"{rest} bytes that no unpickler reads; another reader may",
            )  # fmt: skip


_ODD: Final[dict[str, tuple[Severity, str, tuple[str, ...]]]] = {
    "pickle-parser-divergence": ("high", "Unpicklers disagree on what it says", EVADE),
    "pickle-computed-name": ("high", "It imports a name that is computed", EVADE),
    "pickle-memory-bomb": ("high", "It asks for an enormous amount of memory", EXHAUST),
    "pickle-calls-result": ("high", "It calls what a call returned", EXECUTE),
    "pickle-changes-global": ("high", "It changes something of a library itself", EXECUTE),
    "pickle-extension": ("high", "It uses a registered extension", EVADE),
}


def _tell(report: Report, reading: Reading, location: str, *, torch: bool, script: bool) -> None:
    for (module, name), use in reading.uses.items():
        if script and module.startswith("__torch__."):
            continue
        _tell_name(report, reading, module, name, use, location)
    for kind, sentence, offset in reading.odd:
        if kind == "pickle-calls-result" and re.match(
            r"it calls what (cloudpickle|dill)\.", sentence
        ):
            continue  # the code that it carries is told already
        if kind in _ODD:
            severity, title, techniques = _ODD[kind]
            report.add(kind, severity, title, location=f"{location}:{offset}", detail=sentence,
                       techniques=techniques)  # fmt: skip
    if (
        reading.persistent
        and not torch
        and reading.how == "stop"
        and not any(module.startswith("torch") for module, _ in reading.uses)
    ):
        report.add("pickle-persistent", "low", "It refers to things outside of itself",
                   location=location, detail="only a loader made for it can read it")  # fmt: skip


def _tell_name(
    report: Report, reading: Reading, module: str, name: str, use: Use, location: str
) -> None:
    path = f"{module}.{name}"
    at = f"{location}:{use.offset}"
    grade = allowed.grade(module, name)
    if grade == "construct" or (grade == "fill" and not use.constructed):
        return
    how = f"called with {shown(use.arguments)}" if use.called else "referred to, not called"
    if path == "builtins.type" and not use.called:
        return  # the class of classes, referred to
    if grade == "fill":
        report.add("pickle-constructor", "medium", f"It runs the constructor of {path}",
                   location=at, detail=how, techniques=EXECUTE)  # fmt: skip
    elif path == "builtins.getattr" and (found := _attribute(use.arguments)):
        severity, sentence = found
        report.add("pickle-attribute", severity, sentence, location=at, techniques=EXECUTE,
                   detail="a method of an object, which is kept to be called later")  # fmt: skip
    elif (module, name) == ("torch.storage", "_load_from_bytes"):
        report.add("pickle-nested", "low", "It holds a pickle that torch.load reads",
                   location=at, detail="it was looked into too")  # fmt: skip
    elif grade == "danger":
        report.add(
            "pickle-executes" if use.called else "pickle-dangerous-global",
            "critical" if use.called else "high",
            f"It calls {path}" if use.called else f"It imports {path}",
            location=at, detail=how, techniques=EXECUTE,
        )  # fmt: skip
    elif grade == "code":
        words = sorted(word for word in reading.code_names if _TELLING.fullmatch(word))
        told = f"; the code names {', '.join(words[:20])}" if words else ""
        report.add(
            "pickle-carries-code", "high", f"It carries code ({path.partition('.')[0]})",
            location=at, techniques=CARRIES,
            detail=f"by design, in {path}: functions by value, which run when the model is loaded"
            f" or asked{told}",
        )  # fmt: skip
    else:
        report.add(
            "pickle-global-not-allowed", "high", f"It imports {path}", location=at,
            detail=f"not on the allow-list; {how}", techniques=EXECUTE,
        )  # fmt: skip


def _attribute(arguments: Any) -> tuple[Severity, str] | None:
    """What `getattr(…)` with these arguments is, where it is harmless: a layer's own method."""
    if not isinstance(arguments, tuple) or len(arguments) != 2:
        return None
    owner, name = arguments
    if isinstance(owner, Call):
        owner = owner.function
    if not isinstance(owner, Global) or not isinstance(name, str):
        return None
    if name.startswith("__") or not name.isidentifier():
        return None
    if not owner.module.startswith("torch.nn.modules."):
        return None
    if allowed.grade(owner.module, owner.name) != "construct":
        return None
    return "low", f"It holds the method {name} of {owner.path}"
