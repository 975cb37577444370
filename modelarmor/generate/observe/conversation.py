"""Talking with a program in the sandbox: a JSON object a line each way, and none is believed."""

from __future__ import annotations

import json
import selectors
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any, Final

from modelarmor.sandbox import Process

#: the longest answer that is read, in bytes
_MAX_ANSWER: Final = 1 << 16
#: of what it prints so much is kept, its end
_MAX_OUTPUT: Final = 1 << 20


class Silent(Exception):
    """The program did not answer; says why."""


class Conversation:
    """Requests and answers, with a deadline and a bound on what is read.

    Args:
        process: with pipes for its standard input and output.
        until: when it is given up, by `time.monotonic`.
    """

    def __init__(self, process: Process, until: float) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._until = until
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)

    def ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Put a request, and wait for its answer.

        Raises:
            Silent: there is none, or none that makes sense.
        """
        try:
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()
        except OSError:
            raise Silent("it ended before it was asked") from None
        line = self._line()
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise Silent("it gave an answer that makes no sense")
        return answer

    def end(self, grace: float) -> bool:
        """Say that there is nothing more to ask, and let the program end by itself.

        What it does as it ends is seen so: a hook at exit, or what a program does that answered in
        another's place to be left alone.

        Args:
            grace: seconds that it has for that.

        Returns:
            whether it ended.

        Raises:
            Silent: it had one more answer.
        """
        with suppress(OSError):
            self._stdin.close()
        until = min(self._until, time.monotonic() + grace)
        while self._selector.select(max(0.0, until - time.monotonic())):
            if self._stdout.read1(1):  # type: ignore[attr-defined]
                raise Silent("it gave an answer that nobody asked for")
            break
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def _line(self) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            left = self._until - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                raise Silent("it took too long and was ended")
            piece = self._stdout.read1(1)  # type: ignore[attr-defined]
            if not piece:
                code = self._process.wait(5)
                raise Silent(f"it ended with {code}")
            line += piece
            if len(line) > _MAX_ANSWER:
                raise Silent("it gave an answer without an end")
        return bytes(line)


class Tail(threading.Thread):
    """Reads a stream to its end, so that nobody waits on it, and keeps what came last."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        super().__init__(name="output of an observation", daemon=True)
        assert stream is not None
        self._stream = stream
        self._kept = bytearray()
        self.start()

    def run(self) -> None:
        with suppress(OSError, ValueError):  # closed under us at the end
            while piece := self._stream.read1(1 << 16):  # type: ignore[attr-defined]
                self._kept += piece
                del self._kept[:-_MAX_OUTPUT]

    def text(self) -> bytes:
        """What was kept; whole once the process has ended."""
        self.join(5)
        return bytes(self._kept)

    def last_line(self) -> str:
        """The end of it, for a message."""
        lines = bytes(self._kept[-4096:]).decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""
