"""What the registry shows of a version: tags in our namespace, and a summary in its description.

They are for people and clients. The server decides by its own tables and by signatures, so a tag
that somebody forged in the database misleads a reader and opens nothing.
"""

from __future__ import annotations

import json
from typing import Any, Final, cast

from mlflow.entities.model_registry import ModelVersion
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlModelVersionTag
from sqlalchemy import Table, delete, insert
from sqlalchemy.orm import Session

from modelarmor.generate.evidence import Evidence

from . import jobs, names, summary
from .review import Verdict
from .statements import Subject

_NEW: Final = insert(cast(Table, SqlModelVersionTag.__table__))


def show_new(session: Session, made: ModelVersion, state: str) -> None:
    """Show the state of a version that this transaction has made, which has no tag of ours yet.

    Not by way of the ORM, as who registers a version waits for this.
    """
    session.connection().execute(
        _NEW,
        {
            "workspace": made.workspace, "name": made.name, "version": made.version,
            "key": names.STATE, "value": state,
        },
    )  # fmt: skip


def show_job(session: Session, row: SqlModelVersion, state: str, progress: str = "") -> None:
    """Show how far the generation is; a version without a policy shows none."""
    _set(session, row, names.STATE, state)
    stale = []
    if progress and state != jobs.GENERATED:
        _set(session, row, names.PROGRESS, progress[:1000])
    else:
        stale.append(names.PROGRESS)
    if state in (jobs.QUEUED, jobs.FAILED):
        stale += [
            names.SUBJECT, names.POLICY, names.NETWORK, names.RESOURCES, names.FINDINGS,
            names.REVIEW,
        ]  # fmt: skip
    if stale:
        _unset(session, row, *stale)


def show_evidence(session: Session, row: SqlModelVersion, evidence: Evidence, url: str) -> None:
    """Show a policy, and what was found."""
    for key, text in (
        (names.POLICY, evidence.policy),
        (names.NETWORK, evidence.network),
        (names.RESOURCES, json.dumps(dict(evidence.resources), sort_keys=True)),
        (names.FINDINGS, json.dumps(summary.counts(evidence))),
    ):
        if text and len(text.encode()) <= names.MAX_TAG:
            _set(session, row, key, text)
        else:  # it is in the evidence, by the same digest
            _unset(session, row, key)
    row.description = summary.join(row.description, summary.write(evidence, url))


def show_review(
    session: Session,
    row: SqlModelVersion,
    subject: Subject,
    verdict: Verdict,
    envelopes: list[str],
    previous: str,
    approval_days: int,
) -> None:
    """Show what a review is about, how it stands, and the statements that it rests on."""
    told = {**subject.to_json(), "previous": previous, "approval_days": approval_days}
    _set(session, row, names.SUBJECT, json.dumps(told, sort_keys=True))
    standing = f"approved by {', '.join(verdict.approved_by)}" if verdict.approved else (
        f"{verdict.state}: {'; '.join(verdict.missing)}"
    )  # fmt: skip
    _set(session, row, names.REVIEW, standing[:4000])
    _set(session, row, names.STATEMENTS, _newest(envelopes))


def copied_from(session: Session, row: SqlModelVersion, origin: SqlModelVersion) -> None:
    """Show what is known of the version that this one is a copy of."""
    for tag in origin.model_version_tags:
        if tag.key in (names.POLICY, names.NETWORK, names.RESOURCES, names.FINDINGS):
            _set(session, row, tag.key, tag.value)
    row.description = summary.join(row.description, summary.of(origin.description))


def _newest(envelopes: list[str]) -> str:
    """As many of the newest as fit, oldest first."""
    kept: list[Any] = []
    size = 2
    for text in reversed(envelopes):
        size += len(text.encode()) + 2
        if size > names.MAX_TAG:
            break
        kept.insert(0, json.loads(text))
    return json.dumps(kept, separators=(",", ":"))


def _set(session: Session, row: SqlModelVersion, key: str, value: str) -> None:
    session.merge(
        SqlModelVersionTag(
            workspace=row.workspace, name=row.name, version=row.version, key=key, value=value
        )
    )


def _unset(session: Session, row: SqlModelVersion, *keys: str) -> None:
    session.execute(
        delete(SqlModelVersionTag).where(
            SqlModelVersionTag.workspace == row.workspace,
            SqlModelVersionTag.name == row.name,
            SqlModelVersionTag.version == row.version,
            SqlModelVersionTag.key.in_(keys),
        )
    )
