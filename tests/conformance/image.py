"""The fixture: a root directory as the images of KubeArmor's cases have it.

Their images cannot be fetched here, so the tree is put together from this machine's own programs,
copied with the libraries that they need. Two layouts, since rules match resolved paths: *split*,
with ``/bin``, ``/sbin`` and ``/lib`` as directories (Ubuntu 18.04, Debian 9, Alpine), and *merged*,
where they are links into ``/usr`` (Debian 12, a current host). What lies in the tree follows
``examples/multiubuntu/build/Dockerfile`` of KubeArmor 1.7 and the images that the manifests name.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
PROGRAMS: Final = Path(__file__).with_name("programs")
USER: Final = 1000
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: what a distribution with split directories keeps in /bin; all else is in /usr/bin
_BIN: Final = """
bash cat chgrp chmod chown cp dash date dd df echo egrep false fgrep findmnt grep gunzip gzip
hostname kill ln login ls lsblk mkdir mknod mktemp more mount mountpoint mv nc netstat ping ps pwd
readlink rm rmdir rnano run-parts sed sleep ss stty su sync tar tempfile touch true umount uname
vdir zcat
"""
_SBIN: Final = """
arp fsck getcap setcap ifconfig ip ldconfig losetup mkfs route shutdown swapon sysctl tc
"""
_USR_BIN: Final = """
apt apt-cache apt-get arch awk base64 basename chage chattr chrt cksum clear cmp comm curl cut diff
dirname dpkg du env expand expr factor find fmt free getconf getent groups head hostid iconv id
install ionice last ldd less link locale logger logname lsattr lscpu mawk md5sum mkfifo namei nice
nl nohup nproc numfmt od openssl passwd paste pathchk perl pgrep pidof pkill pr printenv printf ptx
realpath renice reset script seq setpriv setsid sha256sum shred shuf sort split ssh stat stdbuf
strace strings sum tac tail tee telnet test time timeout top tput tr truncate tsort tty uniq unlink
unshare uptime users vi vmstat w watch wc wget which who whoami xargs yes
"""
_USR_SBIN: Final = """
arping chpasswd chroot groupadd iptables nologin tcpdump useradd userdel usermod
"""
#: the cases need these; a machine without them says so instead of failing in the dark
NEEDED: Final = (
    "apt", "arping", "bash", "cc", "curl", "dash", "diff", "ip", "ldd", "mount", "nc", "ping",
    "ps", "route", "su", "unlink", "unshare",
)  # fmt: skip

_PAM_SU: Final = (
    "auth sufficient pam_rootok.so\nauth required pam_unix.so\n"
    "account required pam_unix.so\nsession required pam_unix.so\n"
)
#: (path, text, owner); parents are made on the way
_FILES: Final[tuple[tuple[str, str, int], ...]] = (
    ("/secret.txt", "secret file\n", 0),
    ("/plain.txt", "plain file\n", 0),
    ("/credentials/password", "password file\n", 0),
    ("/credentials/token", "token file\n", 0),
    ("/credentials/keys/cert.ca", "cert file\n", 0),
    ("/credentials/keys/priv.key", "key file\n", 0),
    ("/home/user1/secret_data1.txt", "secret file user1\n", USER),
    ("/home/user1/otherfile.txt", "other file\n", USER),
    ("/home/user1/dir1/key1.txt", "key file 1\n", USER),
    ("/home/user1/.profile", "[ -f ~/.bashrc ] && . ~/.bashrc\n", USER),
    ("/home/user1/.bashrc", "# nothing\n", USER),
    ("/root/.bashrc", "# nothing\n", 0),
    ("/root/.profile", "# nothing\n", 0),
    ("/entrypoint.sh", "#!/bin/bash\nexec tail -f /dev/null\n", 0),
    ("/docker-entrypoint.sh", "#!/bin/sh\nexec \"$@\"\n", 0),
    ("/run/secrets/kubernetes.io/serviceaccount/token", "token\n", 0),
    ("/run/secrets/kubernetes.io/serviceaccount/ca.crt", "certificate\n", 0),
    ("/run/secrets/kubernetes.io/serviceaccount/namespace", "multiubuntu\n", 0),
    ("/run/utmp", "", 0),
    ("/var/www/html/wp-config.php", "<?php define('DB_PASSWORD', 'x');\n", 0),
    ("/var/www/html/index.php", "<?php\n", 0),
    ("/var/lib/mysql/ibdata1", "x\n", 0),
    ("/var/log/syslog", "x\n", 0),
    ("/usr/share/nginx/html/index.html", "<!DOCTYPE html>\n<html>nginx</html>\n", 0),
    ("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"
     "user1:x:1000:1000::/home/user1:/bin/bash\n"
     "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n", 0),
    ("/etc/group", "root:x:0:\ntty:x:5:\nshadow:x:42:\nuser1:x:1000:\nnogroup:x:65534:\n", 0),
    ("/etc/shadow", "root:*:19000:0:99999:7:::\nuser1:*:19000:0:99999:7:::\n", 0),
    ("/etc/gshadow", "root:*::\nuser1:!::\n", 0),
    ("/etc/hostname", "conformance\n", 0),
    ("/etc/hosts", "127.0.0.1 localhost\n", 0),
    ("/etc/host.conf", "multi on\n", 0),
    ("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", 0),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n", 0),
    ("/etc/shells", "/bin/sh\n/bin/bash\n", 0),
    ("/etc/profile", "# nothing\n", 0),
    ("/etc/bash.bashrc", "# nothing\n", 0),
    ("/etc/environment", "", 0),
    ("/etc/login.defs", "ENV_PATH PATH=/usr/local/bin:/usr/bin:/bin\n", 0),
    ("/etc/default/useradd", "SHELL=/bin/sh\n", 0),
    ("/etc/default/locale", "", 0),
    ("/etc/os-release", "ID=ubuntu\nVERSION_ID=18.04\n", 0),
    ("/etc/pam.d/su", _PAM_SU, 0),
    ("/etc/pam.d/su-l", _PAM_SU, 0),
    ("/etc/pam.d/other", "auth required pam_deny.so\naccount required pam_deny.so\n", 0),
)  # fmt: skip
_DIRECTORIES: Final = (
    "dev", "etc/apt/apt.conf.d", "media", "mnt", "opt", "proc", "srv", "sys", "tmp",
    "usr/local/bin", "usr/local/lib", "usr/share/locale", "var/cache/apt",
    "var/lib/apt/lists/partial", "var/lib/dpkg", "var/tmp", "var/run",
)  # fmt: skip


def missing() -> list[str]:
    """What this machine lacks of what the fixture needs; empty when it can be built."""
    return [name for name in NEEDED if shutil.which(name, path=PATH) is None]


@dataclass(frozen=True)
class Binds:
    """Directories of this machine that the sandbox's Python needs, seen at the same place."""

    paths: tuple[Path, ...]


