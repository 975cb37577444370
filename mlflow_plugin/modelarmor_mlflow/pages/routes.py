"""The pages: which there are, what each asks for, and what it says when the answer is no."""

from __future__ import annotations

import logging
import re
from typing import Any, Final
from urllib.parse import quote, urlencode

from flask import Blueprint, Flask, Response, abort, g, redirect, request
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.server.handlers import _add_static_prefix
from werkzeug.exceptions import HTTPException

from modelarmor.generate import review as reviewing
from modelarmor.generate.evidence import Evidence
from modelarmor.visible import visible

from .. import jobs
from ..settings import SettingsError
from . import drafting, guard, looking, rendering, trail
from .asking import RefusedError, Registry
from .drafting import DraftError
from .looking import Look

_logger = logging.getLogger(__name__)

_NAME: Final = "modelarmor"
_ROWS: Final = 50
_MAX_NAME: Final = 1_000
_MAX_TOKEN: Final = 1_000
_MAX_NUMBER: Final = 2**31 - 1
#: what MLflow allows a workspace to be called, and no header says more
_WORKSPACE: Final = re.compile(r"[a-z0-9-]{1,63}")

#: what the queue shows: its title, and MLflow's filter for it
_QUEUES: Final = {
    "waiting": ("Awaiting review", "tags.`modelarmor.review` LIKE 'unreviewed%'"),
    "approved": ("Approved", "tags.`modelarmor.review` LIKE 'approved by %'"),
    "rejected": ("Rejected", "tags.`modelarmor.review` LIKE 'rejected%'"),
    "revoked": ("Revoked", "tags.`modelarmor.review` LIKE 'revoked%'"),
    "queued": ("Queued", "tags.`modelarmor.state` = 'queued'"),
    "running": ("Generating", "tags.`modelarmor.state` = 'running'"),
    "failed": ("Failed", "tags.`modelarmor.state` = 'failed'"),
}
_SAID: Final = {
    "recorded": "The decision is recorded.",
    "asked": "The policy is being generated.",
}
_NO: Final = {
    401: "Sign in to MLflow first.",
    403: "MLflow does not let you do that with this model.",
    404: "There is no such version, or you may not see it.",
}


def add(app: Flask) -> None:
    """Put the pages into MLflow's Flask application."""
    pages = Blueprint(_NAME, __name__)
    for path, method, view in _VIEWS:
        pages.add_url_rule(
            _add_static_prefix(path), f"{view.__name__}-{len(path)}", view, methods=[method]
        )
    pages.before_request(guard.check)
    pages.register_error_handler(RefusedError, _refused)
    pages.register_error_handler(DraftError, _not_drafted)
    pages.register_error_handler(SettingsError, _misconfigured)
    pages.register_error_handler(HTTPException, _wrong)
    pages.register_error_handler(Exception, _broken)
    app.register_blueprint(pages)
    # The first of them runs last, after MLflow's own, which let other pages of a site frame this.
    app.after_request_funcs.setdefault(None, []).insert(0, _seal)


def endpoints() -> list[tuple[str, str]]:
    """Path and method of each page."""
    return [(_add_static_prefix(path), method) for path, method, _ in _VIEWS]


def root() -> str:
    """The path below which they are."""
    return str(_add_static_prefix("/modelarmor"))


# --- pages


def queue() -> str:
    """What waits for a decision, and what was decided."""
    chosen = request.args.get("state", "waiting")
    if chosen not in _QUEUES:
        abort(404, "There is no such queue.")
    token = request.args.get("page", "")
    if len(token) > _MAX_TOKEN:
        abort(400, "This is no page of the queue.")
    registry = _registry()
    title, condition = _QUEUES[chosen]
    found, following = registry.search(condition, _ROWS, token)
    return _page(
        "queue.html",
        registry,
        title=title,
        chosen=chosen,
        queues=[(name, told) for name, (told, _) in _QUEUES.items()],
        versions=found,
        following=following,
        first=not token,
    )


