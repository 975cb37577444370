"""What a model at work may reach, by what it means: the grants of a generated policy.

Paths that were seen are not copied, and siblings are not counted: each lies at or below an anchor,
a place with a meaning, and the anchor is what is granted. Some are always granted, because every
served model needs them though no observation shows it (what MLflow's scoring server reads to
listen, a library that is imported on the first request of a kind). Others are where something in
them was seen. What lies at no anchor is not granted, and is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from modelarmor import profiles
from modelarmor.policy.decide import Operation
from modelarmor.policy.model import Outcome, PathRule

When = Literal["always", "observed", "gpu"]


@dataclass(frozen=True, slots=True)
class Anchor:
    """A place with a meaning."""

    #: a file, or a directory with its slash and all below it; with templates
    place: str
    #: what it is, as a person reads it
    what: str
    when: When = "always"
    #: whether it may be changed
    writable: bool = False
    #: whether only the interpreter may, no program that it starts
    interpreter_only: bool = False

    def holds(self, path: str) -> bool:
        """Whether a path of an event (``/${MODEL}/…``) lies there."""
        own = f"/{self.place}" if self.place.startswith("${") else self.place
        if own.endswith("/"):
            return (path + "/").startswith(own)
        return path == own

    def rule(self, outcome: Outcome, interpreters: tuple[str, ...]) -> PathRule:
        """The grant, with stand-ins for the templates."""
        return PathRule(
            outcome,
            match="directory" if self.place.endswith("/") else "path",
            value=profiles.stand_in(self.place),
            recursive=self.place.endswith("/"),
            read_only=not self.writable,
            from_source=interpreters if self.interpreter_only else (),
        )


def _files(what: str, *paths: str, when: When = "always", writable: bool = False) -> list[Anchor]:
    return [Anchor(path, what, when, writable) for path in paths]


_GPU: Final = (
    *(
        Anchor(f"/dev/{name}", "the accelerator", "gpu", writable=True, interpreter_only=True)
        for name in (
            "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset",
            *(f"nvidia{number}" for number in range(8)),
        )
    ),
    Anchor("/dev/nvidia-caps/", "the accelerator's partitions", "gpu", True, True),
    Anchor("/dev/dri/", "the accelerator, as AMD and Intel have it", "gpu", True, True),
    Anchor("/dev/kfd", "the accelerator, as AMD has it", "gpu", True, True),
    Anchor("/opt/cuda/", "CUDA's libraries", "gpu", interpreter_only=True),
    Anchor("/run/nvidia-persistenced/", "the accelerator's driver service", "gpu", True, True),
    Anchor("/sys/bus/pci/", "which accelerators there are", "gpu", interpreter_only=True),
    Anchor("/sys/class/drm/", "which accelerators there are", "gpu", interpreter_only=True),
    Anchor("/sys/devices/", "which accelerators there are", "gpu", interpreter_only=True),
    Anchor("/sys/module/", "the accelerator's driver", "gpu", interpreter_only=True),
)  # fmt: skip

#: The order is that of the document. /lib and /lib64 are links into /usr where these have been
#: merged; the rules then fall together when the templates are filled in.
ANCHORS: Final = (
    Anchor("${MODEL}/", "the model"),
    Anchor("${MODEL}", "the model"),
    Anchor("${TMP}/", "scratch files of this workload alone", writable=True),
    # Whole: which packages a request will import no observation tells, and reading code that
    # anybody can download gives nothing away.
    Anchor("${PREFIX}/lib/", "Python's library and the installed packages"),
    Anchor("${PREFIX}/lib64/", "Python's library and the installed packages"),
    Anchor("${PREFIX}/pyvenv.cfg", "the Python environment's description"),
    Anchor("${PREFIX}/share/", "data of installed packages", "observed"),
    Anchor("${PREFIX}/etc/", "settings of installed packages", "observed"),
    Anchor("${PREFIX}/ssl/", "certificates of the Python environment", "observed"),
    Anchor("${PREFIX}/include/", "headers of installed packages", "observed"),
    Anchor("${PREFIX}/conda-meta/", "what conda has installed", "observed"),
    Anchor("${PREFIX}/bin/", "scripts of installed packages", "observed"),
    Anchor("${PREFIX}", "the list of what the Python environment has", "observed"),
    Anchor("/usr/lib/", "the system's libraries"),
    Anchor("/usr/lib64/", "the system's libraries"),
    Anchor("/usr/local/lib/", "the system's libraries"),
    Anchor("/lib/", "the system's libraries"),
    Anchor("/lib64/", "the system's libraries"),
    Anchor("/usr/share/zoneinfo/", "time zones"),
    Anchor("/usr/share/locale/", "translations", "observed"),
    Anchor("/usr/share/fonts/", "fonts", "observed"),
    Anchor("/usr/share/fontconfig/", "fonts", "observed"),
    Anchor("/usr/share/mime/", "kinds of files", "observed"),
    Anchor("/usr/share/ca-certificates/", "certificates", "observed"),
    Anchor("/usr/share/", "data of the system's programs", "observed"),
    *_files("the linker's cache", "/etc/ld.so.cache"),
    *_files("the time zone", "/etc/localtime"),
    *_files("how names are looked up", "/etc/nsswitch.conf", "/etc/hosts", "/etc/host.conf",
            "/etc/resolv.conf", "/etc/gai.conf"),
    *_files("which users there are, without passwords", "/etc/passwd", "/etc/group"),
    *_files("OpenSSL's settings", "/etc/ssl/openssl.cnf"),
    *_files("kinds of files, which a web server tells", "/etc/mime.types"),
    *_files("which system this is", "/etc/os-release"),
    *_files("which system this is", "/etc/debian_version", "/etc/lsb-release",
            "/etc/redhat-release", when="observed"),
    *_files("names of locales, services and protocols", "/etc/locale.alias", "/etc/services",
            "/etc/protocols", "/etc/timezone", "/etc/magic", when="observed"),
    *_files("the linker's settings", "/etc/ld.so.conf", "/etc/ld.so.conf.d/", when="observed"),
    *_files("certificates", "/etc/ssl/certs/", "/etc/pki/tls/certs/",
            "/etc/pki/ca-trust/extracted/", when="observed"),
    *_files("fonts", "/etc/fonts/", "/var/cache/fontconfig/", when="observed"),
    *_files("which alternatives are installed", "/etc/alternatives/", when="observed"),
    # Other processes' directories are closed by the presets.
    Anchor("/proc/", "the kernel's account of processes and processors"),
    Anchor("/sys/devices/system/", "which processors there are"),
    Anchor("/sys/fs/cgroup/", "how much of the machine may be used"),
    Anchor("/sys/kernel/mm/transparent_hugepage/", "how memory is handed out"),
    Anchor("/dev/shm/", "shared memory, through which libraries pass arrays", writable=True),
    *_files("devices without a device", "/dev/null", "/dev/zero", "/dev/full", "/dev/random",
            "/dev/urandom", writable=True),
    *_GPU,
)  # fmt: skip


def chosen(operations: Iterable[Operation], *, gpu: bool) -> Iterator[Anchor]:
    """The anchors that a policy grants.

    Args:
        operations: those that were seen, as events have them.
        gpu: whether the model may use an accelerator.
    """
    reading = [asked for asked in operations if asked.kind in _FILES]
    paths = {asked.path for asked in reading}
    granted: list[Anchor] = []
    for anchor in ANCHORS:
        if anchor.when == "gpu" and not gpu:
            continue
        if anchor.when == "observed" and not any(
            anchor.holds(path) and not any(other.holds(path) for other in granted) for path in paths
        ):
            continue
        granted.append(anchor)
        yield anchor


def uses_gpu(operations: Iterable[Operation]) -> bool:
    """Whether an accelerator was looked for."""
    return any(asked.path.startswith(("/dev/nvidia", "/dev/kfd")) for asked in operations)


_FILES: Final = frozenset(("read", "list", "write", "create", "delete", "metadata"))
