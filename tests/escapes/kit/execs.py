"""Ways to run a program that the policy forbids."""

import fcntl
import os
import signal
import struct

from .calls import AT_EMPTY_PATH, FILES, Range, attempt, call, output

X = "Running a forbidden program"
F = "Running code without a file"


def _spawn(run: "object") -> bytes:
    """What a child prints that calls ``run`` and should be another program afterwards."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(writer, 1)
            run()  # type: ignore[operator]
        except OSError as error:
            os._exit(error.errno or 1)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status:
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
        raise OSError(code, os.strerror(code))
    return text


def _execveat(fd: int, path: str, flags: int) -> bytes:
    def run() -> None:
        argv = struct.pack("QQ", 0, 0)
        call("execveat", fd, path, argv, argv, flags)

    return _spawn(run)


def _copy(a: Range, path: str) -> str:
    with open(a.denied, "rb") as source, open(path, "wb") as copy:
        copy.write(source.read())
    os.chmod(path, 0o700)
    return path


def _script(a: Range, text: str) -> str:
    with open(path := a.own("script"), "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, 0o700)
    return path


@attempt(X, "execve", modes=FILES, alert=True)
def _(a: Range) -> object:
    return _spawn(lambda: os.execv(a.denied, ["x"]))


@attempt(X, "posix_spawn", modes=FILES, alert=True)
def _(a: Range) -> object:
    return output([a.denied])


@attempt(X, "execve after vfork", modes=FILES, alert=True)
def _(a: Range) -> object:
    return output([a.probe, "vfork", a.denied])


@attempt(X, "sh -c", modes=FILES, alert=True)
def _(a: Range) -> object:
    return output(["/bin/sh", "-c", a.denied])


@attempt(X, "sh -c exec, three shells deep", modes=FILES, alert=True)
def _(a: Range) -> object:
    return output(["/bin/sh", "-c", f"sh -c 'sh -c \"exec {a.denied}\"'"])


@attempt(X, "env, found on the PATH", modes=FILES, alert=True)
def _(a: Range) -> object:
    return output(["/usr/bin/env", os.path.basename(a.denied)], env={"PATH": a.bin})


@attempt(X, "execveat with a directory's descriptor", modes=FILES, alert=True)
def _(a: Range) -> object:
    return _execveat(os.open(a.bin, os.O_PATH), os.path.basename(a.denied), 0)


@attempt(X, "execveat with AT_EMPTY_PATH", modes=FILES, alert=True)
def _(a: Range) -> object:
    return _execveat(os.open(a.denied, os.O_PATH), "", AT_EMPTY_PATH)


@attempt(X, "/proc/self/fd", modes=FILES, alert=True)
def _(a: Range) -> object:
    fd = os.open(a.denied, os.O_PATH)
    return _spawn(lambda: os.execv(f"/proc/self/fd/{fd}", ["x"]))


@attempt(X, "/proc/self/root", modes=FILES, alert=True)
def _(a: Range) -> object:
    return _spawn(lambda: os.execv("/proc/self/root" + a.denied, ["x"]))


@attempt(X, "relative path", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.chdir(a.bin)
    return _spawn(lambda: os.execv("./" + os.path.basename(a.denied), ["x"]))


@attempt(X, "symbolic link", modes=FILES, alert=True)
def _(a: Range) -> object:
    os.symlink(a.denied, link := a.own("link"))
    return _spawn(lambda: os.execv(link, ["x"]))


@attempt(X, "new hard link", modes=FILES)
def _(a: Range) -> object:
    os.link(a.denied, link := a.own("hard"))
    return _spawn(lambda: os.execv(link, ["x"]))


@attempt(X, "hard link that was there before", modes=FILES)
def _(a: Range) -> object:
    return _spawn(lambda: os.execv(a.links + "/denied-alias", ["x"]))


@attempt(X, "rename", modes=FILES)
def _(a: Range) -> object:
    os.rename(a.denied, new := a.own("renamed"))
    return _spawn(lambda: os.execv(new, ["x"]))


@attempt(X, "rename of its directory", modes=FILES)
def _(a: Range) -> object:
    os.rename(a.bin, a.root + "/nib")
    return _spawn(lambda: os.execv(a.root + "/nib/denied", ["x"]))


@attempt(X, "a copy", modes=FILES)
def _(a: Range) -> object:
    path = _copy(a, a.own("copy"))
    return _spawn(lambda: os.execv(path, ["x"]))


@attempt(X, "a copy in memory (memfd)", modes=FILES)
def _(a: Range) -> object:
    fd = os.memfd_create("copy")
    with open(a.denied, "rb") as source:
        os.write(fd, source.read())
    return _spawn(lambda: os.execv(f"/proc/self/fd/{fd}", ["x"]))


@attempt(X, "cp, then chmod, by a shell", modes=FILES)
def _(a: Range) -> object:
    path = a.own("copy")
    return output(["/bin/sh", "-c", f"cp {a.denied} {path} && chmod 700 {path} && {path}"])


@attempt(X, "interpreter of a script (#!)", modes=FILES)
def _(a: Range) -> object:
    path = _script(a, f"#!{a.denied}\n")
    return _spawn(lambda: os.execv(path, ["x"]))


@attempt(X, "interpreter of an interpreter's script (#! twice)", modes=FILES)
def _(a: Range) -> object:
    os.rename(_script(a, f"#!{a.denied}\n"), inner := a.own("inner"))
    path = _script(a, f"#!{inner}\n")
    return _spawn(lambda: os.execv(path, ["x"]))


@attempt(X, "interpreter of a script, by a symbolic link", modes=FILES)
def _(a: Range) -> object:
    os.symlink(a.denied, link := a.own("link"))
    path = _script(a, f"#!{link}\n")
    return _spawn(lambda: os.execv(path, ["x"]))


@attempt(X, "ELF interpreter (PT_INTERP)", modes=FILES)
def _(a: Range) -> object:
    path = a.own("elf")
    with open(path, "wb") as file:
        file.write(_elf_with_interpreter(os.fsencode(a.denied)))
    os.chmod(path, 0o700)
    return _spawn(lambda: os.execv(path, ["x"]))


@attempt(X, "ELF interpreter of a program that cannot be read", modes=FILES)
def _(a: Range) -> object:
    path = a.own("elf")
    with open(path, "wb") as file:
        file.write(_elf_with_interpreter(os.fsencode(a.denied)))
    os.chmod(path, 0o111)
    return _spawn(lambda: os.execv(path, ["x"]))


@attempt(X, "ELF interpreter of a program with a lease on it", modes=FILES)
def _(a: Range) -> object:
    path = a.own("elf")
    with open(path, "wb") as file:
        file.write(_elf_with_interpreter(os.fsencode(a.denied)))
    os.chmod(path, 0o700)
    holder = os.open(path, os.O_RDONLY)

    def release(*_: object) -> None:
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        os.close(holder)

    signal.signal(signal.SIGIO, release)
    fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    return _spawn(lambda: os.execv(path, ["x"]))


def _elf_with_interpreter(interpreter: bytes) -> bytes:
    name = interpreter + b"\0"
    offset = 64 + 2 * 56
    size = offset + len(name)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1" + bytes(9), 3, 62, 1, offset, 64, 0,
                         0, 64, 56, 2, 0, 0, 0)  # fmt: skip
    interp = struct.pack("<IIQQQQQQ", 3, 4, offset, offset, offset, len(name), len(name), 1)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size, size, 4096)
    return header + interp + load + name


@attempt(X, "through the dynamic loader", modes=("deny", "locked"), optional=True)
def _(a: Range) -> object:
    return output(["/lib64/ld-linux-x86-64.so.2", a.denied])


@attempt(X, "as a library, by dlopen", modes=FILES)
def _(a: Range) -> object:
    with open(a.denied, "rb") as file:  # what dlopen does first
        return b"ELF" in file.read(4)


@attempt(X, "binfmt_misc handler", needs="root", optional=True)
def _(a: Range) -> object:
    with open("/proc/sys/fs/binfmt_misc/register", "wb"):
        return "open for registration"


_LATE = (
    "exec cannot be made for another process: where Landlock does not hold the rule, the program is"
    " looked at again once it runs, and ended within milliseconds"
)


@attempt(X, "race: the path's text changes", modes=FILES, limit=_LATE)
def _(a: Range) -> object:
    return output([a.probe, "race-exec", a.work + "/decoy.sh", a.denied])


@attempt(X, "race: a symbolic link changes", modes=FILES, limit=_LATE)
def _(a: Range) -> object:
    return output([a.probe, "race-exec-link", a.work + "/decoy.sh", a.denied, a.own("race")])


@attempt(X, "set-user-id program", needs="user")
def _(a: Range) -> object:
    text = output([a.root + "/suid", "uids", "-"])
    return text if text.split()[0] == b"0" else None


@attempt(
    F,
    "memfd of one's own code",
    modes=("deny",),
    limit="an interpreter runs any code anyway; what the code touches is confined",
)
def _(a: Range) -> object:
    fd = os.memfd_create("code")
    with open(a.probe, "rb") as source:
        os.write(fd, source.read())
    return _execveat_status(fd)


@attempt(F, "memfd under the preset filelessExec", modes=("fileless",), alert=True)
def _(a: Range) -> object:
    fd = os.memfd_create("code")
    with open(a.probe, "rb") as source:
        os.write(fd, source.read())
    return _execveat_status(fd)


@attempt(F, "memfd by /proc/self/fd under filelessExec", modes=("fileless",), alert=True)
def _(a: Range) -> object:
    fd = os.memfd_create("code")
    with open(a.probe, "rb") as source:
        os.write(fd, source.read())
    return _run_status(f"/proc/self/fd/{fd}")


@attempt(F, "memfd as a script's interpreter under filelessExec", modes=("fileless",))
def _(a: Range) -> object:
    fd = os.memfd_create("code", 0)
    with open(a.probe, "rb") as source:
        os.write(fd, source.read())
    return _run_status(_script(a, f"#!/proc/self/fd/{fd}\n"))


@attempt(F, "/dev/shm under filelessExec", modes=("fileless",), alert=True)
def _(a: Range) -> object:
    path = f"/dev/shm/modelarmor-escape-{os.getpid()}"
    try:
        with open(a.probe, "rb") as source, open(path, "wb") as copy:
            copy.write(source.read())
        os.chmod(path, 0o700)
        return _run_status(path)
    finally:
        os.unlink(path)


@attempt(F, "/dev/shm by a symbolic link under filelessExec", modes=("fileless",), alert=True)
def _(a: Range) -> object:
    path = f"/dev/shm/modelarmor-escape-{os.getpid()}"
    try:
        with open(a.probe, "rb") as source, open(path, "wb") as copy:
            copy.write(source.read())
        os.chmod(path, 0o700)
        os.symlink(path, link := a.own("link"))
        return _run_status(link)
    finally:
        os.unlink(path)


@attempt(
    F,
    "deleted file by /proc/self/fd",
    modes=("fileless",),
    limit="a file that was written, run and deleted is not fileless; KubeArmor says the same",
)
def _(a: Range) -> object:
    path = a.own("gone")
    with open(a.probe, "rb") as source, open(path, "wb") as copy:
        copy.write(source.read())
    os.chmod(path, 0o700)
    fd = os.open(path, os.O_PATH)
    os.unlink(path)
    return _run_status(f"/proc/self/fd/{fd}")


def _run_status(path: str) -> object:
    """The probe without arguments exits with 2, which proves that it ran."""
    return _status(lambda: os.execv(path, ["x"]))


def _execveat_status(fd: int) -> object:
    def run() -> None:
        argv = struct.pack("QQ", 0, 0)
        call("execveat", fd, "", argv, argv, AT_EMPTY_PATH)

    return _status(run)


def _status(run: "object") -> object:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            run()  # type: ignore[operator]
        except OSError as error:
            os.write(writer, bytes([error.errno or 1]))
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        code = pipe.read()
    _, status = os.waitpid(pid, 0)
    if code:
        raise OSError(code[0], os.strerror(code[0]))
    if os.WIFSIGNALED(status):
        raise OSError(0, f"killed by signal {os.WTERMSIG(status)}")
    return f"ran: status {os.WEXITSTATUS(status)}"
