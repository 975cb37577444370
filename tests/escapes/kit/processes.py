"""Ways to other processes: one outside the sandbox of the same user, and the sandbox's own."""

import ctypes
import fcntl
import os
import resource
import signal
import struct

from .calls import Range, attempt, call, libc, output

O = "Reaching a process outside"  # noqa: E741
H = "Reaching the sandbox's own processes"
P = "Growing beyond what one is"


def _gone(pid: int) -> bool:
    """Whether the process died or was stopped; it is nobody's child here, so ask /proc."""
    for _ in range(400):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[0]
        except OSError:
            return True
        if state in b"ZXT":
            return True
        os.sched_yield()
    return False


@attempt(O, "kill")
def _(a: Range) -> object:
    os.kill(a.victim, signal.SIGKILL)
    return "killed"


@attempt(O, "kill with signal 0")
def _(a: Range) -> object:
    os.kill(a.victim, 0)
    return "may signal"


@attempt(O, "tkill")
def _(a: Range) -> object:
    call("tkill", a.victim, 9)
    return "killed"


@attempt(O, "tgkill")
def _(a: Range) -> object:
    call("tgkill", a.victim, a.victim, 9)
    return "killed"


@attempt(O, "rt_sigqueueinfo")
def _(a: Range) -> object:
    call("rt_sigqueueinfo", a.victim, 9, struct.pack("iii", 9, 0, -1) + bytes(116))
    return "killed"


@attempt(O, "rt_tgsigqueueinfo")
def _(a: Range) -> object:
    call("rt_tgsigqueueinfo", a.victim, a.victim, 9, struct.pack("iii", 9, 0, -1) + bytes(116))
    return "killed"


@attempt(O, "pidfd_send_signal")
def _(a: Range) -> object:
    call("pidfd_send_signal", os.pidfd_open(a.victim), 9, None, 0)
    return "killed"


@attempt(O, "signal by F_SETOWN and F_SETSIG")
def _(a: Range) -> object:
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETOWN, a.victim)
    fcntl.fcntl(reader, 10, signal.SIGKILL)  # F_SETSIG
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
    os.write(writer, b"x")
    return "killed" if _gone(a.victim) else None


@attempt(O, "ptrace attach")
def _(a: Range) -> object:
    call("ptrace", 16, a.victim, 0, 0)
    os.waitpid(a.victim, 0x40000000)
    call("ptrace", 17, a.victim, 0, 0)
    return "attached"


@attempt(O, "ptrace seize")
def _(a: Range) -> object:
    call("ptrace", 0x4206, a.victim, 0, 0)
    return "seized"


@attempt(O, "process_vm_readv")
def _(a: Range) -> object:
    buffer = ctypes.create_string_buffer(a.token_size)
    local = struct.pack("QQ", ctypes.addressof(buffer), a.token_size)
    remote = struct.pack("QQ", a.victim_address, a.token_size)
    call("process_vm_readv", a.victim, local, 1, remote, 1, 0)
    return buffer.raw


@attempt(O, "process_vm_writev")
def _(a: Range) -> object:
    buffer = ctypes.create_string_buffer(b"x")
    local = struct.pack("QQ", ctypes.addressof(buffer), 1)
    remote = struct.pack("QQ", a.victim_address, 1)
    return call("process_vm_writev", a.victim, local, 1, remote, 1, 0)


@attempt(O, "/proc/<pid>/mem for reading")
def _(a: Range) -> object:
    fd = os.open(f"/proc/{a.victim}/mem", os.O_RDONLY)
    return os.pread(fd, a.token_size, a.victim_address)


@attempt(O, "/proc/<pid>/mem for writing")
def _(a: Range) -> object:
    fd = os.open(f"/proc/{a.victim}/mem", os.O_RDWR)
    return os.pwrite(fd, b"x", a.victim_address)


