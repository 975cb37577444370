"""Runs attempts that are named on standard input, one line each; answers with one JSON line each.

Each attempt has a process of its own, so that one that is killed, hangs or loses its way is an
answer like any other.
"""

import json
import os
import select
import signal
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import contextlib

from kit import calls, execs, kernel, network, processes, reads, writes

_REGISTERED = (execs, kernel, network, processes, reads, writes)
LIMIT_S = 9.0


def _answer(place: calls.Range, name: str) -> dict[str, object]:
    try:
        evidence = calls.ATTEMPTS[name].run(place)
    except OSError as error:
        code = error.errno or 0
        return {"evidence": "", "why": str(error.strerror or error)[:160], "errno": code}
    except BaseException as error:
        return {"evidence": "", "why": repr(error)[:160], "errno": 0,
                "trace": traceback.format_exc()[-600:]}  # fmt: skip
    if isinstance(evidence, bytes):
        evidence = evidence.decode(errors="replace")
    return {"evidence": str(evidence)[:300] if evidence else "", "why": "", "errno": 0}


def _isolated(place: calls.Range, name: str) -> dict[str, object]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            os.setpgid(0, 0)
            null = os.open("/dev/null", os.O_RDONLY)
            os.dup2(null, 0)
            os.chdir(place.work)
            os.write(writer, json.dumps(_answer(place, name)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    text = b""
    deadline = time.monotonic() + LIMIT_S
    while (left := deadline - time.monotonic()) > 0:
        if select.select([reader], [], [], left)[0]:
            chunk = os.read(reader, 65536)
            if not chunk:
                break
            text += chunk
            if text.endswith(b"}"):
                break
    os.close(reader)
    for kill in (lambda: os.killpg(pid, signal.SIGKILL), lambda: os.kill(pid, signal.SIGKILL)):
        try:
            if not text:
                kill()
        except OSError:
            pass
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    if text:
        return {"pid": pid, **json.loads(text)}
    why = f"killed by signal {status & 127}" if status & 127 else "no answer"
    return {"pid": pid, "evidence": "", "why": why, "errno": 0}


def main() -> None:
    place = calls.Range(**json.loads(sys.argv[1]))
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "range" in request:
            place = calls.Range(**request["range"])
        start = time.time()
        answer = _isolated(place, request["run"])
        print(json.dumps({"start": start, "end": time.time(), **answer}), flush=True)


if __name__ == "__main__":
    main()
