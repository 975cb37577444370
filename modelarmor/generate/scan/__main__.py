"""The look as a program of its own, to be confined: findings as JSON lines on standard output.

    python -m modelarmor.generate.scan MODEL SECONDS

Not a scanner to use by hand: `modelarmor generate` is. Each line is an object with one of the keys
``file`` (looked at next), ``finding``, ``inspected`` and ``end``.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from modelarmor.generate.scan.look import Look

#: bytes of memory that hostile bytes may make us take
MEMORY: Final = 3 << 30


def main(arguments: list[str]) -> int:
    """Look, and say what was found; the exit status is 0 where the look came to its end."""
    root, seconds = Path(arguments[0]), float(arguments[1])
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    look = Look(root, seconds=seconds)
    look.run(lambda path: _say(file=path))
    for finding in look.report.findings.values():
        _say(finding=asdict(finding))
    _say(inspected=sorted(path for path in look.report.inspected if "!" not in path))
    _say(end=look.digest.hexdigest() if look.whole else "")
    return 0


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
