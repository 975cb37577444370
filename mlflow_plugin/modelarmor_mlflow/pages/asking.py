"""What a page shows it asks MLflow's own API for, with the credentials of the request at hand.

So whatever stands before that API (authentication, permissions, workspaces, checks of the host)
stands before the pages too, in the version of MLflow that is installed, and a page can show or do
nothing that its reader could not have asked MLflow for.
"""

from __future__ import annotations

import io
import json
from contextvars import Context
from typing import Any, Final
from urllib.parse import urlencode

from flask import current_app, request
from mlflow.server.handlers import _add_static_prefix, _get_ajax_path
from mlflow.utils.workspace_utils import WORKSPACE_HEADER_NAME
from werkzeug.wrappers import Response

from modelarmor.generate.artifact import own

from .. import names

#: the longest answer that is read, in bytes: evidence, which is the longest, is no longer
_MAX_ANSWER: Final = 64 << 20
#: of the request at hand: what names it, what it carries, and what is about its own answer
_NOT_PASSED_ON: Final = (
    "CONTENT_LENGTH", "CONTENT_TYPE", "RAW_URI", "REQUEST_URI", "HTTP_ACCEPT_ENCODING",
    "HTTP_CONTENT_ENCODING", "HTTP_IF_MATCH", "HTTP_IF_MODIFIED_SINCE", "HTTP_IF_NONE_MATCH",
    "HTTP_IF_RANGE", "HTTP_ORIGIN", "HTTP_RANGE", "HTTP_TRANSFER_ENCODING",
)  # fmt: skip


class RefusedError(Exception):
    """MLflow's answer is no; `told` is what it said."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(told)
        self.status = status
        self.told = told


class Registry:
    """MLflow's API, as the sender of the request at hand reaches it.

    Args:
        workspace: in which one; empty: where the request itself is.
    """

    def __init__(self, workspace: str = "") -> None:
        self.workspace = workspace

    def version(self, name: str, version: int) -> dict[str, Any]:
        """A version as MLflow shows it, its tags as a mapping; raises `RefusedError`."""
        told = self._json(
            "GET", _api("/mlflow/model-versions/get"), {"name": name, "version": str(version)}
        )
        return _with_tags(told["model_version"])

    def model(self, name: str) -> dict[str, Any]:
        """A registered model as MLflow shows it; raises `RefusedError`."""
        told = self._json("GET", _api("/mlflow/registered-models/get"), {"name": name})
        return dict(told["registered_model"])

    def search(self, condition: str, most: int, token: str) -> tuple[list[dict[str, Any]], str]:
        """Versions, those that changed last first, and the token of what follows.

        Raises:
            RefusedError: the token is none of MLflow's.
        """
        asked = {"filter": condition, "max_results": str(most)}
        if token:
            asked["page_token"] = token
        told = self._json("GET", _api("/mlflow/model-versions/search"), asked)
        found = [_with_tags(item) for item in told.get("model_versions", ())]
        return found, str(told.get("next_page_token", ""))

    def evidence(self, name: str, version: int, digest: str) -> bytes:
        """What lies beside a version's files as evidence; raises `RefusedError`."""
        return self._ask(
            "GET",
            _add_static_prefix("/model-versions/get-artifact"),
            {"name": name, "version": str(version), "path": own.evidence(digest)},
        )

    def submit(self, name: str, version: int, envelope: str) -> None:
        """Have a signed statement recorded; raises `RefusedError`."""
        self._set_tag(name, version, names.SUBMIT, envelope)

    def generate(self, name: str, version: int) -> None:
        """Have a policy made; raises `RefusedError`."""
        self._set_tag(name, version, names.REQUEST, names.GENERATE)

    def _set_tag(self, name: str, version: int, key: str, value: str) -> None:
        body = {"name": name, "version": str(version), "key": key, "value": value}
        self._ask("POST", _api("/mlflow/model-versions/set-tag"), {}, body)

    def _json(self, method: str, path: str, query: dict[str, str]) -> Any:
        return json.loads(self._ask(method, path, query))

    def _ask(
        self, method: str, path: str, query: dict[str, str], body: dict[str, str] | None = None
    ) -> bytes:
        environ = self._environ(method, path, query, body)
        # In a context of its own, as the workspace is one request's and this is another.
        response = Context().run(Response.from_app, current_app.wsgi_app, environ)
        try:
            data = _read(response)
        finally:
            response.close()
        if response.status_code != 200:
            raise RefusedError(response.status_code, _message(data))
        return data

    def _environ(
        self, method: str, path: str, query: dict[str, str], body: dict[str, str] | None
    ) -> dict[str, Any]:
        environ = {
            key: value
            for key, value in request.environ.items()
            if key not in _NOT_PASSED_ON and not key.startswith(("werkzeug.", "flask."))
        }
        data = b"" if body is None else json.dumps(body).encode()
        environ |= {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": urlencode(query),
            "CONTENT_LENGTH": str(len(data)),
            "CONTENT_TYPE": "" if body is None else "application/json",
            "wsgi.input": io.BytesIO(data),
        }
        if self.workspace:
            environ["HTTP_" + WORKSPACE_HEADER_NAME.upper().replace("-", "_")] = self.workspace
        return environ


def _api(path: str) -> str:
    return str(_get_ajax_path(path))


def _read(response: Response) -> bytes:
    data = bytearray()
    for chunk in response.iter_encoded():
        data += chunk
        if len(data) > _MAX_ANSWER:
            raise RefusedError(413, f"the answer has more than {_MAX_ANSWER} bytes")
    return bytes(data)


def _message(data: bytes) -> str:
    try:
        told = json.loads(data)
        return str(told["message"])[:4000]
    except (ValueError, KeyError, TypeError):
        return ""


def _with_tags(version: dict[str, Any]) -> dict[str, Any]:
    return version | {"tags": {item["key"]: item["value"] for item in version.get("tags", ())}}
