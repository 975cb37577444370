"""The server of a model's pod: MLflow's own scoring server behind the guard.

A pod has no supervisor beside it, so what the guard refuses is said where a cluster looks: as lines
of JSON in the pod's log, and as numbers for Prometheus at ``/metrics``. Both are the confined
process's own word. Started as a program, with ``-I``, from the directory that it and its modules
are mounted in.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING or __package__:  # read where it lies in the package, by tools and tests
    from .modelarmor_guard import App, Buckets, Guard, Limits, Receive, Scope, Send
    from .modelarmor_scoring import Counted
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    from modelarmor_guard import App, Buckets, Guard, Limits, Receive, Scope, Send
    from modelarmor_scoring import Counted

#: beside this file
LIMITS: Final = "guard.json"
METRICS: Final = "/metrics"
#: what alerts of the guard are called, as those of `modelarmor serve` are
_GUARD: Final = "InputGuard"
#: so many refusals a second are lines of the log; the rest is only counted
_LINES: Final = 20.0
_LABELS: Final = f'policy="{_GUARD}",operation="Request"'


class Told:
    """What the guard refused and the model answered: told in the log, and counted."""

    def __init__(self, action: str, pod: str) -> None:
        self._action = "Block" if action == "block" else "Audit"
        self._pod = pod
        self._lock = threading.Lock()
        self._lines = Buckets(_LINES)
        self._violations = 0
        self._unwritten = 0
        self._requests: Counter[str] = Counter()
        self._seconds = 0.0

    def violation(self, kind: str, message: str, client: str) -> None:
        """The guard refused something."""
        with self._lock:
            self._violations += 1
            if self._lines.take(""):
                self._unwritten += 1
                return
            unwritten, self._unwritten = self._unwritten, 0
        now = datetime.now(UTC)
        alert = {
            "Timestamp": int(now.timestamp()),
            "UpdatedTime": now.isoformat().replace("+00:00", "Z"),
            "PodName": self._pod,
            "PolicyName": _GUARD,
            "Severity": "3",
            "Message": message[:500],
            "Type": "MatchedPolicy",
            "Source": client[:100],
            "Operation": "Request",
            "Resource": f"/invocations {kind}",
            "Action": self._action,
            "Result": "Permission denied" if self._action == "Block" else "Passed",
            "Enforcer": _GUARD,
        }
        if unwritten:
            alert["EventData"] = {"Unwritten": str(unwritten)}
        print(json.dumps(alert), flush=True)

    def say(self, body: dict[str, Any]) -> None:
        """So many requests were answered since the last time."""
        with self._lock:
            self._requests.update(body["requests"])
            self._seconds += body["seconds"]

    def metrics(self) -> str:
        """The numbers, as `modelarmor serve` calls them."""
        with self._lock:
            violations, seconds = self._violations, self._seconds
            requests = sorted(self._requests.items())
        lines = [
            "# HELP modelarmor_requests_total Answers of /invocations.",
            "# TYPE modelarmor_requests_total counter",
            *(f'modelarmor_requests_total{{status="{code}"}} {n}' for code, n in requests),
            "# HELP modelarmor_request_seconds_total Time that they took together, in seconds.",
            "# TYPE modelarmor_request_seconds_total counter",
            f"modelarmor_request_seconds_total {seconds}",
            "# HELP modelarmor_violations_total What the guard refused or reported.",
            "# TYPE modelarmor_violations_total counter",
            f'modelarmor_violations_total{{{_LABELS},action="{self._action}"}} {violations}',
        ]
        return "\n".join(lines) + "\n"


class Measured:
    """An ASGI application that answers ``GET /metrics``, and leaves the rest to `app`."""

    def __init__(self, app: App, told: Told) -> None:
        self._app = app
        self._told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("GET", METRICS):
            await self._app(scope, receive, send)
            return
        body = self._told.metrics().encode()
        headers = [(b"content-type", b"text/plain; version=0.0.4")]
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def main(port: str) -> None:
    """Serve the model that MLflow's own environment variable names, on all addresses."""
    import uvicorn
    from mlflow.pyfunc.scoring_server.app import app

    place = os.path.join(os.path.dirname(os.path.abspath(__file__)), LIMITS)  # noqa: PTH100, PTH118, PTH120
    with open(place, encoding="utf-8") as stream:  # noqa: PTH123
        limits = Limits.from_json(json.load(stream))
    told = Told(limits.action, os.environ.get("HOSTNAME", ""))
    guarded = Measured(Counted(Guard(app, limits, told.violation), told), told)
    uvicorn.run(guarded, host="0.0.0.0", port=int(port))


if __name__ == "__main__":
    main(sys.argv[1])
