"""A decision as a form says it, made into the statement that its reviewer signs elsewhere.

The server has no reviewer's key, and a page gets none: what signs is `modelarmor` on the reviewer's
own machine.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, cast, get_args

from .. import review, statements
from ..settings import Reviewer, Settings
from ..statements import Decision, Statement, StatementError, Waiver
from .looking import Look

WAIVE: Final = "waive-"
UNTIL: Final = "until-"


class DraftError(ValueError):
    """A form that makes no decision that would be recorded; says what is missing."""


def reviewers(settings: Settings, user: str) -> tuple[Reviewer, ...]:
    """Whose decisions somebody can bring: their own, or anybody's where nobody signs in."""
    known = (reviewer for reviewer in settings.reviewers if reviewer.keys)
    return tuple(item for item in known if not user or item.is_any_of(frozenset((user,))))


def draft(about: Look, form: Mapping[str, str], user: str) -> Statement:
    """The statement that `form` asks for.

    Args:
        user: who signed in; empty: nobody has to.

    Raises:
        DraftError: it would not be recorded; says why.
    """
    if about.subject is None or about.job is None:
        raise DraftError(f"{about.uri} has no policy yet, so there is nothing to decide on.")
    if form.get("evidence") != about.subject.evidence:
        raise DraftError(f"{about.uri} has changed since it was shown. Review it as it is now.")
    decision = form.get("decision", "")
    if decision not in get_args(Decision):
        raise DraftError("Choose what you have decided.")
    reviewer = _reviewer(about, form.get("reviewer", ""), user)
    now = int(time.time())
    end = _moment(
        "the end of the approval", form.get("expires", ""), _default_end(about.settings, now)
    )
    approves = decision == "approve"
    statement = Statement(
        decision=cast(Decision, decision),
        subject=about.subject,
        reviewer=reviewer.name,
        reason=_one_line(form.get("reason", "")),
        time=now,
        expires=end,
        waivers=_waivers(about, form, end) if approves else (),
        names=tuple(filter(None, map(_one_line, form.get("names", "").splitlines())))
        if approves
        else (),
        previous=about.previous,
    )
    return _checked(about, statement, reviewer, now)


def read(text: str) -> Statement:
    """A statement that `draft` made, out of a form; raises `DraftError`."""
    try:
        return Statement.from_payload(text.encode())
    except (StatementError, UnicodeEncodeError) as error:
        raise DraftError(f"This is no statement: {error}") from None


def command(statement: Statement, server: str, workspace: str) -> str:
    """The command that signs and sends the same; empty: a shell could take it for another one.

    Args:
        server: what its reviewer calls this MLflow.
        workspace: in which workspace of it; empty: there are none, or in the usual one.
    """
    words = ["env", f"MLFLOW_WORKSPACE={workspace}"] if workspace else []
    words += ["modelarmor", statement.decision, statement.subject.uri]
    words += [f"--tracking-uri={server}", f"--reviewer={statement.reviewer}"]
    words += [f"--reason={statement.reason}"]
    if statement.decision == "approve":
        words += [f"--expires={_day(statement.expires)}"]
        words += [f"--name={name}" for name in statement.names]
        words += [
            f"--waive={item.finding}={item.reason}@{_day(item.expires)}"
            for item in statement.waivers
        ]
    # What a terminal acts on, or a reader does not see, is not for pasting into a shell.
    return shlex.join(words) if all(word.isprintable() for word in words) else ""


def check_bringer(envelope: str, settings: Settings, user: str) -> None:
    """Refuse what a person who has signed in brings of somebody else's.

    Raises:
        DraftError: it is another reviewer's decision, or no decision at all.
    """
    try:
        reviewer = statements.verify(envelope, settings).reviewer
    except StatementError as error:
        raise DraftError(f"This was not recorded: {error}.") from None
    if user and not reviewer.is_any_of(frozenset((user,))):
        raise DraftError(
            f"This was not recorded: it is signed by {reviewer.name}, and you are signed in as"
            " somebody else."
        )


def _reviewer(about: Look, name: str, user: str) -> Reviewer:
    for reviewer in reviewers(about.settings, user):
        if reviewer.name == name:
            return reviewer
    raise DraftError("Say who you are: a reviewer whom this registry trusts.")


def _waivers(about: Look, form: Mapping[str, str], end: int) -> tuple[Waiver, ...]:
    return tuple(
        Waiver(
            finding=item.fingerprint,
            reason=reason,
            expires=_moment(
                f"the end of the waiver of {item.fingerprint}",
                form.get(UNTIL + item.fingerprint, ""),
                end,
            ),
        )
        for item in about.severe
        if (reason := _one_line(form.get(WAIVE + item.fingerprint, "")))
    )


def _checked(about: Look, statement: Statement, reviewer: Reviewer, now: int) -> Statement:
    """Say now what would be refused after the signature."""
    assert about.job is not None
    try:
        Statement.from_payload(statement.payload())
        review.check_submission(statement, about.settings, now)
    except StatementError as error:
        raise DraftError(f"This cannot be recorded: {error}.") from None
    if statement.decision == "approve":
        if reviewer.is_any_of(about.job.authors):
            raise DraftError(f"{reviewer.name} made this version; another reviewer approves it.")
        if left := review.refusal(statement, about.job.concerns, about.settings):
            raise DraftError(f"The approval leaves findings unanswered: {left}.")
    if len(statement.payload()) * 4 // 3 + 1000 > statements.MAX_ENVELOPE:
        raise DraftError("The statement is too long: shorten the reasons.")
    return statement


def _default_end(settings: Settings, now: int) -> int:
    """The beginning of a day, as whatever is given as a date is."""
    end = now + settings.default_days * 86400
    return end - end % 86400


def _moment(what: str, day: str, otherwise: int) -> int:
    if not day:
        return otherwise
    try:
        return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise DraftError(f"{what} should be a date such as 2027-01-31.") from None


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _one_line(text: str) -> str:
    return " ".join(text.split())
