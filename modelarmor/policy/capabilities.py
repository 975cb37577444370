"""Linux capabilities by name, lower case without ``CAP_``, as policies have them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

#: each at its number in include/uapi/linux/capability.h, as of Linux 6.18
CAPABILITIES: Final = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid",
    "setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw",
    "ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct",
    "sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod",
    "lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog",
    "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore",
)  # fmt: skip

#: what KubeArmor's definitions enumerate; Linux has more since
KNOWN_TO_KUBEARMOR: Final = CAPABILITIES[: CAPABILITIES.index("mac_admin") + 1]


def mask(names: Iterable[str]) -> int:
    """The bits of capabilities, as in ``CapEff`` of proc_pid_status(5).

    Raises:
        ValueError: there is no such capability.
    """
    names = set(names)
    if unknown := names - set(CAPABILITIES):
        raise ValueError(f"no such capability: {', '.join(sorted(unknown))}")
    return sum(1 << CAPABILITIES.index(name) for name in names)