def binds() -> Binds:
    """The checkout, the virtual environment and the interpreter's installation."""
    wanted = [REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)]
    if _system_python():  # then its installation is /usr itself, which the fixture has its own of
        wanted[2:] = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
        if Path(sys.prefix) == Path(sys.base_prefix):
            del wanted[1]
    chosen: list[Path] = []
    for path in sorted({path.resolve() for path in wanted if path.exists()}):
        if not any(path.is_relative_to(other) for other in chosen):
            chosen.append(path)
    return Binds(tuple(chosen))


def _system_python() -> bool:
    return Path(sys.base_prefix) == Path("/usr")


def build(root: Path, *, merged: bool) -> None:
    """Make the tree at `root`, which must not exist.

    Raises
    ------
    RuntimeError
        when a program that the cases need is not on this machine.
    """
    if lacking := missing():
        raise RuntimeError(f"the fixture needs {', '.join(lacking)}: install them")
    root.mkdir(parents=True)
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if merged:
            (root / name).symlink_to(f"usr/{name}")
        else:
            (root / name).mkdir()
    for mode, name in ((0o1777, "tmp"), (0o1777, "var/tmp")):
        (root / name).chmod(mode)
    _install_programs(root)
    _install_files(root)


def _install_programs(root: Path) -> None:
    places = {"bin": _BIN, "sbin": _SBIN, "usr/bin": _USR_BIN, "usr/sbin": _USR_SBIN}
    libraries = _Libraries(root)
    for place, names in places.items():
        for name in names.split():
            if found := shutil.which(name, path=PATH):
                libraries.install(Path(found).resolve(), root / place / name)
    python = Path(sys.executable).resolve()
    # The image has Python 3.6, and a case names that file.
    libraries.install(python, root / "usr/bin/python3.6")
    (root / "usr/bin/python3").symlink_to("python3.6")
    (root / "usr/bin/python").symlink_to("python3")
    (root / "bin/sh").symlink_to("dash")
    (root / "bin/ip").symlink_to("../sbin/ip")
    if _system_python():
        libraries.install(python, root / python.relative_to("/"))
    libraries.needed_by(Path(sysconfig.get_config_var("DESTSHARED")).glob("*.so"))
    libraries.needed_by((REPOSITORY / "modelarmor/sandbox").glob("modelarmor-helper"))
    for security in sorted(Path("/lib", _multiarch(), "security").glob("pam_*.so")):
        libraries.install(security, root / "lib" / _multiarch() / "security" / security.name)
    shutil.copytree("/usr/share/dpkg", root / "usr/share/dpkg")  # apt's tables
    for terminal in ("xterm", "linux"):
        source = Path("/lib/terminfo", terminal[0], terminal)
        if source.exists():
            _copy(source, root / "lib/terminfo" / terminal[0] / terminal)
    for name, places_of in (
        ("hello", ("/hello", "/home/user1/hello")),
        ("readwrite", ("/readwrite", "/home/user1/readwrite")),
    ):
        for place in places_of:
            target = root / place.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            compiler = ["cc", "-O1", "-o", os.fspath(target), os.fspath(PROGRAMS / f"{name}.c")]
            subprocess.run(compiler, check=True)
            os.chown(target, *((USER, USER) if place.startswith("/home") else (0, 0)))
    _copy(PROGRAMS / "ls.py", root / "ls.py")