def review() -> str:
    """One version: what is known of it, how its review stands, and the form to decide."""
    registry = _registry()
    about = _look(registry)
    against = _number("against", 0) or about.approved_before
    shown, missed = None, ""
    if about.subject is not None:
        evidence = looking.evidence(registry, about.name, about.version, about.subject.evidence)
        earlier, missed = _earlier(about, against)
        shown = rendering.fragment(evidence, earlier)
    user = _user()
    return _page(
        "review.html",
        registry,
        title=f"Review of {visible(about.name, 100)} {about.version}",
        about=about,
        against=against,
        review=shown,
        missed=missed,
        reviewers=drafting.reviewers(about.settings, user),
        author=bool(about.job and user and user in about.job.authors),
        user=user,
        waive=drafting.WAIVE,
        until=drafting.UNTIL,
        said=_SAID.get(request.args.get("said", ""), ""),
        may_generate=about.has_files and (about.job is None or about.job.state == jobs.FAILED),
    )


def draft() -> str:
    """The statement that a reviewer is about to sign."""
    registry = _registry()
    about = _look(registry)
    statement = drafting.draft(about, request.form, _user())
    return _page(
        "draft.html",
        registry,
        title=f"Sign: {statement.decision} {visible(about.name, 100)} {about.version}",
        about=about,
        statement=statement,
        payload=statement.payload().decode(),
        command=drafting.command(
            statement, request.host_url.rstrip("/") + _add_static_prefix(""), registry.workspace
        ),
    )


def statement() -> Response:
    """The statement as a file."""
    told = drafting.read(request.form.get("statement", ""))
    return _file(told.payload(), "modelarmor-statement.json", "application/json")


def submit() -> Any:
    """Have a signed statement recorded."""
    registry = _registry()
    about = _look(registry)
    envelope = request.form.get("envelope", "").strip()
    drafting.check_bringer(envelope, about.settings, _user())
    registry.submit(about.name, about.version, envelope)
    return redirect(_address("review", about, said="recorded"), 303)


def generate() -> Any:
    """Have a policy made."""
    registry = _registry()
    about = _look(registry)
    registry.generate(about.name, about.version)
    return redirect(_address("review", about, said="asked"), 303)


def audit() -> str:
    """What the record says of one version."""
    registry = _registry()
    about = _look(registry)
    found = trail.entries(about, _number("before", 0))
    return _page(
        "audit.html",
        registry,
        title=f"Record of {visible(about.name, 100)} {about.version}",
        about=about,
        entries=found,
        before=found[-1].seq if len(found) == trail.PAGE else 0,
    )


def download() -> Response:
    """What a review is about, as files."""
    registry = _registry()
    about = _look(registry)
    if about.subject is None:
        abort(404, "There is no policy yet.")
    evidence = looking.evidence(registry, about.name, about.version, about.subject.evidence)
    what = request.args.get("what", "")
    if what == "policy":
        text, name, kind = evidence.policy, "policy.yaml", "application/yaml"
    elif what == "network" and evidence.network:
        text, name, kind = evidence.network, "network.yaml", "application/yaml"
    elif what == "evidence":
        text, name, kind = evidence.dumps(), "evidence.json", "application/json"
    elif what == "review":
        text = reviewing.as_html(reviewing.review(evidence))
        name, kind = "review.html", "text/html"
    else:
        abort(404, "There is no such file.")
    return _file(text.encode("utf-8", "replace"), f"modelarmor-{name}", kind)


def style() -> Response:
    """How the pages look."""
    answer = Response(rendering.sheet(), mimetype="text/css")
    answer.headers["Cache-Control"] = "private, max-age=3600"
    return answer


_VIEWS: Final[tuple[tuple[str, str, Any], ...]] = (
    ("/modelarmor", "GET", queue),
    ("/modelarmor/", "GET", queue),
    ("/modelarmor/review", "GET", review),
    ("/modelarmor/draft", "POST", draft),
    ("/modelarmor/statement", "POST", statement),
    ("/modelarmor/submit", "POST", submit),
    ("/modelarmor/generate", "POST", generate),
    ("/modelarmor/audit", "GET", audit),
    ("/modelarmor/download", "GET", download),
    ("/modelarmor/page.css", "GET", style),
)


# --- private: what is asked


