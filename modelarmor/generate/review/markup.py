"""HTML out of values: whatever is not made here is escaped."""

from __future__ import annotations

from html import escape
from typing import Final

from modelarmor.visible import MAX_SHOWN, visible

#: no child and no end tag
_VOID: Final = frozenset({"col", "meta"})


class Html(str):
    """Text that is HTML already. Only this module makes any."""

    __slots__ = ()


NOTHING: Final = Html("")


def text(value: str, limit: int = MAX_SHOWN) -> Html:
    """Hostile text: invisible characters shown as escapes, HTML's own characters as entities."""
    return Html(escape(visible(value, limit), quote=True))


def element(tag: str, /, *children: str | Html, **attributes: str) -> Html:
    """One element.

    Args:
        tag: its name; ours, never a stranger's.
        children: `Html` as it is, any other string as `text`.
        attributes: values are escaped; a trailing underscore of a name is dropped (``class_``),
            other underscores are hyphens.
    """
    said = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"'
        for name, value in attributes.items()
        if value
    )
    if tag in _VOID:
        return Html(f"<{tag}{said}>")
    return Html(f"<{tag}{said}>{join(*children)}</{tag}>")


def join(*children: str | Html) -> Html:
    """Several pieces, one after the other."""
    return Html("".join(c if isinstance(c, Html) else text(c) for c in children))


def style(sheet: str) -> Html:
    """A style sheet of ours."""
    return Html(f"<style>{sheet}</style>")


def document(title: str, sheet: str, *body: Html, images: bool = False) -> str:
    """A whole page that needs nothing from anywhere and may run nothing.

    Args:
        title: of the page.
        sheet: its style.
        body: what it shows.
        images: whether it has pictures, in the page itself.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    if images:
        policy += "; img-src data:"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        # Quotes in the value must stay quotes: it is ours, so it is written out.
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        style(sheet),
    )
    return f"<!doctype html>\n{element('html', head, element('body', *body), lang='en')}\n"
