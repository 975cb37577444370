"""fickling, asked for every file that may be a pickle; runs confined, in fickling's environment."""

import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

SEVERITIES = {
    "LIKELY_SAFE": "", "POSSIBLY_UNSAFE": "low", "SUSPICIOUS": "medium", "LIKELY_UNSAFE": "medium",
    "LIKELY_OVERTLY_MALICIOUS": "critical", "OVERTLY_MALICIOUS": "critical",
}  # fmt: skip
MAX_BYTES = 256 << 20
NAMES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".dill"})


def files(model: Path) -> Iterator[Path]:
    if not model.is_dir():
        yield model
        return
    for path in sorted(model.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def pickles(path: Path) -> Iterator[bytes]:
    """What of a file fickling can read: the file, or the pickles within a zip archive."""
    with path.open("rb") as file:
        head = file.read(2)
        if head == b"PK":
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    if member.filename.endswith(".pkl") and member.file_size <= MAX_BYTES:
                        yield archive.read(member)
        elif head[:1] == b"\x80" or path.suffix in NAMES:
            file.seek(0)
            yield file.read(MAX_BYTES)


def main(model: Path) -> None:
    from fickling.analysis import check_safety
    from fickling.fickle import Pickled

    findings, incomplete, inspected = [], [], 0
    for path in files(model):
        try:
            for content in pickles(path):
                result = check_safety(Pickled.load(content))
                inspected += 1
                severity = SEVERITIES.get(result.severity.name, "medium")
                if severity:
                    findings.append(
                        {
                            "rule": result.severity.name.lower(),
                            "severity": severity,
                            "title": f"fickling calls it {result.severity.name.lower()}",
                            "detail": result.to_string()[:600],
                            "location": str(path),
                        }
                    )
        except Exception as error:
            incomplete.append(f"{path.name}: {type(error).__name__}: {error}"[:200])
    print()
    print(json.dumps({"findings": findings, "inspected": inspected, "incomplete": incomplete[:20]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
