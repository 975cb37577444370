"""How libraries look around: what harmless models start and read, and can do without.

Each was seen while a harmless model loaded or predicted (docs/generate.md). What is told of them is
no alarm; nothing of it is granted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from modelarmor.policy.decide import Operation

_FIND_LIBRARY: Final = "ctypes.util.find_library() asks it"
#: program, by name -> who starts it
_PROGRAMS: Final[Mapping[str, str]] = {
    "uname": "platform.processor() asks it",
    "lscpu": "joblib counts processor cores with it",
    "fc-list": "matplotlib looks for fonts with it",
    "ldconfig": _FIND_LIBRARY,
    "gcc": _FIND_LIBRARY,
    "cc": _FIND_LIBRARY,
    "ld": _FIND_LIBRARY,
    "objdump": _FIND_LIBRARY,
    "git": "MLflow looks with it for the revision that a run belongs to",
}
#: program -> arguments with which it is harmless, and who starts it
_LINES: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "cat": (("/proc/cpuinfo",), "joblib counts processor cores with it, where there is no lscpu"),
}
#: file or directory, as events have it -> who looks at it
_LOOKED_AT: Final[Mapping[str, str]] = {
    "/.dockerenv": "ONNX Runtime asks whether it is in a container",
    "/run/.containerenv": "ONNX Runtime asks whether it is in a container",
    "/proc/other/cgroup": "ONNX Runtime asks whether it is in a container",
    "/sys/bus/pci/devices": "ONNX Runtime and TensorFlow look for accelerators",
    "/sys/bus/cpu/devices": "TensorFlow looks which processors there are",
    "/sys/bus/dax/devices": "TensorFlow looks which memory there is",
    "/sys/kernel/mm/hugepages": "TensorFlow looks which memory there is",
    "/usr/local/share/fonts": "matplotlib looks for fonts",
}
#: a thread's name; the call that writes it fails, and the thread has none
_THREAD_NAME: Final = re.compile(r"/proc/(self|other)/task/\*/comm")
_WRITING: Final = ("write", "create")


def looked(asked: Operation) -> str:
    """Why a harmless model reads this, or writes it into the wind; or nothing."""
    if asked.kind in ("read", "list"):
        return _LOOKED_AT.get(asked.path, "")
    if asked.kind in _WRITING and _THREAD_NAME.fullmatch(asked.path):
        return "TensorFlow names a thread"
    return ""


def probed(asked: Operation) -> str:
    """Why a harmless model starts this program, or nothing."""
    name = asked.path.rpartition("/")[2]
    arguments, why = _LINES.get(name, ((), ""))
    if why and asked.args == arguments:
        return why
    return _PROGRAMS.get(name, "")
