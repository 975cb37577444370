"""What a reviewer needs before a model is promoted: facts and what follows from them, on one page.

`review` computes it from the evidence, and from that of the version that was approved before;
`as_text`, `as_json` and `as_html` show it, `as_fragment` within another page. Nothing here says
that a model is safe: the page says what was looked at, what was not, what the policy permits, and
what waits for a decision.
"""

from __future__ import annotations

from .build import review
from .data import as_json
from .model import Review
from .page import SHEET, as_fragment, as_html
from .text import as_text

__all__ = ["SHEET", "Review", "as_fragment", "as_html", "as_json", "as_text", "review"]
