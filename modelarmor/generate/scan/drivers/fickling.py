"""fickling, asked for every file that may be a pickle; runs confined, in fickling's environment."""

import json
import os
import sys
from collections.abc import Iterator

SEVERITIES = {
    "LIKELY_SAFE": "", "POSSIBLY_UNSAFE": "low", "SUSPICIOUS": "medium", "LIKELY_UNSAFE": "medium",
    "LIKELY_OVERTLY_MALICIOUS": "critical", "OVERTLY_MALICIOUS": "critical",
}  # fmt: skip
MAX_BYTES = 256 << 20


def files(model: str) -> Iterator[str]:
    if not os.path.isdir(model):
        yield model
    for place, _, names in os.walk(model):
        for name in sorted(names):
            path = os.path.join(place, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def pickles(path: str) -> Iterator[bytes]:
    """What of a file fickling can read: the file, or the pickles within a zip archive."""
    import zipfile

    with open(path, "rb") as file:
        head = file.read(2)
        if head == b"PK":
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    if member.filename.endswith(".pkl") and member.file_size <= MAX_BYTES:
                        yield archive.read(member)
            return
        named = path.endswith((".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".dill"))
        if head[:1] == b"\x80" or named:
            file.seek(0)
            yield file.read(MAX_BYTES)


def main(model: str) -> None:
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
                            "location": path,
                        }
                    )
        except Exception as error:
            incomplete.append(f"{os.path.basename(path)}: {type(error).__name__}: {error}"[:200])
    print()
    print(json.dumps({"findings": findings, "inspected": inspected, "incomplete": incomplete[:20]}))


if __name__ == "__main__":
    main(sys.argv[1])