@attempt(O, "/proc/<pid>/maps")
def _(a: Range) -> object:
    with open(f"/proc/{a.victim}/maps", "rb") as file:
        return file.read(100)


@attempt(O, "/proc/<pid>/fd: list",
         limit="only the numbers: following one is refused; protectProc closes it")  # fmt: skip
def _(a: Range) -> object:
    return os.listdir(f"/proc/{a.victim}/fd")


@attempt(O, "/proc/<pid>/clear_refs")
def _(a: Range) -> object:
    with open(f"/proc/{a.victim}/clear_refs", "wb") as file:
        file.write(b"1")
    return "written"


@attempt(O, "/proc/<pid>/oom_score_adj")
def _(a: Range) -> object:
    with open(f"/proc/{a.victim}/oom_score_adj", "wb") as file:
        file.write(b"1000")
    return "written"


@attempt(O, "/proc/<pid>/coredump_filter")
def _(a: Range) -> object:
    with open(f"/proc/{a.victim}/coredump_filter", "wb") as file:
        file.write(b"0")
    return "written"


@attempt(O, "/proc/<pid>/cmdline",
         limit="names of processes are the machine's public knowledge, as for ps")  # fmt: skip
def _(a: Range) -> object:
    with open(f"/proc/{a.victim}/cmdline", "rb") as file:
        return file.read()


@attempt(O, "pidfd_getfd")
def _(a: Range) -> object:
    fd = call("pidfd_getfd", os.pidfd_open(a.victim), a.victim_fd, 0)
    return os.pread(fd, 64, 0)


@attempt(O, "process_madvise", needs="root")
def _(a: Range) -> object:
    remote = struct.pack("QQ", a.victim_address & ~4095, 4096)
    call("process_madvise", os.pidfd_open(a.victim), remote, 1, 20, 0)
    return "advised"


@attempt(O, "process_mrelease")
def _(a: Range) -> object:
    try:
        call("process_mrelease", os.pidfd_open(a.victim), 0)
    except OSError as error:
        if error.errno == 22:  # not dying: it was reached
            return "reached"
        raise
    return "released"


@attempt(O, "prlimit: take its file descriptors away")
def _(a: Range) -> object:
    call("prlimit64", a.victim, resource.RLIMIT_NOFILE, struct.pack("QQ", 0, 0), None)
    return "limited"


@attempt(O, "prlimit: read its limits")
def _(a: Range) -> object:
    old = ctypes.create_string_buffer(16)
    call("prlimit64", a.victim, resource.RLIMIT_NOFILE, None, old)
    return old.raw.hex()


@attempt(O, "setpriority")
def _(a: Range) -> object:
    call("setpriority", 0, a.victim, 19)
    return os.getpriority(os.PRIO_PROCESS, a.victim)


@attempt(O, "sched_setaffinity")
def _(a: Range) -> object:
    os.sched_setaffinity(a.victim, {0})
    return "pinned"


@attempt(O, "sched_setscheduler")
def _(a: Range) -> object:
    os.sched_setscheduler(a.victim, os.SCHED_IDLE, os.sched_param(0))
    return "made idle"


@attempt(O, "ioprio_set")
def _(a: Range) -> object:
    call("ioprio_set", 1, a.victim, (3 << 13))
    return "made idle"


@attempt(O, "migrate_pages", optional=True)
def _(a: Range) -> object:
    mask = struct.pack("Q", 1)
    call("migrate_pages", a.victim, 64, mask, mask)
    return "moved"


@attempt(O, "move_pages")
def _(a: Range) -> object:
    pages = struct.pack("Q", a.victim_address & ~4095)
    status = ctypes.create_string_buffer(8)
    call("move_pages", a.victim, 1, pages, None, status, 0)
    return "queried"


@attempt(O, "kcmp")
def _(a: Range) -> object:
    call("kcmp", os.getpid(), a.victim, 0, 0, 0)
    return "compared"


