"""What a server was refused, over HTTP: alerts and Prometheus metrics, for who has the token.

A small server of its own, on another port than the model's and outside of the sandbox, so that the
model can neither answer in its place nor slow it down.
"""

from __future__ import annotations

import hmac
import json
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from modelarmor.alerts import Alert
from modelarmor_mlflow.serving.server import Server

_LIMIT: Final = 500
_MAX_LIMIT: Final = 1_000
_TIMEOUT_SECONDS: Final = 30
_MAX_CONNECTIONS: Final = 64


class Metrics(Collector):
    """The server's counts under Prometheus' names.

    Labels come from the policy and from fixed words, never from what the model or a client says.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._by_rule: dict[tuple[str, str, str], int] = {}
        server.recorder.subscribe(self._count)

    def _count(self, seq: int, alert: Alert) -> None:
        suppressed = alert.EventData.get("Suppressed") if alert.EventData else None
        operation = alert.EventData.get("Operation", "") if suppressed else alert.Operation
        key = (alert.PolicyName, operation, alert.Action)
        with self._lock:
            self._by_rule[key] = self._by_rule.get(key, 0) + int(suppressed or 1)

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        traffic = self._server.traffic
        requests = CounterMetricFamily(
            "modelarmor_requests",
            "Requests to /invocations that were answered, as the server process says.",
            labels=["status"],
        )
        for status, count in sorted(traffic.by_status.items()):
            requests.add_metric([status], count)
        yield requests
        seconds = CounterMetricFamily(
            "modelarmor_request_seconds", "Time that they took together, in seconds."
        )
        seconds.add_metric([], traffic.seconds)
        yield seconds
        violations = CounterMetricFamily(
            "modelarmor_violations",
            "What the policy refused or reported.",
            labels=["policy", "operation", "action"],
        )
        with self._lock:
            counted = sorted(self._by_rule.items())
        for labels, count in counted:
            violations.add_metric(list(labels), count)
        yield violations
        restarts = CounterMetricFamily("modelarmor_restarts", "How often the server was restarted.")
        restarts.add_metric([], self._server.restarts)
        yield restarts
        up = GaugeMetricFamily("modelarmor_ready", "Whether the model answers.")
        up.add_metric([], float(self._server.ready.is_set()))
        yield up


class Endpoint:
    """Answers ``GET /alerts?after=N&limit=N``, ``/state`` and ``/metrics``.

    Args:
        server: whose alerts.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        token: what a client must send: ``Authorization: Bearer TOKEN``.
        facts: what ``/state`` says besides: the model, its digests, who approved it.
    """

    def __init__(
        self, server: Server, host: str, port: int, token: str, facts: dict[str, Any]
    ) -> None:
        registry = CollectorRegistry()
        registry.register(Metrics(server))
        handler = type("Handler", (_Handler,), {
            "server_side": server, "registry": registry, "token": token.encode(), "facts": facts,
        })  # fmt: skip
        self._http = _Http((host, port), handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it is."""
        host, port = self._http.server_address[:2]
        return f"http://{host!s}:{port}"

    def close(self) -> None:
        """Stop answering."""
        self._http.shutdown()
        self._http.server_close()


class _Http(ThreadingHTTPServer):
    """A thread for each connection; those beyond `_MAX_CONNECTIONS` are closed unanswered."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._places = threading.BoundedSemaphore(_MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()


class _Handler(BaseHTTPRequestHandler):
    server_side: Server
    registry: CollectorRegistry
    token: bytes
    facts: dict[str, Any]
    timeout = _TIMEOUT_SECONDS

    def do_GET(self) -> None:
        """Answer one request."""
        given = self.headers.get("Authorization", "").removeprefix("Bearer ").encode("latin-1")
        if not hmac.compare_digest(given, self.token):
            self._json(HTTPStatus.UNAUTHORIZED, {"message": "send Authorization: Bearer TOKEN"})
            return
        parts = urlsplit(self.path)
        if parts.path == "/metrics":
            self._answer(HTTPStatus.OK, generate_latest(self.registry), "text/plain; version=0.0.4")
        elif parts.path == "/alerts":
            self._alerts(parse_qs(parts.query))
        elif parts.path == "/state":
            self._json(HTTPStatus.OK, self._state())
        else:
            self._json(HTTPStatus.NOT_FOUND, {"message": "there are /alerts, /state and /metrics"})

    def _alerts(self, query: dict[str, list[str]]) -> None:
        try:
            after = int(query.get("after", ["0"])[-1])
            limit = int(query.get("limit", [str(_LIMIT)])[-1])
            if not 1 <= limit <= _MAX_LIMIT:
                raise ValueError(f"limit is a whole number from 1 to {_MAX_LIMIT}")
            page = self.server_side.recorder.after(after, limit)
        except ValueError as error:
            self._json(HTTPStatus.BAD_REQUEST, {"message": str(error)})
            return
        alerts = [{"seq": seq, "alert": alert.to_json()} for seq, alert in page.alerts]
        body = {"last": page.last, "missed": page.missed, "alerts": alerts}
        self._json(HTTPStatus.OK, body)

    def _state(self) -> dict[str, Any]:
        server = self.server_side
        return {
            **self.facts,
            "url": server.url,
            "ready": server.ready.is_set(),
            "restarts": server.restarts,
            "audit": server.service.audit,
            "counts": server.recorder.counts.to_json(),
            "plan": server.plan.to_json() if server.plan else None,
        }

    def _json(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        self._answer(status, json.dumps(body).encode(), "application/json")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal is for what the model was refused."""
