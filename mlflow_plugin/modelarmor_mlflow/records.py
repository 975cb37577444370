"""The record: what was generated, decided and promoted, each line chained to the one before.

Appended to and never changed. A line that is altered, taken out or put in breaks the chain; what a
reviewer decided is a signed statement besides, which nobody can make up. Who can write to the
database can cut the end off and mend the head: `compare` finds that with a copy that was exported
earlier.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, TextIO

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from . import statements
from .settings import Settings
from .tables import RECORDS, REGISTRY

#: longest line of an exported file, in characters
_MAX_LINE = 1 << 20
_BATCH = 500

#: records whose body is a signed statement
DECISIONS: Final = statements.DECISIONS
KINDS: Final = (*DECISIONS, "generated", "promoted", "renamed")


class ChainError(ValueError):
    """A record that is not what was written; says which one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line."""

    seq: int
    #: hash of the line before
    previous: str
    #: milliseconds since 1970, by the server's clock
    time: int
    #: one of `KINDS`
    kind: str
    workspace: str
    model: str
    version: int
    #: digest of the model's files
    artifact: str
    #: an envelope for a decision, else a JSON object
    body: str

    @property
    def hash(self) -> str:
        """``sha256:…`` of everything above."""
        told = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(told.encode()).hexdigest()


def append(
    session: Session,
    *,
    kind: str,
    workspace: str,
    model: str,
    version: int,
    artifact: str,
    body: str,
    time: int,
    statement: str = "",
) -> Record:
    """Write one line; the session holds `tables.lock`.

    Args:
        statement: identifier of the statement that `body` is, which is recorded only once.

    Raises:
        IntegrityError: the statement is recorded already.
    """
    last, head = session.execute(select(REGISTRY.c.last, REGISTRY.c.head)).one()
    record = Record(
        seq=last + 1, previous=head, time=time, kind=kind, workspace=workspace, model=model,
        version=version, artifact=artifact, body=body,
    )  # fmt: skip
    digest = record.hash
    session.execute(
        insert(RECORDS).values(**asdict(record), hash=digest, statement=statement or digest)
    )
    session.execute(update(REGISTRY).values(last=record.seq, head=digest))
    return record


def decisions(session: Session, workspace: str, artifact: str) -> list[str]:
    """The envelopes about these bytes, oldest first."""
    rows = session.execute(
        select(RECORDS.c.body)
        .where(
            RECORDS.c.artifact == artifact,
            RECORDS.c.workspace == workspace,
            RECORDS.c.kind.in_(DECISIONS),
        )
        .order_by(RECORDS.c.seq)
    )
    return list(rows.scalars())


def last_decision(session: Session, workspace: str, model: str, version: int) -> str:
    """Identifier of the last statement about a version; empty: there is none."""
    found = session.execute(
        select(RECORDS.c.statement)
        .where(
            RECORDS.c.workspace == workspace,
            RECORDS.c.model == model,
            RECORDS.c.version == version,
            RECORDS.c.kind.in_(DECISIONS),
        )
        .order_by(RECORDS.c.seq.desc())
        .limit(1)
    ).scalar()
    return found or ""


def is_known(session: Session, statement: str) -> bool:
    """Whether a statement is recorded already."""
    found = session.execute(select(RECORDS.c.seq).where(RECORDS.c.statement == statement))
    return found.first() is not None


def approved_once(session: Session, workspace: str, model: str, version: int) -> bool:
    """Whether a version of this name was ever approved, whatever became of it."""
    found = session.execute(
        select(RECORDS.c.seq)
        .where(
            RECORDS.c.workspace == workspace, RECORDS.c.model == model,
            RECORDS.c.version == version, RECORDS.c.kind == "approve",
        )
        .limit(1)
    )  # fmt: skip
    return found.first() is not None


def every(session: Session) -> Iterator[Record]:
    """All lines, oldest first.

    Raises:
        ChainError: a line is not as it was written, or the end is missing.
    """
    expected: tuple[int, str] = (0, "")
    after = 0
    while rows := session.execute(
        select(RECORDS).where(RECORDS.c.seq > after).order_by(RECORDS.c.seq).limit(_BATCH)
    ).all():
        for row in rows:
            fields = dict(row._mapping)
            digest, _ = fields.pop("hash"), fields.pop("statement")
            record = Record(**fields)
            _check(record, digest, expected)
            expected = (record.seq, digest)
            after = record.seq
            yield record
    head = session.execute(select(REGISTRY.c.last, REGISTRY.c.head)).one()
    if tuple(head) != expected:
        raise ChainError(
            f"the chain ends with record {expected[0]} where {head[0]} is the last that was"
            " written: records are missing"
        )


def dumps(record: Record) -> str:
    """One line of an exported file."""
    return json.dumps({**asdict(record), "hash": record.hash}, sort_keys=True)


def load(stream: TextIO) -> Iterator[Record]:
    """The records of an exported file, oldest first.

    Raises:
        ChainError: a line is not as it was written.
    """
    expected: tuple[int, str] = (0, "")
    for number, line in enumerate(iter(lambda: stream.readline(_MAX_LINE + 1), ""), 1):
        if len(line) > _MAX_LINE:
            raise ChainError(f"line {number} is longer than {_MAX_LINE} characters")
        try:
            fields = json.loads(line)
            digest = fields.pop("hash")
            record = _typed(fields)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ChainError(f"line {number} is no record: {error}") from None
        _check(record, digest, expected)
        expected = (record.seq, digest)
        yield record


def check_decision(record: Record, settings: Settings) -> str:
    """What is wrong with a decision's signature; empty where nothing is, or it is none.

    Raises:
        ChainError: the record says something else than the statement in it.
    """
    if record.kind not in DECISIONS:
        return ""
    try:
        statement, _ = statements.read(record.body)
    except statements.StatementError as error:
        raise ChainError(f"record {record.seq}: {error}") from None
    told = (
        statement.decision, statement.subject.model, statement.subject.version,
        statement.subject.artifact, statement.subject.workspace,
    )  # fmt: skip
    if told != (record.kind, record.model, record.version, record.artifact, record.workspace):
        raise ChainError(f"record {record.seq} says something else than the statement in it")
    try:
        statements.verify(record.body, settings)
    except statements.StatementError as error:
        return f"record {record.seq} ({record.kind} of {statement.subject.uri}): {error}"
    return ""


def compare(now: Iterator[Record], earlier: Iterator[Record]) -> int:
    """Check that nothing of an earlier copy has changed since.

    Returns:
        How many records came after it.

    Raises:
        ChainError: a record of the copy is missing, or another one.
    """
    for before in earlier:
        after = next(now, None)
        if after is None:
            raise ChainError(f"record {before.seq} of the copy is missing now")
        if after.hash != before.hash:
            raise ChainError(f"record {before.seq} is another one than in the copy")
    return sum(1 for _ in now)


def _check(record: Record, digest: str, expected: tuple[int, str]) -> None:
    seq, previous = expected
    if record.seq != seq + 1 or record.previous != previous:
        raise ChainError(f"record {record.seq} does not follow record {seq}")
    if record.hash != digest:
        raise ChainError(f"record {record.seq} was changed after it was written")


def _typed(fields: dict[str, Any]) -> Record:
    record = Record(**fields)
    for name, value in asdict(record).items():
        if type(value) is not (int if name in ("seq", "time", "version") else str):
            raise ValueError(f"{name} has the wrong type")
    return record
