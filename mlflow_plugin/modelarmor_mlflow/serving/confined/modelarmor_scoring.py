"""The confined server process: MLflow's own scoring server behind the guard.

Started as a program in a directory of its own, beside ``modelarmor_guard.py``. The server gives it
a socket that listens already, so that it needs no right to bind one and no request is lost while it
restarts, and a pipe with a name, on which it says what its guard refused and how many requests it
answered.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING or __package__:  # read where it lies in the package, by tools and tests
    from .modelarmor_guard import App, Guard, Limits, Message, Receive, Scope, Send
else:
    from modelarmor_guard import App, Guard, Limits, Message, Receive, Scope, Send

LIMITS: Final = "MODELARMOR_GUARD"
CHANNEL: Final = "MODELARMOR_CHANNEL"
SOCKET: Final = "MODELARMOR_SOCKET"
WORKERS: Final = "MODELARMOR_WORKERS"
MODULE: Final = "modelarmor_scoring"

#: how often requests are reported, in seconds
_INTERVAL: Final = 1.0
#: what a pipe takes at once, whole (PIPE_BUF)
_MAX_LINE: Final = 4096


class Channel:
    """Says what happened on the pipe; drops what the pipe has no room for."""

    def __init__(self, path: str) -> None:
        self._pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def violation(self, kind: str, message: str, client: str) -> None:
        """The guard refused something."""
        self.say({"violation": kind, "message": message[:500], "client": client[:100]})

    def say(self, body: dict[str, Any]) -> None:
        """Write one line."""
        line = json.dumps(body).encode() + b"\n"
        if len(line) <= _MAX_LINE:
            # full, or nobody reads: a request is not to wait for that
            with contextlib.suppress(OSError):
                os.write(self._pipe, line)


class Says(Protocol):
    """Takes what is said."""

    def say(self, body: dict[str, Any]) -> None:
        """Take one thing."""


class Counted:
    """An ASGI application that counts what `app` answers, and tells `channel` every second."""

    def __init__(self, app: App, channel: Says) -> None:
        self._app = app
        self._channel = channel
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        threading.Thread(target=self._tell, daemon=True).start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != "/invocations":
            await self._app(scope, receive, send)
            return
        status = 500
        start = time.perf_counter()

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            with self._lock:
                self._counts[str(status)] += 1
                self._seconds += time.perf_counter() - start

    def _tell(self) -> None:
        while True:
            time.sleep(_INTERVAL)
            with self._lock:
                counts, self._counts = self._counts, Counter()
                seconds, self._seconds = self._seconds, 0.0
            if counts:
                self._channel.say({"requests": counts, "seconds": round(seconds, 6)})


def application() -> App:
    """The model's application, read from where MLflow's own environment variable says."""
    from mlflow.pyfunc.scoring_server.app import app

    channel = Channel(os.environ[CHANNEL])
    limits = Limits.from_json(json.loads(os.environ[LIMITS]))
    return Counted(Guard(app, limits, channel.violation), channel)


def main() -> None:
    """Serve on the socket that was given."""
    import uvicorn

    uvicorn.run(
        f"{MODULE}:application",
        factory=True,
        workers=int(os.environ[WORKERS]),
        fd=int(os.environ[SOCKET]),
    )


if __name__ == "__main__":
    main()
