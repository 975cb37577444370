"""Ways to the content of a file that the policy hides."""

import array
import ctypes
import errno
import os
import socket
import stat
import struct

from .calls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_FOLLOW,
    FILES,
    RENAME_EXCHANGE,
    Range,
    attempt,
    call,
    libc,
    output,
    read,
    slurp,
)

R = "Reading a hidden file"


@attempt(R, "open", modes=FILES, alert=True)
def _(a: Range) -> object:
    return read(a.secret)


@attempt(R, "legacy open(2)", modes=FILES, alert=True)
def _(a: Range) -> object:
    return slurp(call("open", a.secret, os.O_RDONLY, 0))


@attempt(R, "open for reading and writing", modes=FILES, alert=True)
def _(a: Range) -> object:
    return read(a.secret, os.O_RDWR)


@attempt(R, "openat with a directory's descriptor", modes=FILES, alert=True)
def _(a: Range) -> object:
    fd = os.open(a.deep, os.O_PATH | os.O_DIRECTORY)
    return slurp(os.open(os.path.basename(a.secret), os.O_RDONLY, dir_fd=fd))


def _openat2(dirfd: int, path: str, resolve: int, flags: int = os.O_RDONLY) -> int:
    how = struct.pack("QQQ", flags, 0, resolve)
    return call("openat2", dirfd, path, how, len(how))


@attempt(R, "openat2", modes=FILES)
def _(a: Range) -> object:
    return slurp(_openat2(AT_FDCWD, a.secret, 0))


@attempt(R, "openat2 RESOLVE_IN_ROOT: the path means something else", modes=FILES)
def _(a: Range) -> object:
    root = os.open(a.deep, os.O_PATH | os.O_DIRECTORY)
    return slurp(_openat2(root, "/" + os.path.basename(a.secret), 0x10))


@attempt(R, "openat2 RESOLVE_BENEATH", modes=FILES)
def _(a: Range) -> object:
    root = os.open(a.safe, os.O_PATH | os.O_DIRECTORY)
    return slurp(_openat2(root, "deep/secret.txt", 0x08))


@attempt(R, "path with ..", modes=FILES, alert=True)
def _(a: Range) -> object:
    return read(f"{a.work}/../links/../safe/deep/./secret.txt")


@attempt(R, "path with doubled slashes", modes=FILES, alert=True)
def _(a: Range) -> object:
    return read(a.secret.replace("/", "///"))


