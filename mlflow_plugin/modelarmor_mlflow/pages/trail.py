"""What the record says of one version: what was generated, decided and promoted, and by whom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select

from .. import records, statements
from ..records import ChainError, Record
from ..settings import Settings
from ..statements import StatementError
from ..tables import RECORDS
from . import looking
from .looking import Look

#: entries of one page
PAGE: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the record, for people."""

    seq: int
    #: milliseconds since 1970, by the server's clock
    time: int
    kind: str
    who: str = ""
    why: str = ""
    #: what it is about, as name and value
    facts: Sequence[tuple[str, str]] = ()
    #: why it does not count, or not any more; empty: it is as it was written and signed
    doubt: str = ""
    identifier: str


def entries(about: Look, before: int = 0) -> list[Entry]:
    """The newest entries about a version and its model's renames, at most `PAGE`.

    Args:
        about: the version, which MLflow has shown to whoever asks.
        before: only what is older than this entry; 0: all.
    """
    query = (
        select(RECORDS)
        .where(
            RECORDS.c.workspace == looking.workspace(about.registry),
            RECORDS.c.model == about.name,
            RECORDS.c.version.in_((about.version, 0)),
            # What is older is of another model that had the name, and whose readers are others.
            RECORDS.c.time >= about.created,
        )
        .order_by(RECORDS.c.seq.desc())
        .limit(PAGE)
    )
    if before:
        query = query.where(RECORDS.c.seq < before)
    with looking.session(about.registry) as session:
        rows = [dict(row._mapping) for row in session.execute(query)]
    return [_entry(row, about) for row in rows]


def _entry(row: dict[str, Any], about: Look) -> Entry:
    digest, statement = row.pop("hash"), row.pop("statement")
    record = Record(**row)
    try:
        told = _decided(record) if record.kind in records.DECISIONS else _happened(record)
    except (StatementError, ValueError, TypeError, LookupError, RecursionError) as error:
        told = {"doubt": f"It cannot be read: {error}"}
    doubt = told.pop("doubt", "") or _doubt(record, digest, about)
    return Entry(
        seq=record.seq, time=record.time, kind=record.kind, identifier=statement, doubt=doubt,
        **told,
    )  # fmt: skip


def _decided(record: Record) -> dict[str, Any]:
    statement, _ = statements.read(record.body)
    facts = [("files", statement.subject.artifact), ("policy", statement.subject.policy)]
    if statement.decision == "approve":
        facts += [("until", _day(statement.expires))]
        facts += [
            (f"waives {item.finding} until {_day(item.expires)}", item.reason)
            for item in statement.waivers
        ]
        facts += [("also as", name) for name in statement.names]
    return {"who": statement.reviewer, "why": statement.reason, "facts": facts}


def _happened(record: Record) -> dict[str, Any]:
    body = json.loads(record.body)
    if record.kind == "promoted":
        facts = [
            ("to", str(body["to"])), ("approved by", ", ".join(map(str, body["approved_by"]))),
            ("files", record.artifact),
        ]  # fmt: skip
        return {"who": str(body["by"]), "facts": facts}
    if record.kind == "renamed":
        return {"facts": [("from", str(body["from"]))]}
    return {"facts": [("files", record.artifact), ("policy", str(body["policy"]))]}


def _doubt(record: Record, digest: str, about: Look) -> str:
    if record.hash != digest:
        return "It was changed after it was written."
    try:
        if doubt := _signature(record, about.settings):
            return doubt
    except ChainError as error:
        return str(error)
    return ""


def _signature(record: Record, settings: Settings) -> str:
    doubt = records.check_decision(record, settings)
    return doubt.partition("): ")[2] or doubt


def _day(seconds: int) -> str:
    return statements._write_time(seconds)[:10]
