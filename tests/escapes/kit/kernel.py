"""Ways into the kernel and the machine: interfaces that no notebook needs.

What would do harm stops at the door, here and in the control: a file is opened for writing and not
written to, ``reboot`` is called with a wrong magic number.
"""

import ctypes
import errno
import fcntl
import glob
import os
import pty
import struct

from .calls import Range, attempt, call

K = "Reaching the kernel"
M = "Reaching the machine"


def _past(code: int, run: "object") -> object:
    """Evidence when the call got past its permission check, which ``code`` then tells."""
    try:
        run()  # type: ignore[operator]
    except OSError as error:
        if error.errno != code:
            raise
        return f"past the check ({errno.errorcode[code]})"
    return "done"


def _writable(path: str) -> object:
    os.close(os.open(path, os.O_WRONLY))
    return f"{path} open for writing"


@attempt(K, "bpf: a program", needs="root")
def _(a: Range) -> object:
    code = ctypes.create_string_buffer(struct.pack("<QQ", 0xB7, 0x95))
    license = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack("IIQQ", 1, 2, ctypes.addressof(code), ctypes.addressof(license))
    return call("bpf", 5, attributes + bytes(100), 124) >= 0


@attempt(K, "bpf: a map", needs="root")
def _(a: Range) -> object:
    return call("bpf", 0, struct.pack("IIII", 2, 4, 4, 1) + bytes(56), 72) >= 0


@attempt(K, "perf_event_open on oneself")
def _(a: Range) -> object:
    attributes = bytearray(128)
    struct.pack_into("IIQ", attributes, 0, 1, 128, 1)
    attributes[40] = 0x61
    return call("perf_event_open", bytes(attributes), 0, -1, -1, 0) >= 0


@attempt(K, "userfaultfd")
def _(a: Range) -> object:
    return call("userfaultfd", 1) >= 0


@attempt(K, "/dev/userfaultfd", needs="root", optional=True)
def _(a: Range) -> object:
    return fcntl.ioctl(os.open("/dev/userfaultfd", os.O_RDWR), 0xAA00, 0) >= 0


@attempt(K, "io_uring_setup")
def _(a: Range) -> object:
    return call("io_uring_setup", 4, bytes(120)) >= 0


@attempt(K, "personality: no address randomisation")
def _(a: Range) -> object:
    call("personality", 0x0040000)
    return call("personality", 0xFFFFFFFF) == 0x0040000


@attempt(K, "keyctl: the session's keyring")
def _(a: Range) -> object:
    return call("keyctl", 0, -4, 1) > 0


@attempt(K, "add_key to the user's keyring")
def _(a: Range) -> object:
    return call("add_key", "user", "modelarmor-escape", b"x", 1, -2) > 0


@attempt(K, "modify_ldt", optional=True)
def _(a: Range) -> object:
    call(154, 0, bytes(16), 16)
    return "read"


@attempt(K, "uselib", optional=True)
def _(a: Range) -> object:
    return _past(8, lambda: call("uselib", "/bin/sh"))


@attempt(K, "mount of a tmpfs", needs="root")
def _(a: Range) -> object:
    os.mkdir(point := a.own("mount"))
    call("mount", "none", point, "tmpfs", 0, None)
    call("umount2", point, 2)
    return "mounted"


@attempt(K, "mount of the disk elsewhere", needs="root")
def _(a: Range) -> object:
    os.mkdir(point := a.own("mount"))
    result = _past(errno.EBUSY, lambda: call("mount", a.disk, point, "ext4", 1, None))
    if result == "done":
        call("umount2", point, 2)
    return result


@attempt(K, "remount of /", needs="root")
def _(a: Range) -> object:
    call("mount", None, "/", None, 1 << 18, None)  # MS_PRIVATE: what it is already
    return "remounted"


@attempt(K, "umount", needs="root")
def _(a: Range) -> object:
    return _past(errno.EINVAL, lambda: call("umount2", a.work, 0))


@attempt(K, "fsopen", needs="root")
def _(a: Range) -> object:
    return call("fsopen", "tmpfs", 0) >= 0


@attempt(K, "fspick", needs="root")
def _(a: Range) -> object:
    return call("fspick", -100, "/", 0) >= 0


@attempt(K, "mount_setattr", needs="root")
def _(a: Range) -> object:
    attributes = bytes(32)
    call("mount_setattr", -100, "/", 0, attributes, 32)
    return "done"


@attempt(K, "move_mount", needs="root")
def _(a: Range) -> object:
    return _past(errno.EINVAL, lambda: call("move_mount", -100, a.work, -100, a.links, 0))


@attempt(K, "pivot_root", needs="root")
def _(a: Range) -> object:
    return _past(errno.EBUSY, lambda: call("pivot_root", a.work, a.work))


@attempt(K, "init_module", needs="root", optional=True)
def _(a: Range) -> object:
    return _past(errno.ENOEXEC, lambda: call("init_module", b"no module", 9, ""))


@attempt(K, "finit_module", needs="root", optional=True)
def _(a: Range) -> object:
    fd = os.open("/etc/passwd", os.O_RDONLY)
    return _past(errno.ENOEXEC, lambda: call("finit_module", fd, "", 0))


@attempt(K, "delete_module", needs="root", optional=True)
def _(a: Range) -> object:
    return _past(errno.ENOENT, lambda: call("delete_module", "modelarmor_none", 0o4000))


@attempt(K, "kexec_load", needs="root", optional=True)
def _(a: Range) -> object:
    return _past(errno.EINVAL, lambda: call("kexec_load", 0, 99, None, 0))


