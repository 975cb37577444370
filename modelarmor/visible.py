"""Hostile text, made harmless to look at: on a terminal, in a log, on a page."""

from __future__ import annotations

from typing import Final

#: characters of one hostile text that are shown
MAX_SHOWN: Final = 400


def visible(text: str, limit: int = MAX_SHOWN) -> str:
    """`text` on one line, without what could deceive a reader or command a terminal; see `escaped`.

    Args:
        text: anything.
        limit: characters of it that are shown; how many more there were is told.
    """
    more = len(text) - limit
    shown = escaped(text[:limit])
    return f"{shown}… ({more} more characters)" if more > 0 else shown


def escaped(text: str) -> str:
    r"""All of `text`, on one line.

    Control characters, bidirectional overrides, zero-width and unassigned characters, and lone
    surrogates come out as escapes such as ``\x1b`` and ``\u202e``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
