"""Ways to change what the policy says is read-only, or to put something into a hidden directory."""

import ctypes
import fcntl
import mmap
import os
import resource
import socket
import stat
import struct

from .calls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    FILES,
    RENAME_EXCHANGE,
    Range,
    attempt,
    call,
    libc,
    output,
)

W = "Changing a read-only tree"
D = "Planting in a hidden directory"
TEXT = b"changed by the workload\n"


def _own(a: Range) -> str:
    path = a.own("mine")
    with open(path, "wb") as file:
        file.write(TEXT)
    return path


def _changed(a: Range) -> object:
    with open(a.data, "rb") as file:
        return TEXT in file.read()


def _write(fd: int) -> int:
    try:
        return os.write(fd, TEXT)
    finally:
        os.close(fd)


@attempt(W, "open for writing", modes=FILES, alert=True)
def _(a: Range) -> object:
    return _write(os.open(a.data, os.O_WRONLY))


@attempt(W, "append", modes=FILES, alert=True)
def _(a: Range) -> object:
    return _write(os.open(a.data, os.O_WRONLY | os.O_APPEND))


@attempt(W, "open for reading with O_TRUNC", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.close(os.open(a.data, os.O_RDONLY | os.O_TRUNC))
    return os.stat(a.data).st_size == 0


@attempt(W, "open with access mode 3", modes=FILES)
def _(a: Range) -> object:
    fd = os.open(a.data, 3)
    return "open" if fcntl.fcntl(fd, fcntl.F_GETFL) & 3 == 3 else None


@attempt(W, "creat over it", modes=FILES, alert=True)
def _(a: Range) -> object:
    return _write(call("creat", a.data, 0o600))


@attempt(W, "truncate", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.truncate(a.data, 0)
    return os.stat(a.data).st_size == 0


@attempt(W, "reopen a reader for writing by /proc/self/fd", modes=FILES, alert=True)
def _(a: Range) -> object:
    return _write(os.open(f"/proc/self/fd/{os.open(a.data, os.O_RDONLY)}", os.O_WRONLY))


@attempt(W, "reopen O_PATH for writing by /proc/self/fd", modes=FILES, alert=True)
def _(a: Range) -> object:
    return _write(os.open(f"/proc/self/fd/{os.open(a.data, os.O_PATH)}", os.O_RDWR))


@attempt(W, "through a symbolic link", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.symlink(a.data, link := a.own("link"))
    return _write(os.open(link, os.O_WRONLY))


@attempt(W, "O_CREAT through a dangling symbolic link", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.symlink(a.readonly + "/fresh", link := a.own("link"))
    return _write(os.open(link, os.O_WRONLY | os.O_CREAT, 0o600))


@attempt(W, "through a new hard link", modes=FILES)
def _(a: Range) -> object:
    os.link(a.data, link := a.own("hard"))
    return _write(os.open(link, os.O_WRONLY))


@attempt(W, "through a hard link that was there before", modes=FILES)
def _(a: Range) -> object:
    return _write(os.open(a.links + "/data-alias", os.O_WRONLY))


@attempt(W, "through /proc/self/root", modes=FILES, alert=True)
def _(a: Range) -> object:
    return _write(os.open("/proc/self/root" + a.data, os.O_WRONLY))


@attempt(W, "shared mapping for writing", modes=FILES, alert=True)
def _(a: Range) -> object:
    fd = os.open(a.data, os.O_RDWR)
    with mmap.mmap(fd, 4, mmap.MAP_SHARED) as view:
        view[:4] = b"chan"
    return "mapped"


@attempt(W, "mprotect of a shared read-only mapping", modes=("deny",), optional=True)
def _(a: Range) -> object:
    fd = os.open(a.data, os.O_RDONLY)
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, 4096, 1, 1, fd, 0)
    if libc.mprotect(ctypes.c_void_p(address), 4096, 3) < 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    return "writable"


@attempt(W, "/proc/self/mem over a shared read-only mapping", modes=("deny",), optional=True)
def _(a: Range) -> object:
    fd = os.open(a.data, os.O_RDONLY)
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, 4096, 1, 1, fd, 0)
    memory = os.open("/proc/self/mem", os.O_RDWR)
    os.pwrite(memory, TEXT, address)
    return _changed(a)


@attempt(W, "copy_file_range into it", modes=FILES, alert=True)
def _(a: Range) -> object:
    source = os.open(_own(a), os.O_RDONLY)
    return os.copy_file_range(source, os.open(a.data, os.O_WRONLY), 8)


@attempt(W, "sendfile into it", modes=FILES, alert=True)
def _(a: Range) -> object:
    source = os.open(_own(a), os.O_RDONLY)
    return os.sendfile(os.open(a.data, os.O_WRONLY), source, 0, 8)


@attempt(W, "splice into a reader of it", modes=("deny",), optional=True)
def _(a: Range) -> object:
    reader, writer = os.pipe()
    os.write(writer, TEXT)
    return os.splice(reader, os.open(a.data, os.O_RDONLY), 8)


@attempt(W, "fallocate", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.posix_fallocate(os.open(a.data, os.O_RDWR), 0, 65536)
    return "allocated"


@attempt(W, "unlink", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.unlink(a.data)
    return not os.path.lexists(a.data)


@attempt(W, "unlinkat with a directory's descriptor", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.unlink("data.txt", dir_fd=os.open(a.readonly, os.O_PATH))
    return not os.path.lexists(a.data)


@attempt(W, "rmdir", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.rmdir(a.readonly + "/empty")
    return not os.path.exists(a.readonly + "/empty")


@attempt(W, "rename out of it", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.rename(a.data, a.own("taken"))
    return not os.path.exists(a.data)


@attempt(W, "rename over it", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.rename(_own(a), a.data)
    return _changed(a)


@attempt(W, "exchange by renameat2", modes=FILES)
def _(a: Range) -> object:
    call("renameat2", AT_FDCWD, _own(a), AT_FDCWD, a.data, RENAME_EXCHANGE)
    return _changed(a)


@attempt(W, "rename the directory itself", modes=FILES)
def _(a: Range) -> object:
    os.rename(a.readonly, a.root + "/elsewhere")
    return _write(os.open(a.root + "/elsewhere/data.txt", os.O_WRONLY))


@attempt(W, "exchange the directory with one's own", modes=FILES)
def _(a: Range) -> object:
    os.mkdir(path := a.own("dir"))
    call("renameat2", AT_FDCWD, path, AT_FDCWD, a.readonly, RENAME_EXCHANGE)
    return _write(os.open(path + "/data.txt", os.O_WRONLY))


@attempt(W, "create a file", modes=FILES, alert=True)
def _(a: Range) -> object:
    return _write(os.open(a.readonly + "/new", os.O_CREAT | os.O_WRONLY, 0o600))


@attempt(W, "create with O_EXCL relative to a descriptor", modes=FILES, alert=True)
def _(a: Range) -> object:
    folder = os.open(a.readonly, os.O_PATH)
    return _write(os.open("new", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600, dir_fd=folder))


@attempt(W, "O_TMPFILE, then linkat", modes=FILES, alert=True)
def _(a: Range) -> object:
    fd = os.open(a.readonly, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, TEXT)
    call("linkat", AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, a.readonly + "/tmp", 0x400)
    return os.path.exists(a.readonly + "/tmp")


@attempt(W, "mkdir", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.mkdir(a.readonly + "/new")
    return os.path.isdir(a.readonly + "/new")


@attempt(W, "symlink", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.symlink("/etc/passwd", a.readonly + "/new")
    return os.path.islink(a.readonly + "/new")


@attempt(W, "link", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.link(_own(a), a.readonly + "/new")
    return os.path.exists(a.readonly + "/new")


@attempt(W, "mknod of a pipe", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.mkfifo(a.readonly + "/new")
    return os.path.exists(a.readonly + "/new")


@attempt(W, "mknod of a plain file", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.mknod(a.readonly + "/new", stat.S_IFREG | 0o600)
    return os.path.exists(a.readonly + "/new")


@attempt(W, "bind of a unix socket", modes=FILES)
def _(a: Range) -> object:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(a.readonly + "/socket")
    return os.path.exists(a.readonly + "/socket")


@attempt(W, "core dump, written by the kernel", modes=FILES)
def _(a: Range) -> object:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
    before = set(os.listdir(a.readonly))
    os.chdir(a.readonly)
    pid = os.fork()
    if pid == 0:
        os.abort()
    os.waitpid(pid, 0)
    return sorted(set(os.listdir(a.readonly)) - before)


@attempt(W, "process accounting, written by the kernel", needs="root", optional=True)
def _(a: Range) -> object:
    call("acct", a.data)
    call("acct", None)
    return "switched on"


@attempt(W, "io_uring", modes=("deny",))
def _(a: Range) -> object:
    return call("io_uring_setup", 4, bytes(120)) >= 0


@attempt(W, "chmod", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.chmod(a.data, 0o600)
    return stat.S_IMODE(os.stat(a.data).st_mode) == 0o600


@attempt(W, "fchmod of a reader", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.fchmod(os.open(a.data, os.O_RDONLY), 0o600)
    return "changed"


@attempt(W, "fchmodat with a directory's descriptor", modes=FILES, alert=True)
def _(a: Range) -> object:
    call("fchmodat", os.open(a.readonly, os.O_PATH), "data.txt", 0o600)
    return "changed"


@attempt(W, "fchmodat2 with AT_EMPTY_PATH", modes=FILES)
def _(a: Range) -> object:
    call("fchmodat2", os.open(a.data, os.O_PATH), "", 0o600, AT_EMPTY_PATH)
    return "changed"


@attempt(W, "chmod of O_PATH by /proc/self/fd", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.chmod(f"/proc/self/fd/{os.open(a.data, os.O_PATH)}", 0o600)
    return "changed"


@attempt(W, "chmod of the directory", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.chmod(a.readonly, 0o777)
    return "changed"


@attempt(W, "chown", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.chown(a.data, -1, os.getgid())
    return "changed"


@attempt(W, "fchown of a reader", modes=FILES)
def _(a: Range) -> object:
    os.fchown(os.open(a.data, os.O_RDONLY), -1, os.getgid())
    return "changed"


@attempt(W, "fchownat with AT_EMPTY_PATH", modes=FILES)
def _(a: Range) -> object:
    fd = os.open(a.data, os.O_PATH)
    call("fchownat", fd, "", -1, os.getgid(), AT_EMPTY_PATH)
    return "changed"


@attempt(W, "lchown", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.lchown(a.data, -1, os.getgid())
    return "changed"


@attempt(W, "utime", modes=FILES)
def _(a: Range) -> object:
    call("utime", a.data, struct.pack("ll", 1, 1))
    return os.stat(a.data).st_mtime == 1


@attempt(W, "utimes", modes=FILES)
def _(a: Range) -> object:
    call("utimes", a.data, struct.pack("llll", 1, 0, 1, 0))
    return os.stat(a.data).st_mtime == 1


@attempt(W, "utimensat", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.utime(a.data, (1, 1))
    return os.stat(a.data).st_mtime == 1


@attempt(W, "futimesat", modes=FILES)
def _(a: Range) -> object:
    call("futimesat", AT_FDCWD, a.data, struct.pack("llll", 1, 0, 1, 0))
    return os.stat(a.data).st_mtime == 1


@attempt(W, "times of a reader's descriptor", modes=FILES)
def _(a: Range) -> object:
    os.utime(os.open(a.data, os.O_RDONLY), (1, 1))
    return os.stat(a.data).st_mtime == 1


@attempt(W, "setxattr", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.setxattr(a.data, "user.mark", b"1")
    return os.getxattr(a.data, "user.mark")


@attempt(W, "fsetxattr of a reader", modes=FILES)
def _(a: Range) -> object:
    fd = os.open(a.data, os.O_RDONLY)
    call("fsetxattr", fd, "user.mark", b"1", 1, 0)
    return "changed"


@attempt(W, "setxattrat", modes=FILES, optional=True)
def _(a: Range) -> object:
    value = ctypes.create_string_buffer(b"1")
    args = struct.pack("QII", ctypes.addressof(value), 1, 0)
    call("setxattrat", AT_FDCWD, a.data, 0, "user.mark", args, len(args))
    return "changed"


@attempt(W, "removexattr", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.removexattr(a.data, "user.note")
    return "removed"


@attempt(W, "fremovexattr of a reader", modes=FILES)
def _(a: Range) -> object:
    call("fremovexattr", os.open(a.data, os.O_RDONLY), "user.note")
    return "removed"


@attempt(W, "chattr by ioctl of a reader", modes=FILES)
def _(a: Range) -> object:
    fd = os.open(a.data, os.O_RDONLY)
    flags = bytearray(8)
    fcntl.ioctl(fd, 0x80086601, flags)
    value = struct.unpack_from("i", flags)[0]
    fcntl.ioctl(fd, 0x40086602, struct.pack("l", value ^ 0x40))  # "no dump"
    return "changed"


@attempt(W, "chattr by FS_IOC_FSSETXATTR of a reader", modes=FILES)
def _(a: Range) -> object:
    fd = os.open(a.data, os.O_RDONLY)
    attributes = bytearray(28)
    fcntl.ioctl(fd, 0x801C581F, attributes)
    value = struct.unpack_from("I", attributes)[0]
    struct.pack_into("I", attributes, 0, value ^ 0x80)  # "no dump"
    fcntl.ioctl(fd, 0x401C5820, bytes(attributes))
    return "changed"


@attempt(W, "file_setattr", modes=FILES, optional=True)
def _(a: Range) -> object:
    attributes = struct.pack("QIIII", 0x80, 0, 0, 0, 0)
    call("file_setattr", AT_FDCWD, a.data, attributes, len(attributes), 0)
    return "changed"


@attempt(W, "bind mount over it", modes=("deny",), needs="root")
def _(a: Range) -> object:
    call("mount", _own(a), a.data, None, 4096, None)
    call("umount2", a.data, 2)
    return "mounted"


@attempt(W, "as a process of a new user namespace", modes=FILES)
def _(a: Range) -> object:
    return output(["/usr/bin/unshare", "-Ur", "/bin/sh", "-c", f"echo changed > {a.data}; echo ok"])


@attempt(W, "race: the path's text changes", modes=("deny",))
def _(a: Range) -> object:
    output([a.probe, "race-write", a.work + "/decoy", a.data])
    return _changed(a)


@attempt(D, "create a file", modes=FILES, alert=True)
def _(a: Range) -> object:
    return _write(os.open(a.vault + "/new", os.O_CREAT | os.O_WRONLY, 0o600))


@attempt(D, "mkdir", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.mkdir(a.vault + "/new")
    return "made"


@attempt(D, "mkdir by a symbolic link on the way", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.symlink(a.vault, link := a.own("link"))
    os.mkdir(link + "/new")
    return "made"


@attempt(D, "symlink", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.symlink("/etc", a.vault + "/new")
    return "made"


@attempt(D, "link", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.link(_own(a), a.vault + "/new")
    return "made"


@attempt(D, "mknod of a pipe", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.mkfifo(a.vault + "/new")
    return "made"


@attempt(D, "rename into it", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.rename(_own(a), a.vault + "/new")
    return "moved"


@attempt(D, "bind of a unix socket", modes=FILES)
def _(a: Range) -> object:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(a.vault + "/socket")
    return "bound"


@attempt(D, "unlink in it", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.unlink(a.inner)
    return "gone"


@attempt(D, "chmod of it", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.chmod(a.vault, 0o777)
    return "changed"


@attempt(D, "chmod of a hidden file", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.chmod(a.secret, 0o666)
    return "changed"


@attempt(D, "truncate of a hidden file", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.truncate(a.secret, 0)
    return "emptied"


@attempt(D, "unlink of a hidden file", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.unlink(a.secret)
    return "gone"


@attempt(D, "core dump, written by the kernel", modes=FILES)
def _(a: Range) -> object:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
    os.chdir(a.vault)
    pid = os.fork()
    if pid == 0:
        os.abort()
    _, status = os.waitpid(pid, 0)
    return "dumped" if os.WCOREDUMP(status) else None
