"""What runs first in a pod: it holds user code back until the policy is in force.

KubeArmor has no status that says so, and a container runs for a moment before it is confined. So
this is the container's command: the source of this file, given to the image's own Python, which
needs nothing but the standard library. It opens files that the policy denies until each open fails
with "permission denied", and only then becomes the kernel. Its verdict is its exit status, which
the kubelet reports, and its termination message, which nobody but the trusted image can have
written before the first kernel: no user code has run. Where the container starts again, a kernel
may have left words of its own there, so they are read as anybody's.

A control goes with it. The files lie in the same Secret with the same mode; the one that the policy
allows must open, so that a wrong mode or user is never taken for a denial by KubeArmor.
"""

import json
import os
import shutil
import sys
import time

#: exit status of a container whose canary was not denied in time (EX_CONFIG of sysexits.h)
NOT_CONFINED = 78
#: where the files lie that are opened in a kernel's pod
FILES = "/run/modelarmor"
_PAUSE_SECONDS = 0.2


def look(path: str) -> str:
    """``open``, ``denied`` or what else came of opening a file."""
    try:
        with open(path, "rb") as stream:  # noqa: PTH123
            stream.read(1)
    except PermissionError:
        return "denied"
    except OSError as error:
        return error.strerror or "failed"
    return "open"


def wait(control: str, denied: dict[str, str], seconds: float) -> dict[str, str]:
    """Look until the policy is in force, or time is over; what the last look showed."""
    deadline = time.monotonic() + seconds
    while True:
        said = {"control": look(control)} | {name: look(path) for name, path in denied.items()}
        if in_force(said) or time.monotonic() > deadline:
            return said
        time.sleep(_PAUSE_SECONDS)


def in_force(said: dict[str, str]) -> bool:
    """Whether the control opened and everything else was denied."""
    others = [word for name, word in said.items() if name != "control"]
    return said.get("control") == "open" and bool(others) and {*others} == {"denied"}


def main(settings: str, *command: str) -> None:
    """Wait, then become ``command``."""
    given = json.loads(settings)
    said = wait(given["control"], given["denied"], given["seconds"])
    if not in_force(said):
        text = json.dumps({"canary": said})
        print(text, flush=True)
        try:
            with open(given["message"], "w") as stream:  # noqa: PTH123
                stream.write(text)
        finally:
            sys.exit(NOT_CONFINED)
    for directory in given["directories"]:
        os.makedirs(directory, mode=0o700, exist_ok=True)  # noqa: PTH103
    if "copy" in given:
        # ipykernel writes its connection file anew, which a Secret's volume does not take
        shutil.copyfile(given["control"], given["copy"])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
