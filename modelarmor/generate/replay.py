"""What a policy would have said: alerts as the operations that they were about, decided again.

An alert is evidence, of a recorded load or of a workload in production, on this machine or on a
cluster. As an operation it can be put to any other policy: would the one under review have refused
it, does the next version's?
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from modelarmor.alerts import Alert
from modelarmor.policy.decide import Decision, Operation, OperationKind, Table
from modelarmor.policy.model import Policy, Posture
from modelarmor.sandbox.events import EGRESS_POLICY, RESOURCE_POLICY, SANDBOX_POLICY

#: policy names of alerts that no rule of a policy could have decided otherwise
_NO_POLICY: Final = (SANDBOX_POLICY, EGRESS_POLICY, RESOURCE_POLICY)

#: ``access=`` in Data: what the embedded sandbox says that a call did to the file
_ACCESSES: Final[Mapping[str, OperationKind]] = {
    "read": "read", "list": "list", "write": "write",
    "create": "create", "delete": "delete", "metadata": "metadata",
}  # fmt: skip
#: ``lsm=`` in Data: the hooks of KubeArmor's BPF-LSM enforcer (KubeArmor/common/common.go, 1.7.4)
_HOOKS: Final[Mapping[str, OperationKind]] = {
    "FILE_OPEN": "read", "FILE_PERMISSION": "write", "PATH_MKNOD": "create", "PATH_MKDIR": "create",
    "PATH_SYMLINK": "create", "PATH_LINK": "create", "PATH_UNLINK": "delete",
    "PATH_RMDIR": "delete", "PATH_RENAME": "delete", "PATH_CHMOD": "metadata",
    "PATH_CHOWN": "metadata", "PATH_TRUNCATE": "write",
}  # fmt: skip
#: ``syscall=`` in Data, by what the call's name holds; the first that fits
_CALLS: Final[tuple[tuple[str, OperationKind], ...]] = (
    ("UNLINK", "delete"), ("RMDIR", "delete"), ("RENAME", "delete"), ("TRUNCATE", "write"),
    ("MKDIR", "create"), ("MKNOD", "create"), ("SYMLINK", "create"), ("LINK", "create"),
    ("CREAT", "create"), ("BIND", "create"), ("CONNECT", "write"), ("SEND", "write"),
    ("CHMOD", "metadata"), ("CHOWN", "metadata"), ("UTIME", "metadata"), ("XATTR", "metadata"),
)  # fmt: skip
_WRITES: Final = frozenset({"O_WRONLY", "O_RDWR", "O_TRUNC", "O_APPEND"})
_PROC: Final = re.compile(r"/proc/(\d+)(/|$)")
#: a Resource that is a name: what a DNS query asked for
_DOMAIN: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")


def operation(alert: Alert) -> Operation | None:
    """The operation that an alert of the sandbox, or of KubeArmor's relay, was about.

    Three things an alert does not tell. Whether the caller owns the file: it is taken to. Where one
    argument of a command line ends: at each space. The family of a socket, in KubeArmor's alerts:
    internet.

    Returns:
        None for what no rule of a policy decides: a throttled stream, a limit that was reached,
        the egress, what the sandbox refuses always; and for an alert that makes no sense.
    """
    if alert.PolicyName in _NO_POLICY:
        return None
    return described(alert)


def described(alert: Alert) -> Operation | None:
    """As `operation`, also for what the egress and the sandbox's own baseline refused."""
    match alert.Operation:
        case "Process":
            return _process(alert)
        case "File":
            return _file(alert)
        case "Network":
            return _network(alert)
        case "Capabilities":
            name = alert.Resource.lower().removeprefix("cap_")
            return Operation(
                "capability", capability=name, source=alert.ProcessName, tty=bool(alert.TTY)
            )
        case "Syscall":
            return _syscall(alert)
        case _:
            return None


def replay(
    policies: Sequence[Policy], operations: Iterable[Operation], posture: Posture | None = None
) -> list[tuple[Operation, Decision]]:
    """Those of ``operations`` that ``policies`` would refuse, in their order, and why.

    Args:
        policies: those that apply to the workload.
        operations: with paths as the policies have them (templates filled in both, or in neither).
        posture: the default posture; ``block`` for every class if left out.
    """
    table = Table(policies, posture)
    asked = ((operation, table.decide(operation)) for operation in operations)
    return [(operation, said) for operation, said in asked if said.verdict == "block"]


