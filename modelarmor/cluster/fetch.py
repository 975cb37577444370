"""What a model's pod does first: it brings the model's files and keeps only what was approved.

It runs in an init container, which KubeArmor does not confine (its issue 870), so it reads bytes
and hashes them and never loads a model. The source of this file is given to the image's own Python.
Only files of the approved list are copied, each while it is hashed; what is not on the list does
not reach the server, and what is on it and differs ends the pod's start.
"""

import hashlib
import json
import os
import sys

#: exit status where the files are not the approved ones (EX_DATAERR of sysexits.h)
NOT_APPROVED = 65
_BLOCK = 1 << 20


def copy(source: str, target: str, approved: dict[str, tuple[int, str]]) -> str:
    """Copy the approved files; what is wrong with the first that differs, or an empty text."""
    for path, (size, digest) in sorted(approved.items()):
        parts = path.split("/")
        if path.startswith("/") or not {"", ".", ".."}.isdisjoint(parts):
            return f"{path!r} is no path within a model"
        place = os.path.join(target, *parts)  # noqa: PTH118
        os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120
        try:
            found = _copy(os.path.join(source, *parts), place, size)  # noqa: PTH118
        except OSError as error:
            return f"{path}: {error.strerror}"
        if found != digest:
            return f"{path} is not what was approved: {found} instead of {digest}"
    return ""


def _copy(source: str, place: str, size: int) -> str:
    """Copy a file of this size, which is hashed as it is written.

    It may be there, whole or in part: a kubelet runs an init container again that failed, and every
    one when a pod's sandbox is made anew.
    """
    total, left = hashlib.sha256(), size
    with open(source, "rb") as stream, open(place, "wb") as copied:  # noqa: PTH123
        while block := stream.read(_BLOCK):
            left -= len(block)
            if left < 0:
                return f"more than {size} bytes"
            total.update(block)
            copied.write(block)
    return total.hexdigest()


def main(plan: str) -> None:
    """Fetch as the plan says."""
    with open(plan, encoding="utf-8") as stream:  # noqa: PTH123
        given = json.load(stream)
    source = given["claim"]
    if not source:
        import mlflow

        source = mlflow.artifacts.download_artifacts(
            artifact_uri=given["uri"], dst_path=given["scratch"]
        )
    wrong = copy(source, given["target"], given["files"])
    if wrong:
        print(wrong, file=sys.stderr, flush=True)
        sys.exit(NOT_APPROVED)


if __name__ == "__main__":
    main(sys.argv[1])
