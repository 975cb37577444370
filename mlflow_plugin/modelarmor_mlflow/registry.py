"""A whole registry, from its operator's side: generate for what is old, report what is promoted."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from . import compatibility, jobs, names, plugin, tables
from .settings import Settings

if TYPE_CHECKING:
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
    from sqlalchemy.orm import Session

    from .store import Gate, Version

#: seconds between two looks at a queue that others work through
_INTERVAL: Final = 2.0
#: the workspace, name and version that come before all others
_BEFORE_ALL: Final = ("", "", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One promoted version, and what is not as it was approved."""

    workspace: str
    model: str
    version: int
    #: the protected aliases, stage and name by which it is reached
    promoted_as: tuple[str, ...]
    approved_by: tuple[str, ...] = ()
    #: ``unreviewed``, ``drifted``, ``changed``, ``forged`` or ``unreadable``, and the facts
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def __str__(self) -> str:
        place = "" if self.workspace == "default" else f" ({self.workspace})"
        head = f"models:/{self.model}/{self.version}{place}  {', '.join(self.promoted_as)}"
        if not self.problems:
            return f"ok       {head}  approved by {', '.join(self.approved_by)}"
        return "\n".join([f"NOT OK   {head}", *(f"         {item}" for item in self.problems)])


def open_store(
    uri: str, backend: str | None = None, artifacts_destination: str | None = None
) -> Gate:
    """The store of a registry, outside of its server.

    Args:
        uri: as ``mlflow server --registry-store-uri`` takes it.
        backend: as ``--backend-store-uri``; the registry's own database if left out.
        artifacts_destination: as ``--artifacts-destination``.
    """
    compatibility.check()
    database = plugin.database(uri)
    from mlflow.server import constants, handlers

    from . import store

    # What `mlflow server` sets for its processes, so that artifacts are found as it finds them.
    os.environ.setdefault(constants.SERVE_ARTIFACTS_ENV_VAR, "true")
    os.environ.setdefault(
        constants.ARTIFACTS_DESTINATION_ENV_VAR, artifacts_destination or "./mlartifacts"
    )
    opened = store.build(database)
    handlers._get_tracking_store(backend or database, artifacts_destination or "./mlartifacts")
    return opened


def enqueue(store: Gate, models: Iterable[str], tell: Callable[[str], None], *, retry: bool) -> int:
    """Queue each version without a policy.

    Args:
        models: patterns of registered models' names.
        tell: called with a line whenever there is more to tell.
        retry: also those whose generation has failed.

    Returns:
        How many were queued.
    """
    patterns, after, seen, count = list(models), _BEFORE_ALL, 0, 0
    while True:
        # One transaction for many: a registry has thousands, and its servers want a turn.
        with store.transactions.transaction() as session:
            tables.lock(session)
            rows = _page(session, after)
            if not rows:
                return count
            count += store.queue(session, rows, patterns, retry=retry)
            after = (rows[-1].workspace, rows[-1].name, rows[-1].version)
        seen += len(rows)
        tell(f"{seen} versions looked at, {count} queued")


def follow(store: Gate, tell: Callable[[str], None], *, work: bool) -> int:
    """Wait until the queue is empty, telling how far it is.

    Args:
        tell: called with a line whenever it reads differently.
        work: do the work here as well.

    Returns:
        How many versions have no policy because the generation failed.
    """
    from .worker import Worker

    worker = Worker(store) if work else None
    told = ""
    while True:
        with store.ManagedSessionMaker(read_only=False) as session:
            counts = jobs.counts(session)
        left = counts.get(jobs.QUEUED, 0) + counts.get(jobs.RUNNING, 0)
        done = counts.get(jobs.GENERATED, 0)
        said = f"{done} generated, {left} to do, {counts.get(jobs.FAILED, 0)} failed"
        if said != told:
            tell(said)
            told = said
        if left == 0:
            return counts.get(jobs.FAILED, 0)
        if worker is None or not worker.work():
            time.sleep(_INTERVAL)


def report(
    store: Gate, settings: Settings, tell: Callable[[str], None] = lambda _: None
) -> list[Line]:
    """Each version that is promoted, and what of it is not as it was approved.

    Aliases, stages, tags and our own tables are only what the database says; the bytes are hashed
    again, and the signatures checked, so what somebody wrote into the database shows.

    Args:
        tell: called with a line now and then, as files that are large take long to read.
    """
    lines: list[Line] = []
    aliases = _protected_aliases(store, settings)
    for seen, version in enumerate(_versions(store), 1):
        reached = tuple(_promoted_as(aliases, settings, version))
        if reached and version.has_files:
            if len(lines) % 50 == 0:
                tell(f"{seen} versions looked at, {len(lines)} promoted; now {version.uri}")
            with _in(version.workspace):
                lines.append(_line(store, version, reached))
    return lines


