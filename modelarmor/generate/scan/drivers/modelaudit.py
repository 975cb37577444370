"""modelaudit, asked by its own interface; runs confined, in modelaudit's environment."""

import json
import sys
from typing import Any

SEVERITIES = {"critical": "critical", "warning": "medium", "info": "info", "debug": "info"}


def main(model: str) -> None:
    from modelaudit.core import scan_model_directory_or_file

    result: Any = scan_model_directory_or_file(model, timeout=600, cache_enabled=False)
    said = json.loads(result.model_dump_json())
    findings = [
        {
            "rule": issue.get("rule_code") or issue.get("type") or "issue",
            "severity": SEVERITIES.get(str(issue.get("severity", "")).lower(), "medium"),
            "title": str(issue.get("message", "")),
            "detail": str(issue.get("why") or ""),
            "location": str(issue.get("location") or ""),
        }
        for issue in said.get("issues", ())
        if str(issue.get("severity", "")).lower() not in ("debug", "info")
    ]
    incomplete = [] if said.get("success", False) else ["it did not come to its end"]
    inspected = said.get("files_scanned", 0)
    print()
    print(json.dumps({"findings": findings, "inspected": inspected, "incomplete": incomplete}))


if __name__ == "__main__":
    main(sys.argv[1])
