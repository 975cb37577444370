"""Questions that are put to a policy and its network; what they are is the attacker's, not ours."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal, NamedTuple

from modelarmor.policy.decide import Operation, OperationKind

#: who asks: the interpreter that runs the model
CALLER: Final = "/${PREFIX}/bin/python"


class Address(NamedTuple):
    """Something to reach."""

    ip: str
    port: int
    protocol: Literal["tcp", "udp"]


def _on(kind: OperationKind, path: str, *, foreign: bool = False) -> Operation:
    return Operation(kind, path, source=CALLER, parent=CALLER, foreign_proc=foreign)


def _socket(family: str, kind: str, protocol: str) -> Operation:
    return Operation("network", source=CALLER, family=family, socket_type=kind, protocol=protocol)


def _capability(name: str) -> Operation:
    return Operation("capability", capability=name, source=CALLER)


#: resolved paths, as a rule sees them: /bin/sh is dash or bash, /var/run is /run
OPERATIONS: Final[dict[str, Operation]] = {
    "program-elsewhere": _on("exec", "/a-place-that-no-rule-names/program"),
    "read-elsewhere": _on("read", "/a-place-that-no-rule-names/file"),
    "write-elsewhere": _on("write", "/a-place-that-no-rule-names/file"),
    "shell-dash": _on("exec", "/usr/bin/dash"),
    "shell-bash": _on("exec", "/usr/bin/bash"),
    "perl": _on("exec", "/usr/bin/perl"),
    "curl": _on("exec", "/usr/bin/curl"),
    "wget": _on("exec", "/usr/bin/wget"),
    "netcat": _on("exec", "/usr/bin/nc.openbsd"),
    "apt": _on("exec", "/usr/bin/apt-get"),
    "pip": _on("exec", "/${PREFIX}/bin/pip"),
    "conda": _on("exec", "/opt/conda/bin/conda"),
    "dropped-tmp": _on("exec", "/tmp/miner"),
    "dropped-shm": _on("exec", "/dev/shm/miner"),
    "dropped-scratch": _on("exec", "/${TMP}/miner"),
    "memfd": replace(_on("exec", "/memfd:miner"), fileless=True),
    "ssh-key": _on("read", "/${HOME}/.ssh/id_rsa"),
    "cloud-credentials": _on("read", "/${HOME}/.aws/credentials"),
    "kubeconfig": _on("read", "/${HOME}/.kube/config"),
    "netrc": _on("read", "/${HOME}/.netrc"),
    "docker-config": _on("read", "/${HOME}/.docker/config.json"),
    "hub-token": _on("read", "/${HOME}/.cache/huggingface/token"),
    "service-account-token": _on("read", "/run/secrets/kubernetes.io/serviceaccount/token"),
    "shadow": _on("read", "/etc/shadow"),
    "other-environment": _on("read", "/proc/1/environ", foreign=True),
    "other-memory": _on("read", "/proc/1/mem", foreign=True),
    "write-model": _on("write", "/${MODEL}/model.pkl"),
    "write-library": _on("create", "/${PREFIX}/lib/python3/site-packages/evil.pth"),
    "write-program": _on("write", "/usr/bin/env"),
    "write-preload": _on("create", "/etc/ld.so.preload"),
    "write-bashrc": _on("write", "/${HOME}/.bashrc"),
    "write-cron": _on("create", "/var/spool/cron/crontabs/root"),
    "write-service": _on("create", "/etc/systemd/system/evil.service"),
    "cap-sys-admin": _capability("sys_admin"),
    "cap-sys-ptrace": _capability("sys_ptrace"),
    "cap-sys-module": _capability("sys_module"),
    "cap-dac-override": _capability("dac_override"),
    "cap-net-raw": _capability("net_raw"),
    "icmp": _socket("inet", "raw", "icmp"),
    "packet": _socket("packet", "raw", ""),
    "sctp": _socket("inet", "stream", "sctp"),
}

#: addresses that documentation reserves (RFC 5737, RFC 3849) stand for the internet
ADDRESSES: Final[dict[str, Address]] = {
    "internet-https": Address("203.0.113.10", 443, "tcp"),
    "internet-dns": Address("203.0.113.53", 53, "udp"),
    "internet-ipv6": Address("2001:db8::10", 443, "tcp"),
    "metadata": Address("169.254.169.254", 80, "tcp"),
    "private-network": Address("10.1.2.3", 5432, "tcp"),
    "cluster-api": Address("10.96.0.1", 443, "tcp"),
}