@attempt(O, "get_robust_list")
def _(a: Range) -> object:
    head, size = ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)
    call(274, a.victim, head, size)
    return "read"


@attempt(O, "perf_event_open")
def _(a: Range) -> object:
    attributes = bytearray(128)
    struct.pack_into("IIQ", attributes, 0, 1, 128, 1)
    attributes[40] = 0x61  # disabled, exclude kernel and hypervisor
    return call("perf_event_open", bytes(attributes), a.victim, -1, -1, 0) >= 0


@attempt(O, "setns to its namespaces", needs="root")
def _(a: Range) -> object:
    call("setns", os.pidfd_open(a.victim), 0x04000000)
    return "joined"


@attempt(O, "setns by /proc/1/ns", needs="root", optional=True)
def _(a: Range) -> object:
    call("setns", os.open("/proc/1/ns/net", os.O_RDONLY), 0)
    return "joined"


def _sandbox() -> list[int]:
    """The parents of this process up to the one that has another name, nearest first."""
    pids, pid = [], os.getppid()
    while pid > 1:
        with open(f"/proc/{pid}/stat", "rb") as file:
            parent = int(file.read().rpartition(b")")[2].split()[1])
        pids.append(pid)
        pid = parent
    return pids[1:3]


def _each(reach: "object") -> object:
    done, last = [], None
    for pid in _sandbox():
        try:
            reach(pid)  # type: ignore[operator]
            done.append(pid)
        except OSError as error:
            last = error
    if last and not done:
        raise last
    return f"reached {len(done)} of {len(_sandbox())}" if done else None


@attempt(H, "kill of the helper")
def _(a: Range) -> object:
    return _each(lambda pid: os.kill(pid, 0))


@attempt(H, "pidfd_send_signal of the helper")
def _(a: Range) -> object:
    return _each(lambda pid: call("pidfd_send_signal", os.pidfd_open(pid), 0, None, 0))


@attempt(H, "tgkill of the helper")
def _(a: Range) -> object:
    return _each(lambda pid: call("tgkill", pid, pid, 0))


@attempt(H, "memory of the helper")
def _(a: Range) -> object:
    return _each(lambda pid: os.open(f"/proc/{pid}/mem", os.O_RDONLY))


@attempt(H, "descriptors of the helper")
def _(a: Range) -> object:
    return _each(lambda pid: os.listdir(f"/proc/{pid}/fd"))


@attempt(H, "environment of the helper")
def _(a: Range) -> object:
    return _each(lambda pid: os.open(f"/proc/{pid}/environ", os.O_RDONLY))


@attempt(H, "process_vm_readv of the helper")
def _(a: Range) -> object:
    buffer = ctypes.create_string_buffer(8)
    io = struct.pack("QQ", ctypes.addressof(buffer), 8)

    def reach(pid: int) -> None:
        try:
            call("process_vm_readv", pid, io, 1, io, 1, 0)
        except OSError as error:
            if error.errno != 14:  # a bad address was looked at
                raise

    return _each(reach)


@attempt(H, "ptrace of the helper")
def _(a: Range) -> object:
    def reach(pid: int) -> None:
        call("ptrace", 0x4206, pid, 0, 0)

    return _each(reach)


@attempt(H, "pidfd_getfd of the helper's listener")
def _(a: Range) -> object:
    return _each(lambda pid: call("pidfd_getfd", os.pidfd_open(pid), 0, 0))


@attempt(H, "prlimit of the helper")
def _(a: Range) -> object:
    return _each(lambda pid: call("prlimit64", pid, resource.RLIMIT_CORE,
                                  struct.pack("QQ", 0, 0), None))  # fmt: skip


@attempt(H, "setpriority of the helper")
def _(a: Range) -> object:
    return _each(lambda pid: call("setpriority", 0, pid, 1))


@attempt(H, "sched_setscheduler of the helper")
def _(a: Range) -> object:
    return _each(lambda pid: os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0)))