@attempt(R, "relative path", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.chdir(a.deep)
    return read("secret.txt")


@attempt(R, "relative path after fchdir", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.fchdir(os.open(a.safe, os.O_PATH | os.O_DIRECTORY))
    return read("deep/secret.txt")


@attempt(R, "symbolic link to the file", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.symlink(a.secret, link := a.own("link"))
    return read(link)


@attempt(R, "symbolic link to its directory", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.symlink(a.deep, link := a.own("link"))
    return read(link + "/secret.txt")


@attempt(R, "chain of thirty symbolic links", modes=FILES, alert=True)
def _(a: Range) -> object:
    target = a.secret
    for i in range(30):
        os.symlink(target, link := a.own(f"chain{i}"))
        target = link
    return read(target)


@attempt(R, "symbolic link that was there before", modes=FILES, alert=True)
def _(a: Range) -> object:
    return read(a.links + "/tosecret")


@attempt(R, "symbolic link with a relative target", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.symlink(os.path.relpath(a.secret, a.work), link := a.own("link"))
    return read(link)


@attempt(R, "new hard link", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.link(a.secret, link := a.own("hard"))
    return read(link)


@attempt(R, "new hard link by /proc/self/fd", modes=FILES)
def _(a: Range) -> object:
    fd = os.open(a.secret, os.O_PATH)
    link = a.own("hard")
    call("linkat", AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, link, AT_SYMLINK_FOLLOW)
    return read(link)


@attempt(R, "new hard link by AT_EMPTY_PATH", modes=FILES)
def _(a: Range) -> object:
    fd = os.open(a.secret, os.O_PATH)
    link = a.own("hard")
    call("linkat", fd, "", AT_FDCWD, link, AT_EMPTY_PATH)
    return read(link)


@attempt(R, "hard link that was there before", modes=FILES)
def _(a: Range) -> object:
    return read(a.links + "/alias")


@attempt(R, "/proc/self/root", modes=FILES, alert=True)
def _(a: Range) -> object:
    return read("/proc/self/root" + a.secret)


@attempt(R, "/proc/thread-self/root", modes=FILES, alert=True)
def _(a: Range) -> object:
    return read("/proc/thread-self/root" + a.secret)


@attempt(R, "/proc/self/task/<tid>/cwd", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.chdir(a.deep)
    return read(f"/proc/self/task/{os.getpid()}/cwd/secret.txt")


@attempt(R, "/proc/self/cwd", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.chdir(a.safe)
    return read("/proc/self/cwd/deep/secret.txt")


@attempt(R, "/proc/<own child>/root", modes=FILES, alert=True)
def _(a: Range) -> object:
    return read(f"/proc/{os.getppid()}/root{a.secret}")


@attempt(R, "/proc/<outside>/root", modes=FILES)
def _(a: Range) -> object:
    return read(f"/proc/{a.victim}/root{a.secret}")


@attempt(R, "/proc/<outside>/cwd", modes=FILES)
def _(a: Range) -> object:
    return read(f"/proc/{a.victim}/cwd/secret.txt")


@attempt(R, "/proc/<outside>/fd: a file that it has open", modes=FILES)
def _(a: Range) -> object:
    return read(f"/proc/{a.victim}/fd/{a.victim_fd}")


@attempt(R, "/proc/<outside>/environ", modes=FILES)
def _(a: Range) -> object:
    return read(f"/proc/{a.victim}/environ").partition(b"TOKEN=")[2].partition(b"\0")[0]


@attempt(R, "/proc/<outside>/map_files", modes=("deny",), needs="root")
def _(a: Range) -> object:
    folder = f"/proc/{a.victim}/map_files"
    for name in os.listdir(folder):
        if os.readlink(f"{folder}/{name}") == a.secret:
            return read(f"{folder}/{name}")
    return None


@attempt(R, "O_PATH, then /proc/self/fd", modes=FILES, alert=True)
def _(a: Range) -> object:
    return read(f"/proc/self/fd/{os.open(a.secret, os.O_PATH)}")


@attempt(R, "O_PATH, then /dev/fd", modes=FILES, alert=True)
def _(a: Range) -> object:
    return read(f"/dev/fd/{os.open(a.secret, os.O_PATH)}")


@attempt(R, "O_PATH of its directory, then /proc/self/fd", modes=FILES, alert=True)
def _(a: Range) -> object:
    return read(f"/proc/self/fd/{os.open(a.deep, os.O_PATH)}/secret.txt")


@attempt(R, "O_PATH, sent through a socket, then reopened", modes=FILES)
def _(a: Range) -> object:
    left, right = socket.socketpair()
    socket.send_fds(left, [b"x"], [os.open(a.secret, os.O_PATH)])
    _, fds, _, _ = socket.recv_fds(right, 1, 1)
    return read(f"/proc/self/fd/{fds[0]}")


@attempt(R, "rename the file, then open it", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.rename(a.secret, new := a.own("renamed"))
    return read(new)


@attempt(R, "rename the file within its directory", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.rename(a.secret, a.deep + "/other.txt")
    return read(a.deep + "/other.txt")


@attempt(R, "rename its directory", modes=FILES)
def _(a: Range) -> object:
    os.rename(a.deep, a.safe + "/shallow")
    return read(a.safe + "/shallow/secret.txt")


@attempt(R, "rename its directory's directory", modes=FILES)
def _(a: Range) -> object:
    os.rename(a.safe, a.root + "/unsafe")
    return read(a.root + "/unsafe/deep/secret.txt")


@attempt(R, "exchange the file with one's own", modes=FILES)
def _(a: Range) -> object:
    path = a.own("mine")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    call("renameat2", AT_FDCWD, path, AT_FDCWD, a.secret, RENAME_EXCHANGE)
    return read(path)


@attempt(R, "exchange its directory with one's own", modes=FILES)
def _(a: Range) -> object:
    os.mkdir(path := a.own("mine"))
    call("renameat2", AT_FDCWD, path, AT_FDCWD, a.deep, RENAME_EXCHANGE)
    return read(path + "/secret.txt")


@attempt(R, "rename a denied directory", modes=FILES)
def _(a: Range) -> object:
    os.rename(a.vault, new := a.own("vault"))
    return read(new + "/inner.txt")


@attempt(R, "file in a denied directory", modes=FILES, alert=True)
def _(a: Range) -> object:
    return read(a.inner)


@attempt(R, "list a denied directory", modes=FILES, alert=True)
def _(a: Range) -> object:
    return "inner.txt" in os.listdir(a.vault)


@attempt(R, "open a file in a denied directory as directory's descriptor", modes=FILES, alert=True)
def _(a: Range) -> object:
    return slurp(os.open("inner.txt", os.O_RDONLY, dir_fd=os.open(a.vault, os.O_PATH)))


@attempt(R, "open_by_handle_at", modes=FILES, needs="root")
def _(a: Range) -> object:
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount = ctypes.c_int()
    call("name_to_handle_at", AT_FDCWD, a.secret, handle, ctypes.byref(mount), 0)
    mount_fd = os.open(a.root, os.O_RDONLY)
    return slurp(call("open_by_handle_at", mount_fd, handle, os.O_RDONLY))


@attempt(R, "name_to_handle_at: the handle is half the way", modes=("deny",))
def _(a: Range) -> object:
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount = ctypes.c_int()
    call("name_to_handle_at", AT_FDCWD, a.secret, handle, ctypes.byref(mount), 0)
    return handle.raw[8:24].hex()


@attempt(R, "io_uring", modes=FILES)
def _(a: Range) -> object:
    return output([a.probe, "uring", a.secret])


@attempt(R, "chroot", modes=("deny",), needs="root")
def _(a: Range) -> object:
    os.chroot(a.deep)
    return read("/secret.txt")


@attempt(R, "open_tree, then openat", modes=FILES)
def _(a: Range) -> object:
    fd = call("open_tree", AT_FDCWD, a.deep, 0)
    return slurp(os.open("secret.txt", os.O_RDONLY, dir_fd=fd))


@attempt(R, "open_tree with a cloned mount", modes=FILES, needs="root")
def _(a: Range) -> object:
    fd = call("open_tree", AT_FDCWD, a.deep, 1)
    return slurp(os.open("secret.txt", os.O_RDONLY, dir_fd=fd))


@attempt(R, "bind mount", modes=FILES, needs="root")
def _(a: Range) -> object:
    os.mkdir(point := a.own("mount"))
    call("mount", a.deep, point, None, 4096, None)
    try:
        return read(point + "/secret.txt")
    finally:
        call("umount2", point, 2)


@attempt(R, "overlay of its directory", modes=("deny",), needs="root", optional=True)
def _(a: Range) -> object:
    os.mkdir(point := a.own("mount"))
    call("mount", "overlay", point, "overlay", 0, f"lowerdir={a.deep}:{a.links}")
    try:
        return read(point + "/secret.txt")
    finally:
        call("umount2", point, 2)


@attempt(R, "bind mount in a new user namespace", modes=FILES)
def _(a: Range) -> object:
    os.mkdir(point := a.own("mount"))
    return output(["/usr/bin/unshare", "-Urm", "/bin/sh", "-c",
                   f"mount --bind {a.deep} {point} && cat {point}/secret.txt"])  # fmt: skip


@attempt(R, "32-bit system call (int 0x80)", modes=FILES)
def _(a: Range) -> object:
    return output([a.probe, "int80", a.secret])


@attempt(R, "x32 system call", modes=("deny",), optional=True)
def _(a: Range) -> object:
    return slurp(call(0x40000000 | 2, a.secret, os.O_RDONLY, 0))


@attempt(R, "race: the path's text changes", modes=FILES)
def _(a: Range) -> object:
    return output([a.probe, "race-path", a.work + "/decoy", a.secret])


@attempt(R, "race: a symbolic link changes", modes=FILES)
def _(a: Range) -> object:
    return output([a.probe, "race-link", a.work + "/decoy", a.secret, a.own("race")])


@attempt(R, "race: the directory's descriptor changes", modes=FILES)
def _(a: Range) -> object:
    return output([a.probe, "race-dirfd", a.work, a.deep, "secret.txt"])


@attempt(R, "race: the working directory changes", modes=FILES)
def _(a: Range) -> object:
    return output([a.probe, "race-cwd", a.work, a.deep, "secret.txt"])


@attempt(R, "race: directories are exchanged by rename", modes=FILES)
def _(a: Range) -> object:
    return output([a.probe, "race-rename", a.work, a.deep, "secret.txt", a.own("race")])


@attempt(R, "device node of the disk", modes=("deny",), needs="root", optional=True)
def _(a: Range) -> object:
    info = os.stat(a.disk)
    path = a.own("disk")
    os.mknod(path, stat.S_IFBLK | 0o600, info.st_rdev)
    return len(read(path)) == 4096


@attempt(R, "the raw disk below the file system", modes=FILES, needs="root", optional=True)
def _(a: Range) -> object:
    return len(read(a.disk)) == 4096


@attempt(R, "fanotify hands out what others open", modes=("deny",), needs="root")
def _(a: Range) -> object:
    fan = call("fanotify_init", 0, os.O_RDONLY)
    call("fanotify_mark", fan, 1, ctypes.c_uint64(0x20), AT_FDCWD, a.deep + "/secret.txt")
    return "watching"


@attempt(R, "swapon of the file", modes=("deny",), needs="root")
def _(a: Range) -> object:
    try:
        call("swapon", a.secret, 0)
    except OSError as error:  # not a swap file, said after having read it
        return error.errno == errno.EINVAL
    return True


@attempt(
    R,
    "handed over by a cooperating process outside",
    modes=FILES,
    limit="whoever holds the file and sends it has decided so; the endpoint's owner is trusted",
)
def _(a: Range) -> object:
    with socket.socket(fileno=os.dup(a.inherited["friend"])) as friend:
        friend.send(b"fd")
        _, fds, _, _ = socket.recv_fds(friend, 1, 1)
        return slurp(fds[0])


@attempt(
    R,
    "size and times of the file (stat)",
    modes=FILES,
    limit="existence, size and times are not content; neither Landlock nor KubeArmor hides them",
)
def _(a: Range) -> object:
    return os.stat(a.secret).st_size


@attempt(R, "extended attributes of the file", modes=("deny",),
         limit="as stat: metadata may be read")  # fmt: skip
def _(a: Range) -> object:
    return os.getxattr(a.secret, "user.note")


@attempt(R, "inotify: when others use the file", modes=("deny",),
         limit="as stat: that a file is used is not its content")  # fmt: skip
def _(a: Range) -> object:
    fd = call("inotify_init1", 0)
    buffer = os.fsencode(a.secret)
    if libc.inotify_add_watch(fd, buffer, 0x20) < 0:
        raise OSError(ctypes.get_errno(), "inotify_add_watch")
    return "watching"


@attempt(R, "/dev/mem", modes=("deny",), needs="root", optional=True)
def _(a: Range) -> object:
    return read("/dev/mem")


@attempt(R, "/proc/kcore", modes=("deny",), needs="root", optional=True)
def _(a: Range) -> object:
    return read("/proc/kcore")[:4]


@attempt(R, "SysV shared memory of another process", modes=("deny",))
def _(a: Range) -> object:
    libc.shmat.restype = ctypes.c_void_p
    key = libc.shmget(a.ports["shm"], 0, 0)
    if key < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    address = libc.shmat(key, None, 0o10000)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "shmat")
    return ctypes.string_at(address, a.token_size)


@attempt(R, "POSIX message queue of another process", modes=("deny",))
def _(a: Range) -> object:
    fd = call("mq_open", f"modelarmor-{a.victim}", os.O_RDONLY | os.O_NONBLOCK, 0, 0)
    attributes = array.array("l", [0] * 8)
    call(245, fd, None, attributes.buffer_info()[0])
    return f"opened, {attributes[3]} waiting"
