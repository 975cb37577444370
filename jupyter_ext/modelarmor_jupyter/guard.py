"""What a page of this server may do in strict mode, and what of the server it may ask for.

A kernel's output is shown in the user's page. The Content-Security-Policy here goes out with every
response, whichever handler made it: scripts come from this server's own files only, nothing is
fetched from elsewhere, so an output can neither act as the user nor carry data away by an image.

``'unsafe-eval'`` stays, since JupyterLab compiles JSON schemas to functions. ``'self'`` would let
an output name a script that the kernel wrote into the workspace: what does not come from the
application's own directories is therefore never served as a script.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import httputil, web
from tornado.routing import Matcher, Rule

# Directive by directive; those for images, media and frames are completed by the administrator's.
_POLICY: Final = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-eval'",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self'",
    "worker-src": "'self'",
    "frame-src": "blob:",
    "object-src": "blob:",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
# Where a form leads is the login page's to say, and nobody else's.
_FORMS: Final = re.compile(r"/(login|logout)/?$")
# The application's own files; what else the server sends lies where a kernel may write.
_APPLICATION: Final = ("static/", "lab/extensions/", "lab/api/", "lab/static/")
_SCRIPT_TYPES: Final = re.compile(r"\b(java|ecma|live|j)script\b|\bwasm\b", re.IGNORECASE)
# Fetch metadata (https://www.w3.org/TR/fetch-metadata/): what a browser will do with the answer
_EXECUTED: Final = frozenset(
    {"script", "worker", "sharedworker", "serviceworker", "audioworklet", "paintworklet", "xslt"}
)

#: exporters that run no program and load nothing that the notebook names
SAFE_EXPORTERS: Final = ("html", "markdown", "notebook", "python")

_REFUSED: Final[Sequence[tuple[frozenset[str], str, str]]] = (
    (
        frozenset(),
        rf"nbconvert/(?!({'|'.join(SAFE_EXPORTERS)})(/|$)).*",
        "this format is made by programs that would run unconfined",
    ),
    (
        frozenset({"POST"}),
        r"nbconvert/.*",
        "a notebook is exported from its file",
    ),
    (
        frozenset({"PUT", "PATCH", "POST", "DELETE"}),
        r"api/config/.*",
        "the server's configuration is not written from a page",
    ),
    (
        frozenset({"PUT", "PATCH", "POST", "DELETE"}),
        r"lab/api/(build|extensions|plugins)\b.*",
        "extensions are not changed from a page",
    ),
)


def content_security_policy(path: str, sources: Sequence[str] = ()) -> str:
    """The policy for a response at `path`; images may also come from `sources`."""
    policy = dict(_POLICY)
    policy["img-src"] = " ".join([policy["img-src"], *sources])
    policy["form-action"] = "'self'" if _FORMS.search(path) else "'none'"
    return "; ".join(f"{directive} {value}" for directive, value in policy.items())


def install(web_app: web.Application, image_sources: Sequence[str]) -> None:
    """Guard every answer and every request of a server."""
    base_url = str(web_app.settings["base_url"])
    web_app.add_transform(_header_setter(base_url, tuple(image_sources)))
    web_app.default_router.rules.insert(0, Rule(_RefusedRequests(base_url), RefusedHandler))


def _header_setter(base_url: str, sources: Sequence[str]) -> type[web.OutputTransform]:
    own = tuple(url_path_join(base_url, place) for place in _APPLICATION)

    class StrictHeaders(web.OutputTransform):
        """Adds the headers after the handler, so that none goes without."""

        def __init__(self, request: httputil.HTTPServerRequest) -> None:
            self._path = request.path
            self._clean_url = _without_token(request)

        def transform_first_chunk(
            self, status_code: int, headers: httputil.HTTPHeaders, chunk: bytes, finishing: bool
        ) -> tuple[int, httputil.HTTPHeaders, bytes]:
            # added, not set: a browser enforces each one, and a handler's own may be tighter
            headers.add("Content-Security-Policy", content_security_policy(self._path, sources))
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "same-origin"
            headers["X-DNS-Prefetch-Control"] = "off"
            if self._clean_url and status_code == 200:
                # The script that takes the token out of the address is one of those in the page,
                # which do not run; the cookie is set by now.
                headers["Location"], headers["Content-Length"] = self._clean_url, "0"
                return 302, headers, b""
            kind = headers.get("Content-Type", "")
            is_script = not self._path.startswith(own) and _SCRIPT_TYPES.search(kind)
            if is_script or kind == "text/plain":  # which the server says without the encoding
                headers["Content-Type"] = "text/plain; charset=UTF-8"
            return status_code, headers, chunk

    return StrictHeaders


def _without_token(request: httputil.HTTPServerRequest) -> str:
    """The address of a page that was asked for with a token, without it; else empty."""
    navigation = request.headers.get("Sec-Fetch-Mode", "") == "navigate"
    if request.method != "GET" or not navigation or "token" not in request.query_arguments:
        return ""
    rest = [item for item in parse_qsl(request.query) if item[0] != "token"]
    return request.path + (f"?{urlencode(rest)}" if rest else "")


class _RefusedRequests(Matcher):
    """Matches what strict mode does not answer; the reason is the handler's argument."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._own = tuple(url_path_join(base_url, place) for place in _APPLICATION)
        self._rules = [
            (methods, re.compile(re.escape(url_path_join(base_url, "/")) + pattern), reason)
            for methods, pattern, reason in _REFUSED
        ]

    def match(self, request: httputil.HTTPServerRequest) -> dict[str, Any] | None:
        reason = self._reason(request)
        return {"path_kwargs": {"reason": reason.encode()}} if reason else None

    def _reason(self, request: httputil.HTTPServerRequest) -> str:
        use = request.headers.get("Sec-Fetch-Dest", "")
        if use in _EXECUTED and not request.path.startswith(self._own):
            return f"nothing here is served as a {use}"
        for methods, pattern, reason in self._rules:
            if (not methods or request.method in methods) and pattern.match(request.path):
                return reason
        return ""


class RefusedHandler(APIHandler):
    """Answers what strict mode refuses with the reason."""

    @web.authenticated
    def _refuse(self, reason: str) -> None:
        raise web.HTTPError(403, f"refused in strict mode: {reason}")

    get = head = post = put = patch = delete = _refuse