@attempt(H, "oom_score_adj of the helper")
def _(a: Range) -> object:
    return _each(lambda pid: os.write(os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY), b"500"))


@attempt(H, "a second seccomp listener")
def _(a: Range) -> object:
    libc.prctl(38, 1, 0, 0, 0)
    program = struct.pack("HBBI", 6, 0, 0, 0x7FFF0000)
    code = ctypes.create_string_buffer(program)
    fprog = struct.pack("HxxxxxxQ", 1, ctypes.addressof(code))
    return call("seccomp", 1, 8, fprog) >= 0


@attempt(
    H,
    "seccomp filter that would answer first",
    limit="prctl may add a filter; the stricter answer wins, so it can only take away",
)
def _(a: Range) -> object:
    libc.prctl(38, 1, 0, 0, 0)
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    fprog = struct.pack("HxxxxxxQ", 1, ctypes.addressof(code))
    if libc.prctl(22, 2, ctypes.c_char_p(fprog), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "prctl")
    return "added"


@attempt(P, "filter that allows all, then open")
def _(a: Range) -> object:
    libc.prctl(38, 1, 0, 0, 0)
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    fprog = struct.pack("HxxxxxxQ", 1, ctypes.addressof(code))
    libc.prctl(22, 2, ctypes.c_char_p(fprog), 0, 0)
    with open(a.secret, "rb") as file:
        return file.read()


@attempt(P, "clone with a new user namespace")
def _(a: Range) -> object:
    return output([a.probe, "newuser", "clone"])


@attempt(P, "clone3 with a new user namespace")
def _(a: Range) -> object:
    return output([a.probe, "newuser", "clone3"])


@attempt(P, "unshare of the user namespace")
def _(a: Range) -> object:
    call("unshare", 0x10000000)
    return "a user namespace"


@attempt(P, "unshare of the mount namespace", needs="root")
def _(a: Range) -> object:
    call("unshare", 0x00020000)
    return "a mount namespace"


@attempt(P, "unshare of the network namespace", needs="root")
def _(a: Range) -> object:
    call("unshare", 0x40000000)
    return "a network namespace"


@attempt(P, "capset: take capabilities back", needs="root")
def _(a: Range) -> object:
    header = struct.pack("Ii", 0x20080522, 0)
    call(126, header, struct.pack("IIIIII", 1 << 21, 1 << 21, 0, 0, 0, 0))
    return "CAP_SYS_ADMIN"


@attempt(P, "setuid to another user", needs="root")
def _(a: Range) -> object:
    os.setresuid(1, 1, 1)
    return os.getuid() == 1


@attempt(P, "file of another user that root may read anyway", needs="root")
def _(a: Range) -> object:
    with open(a.root + "/private", "rb") as file:
        return file.read()


@attempt(P, "dumpable again (PR_SET_DUMPABLE)")
def _(a: Range) -> object:
    """Harmless on oneself; what counts is that it opens no way to the helper."""
    libc.prctl(4, 1, 0, 0, 0)
    return _each(lambda pid: os.open(f"/proc/{pid}/mem", os.O_RDONLY))


@attempt(P, "PR_SET_PTRACER any, then traced from within")
def _(a: Range) -> object:
    libc.prctl(0x59616D61, -1, 0, 0, 0)
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        call("ptrace", 0x4206, pid, 0, 0)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0x40000000)
    return "traced"


@attempt(P, "PR_SET_MM: another executable by name", needs="root", optional=True)
def _(a: Range) -> object:
    fd = os.open("/bin/sh", os.O_RDONLY)
    if libc.prctl(35, 13, fd, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "changed"


@attempt(P, "raise one's own hard limits", needs="root", optional=True)
def _(a: Range) -> object:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard + 1))
    return "raised"


@attempt(P, "real-time priority", needs="root")
def _(a: Range) -> object:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return "real time"