def _line(store: Gate, version: Version, reached: tuple[str, ...]) -> Line:
    from mlflow.exceptions import MlflowException

    line = Line(
        workspace=version.workspace,
        model=version.model,
        version=version.version,
        promoted_as=reached,
    )
    with store.ManagedSessionMaker(read_only=False) as session:
        job = jobs.find(session, version.workspace, version.model, version.version)
        row = store._get_sql_model_version(session, version.model, version.version)
        tags = {tag.key: tag.value for tag in row.model_version_tags}
        if job is None or job.created != version.created or job.state != jobs.GENERATED:
            state = job.state if job else "never asked for"
            return replace(line, problems=(f"unreviewed: its policy is {state}",))
        problems = list(_forged(tags, job))
        try:
            digest = store.digest(version)
        except MlflowException as error:
            return replace(line, problems=(*problems, f"unreadable: {error.message}"))
        if digest != job.artifact:
            problems.append(f"changed: its files are {digest}, {job.artifact} was looked at")
        verdict = store.verdict(session, version, job)
    if not verdict.approved:
        word = "drifted" if _was_approved(store, version) else "unreviewed"
        problems.append(f"{word}: {'; '.join(verdict.missing)}")
    return replace(line, approved_by=verdict.approved_by, problems=tuple(problems))


def _protected_aliases(store: Gate, settings: Settings) -> dict[tuple[str, str, int], list[str]]:
    """The protected aliases of each version."""
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias

    found = defaultdict(list)
    with store.ManagedSessionMaker(read_only=False) as session:
        for row in session.query(SqlRegisteredModelAlias):
            if settings.protects_alias(row.name, row.alias):
                found[row.workspace, row.name, row.version].append(row.alias)
    return found


def _promoted_as(
    aliases: dict[tuple[str, str, int], list[str]], settings: Settings, version: Version
) -> Iterator[str]:
    for alias in aliases.get((version.workspace, version.model, version.version), ()):
        yield f"alias {alias}"
    if settings.protects_stage(version.model, version.stage):
        yield f"stage {version.stage}"
    if settings.trusts_name(version.model):
        yield "trusted name"


def _forged(tags: dict[str, str], job: jobs.Job) -> Iterator[str]:
    """Tags that say something else than was recorded: only a change in the database does that."""
    from modelarmor.generate.evidence import Artifact, Evidence

    shown = limits = None
    with suppress(ValueError, RecursionError):
        shown = json.loads(tags.get(names.SUBJECT, "{}"))
        limits = json.loads(tags.get(names.RESOURCES, "{}"))
    if not isinstance(shown, dict) or not isinstance(limits, dict):
        yield "forged: its tags are not what the server writes"
        return
    for key in ("artifact", "policy", "evidence"):
        if shown.get(key) != getattr(job, key):
            yield f"forged: its tags show another {key} than was recorded"
    if names.POLICY in tags:
        told = Evidence(
            artifact=Artifact(source="", flavour=""),
            policy=tags[names.POLICY],
            network=tags.get(names.NETWORK, ""),
            resources=limits,
        )
        if told.policy_digest != job.policy:
            yield "forged: the policy in its tags is not the one that was reviewed"


def _was_approved(store: Gate, version: Version) -> bool:
    """Whether there ever was an approval of this version."""
    from . import records

    with store.ManagedSessionMaker(read_only=False) as session:
        return records.approved_once(session, version.workspace, version.model, version.version)


def _versions(store: Gate) -> Iterator[Version]:
    from .store import version_of

    after = _BEFORE_ALL
    while True:
        with store.ManagedSessionMaker(read_only=False) as session:
            found = [version_of(row) for row in _page(session, after)]
        if not found:
            return
        yield from found
        after = (found[-1].workspace, found[-1].model, found[-1].version)


def _page(session: Session, after: tuple[str, str, int]) -> list[SqlModelVersion]:
    from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion as model
    from sqlalchemy import and_, or_

    workspace, name, version = after
    return list(
        session.query(model)
        .filter(
            model.current_stage != STAGE_DELETED_INTERNAL,
            or_(
                model.workspace > workspace,
                and_(model.workspace == workspace, model.name > name),
                and_(model.workspace == workspace, model.name == name, model.version > version),
            ),
        )
        .order_by(model.workspace, model.name, model.version)
        .limit(200)
        .all()
    )


def _in(workspace: str) -> AbstractContextManager[None]:
    from .worker import in_workspace

    return in_workspace(workspace)
