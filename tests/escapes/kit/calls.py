"""What every attempt needs: raw system calls, the range it runs in, and the list of attempts.

This directory runs *inside* the sandbox on an interpreter that may have nothing else: standard
library only, no site-packages. System call numbers are those of x86_64, and so are the attempts.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_FOLLOW = 0x400
RENAME_EXCHANGE = 2

NR = {
    "open": 2, "mmap": 9, "pread64": 17, "dup2": 33, "sendto": 44, "sendmsg": 46, "clone": 56,
    "execve": 59, "kill": 62, "truncate": 76, "chdir": 80, "rename": 82, "mkdir": 83, "rmdir": 84,
    "creat": 85, "link": 86, "unlink": 87, "symlink": 88, "chmod": 90, "chown": 92, "lchown": 94,
    "syslog": 103, "ptrace": 101, "setpriority": 141, "rt_sigqueueinfo": 129, "utime": 132,
    "mknod": 133, "uselib": 134, "personality": 135, "pivot_root": 155, "prctl": 157,
    "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166,
    "swapon": 167, "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172,
    "init_module": 175, "delete_module": 176, "quotactl": 179, "setxattr": 188, "lsetxattr": 189,
    "fsetxattr": 190, "removexattr": 197, "fremovexattr": 199, "tkill": 200, "tgkill": 234,
    "utimes": 235, "mq_open": 240, "kexec_load": 246, "add_key": 248, "request_key": 249,
    "keyctl": 250, "ioprio_set": 251, "inotify_init1": 294, "migrate_pages": 256, "openat": 257,
    "mkdirat": 258, "mknodat": 259, "fchownat": 260, "futimesat": 261, "renameat": 264,
    "linkat": 265, "symlinkat": 266, "fchmodat": 268, "unshare": 272, "move_pages": 279,
    "utimensat": 280, "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "fanotify_init": 300,
    "fanotify_mark": 301, "prlimit64": 302, "name_to_handle_at": 303, "open_by_handle_at": 304,
    "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
    "finit_module": 313, "sched_setattr": 314, "renameat2": 316, "seccomp": 317,
    "memfd_create": 319, "kexec_file_load": 320, "bpf": 321, "execveat": 322, "userfaultfd": 323,
    "statx": 332, "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fspick": 433, "pidfd_open": 434,
    "clone3": 435, "openat2": 437, "pidfd_getfd": 438, "faccessat2": 439, "process_madvise": 440,
    "mount_setattr": 442, "process_mrelease": 448, "fchmodat2": 452, "setxattrat": 463,
    "open_tree_attr": 467, "file_setattr": 469,
}  # fmt: skip


def call(name: str | int, *args: Any) -> int:
    """Make a raw system call; ``str`` and ``bytes`` become C strings.

    Raises:
        OSError: the kernel (or the sandbox) said no.
    """
    number = NR[name] if isinstance(name, str) else name
    ctypes.set_errno(0)
    result = int(libc.syscall(ctypes.c_long(number), *(_argument(arg) for arg in args)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(name))
    return result


def _argument(value: Any) -> Any:
    if isinstance(value, str):
        return ctypes.c_char_p(os.fsencode(value))
    if isinstance(value, bytes):
        return ctypes.c_char_p(value)
    if isinstance(value, int):
        return ctypes.c_long(value if value < 1 << 63 else value - (1 << 64))
    return value if value is not None else ctypes.c_long(0)


@dataclass(frozen=True)
class Range:
    """Where the attempts happen; every path absolute. See ``arena.py``, which builds it."""

    mode: str
    uid: int
    root: str
    work: str
    #: the secret's directory's directory, its directory, itself
    safe: str
    deep: str
    secret: str
    #: a directory that is denied with all that is in it
    vault: str
    inner: str
    readonly: str
    data: str
    links: str
    bin: str
    denied: str
    probe: str
    python: str
    #: processes outside the sandbox, of the same user
    victim: int = 0
    victim_tid: int = 0
    victim_fd: int = -1
    victim_address: int = 0
    token_size: int = 32
    sockets: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    disk: str = ""
    inherited: dict[str, int] = field(default_factory=dict)

    def own(self, name: str) -> str:
        """A path in the workspace that is the attempt's to use."""
        return f"{self.work}/{name}-{os.getpid()}"


@dataclass(frozen=True)
class Attempt:
    """One way out, and what is expected of it."""

    name: str
    section: str
    run: Callable[[Range], object]
    #: ranges in which it means something
    modes: tuple[str, ...]
    #: ``root`` or ``user``: without the sandbox too, only they can do this
    needs: str = ""
    #: an alert has to be recorded, not only the call refused
    alert: bool = False
    #: why it is known to pass; empty for what must be blocked
    limit: str = ""
    #: may be missing from this kernel, so that even the control fails
    optional: bool = False


ATTEMPTS: dict[str, Attempt] = {}
FILES = ("deny", "locked", "allow")


def attempt(
    section: str,
    name: str,
    *,
    modes: tuple[str, ...] = ("deny",),
    needs: str = "",
    alert: bool = False,
    limit: str = "",
    optional: bool = False,
) -> Callable[[Callable[[Range], object]], Callable[[Range], object]]:
    """Register a function that returns evidence when it got out, and raises or returns nothing
    when it was stopped."""

    def register(run: Callable[[Range], object]) -> Callable[[Range], object]:
        key = f"{section}: {name}"
        assert key not in ATTEMPTS, key
        ATTEMPTS[key] = Attempt(name, section, run, modes, needs, alert, limit, optional)
        return run

    return register


def slurp(fd: int, size: int = 4096) -> bytes:
    """Everything from the start of an open file; closes it."""
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        return os.read(fd, size)
    finally:
        os.close(fd)


def read(path: str, flags: int = os.O_RDONLY) -> bytes:
    return slurp(os.open(path, flags))


def output(command: list[str], **options: Any) -> bytes:
    """What a command prints; raises OSError where it could not be started or did not succeed."""
    done = subprocess.run(command, capture_output=True, timeout=6, check=False, **options)
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(0, f"exit {done.returncode}: {text[-1][-120:] if text else ''}")
    return done.stdout
