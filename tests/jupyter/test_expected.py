"""What is expected of a kernel that starts, and what is not."""

from __future__ import annotations

import pytest
from modelarmor_jupyter.attribution import How
from modelarmor_jupyter.expected import expected

from modelarmor.alerts import Alert


def _alert(operation: str, resource: str, action: str = "Block") -> Alert:
    return Alert(Operation=operation, Resource=resource, Action=action)


@pytest.mark.parametrize(
    ("alert", "how", "is_expected"),
    [
        (_alert("Process", "/usr/bin/uname -p"), "startup", True),
        (_alert("Process", "/usr/bin/uname -p"), "time", False),
        (_alert("Process", "/usr/bin/uname -p", "Audit"), "startup", False),
        (_alert("Process", "/usr/bin/uname -a"), "startup", False),
        (_alert("File", "/root/.ssh/id_rsa"), "startup", False),
    ],
)
def test_only_what_is_known_is_expected_and_only_at_the_start(
    alert: Alert, how: How, is_expected: bool
) -> None:
    assert bool(expected(alert, how)) is is_expected
