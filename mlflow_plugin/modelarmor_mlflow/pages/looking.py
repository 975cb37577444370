"""A version as our own tables have it now, once MLflow has shown it to whoever asks.

What MLflow's API shows of a review is what its tags said at the last decision; here the keys and
dates are checked as they are at this moment, by what the gate asks too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from mlflow.server import handlers
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlModelVersionTag
from mlflow.utils.workspace_context import ServerWorkspaceContext
from sqlalchemy import select
from sqlalchemy.orm import Session

from modelarmor.generate.evidence import Evidence, EvidenceError

from .. import jobs, names, records, store
from ..jobs import Job
from ..review import Concern, Verdict
from ..settings import Settings
from ..statements import Subject
from .asking import RefusedError, Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One version, and how its review stands."""

    registry: Registry
    name: str
    version: int
    #: milliseconds since 1970
    created: int
    stage: str
    aliases: tuple[str, ...]
    has_files: bool
    settings: Settings
    #: None: no policy was ever asked for
    job: Job | None
    #: None: there is no policy yet
    subject: Subject | None = None
    verdict: Verdict | None = None
    previous: str = ""
    #: the newest other version that was approved; 0: none was
    approved_before: int = 0

    @property
    def uri(self) -> str:
        """``models:/NAME/VERSION``."""
        return f"models:/{self.name}/{self.version}"

    @property
    def state(self) -> str:
        """How it stands, in one word."""
        if self.verdict is not None:
            return self.verdict.state
        return self.job.state if self.job else "no policy"

    @property
    def severe(self) -> tuple[Concern, ...]:
        """The findings that an approval must waive."""
        concerns = self.job.concerns if self.job else ()
        return tuple(item for item in concerns if self.settings.is_severe(item.severity))

    @property
    def protected_as(self) -> tuple[str, ...]:
        """The protected aliases and the stage that it has."""
        found = [
            f"alias {alias}"
            for alias in self.aliases
            if self.settings.protects_alias(self.name, alias)
        ]
        if self.settings.protects_stage(self.name, self.stage):
            found.append(f"stage {self.stage}")
        return tuple(found)


def look(registry: Registry, name: str, version: int) -> Look:
    """A version, for somebody whom MLflow shows it.

    Raises:
        RefusedError: MLflow shows them no such version.
    """
    shown = registry.version(name, version)
    name, number = str(shown["name"]), int(shown["version"])
    gate = _gate()
    # Before the session, which would make an error of MLflow's out of one of the configuration.
    current = gate.settings.get()
    with session(registry) as opened:
        about = gate._version(opened, name, number)
        job = gate._job(opened, about)
        found = Look(
            registry=registry, name=name, version=number, created=about.created,
            stage=about.stage, aliases=tuple(shown.get("aliases", ())), has_files=about.has_files,
            settings=current, job=job,
        )  # fmt: skip
        if job is None or job.state != jobs.GENERATED:
            return found
        return replace(
            found,
            subject=gate.subject(opened, about, job),
            verdict=gate.verdict(opened, about, job),
            previous=records.last_decision(opened, about.workspace, name, number),
            approved_before=_approved_before(opened, about),
        )


def evidence(registry: Registry, name: str, version: int, digest: str = "") -> Evidence:
    """The evidence of a version.

    Args:
        digest: which it has to be; empty: that of the version as it is recorded.

    Raises:
        RefusedError: it is not there, not shown, or another one.
    """
    if not digest:
        found = look(registry, name, version)
        if found.subject is None:
            raise RefusedError(409, f"{found.uri} has no policy yet.")
        digest = found.subject.evidence
    try:
        read = Evidence.loads(registry.evidence(name, version, digest))
    except RefusedError as error:
        if error.status in (401, 403):
            raise
        raise RefusedError(
            409,
            "The evidence is not there beside the model: have the policy generated again, with the"
            f" tag {names.REQUEST} set to {names.GENERATE}.",
        ) from None
    except EvidenceError as error:
        raise RefusedError(409, f"The evidence cannot be read: {error}") from None
    if read.digest != digest:
        raise RefusedError(
            409,
            "The evidence beside the model is not what the registry recorded. Somebody has changed"
            " it: have the policy generated again, and do not approve before.",
        )
    return read


@contextmanager
def session(registry: Registry) -> Iterator[Session]:
    """The registry's database, in the workspace that is asked about."""
    place: Any = ServerWorkspaceContext(registry.workspace) if registry.workspace else nullcontext()
    with place, _gate().ManagedSessionMaker(read_only=True) as opened:
        yield opened


def workspace(registry: Registry) -> str:
    """The workspace that is asked about, by its name."""
    if registry.workspace:
        return registry.workspace
    return str(_gate()._get_active_workspace())


def _gate() -> store.Gate:
    found = handlers._get_model_registry_store()
    if not isinstance(found, store.Gate):
        raise TypeError(f"the registry's store is {type(found).__name__}, not ModelArmor's")
    return found


def _approved_before(opened: Session, about: store.Version) -> int:
    told = opened.execute(
        select(SqlModelVersion.version)
        .join(
            SqlModelVersionTag,
            (SqlModelVersionTag.workspace == SqlModelVersion.workspace)
            & (SqlModelVersionTag.name == SqlModelVersion.name)
            & (SqlModelVersionTag.version == SqlModelVersion.version),
        )
        .where(
            SqlModelVersion.workspace == about.workspace,
            SqlModelVersion.name == about.model,
            SqlModelVersion.version < about.version,
            SqlModelVersionTag.key == names.REVIEW,
            SqlModelVersionTag.value.like("approved by %"),
        )
        .order_by(SqlModelVersion.version.desc())
        .limit(1)
    ).scalar()
    return int(told or 0)
