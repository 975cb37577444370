"""What keeps other sites out of the pages: who may ask, and what a browser may do with the answer.

Basic authentication is sent with whatever makes a browser ask, another site's form and frame too.
So each request has to come from a person's navigation or from these pages, by what the browser
itself says of it (https://www.w3.org/TR/fetch-metadata/), and what changes something has to carry
the token of a cookie that other sites are not sent with.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from flask import Response, abort, g, request

FIELD: Final = "token"
_COOKIE: Final = "modelarmor-token"
#: the longest body of a form, in bytes: an envelope, and how much longer a form may write it
_MAX_BODY: Final = 400_000
_MAX_PARTS: Final = 2_000
_SAFE: Final = ("GET", "HEAD", "OPTIONS")

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with that a form's own page is told as the origin "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


def check() -> None:
    """Refuse what another site made the browser ask; for before each request."""
    request.max_content_length = _MAX_BODY
    request.max_form_memory_size = _MAX_BODY
    request.max_form_parts = _MAX_PARTS
    site = request.headers.get("Sec-Fetch-Site", "")
    if request.method in _SAFE:
        if site in ("cross-site", "same-site") and not _is_navigation():
            abort(403, "Another site asked for this page.")
        if (origin := request.headers.get("Origin")) is not None and not _is_ours(origin):
            abort(403, "Another site asked for this page.")
        return
    if site not in ("", "same-origin") or not _is_ours(request.headers.get("Origin", "")):
        abort(403, "This form was not sent from a page of this server. Nothing was changed.")
    kept = request.cookies.get(_COOKIE, "")
    sent = request.form.get(FIELD, "")
    if not kept or not hmac.compare_digest(kept.encode(), sent.encode("utf-8", "replace")):
        abort(403, "This form is too old. Nothing was changed: load the page again.")


def token() -> str:
    """What a form of this page carries."""
    if "modelarmor_token" not in g:
        kept = request.cookies.get(_COOKIE, "")
        g.modelarmor_token = kept if len(kept) == 43 and kept.isascii() else secrets.token_urlsafe()
    return str(g.modelarmor_token)


def seal(response: Response, root: str) -> Response:
    """Say what a browser may do with an answer; nothing else may say so after this.

    Args:
        root: path of the pages.
    """
    for name in [name for name, _ in response.headers if name.startswith("Access-Control-")]:
        del response.headers[name]
    for name, value in _HEADERS.items():
        response.headers[name] = value
    if "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "no-store"
    if "modelarmor_token" in g:
        response.set_cookie(
            _COOKIE, token(), path=root, httponly=True, samesite="Lax",
            secure=request.is_secure,
        )  # fmt: skip
    return response


_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]


class Sealing:
    """The same for what MLflow's outer, asynchronous application says of our answers.

    Args:
        app: that application.
        root: path of the pages.
    """

    def __init__(self, app: Any, root: str) -> None:
        self._app = app
        self._root = root

    async def __call__(self, scope: _Message, receive: Any, send: _Send) -> None:
        """Answer one request, as ASGI has it."""
        path = re.sub("/+", "/", scope.get("path", ""))  # as Flask reads it
        if scope["type"] != "http" or not f"{path}/".startswith(f"{self._root}/"):
            await self._app(scope, receive, send)
            return

        async def sealed(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _sealed(message.get("headers", ()))
            await send(message)

        await self._app(scope, receive, sealed)


def _sealed(headers: Any) -> list[tuple[bytes, bytes]]:
    ours = {name.lower().encode(): value.encode() for name, value in _HEADERS.items()}
    kept = [
        (name, value)
        for name, value in headers
        if name.lower() not in ours and not name.lower().startswith(b"access-control-")
    ]
    return [*kept, *ours.items()]


def _is_navigation() -> bool:
    """Whether somebody follows a link in a window of their own, not in a frame."""
    told = request.headers
    return told.get("Sec-Fetch-Mode") == "navigate" and told.get("Sec-Fetch-Dest") == "document"


def _is_ours(origin: str) -> bool:
    """Whether an origin is the host that was asked; a proxy may have taken its TLS off."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == request.host.lower()
