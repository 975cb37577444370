"""What no posture may refuse, as rules for enforcers whose posture refuses it."""

from __future__ import annotations

from collections.abc import Sequence

from modelarmor.policy.decide import (
    BASELINE_DEVICE_DIRECTORIES,
    BASELINE_DEVICES,
    BASELINE_FILES,
    BASELINE_TREES,
    Operation,
    Table,
)
from modelarmor.policy.model import Outcome, PathRule, Policy

__all__ = ["baseline_rules"]


def baseline_rules(policies: Sequence[Policy]) -> tuple[PathRule, ...]:
    """What every program needs, as the rules that are missing for it.

    `decide` leaves it out of the default posture, as AppArmor's profiles do, and so does the
    sandbox. KubeArmor's BPF-LSM enforcer does not (``match_and_enforce_path_hooks`` in
    ``KubeArmor/BPF/shared.h``): under posture block nobody could open ``/dev/null``. Libraries are
    not among them: a rule cannot say "shared objects only", and the linter demands rules for them.

    Args:
        policies: those of one container, together.
    """
    if not any(rule.outcome.action == "Allow" for policy in policies for rule in policy.file):
        return ()  # then no posture is in effect for files
    table = Table(policies)

    def left_out(path: str) -> bool:
        decision = table.decide(Operation("read", path, source="/"))
        return decision.verdict == "allow" and decision.rule is None

    allow = Outcome("Allow")
    paths = [
        PathRule(allow, value=path, read_only=path in BASELINE_FILES)
        for path in (*BASELINE_DEVICES, *BASELINE_FILES)
        if left_out(path)
    ]
    directories = [
        PathRule(
            allow, match="directory", value=path, recursive=True, read_only=path in BASELINE_TREES
        )
        for path in (*BASELINE_DEVICE_DIRECTORIES, *BASELINE_TREES)
        if left_out(f"{path}0")
    ]
    return (*paths, *directories)
