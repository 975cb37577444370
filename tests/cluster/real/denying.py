"""Runs in a pod, with the standard library: Landlock denies two directories to a command."""

import ctypes
import os
import struct
import sys
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_READ_FILE = 1 << 2
_BENEATH = 1
_NO_NEW_PRIVS = 38
_DENIED = ("/run/modelarmor/denied", "/run/modelarmor/unnamed")


def _call(*arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    done: int = libc.syscall(*arguments)
    if done < 0:
        raise OSError(ctypes.get_errno(), "Landlock cannot stand in for KubeArmor here")
    return done


def _others(directory: str) -> list[str]:
    """Everything but what is denied."""
    found = []
    for path in map(str, Path(directory).iterdir()):
        if path in _DENIED:
            continue
        within = any(denied.startswith(f"{path}/") for denied in _DENIED)
        found += _others(path) if within else [path]
    return found


def main(command: list[str]) -> None:
    """Deny, and become the command."""
    handled = ctypes.create_string_buffer(struct.pack("=Q", _READ_FILE))
    ruleset = _call(_CREATE, handled, ctypes.c_size_t(8), 0)
    for path in _others("/"):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", _READ_FILE, place))
        _call(_ADD, ruleset, _BENEATH, rule, 0)
        os.close(place)
    ctypes.CDLL(None).prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call(_RESTRICT, ruleset, 0)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
