"""What every confined kernel is refused as it starts, though nobody attacks it.

ipykernel and what it imports try these once and go on without. They are in the record, and are no
reason to alarm anybody. A kernel's word on when its first cell ran decides whether something was
at its start, so the list is of what would harm nobody afterwards either.
"""

from __future__ import annotations

from typing import Final

from modelarmor.alerts import Alert
from modelarmor_jupyter.attribution import How

_EXPECTED: Final = {
    ("Network", "domain=AF_INET type=SOCK_STREAM protocol=TCP"): "libzmq looks for a network",
    ("Network", "remoteip=127.0.0.1 port=0"): "libzmq looks for a network",
    ("Process", "/usr/bin/uname -p"): "Python's platform module asks for the processor's name",
}


def expected(alert: Alert, attributed: How) -> str:
    """Why an alert is no news, or an empty string.

    Args:
        alert: what was refused.
        attributed: when it was, as far as is known.
    """
    if attributed != "startup" or alert.Action != "Block":
        return ""
    return _EXPECTED.get((alert.Operation, alert.Resource), "")
