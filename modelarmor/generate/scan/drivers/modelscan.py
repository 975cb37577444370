"""modelscan, asked by its own interface; runs confined, in modelscan's environment."""

import json
import sys
from pathlib import Path

SEVERITIES = {"CRITICAL": "critical", "HIGH": "high", "MEDIUM": "medium", "LOW": "low"}


def main(model: str) -> None:
    from modelscan.modelscan import ModelScan

    said = ModelScan().scan(Path(model))
    summary = said["summary"]
    findings = [
        {
            "rule": "issue",
            "severity": SEVERITIES.get(str(issue.get("severity", "")).upper(), "medium"),
            "title": str(issue.get("description", "")),
            "detail": str(issue.get("scanner", "")),
            "location": str(issue.get("source", "")),
        }
        for issue in said.get("issues", ())
    ]
    errors = [str(error.get("description", error))[:200] for error in said.get("errors", ())]
    scanned = int(summary.get("scanned", {}).get("total_scanned", 0))
    print()
    print(json.dumps({"findings": findings, "inspected": scanned, "incomplete": errors[:20]}))


if __name__ == "__main__":
    main(sys.argv[1])
