"""Which controls a policy and its evidence meet a part of, for an auditor.

`assess` computes; `as_text`, `as_json` and `as_html` show. Each line rests on an answer of
`modelarmor.policy.decide`, of the network policy or of the evidence, and says what the policy does
not meet and who has to.
"""

from __future__ import annotations

from . import subjects
from .assess import Report, Subject, assess, placed_at
from .render import as_html, as_json, as_text

__all__ = ["Report", "Subject", "as_html", "as_json", "as_text", "assess", "placed_at", "subjects"]
