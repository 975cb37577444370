"""picklescan, asked by its own interface; runs confined, in picklescan's environment."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

MAGIC = (b"\x80", b"PK", b"\x93NUMPY", b"7z\xbc\xaf")


def files(model: Path) -> Iterator[Path]:
    """What picklescan takes by its name, and what begins as one of its formats does."""
    from picklescan import scanner

    known = (
        scanner._zip_file_extensions
        | scanner._pickle_file_extensions
        | scanner._pytorch_file_extensions
        | scanner._numpy_file_extensions
    )
    if not model.is_dir():
        yield model
        return
    for path in sorted(model.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if path.suffix in known or file.read(8).startswith(MAGIC):
                    yield path


def main(model: Path) -> None:
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
            result = scanner.scan_file_path(str(path))
        except Exception as error:
            notes.append(f"{path.name}: {type(error).__name__}: {error}"[:200])
            continue
        inspected += result.scanned_files
        if result.scan_err:
            notes.append(f"{path.name}: it could not be read as what it is")
        for found in result.globals:
            safety = found.safety.value
            if safety != "innocuous":
                findings.append(
                    {
                        "rule": f"{safety}-global",
                        "severity": "critical" if safety == "dangerous" else "low",
                        "title": f"picklescan calls an import {safety}",
                        "detail": f"{found.module}.{found.name}",
                        "location": str(path),
                    }
                )
    print()
    print(json.dumps({"findings": findings, "inspected": inspected, "incomplete": notes[:20]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
