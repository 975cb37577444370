"""Our tables, beside MLflow's in the same database, and the lock that orders what must be ordered.

They are not in MLflow's metadata, so its migrations leave them alone. What changes the chain, a
promotion or a job goes through `lock`: one row whose update every database holds until the
transaction ends, so two servers that share a database take turns.
"""

from __future__ import annotations

import uuid
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.mysql import MEDIUMTEXT
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

METADATA: Final = MetaData()

#: MySQL's TEXT ends at 64 KB
_LONG = Text().with_variant(MEDIUMTEXT(), "mysql")

REGISTRY: Final = Table(
    "modelarmor_registry",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # Which database this is: an approval is for one registry.
    Column("identifier", String(36), nullable=False),
    Column("turns", BigInteger, nullable=False),
    # The end of the chain, so that records that were cut off are missed.
    Column("last", BigInteger, nullable=False),
    Column("head", String(71), nullable=False),
)

JOBS: Final = Table(
    "modelarmor_jobs",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("workspace", String(63), nullable=False),
    Column("model", String(256), nullable=False),
    Column("version", Integer, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("location", Text, nullable=False),
    # What MLflow calls those who made the version: a JSON list.
    Column("authors", Text, nullable=False),
    Column("state", String(20), nullable=False),
    Column("progress", String(1000), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("worker", String(64), nullable=False),
    Column("heartbeat", Double, nullable=False),
    Column("queued", Double, nullable=False),
    Column("finished", Double, nullable=False),
    Column("artifact", String(71), nullable=False),
    Column("policy", String(71), nullable=False),
    Column("evidence", String(71), nullable=False),
    # The findings that an approval must answer for: a JSON list of `review.Concern`.
    Column("concerns", _LONG, nullable=False),
    UniqueConstraint("workspace", "model", "version", name="modelarmor_jobs_version"),
    Index("modelarmor_jobs_queue", "state", "queued"),
)

RECORDS: Final = Table(
    "modelarmor_records",
    METADATA,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("previous", String(71), nullable=False, unique=True),
    Column("hash", String(71), nullable=False),
    # Milliseconds since 1970.
    Column("time", BigInteger, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("workspace", String(63), nullable=False),
    Column("model", String(256), nullable=False),
    Column("version", Integer, nullable=False),
    Column("artifact", String(71), nullable=False),
    # Identifier of the statement; of other records, their hash.
    Column("statement", String(71), nullable=False, unique=True),
    Column("body", _LONG, nullable=False),
    Index("modelarmor_records_artifact", "artifact"),
    Index("modelarmor_records_version", "workspace", "model", "version"),
)


def create(engine: Engine) -> None:
    """Make the tables that are missing; several servers may do so at once."""
    for attempt in range(5):
        try:
            METADATA.create_all(engine)
            for index in (*JOBS.indexes, *RECORDS.indexes):
                index.create(engine, checkfirst=True)  # a database that is older has fewer
            with engine.begin() as connection:
                if connection.execute(select(REGISTRY.c.id)).first() is None:
                    connection.execute(
                        insert(REGISTRY).values(
                            id=1, identifier=str(uuid.uuid4()), turns=0, last=0, head=""
                        )
                    )
            return
        except DatabaseError:  # another server has just made the same
            if attempt == 4:
                raise


def lock(session: Session) -> None:
    """Wait for this transaction's turn; call it before anything else is read in it."""
    session.execute(update(REGISTRY).values(turns=REGISTRY.c.turns + 1))


def identifier(session: Session) -> str:
    """Which registry this is."""
    return str(session.execute(select(REGISTRY.c.identifier)).scalar_one())
