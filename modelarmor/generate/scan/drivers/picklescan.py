"""picklescan, asked by its own interface; runs confined, in picklescan's environment."""

import json
import logging
import os
import sys
from collections.abc import Iterator

MAGIC = (b"\x80", b"PK", b"\x93NUMPY", b"7z\xbc\xaf")


def files(model: str) -> Iterator[str]:
    """What picklescan takes by its name, and what begins as one of its formats does."""
    from picklescan import scanner

    known = (
        scanner._zip_file_extensions
        | scanner._pickle_file_extensions
        | scanner._pytorch_file_extensions
        | scanner._numpy_file_extensions
    )
    if not os.path.isdir(model):
        yield model
        return
    for place, _, names in os.walk(model):
        for name in sorted(names):
            path = os.path.join(place, name)
            if not os.path.isfile(path) or os.path.islink(path):
                continue
            with open(path, "rb") as file:
                if os.path.splitext(name)[1] in known or file.read(8).startswith(MAGIC):
                    yield path


def main(model: str) -> None:
    from picklescan import scanner

    notes: list[str] = []

    class Listen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said = record.getMessage()
            if record.levelno >= logging.WARNING and not said.endswith("FOUND"):
                notes.append(said[:200])

    logging.getLogger("picklescan").addHandler(Listen())
    findings, inspected = [], 0
    for path in files(model):
        try:
            result = scanner.scan_file_path(path)
        except Exception as error:
            notes.append(f"{path}: {type(error).__name__}: {error}"[:200])
            continue
        inspected += result.scanned_files
        if result.scan_err:
            notes.append(f"{os.path.basename(path)}: it could not be read as what it is")
        for found in result.globals:
            safety = found.safety.value
            if safety != "innocuous":
                findings.append(
                    {
                        "rule": f"{safety}-global",
                        "severity": "critical" if safety == "dangerous" else "low",
                        "title": f"picklescan calls an import {safety}",
                        "detail": f"{found.module}.{found.name}",
                        "location": path,
                    }
                )
    print()
    print(json.dumps({"findings": findings, "inspected": inspected, "incomplete": notes[:20]}))


if __name__ == "__main__":
    main(sys.argv[1])
