"""Stands in for KubeArmor in a container: what follows runs under the policies that lie beside it.

Given as a file of its own to the Python of the container, where it is process 1.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from modelarmor.policy import document
from modelarmor.policy.model import Posture
from modelarmor.sandbox import Sandbox, Workload


def main() -> int:
    """Run the command; its exit status."""
    here = Path(__file__).parent
    workload = Workload(
        os.uname().nodename,
        sys.argv[1:],
        document.load((here / "policies.yaml").read_text()),
        Posture(**json.loads((here / "posture.json").read_text())),
        env=dict(os.environ),
        cwd=Path.cwd(),
    )
    process = Sandbox.start(workload)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    return process.wait() % 256


if __name__ == "__main__":
    sys.exit(main())
