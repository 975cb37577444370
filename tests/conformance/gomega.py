"""KubeArmor's tests assert on a command's output in Gomega; this reads those few words of it.

``MatchRegexp("cat.*denied")``, ``Not(ContainSubstring(`x`))``, ``And(…, …)``: an expression of the
test's source, kept as text in the data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final

Matcher = Callable[[str], bool]

_TOKEN: Final = re.compile(r'\s*("(?:[^"\\]|\\.)*"|`[^`]*`|[A-Za-z_][\w.]*|[(),])')
#: "any lines" as upstream writes it, which takes a backtracking engine forever when it fails
_ANY_LINES: Final = re.compile(r"\(\?:\.\*\\r\?\\n\?\)\*|\(\?:\.\*\r\?\n\?\)\*")


def vacuous(text: str | None) -> bool:
    """Whether an assertion holds of every output."""
    return text is None or text.strip() in ('MatchRegexp(".*")', 'MatchRegexp("")')


def parse(text: str) -> Matcher:
    """The assertion `text` as a function of the output.

    Raises
    ------
    ValueError
        when it uses a word that is not known here.
    """
    # ``NotTo(...)`` and ``To(Not(...))`` both became a leading "Not " in the data, the second with
    # its own Not kept: never a double negation.
    negated = text.startswith("Not ") and not text.startswith("Not Not(")
    parser = _Parser(text.removeprefix("Not "))
    matcher = parser.matcher()
    parser.end()
    return _negation(matcher) if negated else matcher


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = []
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if not found:
                raise ValueError(f"assertion not understood at {text[at:]!r}")
            self._tokens.append(found[1])
            at = found.end()

    def _take(self, wanted: str = "") -> str:
        if not self._tokens or (wanted and self._tokens[0] != wanted):
            raise ValueError(f"assertion not understood: {self._text!r}")
        return self._tokens.pop(0)

    def end(self) -> None:
        if self._tokens:
            raise ValueError(f"assertion not understood: {self._text!r}")

    def matcher(self) -> Matcher:
        word = self._take()
        self._take("(")
        if word in _TEXTS:
            matcher = _TEXTS[word](self._string())
        elif word == "Not":
            matcher = _negation(self.matcher())
        elif word in ("And", "SatisfyAll", "Or", "SatisfyAny"):
            matcher = _joined(self._list(), all if word in ("And", "SatisfyAll") else any)
        else:
            raise ValueError(f"assertion not understood: {word}")
        self._take(")")
        return matcher

    def _list(self) -> list[Matcher]:
        found = [self.matcher()]
        while self._tokens[:1] == [","]:
            self._take(",")
            found.append(self.matcher())
        return found

    def _string(self) -> str:
        token = self._take()
        if token.startswith("`"):
            return token[1:-1]
        if not token.startswith('"'):
            raise ValueError(f"assertion not understood: a string instead of {token}")
        return str(json.loads(token))  # Go's escapes that occur are JSON's


def _regexp(pattern: str) -> Matcher:
    compiled = re.compile(_ANY_LINES.sub(r"[\\s\\S]*", pattern))
    return lambda output: compiled.search(output) is not None


_TEXTS: Final[dict[str, Callable[[str], Matcher]]] = {
    "MatchRegexp": _regexp,
    "ContainSubstring": lambda text: lambda output: text in output,
    "Equal": lambda text: lambda output: text == output,
    "HavePrefix": lambda text: lambda output: output.startswith(text),
    "HaveSuffix": lambda text: lambda output: output.endswith(text),
}


def _negation(matcher: Matcher) -> Matcher:
    return lambda output: not matcher(output)


def _joined(matchers: list[Matcher], how: Callable[[list[bool]], bool]) -> Matcher:
    return lambda output: how([matcher(output) for matcher in matchers])