def _install_files(root: Path) -> None:
    for path, text, owner in _FILES:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        os.chown(target, owner, owner)
    for name in ("entrypoint.sh", "docker-entrypoint.sh"):
        (root / name).chmod(0o755)
    for name in ("etc/shadow", "etc/gshadow"):
        (root / name).chmod(0o640)
    for name in ("home/user1", "home/user1/dir1"):
        os.chown(root / name, USER, USER)
    for path in ("root", "proc", "sys"):
        (root / path).mkdir(exist_ok=True)
    # As Kubernetes mounts it: /var/run is a link to /run.
    (root / "var/run").rmdir()
    (root / "var/run").symlink_to("/run")
    # Python's own modules, for the tree's /usr/bin/python3.6; filled by a bind mount.
    (root / "usr/lib" / Path(sysconfig.get_path("stdlib")).name).mkdir(exist_ok=True)
    (root / "dev/shm").mkdir()
    (root / "dev/pts").mkdir()


class _Libraries:
    """Copies of programs, and of each shared object that one of them asks for, once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: set[str] = set()

    def install(self, source: Path, target: Path) -> None:
        _copy(source, target)
        self.needed_by([source])

    def needed_by(self, programs: Iterable[Path]) -> None:
        # Several programs in one go: ldd is a shell script, and slow.
        names = [os.fspath(program) for program in programs]
        if not names:
            return
        listing = subprocess.run(["ldd", *names], capture_output=True, text=True, check=False)
        for library in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listing.stdout, re.MULTILINE):
            if library not in self._seen:
                self._seen.add(library)
                self._install_library(Path(library))

    def _install_library(self, library: Path) -> None:
        if library.name.startswith("ld-"):  # the loader: at a fixed path, a link to its file
            _copy(library.resolve(), self._root / "lib" / _multiarch() / library.name)
            link = self._root / library.relative_to("/")
            if not link.exists() and not link.is_symlink():
                link.symlink_to(f"/lib/{_multiarch()}/{library.name}")
        elif library.is_relative_to("/lib") or library.is_relative_to("/usr/lib"):
            _copy(library.resolve(), self._root / "lib" / _multiarch() / library.name)
        # Others, such as libpython of an installation elsewhere, come with a bind mount.


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copyfile(source, target)
        shutil.copymode(source, target)


def _multiarch() -> str:
    return str(sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu")