@attempt(K, "reboot", needs="root")
def _(a: Range) -> object:
    return _past(errno.EINVAL, lambda: call("reboot", 1, 2, 3, None))


@attempt(K, "sethostname", needs="root")
def _(a: Range) -> object:
    name = os.uname().nodename
    call("sethostname", name, len(name))
    return "set (to what it was)"


@attempt(K, "setdomainname", needs="root")
def _(a: Range) -> object:
    call("setdomainname", "(none)", 6)
    return "set (to what it was)"


@attempt(K, "settimeofday", needs="root")
def _(a: Range) -> object:
    return _past(errno.EINVAL, lambda: call("settimeofday", struct.pack("ll", -1, -1), None))


@attempt(K, "adjtimex", needs="root")
def _(a: Range) -> object:
    return _past(errno.EINVAL, lambda: call("adjtimex", struct.pack("I", 0x4000) + bytes(204)))


@attempt(K, "iopl", needs="root", optional=True)
def _(a: Range) -> object:
    call("iopl", 3)
    return "all ports"


@attempt(K, "ioperm", needs="root", optional=True)
def _(a: Range) -> object:
    call(173, 0x80, 1, 1)
    return "a port"


@attempt(K, "syslog: the kernel's log", needs="root")
def _(a: Range) -> object:
    return call("syslog", 10, None, 0) > 0


@attempt(K, "/dev/kmsg", needs="root")
def _(a: Range) -> object:
    return os.read(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK), 8192)[:40]


@attempt(K, "quotactl", needs="root", optional=True)
def _(a: Range) -> object:
    return _past(errno.ESRCH, lambda: call("quotactl", 0x80000100, a.disk, 0, bytes(256)))


@attempt(K, "TIOCSTI: type into the terminal")
def _(a: Range) -> object:
    _leader, follower = pty.openpty()
    if os.fork() == 0:
        os.setsid()
        try:
            fcntl.ioctl(follower, 0x540E, 0)
            fcntl.ioctl(follower, 0x5412, b"\n")
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    if code:
        raise OSError(code, os.strerror(code))
    return "typed"


@attempt(K, "TIOCLINUX: paste into the console", needs="root", optional=True)
def _(a: Range) -> object:
    fcntl.ioctl(os.open("/dev/tty1", os.O_RDWR | os.O_NOCTTY), 0x541C, b"\x06" + bytes(7))
    return "reached"


def _door(path: str, name: str, *, optional: bool = False) -> None:
    @attempt(M, f"{path}: {name}", needs="root", optional=optional)
    def _(a: Range, path: str = path) -> object:
        found = sorted(glob.glob(path))
        if not found:
            raise OSError(errno.ENOENT, "not on this machine")
        return _writable(found[-1])


_door("/proc/sys/kernel/core_pattern", "run a program as root at the next crash")
_door("/proc/sys/kernel/modprobe", "run a program as root for a module", optional=True)
_door("/proc/sys/kernel/hostname", "rename the machine")
_door("/proc/sys/vm/overcommit_memory", "change the memory policy")
_door("/proc/sys/vm/drop_caches", "drop the caches")
_door("/proc/sys/net/ipv4/ip_forward", "forward packets")
_door("/proc/sys/fs/suid_dumpable", "dump set-user-id programs")
_door("/proc/sysrq-trigger", "reboot, crash", optional=True)
_door("/proc/sys/kernel/poweroff_cmd", "run a program at power off", optional=True)
_door("/proc/irq/default_smp_affinity", "steer interrupts", optional=True)
_door("/sys/kernel/uevent_helper", "run a program for a device", optional=True)
_door("/sys/power/state", "suspend", optional=True)
_door("/sys/kernel/mm/transparent_hugepage/enabled", "change the memory policy", optional=True)
_door("/sys/kernel/debug/sched/*", "debugging interfaces", optional=True)
_door("/sys/kernel/tracing/trace_marker", "tracing", optional=True)
_door("/sys/block/*/queue/scheduler", "device settings", optional=True)
_door("/sys/fs/cgroup/pids/cgroup.procs", "leave the control group", optional=True)
_door("/sys/fs/cgroup/memory/cgroup.procs", "leave the control group", optional=True)
_door("/sys/fs/cgroup/*/release_agent", "run a program as root", optional=True)
_door("/sys/fs/cgroup/devices/devices.allow", "all devices", optional=True)
_door("/sys/fs/cgroup/unified/cgroup.procs", "leave the control group", optional=True)
_door("/dev/mem", "physical memory", optional=True)
_door("/dev/port", "ports", optional=True)
_door("/dev/kmsg", "write the kernel's log")
_door("/dev/[vs]d[a-z]", "the raw disk", optional=True)
_door("/dev/loop0", "a loop device", optional=True)
_door("/dev/loop-control", "new loop devices", optional=True)
_door("/dev/uinput", "type as the user", optional=True)
_door("/dev/input/event*", "input devices", optional=True)
_door("/dev/tty1", "the console", optional=True)
_door("/dev/vcs1", "the console's screen", optional=True)
_door("/dev/kvm", "a virtual machine", optional=True)
_door("/dev/fuse", "a file system of one's own", optional=True)
_door("/dev/net/tun", "a network interface", optional=True)
_door("/dev/vsock", "the hypervisor's socket", optional=True)
_door("/dev/btrfs-control", "file systems", optional=True)
_door("/dev/cpu/0/msr", "processor registers", optional=True)
_door("/dev/autofs", "automounts", optional=True)
_door("/dev/hwrng", "hardware", optional=True)
_door("/dev/zram0", "a memory disk", optional=True)
