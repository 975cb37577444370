"""Start a command in the sandbox as the job (JSON in argv[1]) says, and write its alerts to a file.

It is a process of its own because the sandbox has to be started by the user that is confined.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

from modelarmor.policy.document import load
from modelarmor.policy.model import Posture
from modelarmor.sandbox import process as process_module
from modelarmor.sandbox.network import Egress, EgressRule
from modelarmor.sandbox.process import Sandbox, Workload
from modelarmor.sandbox.resources import Resources


def egress(rules: list[dict[str, Any]] | None) -> Egress:
    """``None`` is no limit."""
    if rules is None:
        return Egress.unrestricted()
    return Egress(tuple(
        EgressRule(rule["cidr"], rule.get("except", ()), [tuple(port) for port in rule["ports"]])
        for rule in rules
    ))  # fmt: skip


def main() -> int:
    job = json.loads(sys.argv[1])
    if "helper" in job:  # one that was built in another way
        process_module.HELPER = Path(job["helper"])
    lock = threading.Lock()
    with open(job["alerts"], "w", encoding="utf-8") as log:

        def note(alert: Any) -> None:
            with lock:
                text = alert.to_json()
                fields = text if isinstance(text, dict) else json.loads(text)
                log.write(json.dumps(fields) + "\n")
                log.flush()

        workload = Workload(
            name="escape",
            command=job["command"],
            policies=load(job["policy"]),
            posture=Posture(),
            network=egress(job.get("egress")),
            resources=Resources(**job.get("resources", {})),
            cwd=Path(job["cwd"]),
        )
        process = Sandbox.start(workload, alerts=note, pass_fds=tuple(job.get("fds", ())))
        if "plan" in job:
            Path(job["plan"]).write_text(process.plan.describe(), encoding="utf-8")
        status = process.wait(None)
        process.close()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    raise SystemExit(main())
