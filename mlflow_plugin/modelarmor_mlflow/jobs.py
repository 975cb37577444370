"""The queue of generations: one row a version, in the registry's database.

A job is ``queued``, ``running``, ``generated`` or ``failed``. A worker claims it under the lock,
says that it lives while it works, and writes its result only while the job is still its own; a
worker that was killed loses the job when its lease is over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from sqlalchemy import Insert, Row, and_, delete, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from modelarmor.generate.evidence import SEVERITIES

from .review import Concern
from .settings import Worker
from .tables import JOBS

State = Literal["queued", "running", "generated", "failed"]
QUEUED: Final = "queued"
RUNNING: Final = "running"
GENERATED: Final = "generated"
FAILED: Final = "failed"

_MAX_PROGRESS = 900
_MAX_CONCERNS = 5_000
_MOST_ALIKE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The generation for one version, and what came of it."""

    id: int
    workspace: str
    model: str
    version: int
    created: int
    location: str
    authors: frozenset[str]
    state: str
    progress: str
    attempts: int
    worker: str
    artifact: str
    policy: str
    evidence: str
    concerns: tuple[Concern, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a generation found."""

    artifact: str
    policy: str
    evidence: str
    concerns: tuple[Concern, ...]


def enqueue(
    session: Session,
    *,
    workspace: str,
    model: str,
    version: int,
    created: int,
    location: str,
    authors: Sequence[str],
    now: float,
    result: Result | None = None,
) -> None:
    """Put a version in the queue, or record what is known of it already."""
    key = {"workspace": workspace, "model": model, "version": version}
    values = {
        "created": created, "location": location, "authors": json.dumps(sorted(set(authors))),
        "state": GENERATED if result else QUEUED, "progress": "", "attempts": 0, "worker": "",
        "heartbeat": 0.0, "queued": now, "finished": now if result else 0.0,
        **_result_columns(result),
    }  # fmt: skip
    # Not by way of the ORM, as who registers a version waits for this.
    connection = session.connection()
    if (upsert := _upsert(connection.dialect.name)) is None:
        forget(session, workspace, model, version)
    connection.execute(insert(JOBS) if upsert is None else upsert, {**key, **values})


@cache
def _upsert(dialect: str) -> Insert | None:
    """Inserts or replaces a job: a server without us may have left one of this number.

    Args:
        dialect: as SQLAlchemy calls it; there is no such statement for some.
    """
    kinds: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
    if (kind := kinds.get(dialect)) is None:
        return None
    added = kind(JOBS)
    key = ("workspace", "model", "version")
    names = [column.name for column in JOBS.c if column.name not in ("id", *key)]
    replaced = {name: added.excluded[name] for name in names}
    statement: Insert = added.on_conflict_do_update(index_elements=key, set_=replaced)
    return statement


def again(session: Session, job: Job, now: float) -> None:
    """Queue a job once more, with all its attempts."""
    session.execute(
        update(JOBS)
        .where(JOBS.c.id == job.id)
        .values(
            state=QUEUED, progress="", attempts=0, worker="", queued=now, finished=0.0,
            **_result_columns(None),
        )
    )  # fmt: skip


def find(session: Session, workspace: str, model: str, version: int) -> Job | None:
    """The job of a version."""
    row = session.execute(
        select(JOBS).where(
            JOBS.c.workspace == workspace, JOBS.c.model == model, JOBS.c.version == version
        )
    ).first()
    return None if row is None else _job(row)


def alike(session: Session, job: Job, artifact: str) -> list[str]:
    """The digests of what is known of versions of the same bytes at the same place, oldest first.

    It holds for this version too, as far as it answers what is asked of it.
    """
    rows = session.execute(
        select(JOBS.c.evidence)
        .where(
            JOBS.c.id != job.id, JOBS.c.workspace == job.workspace,
            JOBS.c.state == GENERATED, JOBS.c.artifact == artifact,
            JOBS.c.location == job.location,
        )
        .group_by(JOBS.c.evidence)
        .order_by(func.min(JOBS.c.id))
        .limit(_MOST_ALIKE)
    )  # fmt: skip
    return [row.evidence for row in rows]


def waiting(session: Session, settings: Worker, now: float) -> bool:
    """Whether `claim` could find something; asks without taking the lock."""
    silent = and_(JOBS.c.state == RUNNING, JOBS.c.heartbeat < now - settings.lease)
    found = session.execute(select(JOBS.c.id).where(or_(JOBS.c.state == QUEUED, silent)).limit(1))
    return found.first() is not None


def reap(session: Session, settings: Worker, now: float) -> list[Job]:
    """Take the jobs of silent workers away from them; the session holds the lock.

    Returns:
        The jobs as they are now: waiting for another attempt, or failed.
    """
    silent = select(JOBS).where(JOBS.c.state == RUNNING, JOBS.c.heartbeat < now - settings.lease)
    rows = session.execute(silent).all()
    for row in rows:
        _give_up(session, row, settings, now)
    found = select(JOBS).where(JOBS.c.id.in_([row.id for row in rows]))
    return [_job(row) for row in session.execute(found).all()]


def claim(session: Session, worker: str, settings: Worker, now: float) -> Job | None:
    """Take the oldest job that waits; the session holds the lock.

    Returns:
        None where there is none, or as many are running as may.
    """
    running = session.execute(
        select(func.count()).select_from(JOBS).where(JOBS.c.state == RUNNING)
    ).scalar_one()
    if running >= settings.concurrency:
        return None
    oldest = session.execute(
        select(JOBS).where(JOBS.c.state == QUEUED).order_by(JOBS.c.queued, JOBS.c.id).limit(1)
    ).first()
    if oldest is None:
        return None
    session.execute(
        update(JOBS)
        .where(JOBS.c.id == oldest.id)
        .values(state=RUNNING, attempts=oldest.attempts + 1, worker=worker, heartbeat=now,
                progress="started")
    )  # fmt: skip
    return _job(session.execute(select(JOBS).where(JOBS.c.id == oldest.id)).one())


def beat(session: Session, job: Job, now: float, progress: str | None) -> bool:
    """Say that the worker lives, and how far it is; False: the job is no longer its own."""
    values: dict[str, Any] = {"heartbeat": now}
    if progress is not None:
        values["progress"] = progress[:_MAX_PROGRESS]
    done = session.execute(update(JOBS).where(_is_own(job)).values(**values))
    return bool(done.rowcount)  # type: ignore[attr-defined]


def finish(session: Session, job: Job, result: Result, now: float) -> bool:
    """Record a result; False: the job is no longer this worker's, and nothing was written."""
    done = session.execute(
        update(JOBS)
        .where(_is_own(job))
        .values(state=GENERATED, progress="", finished=now, **_result_columns(result))
    )
    return bool(done.rowcount)  # type: ignore[attr-defined]


def fail(
    session: Session, job: Job, why: str, settings: Worker, now: float, *, final: bool
) -> str | None:
    """Record that an attempt came to nothing.

    Args:
        final: another attempt would fail as well.

    Returns:
        The state that the job is in now; None where it is no longer this worker's.
    """
    state = FAILED if final or job.attempts >= settings.attempts else QUEUED
    done = session.execute(
        update(JOBS)
        .where(_is_own(job))
        .values(state=state, progress=why[:_MAX_PROGRESS], finished=now, worker="")
    )
    return state if done.rowcount else None  # type: ignore[attr-defined]


def rename(session: Session, workspace: str, old: str, new: str) -> None:
    """Follow a registered model to its new name."""
    session.execute(delete(JOBS).where(JOBS.c.workspace == workspace, JOBS.c.model == new))
    session.execute(
        update(JOBS).where(JOBS.c.workspace == workspace, JOBS.c.model == old).values(model=new)
    )


def forget(session: Session, workspace: str, model: str, version: int | None = None) -> None:
    """Drop the job of a version, or of all versions of a model."""
    which = [JOBS.c.workspace == workspace, JOBS.c.model == model]
    if version is not None:
        which.append(JOBS.c.version == version)
    session.execute(delete(JOBS).where(*which))


def counts(session: Session) -> dict[str, int]:
    """How many jobs are in each state."""
    rows = session.execute(select(JOBS.c.state, func.count()).group_by(JOBS.c.state))
    return {row[0]: row[1] for row in rows}


def _give_up(session: Session, row: Row[Any], settings: Worker, now: float) -> None:
    """A worker that was silent for too long has lost its job."""
    dead = row.attempts >= settings.attempts
    why = (
        f"the worker died {row.attempts} times while it generated (last: {row.progress})"
        if dead
        else "the worker died; waiting for another try"
    )
    session.execute(
        update(JOBS)
        .where(JOBS.c.id == row.id)
        .values(state=FAILED if dead else QUEUED, progress=why[:_MAX_PROGRESS], worker="",
                finished=now)
    )  # fmt: skip


def _is_own(job: Job) -> Any:
    return and_(
        JOBS.c.id == job.id,
        JOBS.c.state == RUNNING,
        JOBS.c.worker == job.worker,
        JOBS.c.attempts == job.attempts,
    )


def _result_columns(result: Result | None) -> dict[str, str]:
    if result is None:
        return {"artifact": "", "policy": "", "evidence": "", "concerns": "[]"}
    return {
        "artifact": result.artifact,
        "policy": result.policy,
        "evidence": result.evidence,
        "concerns": json.dumps(
            [
                {
                    "fingerprint": concern.fingerprint, "severity": concern.severity,
                    "title": concern.title, "location": concern.location,
                }
                for concern in _bounded(result.concerns)
            ]
        ),
    }  # fmt: skip


def _bounded(concerns: Sequence[Concern]) -> Sequence[Concern]:
    """No more than fit; one that stands for the rest, so that none is passed over."""
    if len(concerns) <= _MAX_CONCERNS:
        return concerns
    rest = concerns[_MAX_CONCERNS:]
    worst = min(rest, key=lambda concern: SEVERITIES.index(concern.severity)).severity
    more = Concern(
        fingerprint="0" * 16, severity=worst, title=f"{len(rest)} more findings are in the evidence"
    )
    return [*concerns[:_MAX_CONCERNS], more]


def _job(row: Row[Any]) -> Job:
    fields = dict(row._mapping)
    for name in ("heartbeat", "queued", "finished"):
        fields.pop(name)
    fields["authors"] = frozenset(json.loads(fields["authors"]))
    fields["concerns"] = tuple(Concern.from_json(item) for item in json.loads(fields["concerns"]))
    return Job(**fields)
