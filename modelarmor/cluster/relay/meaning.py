"""What an alert of KubeArmor says, where its words say something else.

KubeArmor's monitor reports any refusal that it sees while a policy is active as that policy's, also
one by the file's own permissions (its issue 1527). What its BPF enforcer refused says ``lsm=`` in
``Data``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from modelarmor.alerts import Alert

#: key of ``EventData`` under which it is said what a refusal came from, where that is not plain
CAUSE: Final = "Cause"
#: values of it
PERMISSIONS: Final = "file permissions"
UNCERTAIN: Final = "policy or file permissions"

#: ``Operation`` of the entry that stands for alerts nobody will see
GAP: Final = "AlertGap"


def understood(alert: Alert) -> Alert:
    """The alert as it should be counted.

    A refusal by the file's permissions has no action: the enforcer took none. What it was
    reported as stays in ``EventData`` as ``Reported``.
    """
    if alert.Operation == "AlertThreshold":
        return _throttled(alert)
    if "Block" not in alert.Action or _by_policy(alert):
        return alert
    if alert.Enforcer == "AppArmor":  # the monitor tells of its refusals: no telling them apart
        return replace(alert, EventData={**alert.EventData, CAUSE: UNCERTAIN})
    return replace(
        alert,
        Action="",
        Message="refused by the file's own permissions, not by the policy",
        EventData={**alert.EventData, CAUSE: PERMISSIONS, "Reported": alert.Action},
    )


def _by_policy(alert: Alert) -> bool:
    return (
        alert.Result == "Passed"  # "Audit (Block)": the policy's word, nothing was refused
        or alert.Data.startswith("lsm=")
        or alert.Enforcer.startswith("PRESET-")
        or alert.Enforcer == "NetworkPolicyEnforcer"
    )


def _throttled(alert: Alert) -> Alert:
    if alert.Message:
        return alert
    most = f" of more than {alert.MaxAlertsPerSec} a second" if alert.MaxAlertsPerSec > 0 else ""
    quiet = (
        f"for {alert.DroppingAlertsInterval} seconds"
        if alert.DroppingAlertsInterval > 0
        else "for a while"
    )
    return replace(
        alert,
        Message=f"KubeArmor reports nothing of this container {quiet}, because{most or ' of many'}"
        " alerts; the policy is still enforced",
    )
