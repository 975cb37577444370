"""Run a command under a seccomp filter that refuses what Docker's default profile refuses.

    python docker_profile.py COMMAND [ARG ...]

The list is what moby's ``profiles/seccomp/default.json`` (2026) leaves to capabilities that a
container does not have; a real engine is not needed to see whether the sandbox can live without.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

REFUSED = {
    "x86_64": {
        "acct": 163, "add_key": 248, "bpf": 321, "clock_settime": 227, "delete_module": 176,
        "finit_module": 313, "fsconfig": 431, "fsmount": 432, "fsopen": 430, "fspick": 433,
        "get_mempolicy": 239, "init_module": 175, "io_uring_enter": 426, "io_uring_register": 427,
        "io_uring_setup": 425, "ioperm": 173, "iopl": 172, "kcmp": 312, "kexec_load": 246,
        "keyctl": 250, "lookup_dcookie": 212, "mbind": 237, "mount": 165, "mount_setattr": 442,
        "move_mount": 429, "move_pages": 279, "open_by_handle_at": 304, "open_tree": 428,
        "perf_event_open": 298, "pidfd_getfd": 438, "pivot_root": 155, "process_madvise": 440,
        "quotactl": 179, "reboot": 169, "request_key": 249, "set_mempolicy": 238, "setns": 308,
        "settimeofday": 164, "swapoff": 168, "swapon": 167, "syslog": 103, "umount2": 166,
        "unshare": 272, "userfaultfd": 323, "vhangup": 153,
    },
}  # fmt: skip
_CLONE3 = 435
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def install(machine: str) -> None:
    program = struct.pack("HBBI", _LOAD, 0, 0, 0)
    calls = [(number, errno.EPERM) for number in REFUSED[machine].values()]
    for number, error in [*calls, (_CLONE3, errno.ENOSYS)]:
        program += struct.pack("HBBI", _EQUAL, 0, 1, number)
        program += struct.pack("HBBI", _RETURN, 0, 0, _ERRNO | error)
    program += struct.pack("HBBI", _RETURN, 0, 0, _ALLOW)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _FILTER, header, 0, 0
    ):
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    install(os.uname().machine)
    os.execvp(sys.argv[1], sys.argv[1:])
