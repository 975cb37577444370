"""What counts as the policy's refusal, and what does not."""

from __future__ import annotations

import pytest

from modelarmor.alerts import Alert
from modelarmor.cluster.relay.meaning import understood


def denied(**fields: object) -> Alert:
    base = {"Action": "Block", "Result": "Permission denied", "Enforcer": "BPFLSM"}
    return Alert(**(base | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "alert",
    [
        denied(Data="lsm=FILE_OPEN", PolicyName="DefaultPosture"),
        denied(Enforcer="PRESET-protectProc"),
        denied(Enforcer="NetworkPolicyEnforcer", Type="MatchedNetworkPolicy"),
        denied(Action="Audit (Block)", Result="Passed", Data="syscall=SYS_OPENAT"),
        denied(Action="Audit", Data="syscall=SYS_OPENAT"),
        denied(Action="Allow", Result="Passed"),
    ],
)
def test_the_enforcers_own_word_stays_as_it_is(alert: Alert) -> None:
    assert understood(alert) is alert


@pytest.mark.parametrize("enforcer", ["BPFLSM", "eBPF Monitor", ""])
def test_a_refusal_by_file_permissions_is_no_block(enforcer: str) -> None:
    alert = denied(
        Enforcer=enforcer,
        PolicyName="DefaultPosture",
        Data="syscall=SYS_OPENAT fd=-100 flags=O_RDONLY",
        EventData={"Syscall": "SYS_OPENAT"},
    )
    seen = understood(alert)
    assert seen.Action == "" and not seen.blocked
    assert seen.EventData == {
        "Syscall": "SYS_OPENAT",
        "Cause": "file permissions",
        "Reported": "Block",
    }
    assert "permissions" in seen.Message


def test_where_apparmor_leaves_it_open_it_stays_a_block_and_says_so() -> None:
    seen = understood(denied(Enforcer="AppArmor", Data="syscall=SYS_OPENAT"))
    assert seen.blocked
    assert seen.EventData["Cause"] == "policy or file permissions"


def test_throttling_says_for_how_long_nothing_is_reported() -> None:
    seen = understood(
        Alert(
            Type="SystemEvent",
            Operation="AlertThreshold",
            MaxAlertsPerSec=10,
            DroppingAlertsInterval=30,
        )
    )
    assert "for 30 seconds" in seen.Message and "more than 10 a second" in seen.Message
    assert "still enforced" in seen.Message
    kept = Alert(Operation="AlertThreshold", Message="its own")
    assert understood(kept) is kept
