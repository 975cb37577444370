"""What is dangerous about a permission: said of each that is about to be granted.

No list of dangers is complete, and none of these decides anything. They are what a person should
read before saying yes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from modelarmor.policy.decide import Operation, Table
from modelarmor.policy.model import CapabilityRule, DnsRule, PathRule, ProtocolRule, Rule

Severity = Literal["high", "medium", "low"]

#: below the home directory: what opens other doors
_CREDENTIALS: Final = (
    ".ssh", ".gnupg", ".pki", ".aws", ".azure", ".kube", ".docker", ".oci", ".config/gcloud",
    ".config/gh", ".config/wandb", ".huggingface", ".cache/huggingface/token", ".kaggle", ".mlflow",
    ".jupyter", ".local/share/jupyter/runtime", ".local/share/keyrings", ".mozilla",
    ".config/google-chrome", ".config/chromium", ".netrc", ".git-credentials", ".pypirc",
    ".pgpass", ".my.cnf", ".boto", ".npmrc", ".databrickscfg", ".cargo/credentials.toml",
    ".bash_history", ".zsh_history", ".python_history",
)  # fmt: skip
#: below the home directory: what runs later, outside of the sandbox
_STARTED: Final = (
    ".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".profile", ".zshrc", ".zshenv",
    ".zprofile", ".gitconfig", ".config/autostart", ".config/systemd", ".config/fish",
    ".config/modelarmor", ".ipython", ".local/bin", ".local/lib", ".local/share/jupyter",
)  # fmt: skip
_SYSTEM_SECRETS: Final = (
    "/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/sudoers.d", "/etc/ssh",
    "/etc/ssl/private", "/etc/kubernetes", "/run/secrets", "/var/run/secrets", "/root",
)  # fmt: skip
_CONTROL_SOCKETS: Final = re.compile(
    r"(/var)?/run/(docker|podman/podman|containerd/containerd|crio/crio|dbus/system_bus_socket"
    r"|systemd/private|user/\d+/(bus|systemd/private|podman/podman|docker))(\.sock)?"
)
_DEVICES: Final = re.compile(r"/dev/(mem|kmem|port|kvm|fuse|sd.*|nvme.*|vd.*|dm-.*|mapper/.*)")
_OTHERS_PROC: Final = re.compile(r"/proc/[^/]+/(environ|mem|maps|cmdline|fd|root|cwd)(/.*)?")
_SYSTEM: Final = ("/usr/", "/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/etc/", "/boot/",
                  "/opt/", "/var/spool/cron/")  # fmt: skip
_KEY_FILE: Final = re.compile(
    r"id_(rsa|dsa|ecdsa|ed25519)|.*\.(pem|key|p12|pfx|kdbx|keytab)|\.env(\..*)?"
    r"|(.*[._-])?(credentials?|passwords?|secrets?|tokens?|api[_-]?keys?)([._-].*)?",
    re.IGNORECASE,
)
_SHELLS: Final = frozenset(("sh", "bash", "dash", "zsh", "fish", "ksh", "csh", "tcsh", "busybox"))
_NETWORK_TOOLS: Final = frozenset(
    ("curl", "wget", "nc", "ncat", "netcat", "socat", "ssh", "scp", "sftp", "rsync", "telnet")
)
_ADMINISTRATION: Final = frozenset(
    ("sudo", "su", "doas", "pkexec", "mount", "umount", "nsenter", "unshare", "chroot", "docker",
     "podman", "ctr", "crictl", "kubectl", "systemctl", "systemd-run", "crontab", "at")
)  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Caution:
    """One thing that a person should know before a permission is given."""

    severity: Severity
    text: str

    def to_json(self) -> dict[str, str]:
        """The warning as a JSON object."""
        return {"severity": self.severity, "text": self.text}


def dangers(section: str, rule: Rule, after: Table, home: str) -> Iterator[Caution]:
    """What is dangerous about granting `rule`.

    Args:
        section: the section that it stands in.
        rule: an Allow rule.
        after: what is permitted once it is granted, with everything else.
        home: the user's home directory, resolved; empty where there is none.
    """
    if isinstance(rule, PathRule):
        yield from _of_program(rule, after) if section == "process" else _of_file(rule, after, home)
    elif isinstance(rule, ProtocolRule | DnsRule):
        what = rule.domain if isinstance(rule, DnsRule) else rule.protocol
        yield Caution(
            "medium",
            f"{what}: a KubeArmorPolicy limits no address, so what can be read can be sent away"
            " wherever network.yaml lets it",
        )
    elif isinstance(rule, CapabilityRule):
        yield Caution("high", f"the capability {rule.capability} acts on the whole machine")


def _of_file(rule: PathRule, after: Table, home: str) -> Iterator[Caution]:
    path = rule.value.rstrip("/") or "/"
    what = f"{path}/ and what is in it" if rule.match == "directory" else path
    inside = path[len(home) + 1 :] if home and path.startswith(home + "/") else ""
    if home and rule.match == "directory" and (home == path or home.startswith(path + "/")):
        yield Caution("high", f"{path}/ holds the home directory, with every credential in it")
    if _below(inside, _CREDENTIALS) or (not inside and _below(path, _SYSTEM_SECRETS)):
        yield Caution("high", f"{what}: keys, passwords or tokens are kept here")
    elif _KEY_FILE.fullmatch(path.rpartition("/")[2]):
        yield Caution("medium", f"{what}: by its name this may be a key, a password or a token")
    if _CONTROL_SOCKETS.fullmatch(path):
        yield Caution("high", f"{path}: whoever speaks to it can start programs outside")
    if _DEVICES.fullmatch(path):
        yield Caution("high", f"{path}: this device reaches past every policy")
    if _OTHERS_PROC.fullmatch(path):
        yield Caution("high", f"{path}: memory and environment of processes, tokens among them")
    if not rule.read_only:
        yield from _of_writing(rule, path, what, inside, after)


def _of_writing(
    rule: PathRule, path: str, what: str, inside: str, after: Table
) -> Iterator[Caution]:
    if _below(inside, _STARTED):
        yield Caution("high", f"{what}: what is written here runs later, outside of the sandbox")
    elif f"{path}/".startswith(_SYSTEM):
        yield Caution("high", f"{what}: programs and settings of the machine are changed here")
    places = [path] if rule.match == "path" else [f"{path}/a", f"{path}/a/a"]
    if any(_both(after, place) for place in places):
        yield Caution("high", f"{what}: writable, and what is here may be executed")


def _of_program(rule: PathRule, after: Table) -> Iterator[Caution]:
    path = rule.value.rstrip("/") or "/"
    name = path.rpartition("/")[2]
    if rule.match == "directory":
        yield Caution("medium", f"every program in {path}/ may run")
    elif name in _ADMINISTRATION:
        yield Caution("high", f"{path} administers the machine, or leads out of the sandbox")
    elif name in _SHELLS:
        yield Caution("medium", f"{path} is a shell: it runs whatever it is told to")
    elif name in _NETWORK_TOOLS:
        yield Caution("medium", f"{path} sends and fetches data")
    places = [path] if rule.match == "path" else [f"{path}/a"]
    if any(_both(after, place) for place in places):
        yield Caution("high", f"{path}: executable, and what is here may be written")


def _below(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def _both(table: Table, path: str) -> bool:
    allowed: Callable[[Operation], bool] = lambda op: table.decide(op).verdict == "allow"  # noqa: E731
    written = allowed(Operation("write", path)) or allowed(Operation("create", path))
    return written and allowed(Operation("exec", path))