def _data(alert: Alert) -> dict[str, str]:
    pairs = (word.partition("=") for word in alert.Data.split())
    return {key.lower(): value for key, _, value in pairs if value}


def _process(alert: Alert) -> Operation | None:
    if _data(alert).get("syscall") == "SYS_MMAP":  # the preset anonymousMapExec
        return Operation("syscall", syscall="mmap", source=alert.ProcessName, fileless=True)
    path, *arguments = alert.Resource.split(" ")
    path = alert.ProcessName or path
    fileless = path.startswith("/memfd:")
    if not path.startswith("/"):
        return None
    return Operation(
        "exec",
        path,
        source=alert.ParentProcessName,
        tty=bool(alert.TTY),
        args=tuple(arguments),
        fileless=fileless,
    )


def _file(alert: Alert) -> Operation | None:
    path = alert.Resource
    kind = _access(_data(alert))
    if kind is None or not path.startswith("/"):
        return None
    return _on_file(kind, alert)


def _on_file(kind: OperationKind, alert: Alert) -> Operation:
    within = _PROC.match(alert.Resource)
    foreign = within is not None and int(within[1]) not in (alert.PID, alert.HostPID)
    return Operation(
        kind,
        alert.Resource,
        source=alert.ProcessName,
        parent=alert.ParentProcessName,
        tty=bool(alert.TTY),
        foreign_proc=foreign,
    )


def _access(data: Mapping[str, str]) -> OperationKind | None:
    if said := _ACCESSES.get(data.get("access", "")):
        return said
    hook = data.get("lsm", "").upper().removeprefix("SECURITY_")
    if said := _HOOKS.get(hook):
        return said
    call = data.get("syscall", "").upper()
    flags = set(data.get("flags", "").split("|"))
    if "OPEN" in call:
        if "O_CREAT" in flags:
            return "create"
        return "write" if flags & _WRITES else "list" if "O_DIRECTORY" in flags else "read"
    for part, kind in _CALLS:
        if part in call:
            return kind
    # moves=… and renames=…: a new name for what a rule is about
    return "delete" if data.keys() & {"moves", "renames"} else None


def _network(alert: Alert) -> Operation | None:
    said = _data(alert)
    asked = {
        key.lower(): value
        for key, _, value in (word.partition("=") for word in alert.Resource.split())
        if value
    }
    if alert.Resource.startswith("/"):  # a socket in the file system
        return _on_file("create" if said.get("syscall") == "SYS_BIND" else "write", alert)
    if not asked:
        if not _DOMAIN.fullmatch(alert.Resource):
            return None
        return Operation("network", dns=alert.Resource, source=alert.ProcessName)
    numbered = "AF_INET6" if ":" in asked.get("remoteip", "") else "AF_INET"
    domain = asked.get("domain", said.get("domain", numbered))
    kind = asked.get("type", said.get("type", ""))
    protocol = asked.get("protocol", said.get("protocol", ""))
    if not kind and not protocol:
        # an address; whether it was TCP or UDP that had it is told by how it was used
        sends = said.get("syscall", "").startswith("SYS_SEND")
        kind = "SOCK_DGRAM" if sends else "SOCK_STREAM"
    return Operation(
        "network",
        source=alert.ProcessName,
        tty=bool(alert.TTY),
        family=_family(domain),
        socket_type=kind.removeprefix("SOCK_").lower() or _type_of(protocol),
        protocol=protocol.lower() if protocol not in ("", "0") else "",
    )


#: address families by number (include/linux/socket.h), as the sandbox writes those without a name
_FAMILIES: Final[Mapping[str, str]] = {"1": "unix", "2": "inet", "10": "inet6", "16": "netlink"}


def _family(domain: str) -> str:
    return _FAMILIES.get(domain, domain.removeprefix("AF_").lower())


def _type_of(protocol: str) -> str:
    return {"TCP": "stream", "UDP": "dgram"}.get(protocol.upper(), "raw")


def _syscall(alert: Alert) -> Operation | None:
    call = _data(alert).get("syscall", "").lower().removeprefix("sys_")
    path = alert.Resource if alert.Resource.startswith("/") else ""
    name = call or alert.Resource.split(" ")[0]
    return Operation("syscall", path, source=alert.ProcessName, syscall=name) if name else None
