"""What this machine can enforce, found out by trying."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import select
import subprocess
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

from modelarmor.sandbox.plan import Machine

#: truncation is a right of its own only since ABI 3 (Linux 6.2); without it a read-only file could
#: be emptied
MINIMUM_ABI = 3

_SYS_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_CREATE_RULESET_VERSION = 1

_ABI_BRINGS = {
    4: "TCP ports (6.7)",
    5: "ioctl on devices (6.10)",
    6: "signals and abstract sockets (6.12)",
    7: "audit (6.15)",
}


@dataclass(frozen=True)
class Report:
    """The findings; ``reasons`` say why nothing can be confined, ``notes`` what is weaker here."""

    kernel: str
    architecture: str
    uid: int
    landlock_abi: int
    helper: str
    user_notification: bool
    acts_on_sockets: bool
    control_groups: tuple[str, ...]
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def can_confine(self) -> bool:
        return not self.reasons

    @property
    def machine(self) -> Machine:
        """What the planner needs of it."""
        return Machine(self.landlock_abi, self.uid, self.acts_on_sockets)

    def to_json(self) -> dict[str, Any]:
        return {"can_confine": self.can_confine, **asdict(self)}


def landlock_abi() -> int:
    """Landlock's ABI version, 0 where the kernel has none or has it switched off."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(
        _SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_CREATE_RULESET_VERSION
    )
    return max(0, int(version))


@lru_cache(maxsize=1)
def probe() -> Report:
    """Look at this machine. The answer is kept: it does not change while a process lives."""
    from modelarmor.sandbox import cgroup, process
    from modelarmor.sandbox.resources import Resources

    abi = landlock_abi()
    reasons: list[str] = []
    notes: list[str] = []
    if platform.system() != "Linux":
        reasons.append(f"{platform.system()} has neither Landlock nor seccomp: Linux is needed")
    elif abi == 0:
        reasons.append(
            "the kernel has no Landlock, or it is not in its list of security modules"
            " (lsm=landlock,... on the kernel's command line; Linux 6.2 or later is needed)"
        )
    elif abi < MINIMUM_ABI:
        reasons.append(
            f"Landlock's ABI is {abi}, and {MINIMUM_ABI} is needed (Linux 6.2): before that a file"
            " that may only be read can still be emptied"
        )
    helper = process.HELPER
    if not helper.is_file():
        reasons.append(
            f"{helper} is missing: install with a C compiler at hand (`pip install .`), or, in a"
            " checkout, run `python hatch_build.py`"
        )
    elif not os.access(helper, os.X_OK):
        reasons.append(f"{helper} cannot be executed by uid {os.getuid()}")
    notification, acts = False, False
    if not reasons:
        notification, acts, reason = _try_it(str(helper), process.GO)
        if reason:
            reasons.append(reason)
    for version, what in _ABI_BRINGS.items():
        if 0 < abi < version and version != 7:
            notes.append(f"Landlock ABI {abi}: no {what}; supervised instead")
    if notification and not acts:
        notes.append(
            "descriptors of the workload cannot be copied (pidfd_getfd; Docker's seccomp profile"
            " wants CAP_SYS_PTRACE): addresses of connections are checked, but approximately"
        )
    group = (
        cgroup.make(Resources(cpu=0.5, memory=1 << 40, processes=1 << 15)) if not reasons else None
    )
    limits = tuple(sorted(group.limits)) if group else ()
    if group:
        group.close()
    if not reasons and len(limits) < 3:
        notes.append(
            "no writable control group for "
            + ", ".join(sorted({"cpu", "memory", "processes"} - set(limits)))
            + ": limited by the supervisor, which looks four times a second"
        )
    return Report(
        platform.release(), platform.machine(), os.getuid(), abi, str(helper), notification, acts,
        limits, reasons, notes,
    )  # fmt: skip


def _try_it(helper: str, go: bytes) -> tuple[bool, bool, str]:
    """Run the helper with an empty plan: does it confine, can it act on sockets, why not."""
    scoped = Machine(landlock_abi(), os.getuid()).scoped
    plan = f"modelarmor-plan\t1\nlandlock\t2000\t0\t{scoped:x}\t1\ngrant\t2000\t/\n"
    plan_fd = os.memfd_create("modelarmor-plan")
    os.write(plan_fd, plan.encode())
    control_read, control = os.pipe()
    os.write(control, go)
    events, events_write = os.pipe()
    try:
        # It waits for us: of a command that has ended already nobody can say what it would allow.
        process = subprocess.Popen(
            [helper, "--plan", str(plan_fd), "--control", str(control_read),
             "--events", str(events_write), "--capabilities", "0", "--scoped", str(scoped),
             "--", "/bin/cat"],
            pass_fds=(plan_fd, control_read, events_write), env={},
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        os.close(events_write)
        events_write = -1
        ready, _, _ = select.select([events], [], [], 20)
        said = os.read(events, 4096).decode(errors="replace") if ready else ""
        _, wrong = process.communicate(timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, False, f"the helper does not run: {error}"
    finally:
        for fd in (plan_fd, control_read, control, events, events_write):
            if fd >= 0:
                os.close(fd)
    if '"started"' in said:
        return True, '"acts_on_sockets":true' in said, ""
    message = wrong.decode(errors="replace").strip().removeprefix("modelarmor-helper: ")
    if os.strerror(errno.EBUSY) in message:
        message += "; start it outside of the other sandbox"
    elif os.strerror(errno.EINVAL) in message or os.strerror(errno.ENOSYS) in message:
        message += "; the kernel (5.19 or later is needed) or a sandbox such as gVisor refuses it"
    return False, False, message or f"the helper ended with status {process.returncode}"