def _given(name: str) -> str:
    """A field of the form that was sent, or else of the address."""
    return str((request.form if request.method == "POST" else request.args).get(name, ""))


def _registry() -> Registry:
    workspace = _given("workspace")
    if workspace and not (MLFLOW_ENABLE_WORKSPACES.get() and _WORKSPACE.fullmatch(workspace)):
        abort(404, "There is no such workspace.")
    return Registry(workspace)


def _look(registry: Registry) -> Look:
    name = _given("name")
    if not name or len(name) > _MAX_NAME:
        abort(400, "Say which model: ?name=NAME&version=VERSION.")
    return looking.look(registry, name, _number("version"))


def _earlier(about: Look, against: int) -> tuple[Evidence | None, str]:
    """What to compare with, or why there is nothing: a review goes on without it.

    Raises:
        RefusedError: somebody named the version.
    """
    if not against or against == about.version:
        return None, ""
    try:
        return looking.evidence(about.registry, about.name, against), ""
    except RefusedError as error:
        if _given("against"):
            raise
        return None, error.told or _NO.get(error.status, "It is not shown.")


def _number(name: str, otherwise: int | None = None) -> int:
    told = _given(name)
    if not told and otherwise is not None:
        return otherwise
    if not (told.isascii() and told.isdigit() and len(told) < 11 and int(told) <= _MAX_NUMBER):
        abort(400, f"{name} should be a whole number.")
    return int(told)


def _user() -> str:
    """Who signed in, as MLflow's authentication says; empty: nobody has to."""
    return str(g.get("mlflow_authenticated_user") or "")


# --- private: what is answered


def _page(template: str, registry: Registry, **values: Any) -> str:
    return rendering.page(
        template,
        registry=registry,
        root=root(),
        token=guard.token(),
        token_field=guard.FIELD,
        address=_address,
        mlflow=_mlflow,
        link=lambda path, **query: _link(path, registry, **query),
        **values,
    )


def _link(path: str, registry: Registry, **query: object) -> str:
    """One of our pages; what is empty is left out of the address."""
    told = {key: str(value) for key, value in query.items() if value}
    if registry.workspace:
        told["workspace"] = registry.workspace
    return f"{root()}/{path}" + (f"?{urlencode(told, quote_via=quote)}" if told else "")


def _address(path: str, about: Look, **query: object) -> str:
    """One of our pages about a version."""
    return _link(path, about.registry, name=about.name, version=about.version, **query)


def _mlflow(registry: Registry, name: str, version: object = "") -> str:
    """MLflow's own page of a version, or of a model."""
    place = f"{_add_static_prefix('/')}#/models/{quote(name, safe='')}"
    if version:
        place += f"/versions/{quote(str(version), safe='')}"
    return place + (f"?workspace={quote(registry.workspace)}" if registry.workspace else "")


def _file(data: bytes, name: str, kind: str) -> Response:
    answer = Response(data, mimetype=kind)
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer


def _seal(response: Response) -> Response:
    return guard.seal(response, root()) if request.blueprint == _NAME else response


def _error(status: int, told: str) -> tuple[str, int]:
    text = rendering.page("error.html", title="Not done", root=root(), told=told)
    return text, status


def _refused(error: RefusedError) -> tuple[str, int]:
    # What MLflow says of a version that is not shown names what was asked for, and no more.
    told = error.told if request.method == "POST" or error.status not in _NO else ""
    told = told or _NO.get(error.status, "MLflow does not answer that.")
    return _error(error.status if 400 <= error.status < 500 else 502, told)


def _not_drafted(error: DraftError) -> tuple[str, int]:
    return _error(409, str(error))


def _misconfigured(error: SettingsError) -> tuple[str, int]:
    _logger.error("modelarmor: %s", error)
    return _error(503, "The registry's configuration is wrong; its operator finds why in the log.")


def _wrong(error: HTTPException) -> Any:
    if error.code is None or error.code < 400:
        return error
    return _error(error.code, str(error.description or error.name))


def _broken(error: Exception) -> tuple[str, int]:
    _logger.exception("modelarmor: a page could not be made", exc_info=error)
    return _error(500, "Something went wrong; the operator finds what in the server's log.")
