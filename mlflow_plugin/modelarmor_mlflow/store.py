"""MLflow's registry store with a gate before every promotion.

A promotion is whatever makes a version reachable under a name that people trust: an alias, a
stage, a copy, a rename. Each method that can do so is replaced here by one that asks first, in
the same transaction; everything else is MLflow's own. Which class of MLflow's it is, and where it
reads from, is decided as MLflow's handlers decide it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

from mlflow.entities.model_registry import ModelVersion
from mlflow.entities.model_registry.model_version_stages import (
    STAGE_DELETED_INTERNAL,
    get_canonical_stage,
)
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    RESOURCE_CONFLICT,
)
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlModelVersionTag
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
from mlflow.store.tracking.dbmodels.models import SqlRun
from mlflow.utils.workspace_context import ServerWorkspaceContext
from sqlalchemy.orm import Session, subqueryload

from . import artifacts, jobs, names, records, review, settings, statements, summary, tables, tags
from .artifacts import ArtifactError
from .jobs import Job
from .review import Verdict
from .settings import Settings, SettingsError
from .statements import Statement, StatementError, Subject
from .transactions import Transactions

#: for the type checker, as the methods of the store that it is mixed into are not typed
_Base: Any = object

_logger = logging.getLogger(__name__)

#: what MLflow gives a prompt's version for a source; there is nothing to load behind it
_NO_FILES: Final = frozenset({"prompt-template", "dummy-source"})
_DECISIONS_AT_MOST: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A registered version, as its row says."""

    workspace: str
    model: str
    version: int
    created: int
    #: where the files are
    location: str
    stage: str

    @property
    def uri(self) -> str:
        """``models:/NAME/VERSION``."""
        return f"models:/{self.model}/{self.version}"

    @property
    def has_files(self) -> bool:
        """Whether there is anything to load; a prompt has nothing."""
        return self.location not in _NO_FILES


class Gate(_Base):  # type: ignore[misc]
    """Mixed into a registry store of MLflow's."""

    def __init__(self, db_uri: str, read_db_uri: str | None = None) -> None:
        super().__init__(db_uri, read_db_uri=read_db_uri)
        tables.create(self.engine)
        self.transactions = Transactions(self.ManagedSessionMaker)
        self.ManagedSessionMaker: Any = self.transactions
        self.settings = settings.Current()
        self.settings.get()
        self._local = threading.local()
        #: told when there is work for the worker of this process
        self.on_work: Callable[[], None] = lambda: None

    # --- registering

    def create_registered_model(
        self, name: Any, tags: Any = None, description: Any = None, deployment_job_id: Any = None
    ) -> Any:
        for tag in tags or ():
            _refuse_reserved(tag.key)
        return super().create_registered_model(name, tags, description, deployment_job_id)

    def create_model_version(
        self,
        name: Any,
        source: Any,
        run_id: Any = None,
        tags: Any = None,
        run_link: Any = None,
        description: Any = None,
        local_model_path: Any = None,
        model_id: Any = None,
    ) -> Any:
        own = self._without_copied_tags(source, list(tags or ()))
        told = summary.strip(description)
        origin = self._origin(source)
        # A model's files may come under a trusted name only if they are approved for it.
        trusted = source not in _NO_FILES and self._settings().trusts_name(str(name))
        digest = self._check_copy(str(name), origin) if trusted else ""
        if source in _NO_FILES:
            if self._settings().trusts_name(str(name)):
                with self.ManagedSessionMaker(read_only=False) as session:
                    self._refuse_for_model(session, name, f"a version of {str(name)!r}")
            return super().create_model_version(
                name, source, run_id, own, run_link, told, local_model_path, model_id
            )
        with self.transactions.transaction() as session:
            known = self._admit(session, str(name), origin, digest) if origin and trusted else None
            made = super().create_model_version(
                name, source, run_id, own, run_link, told, local_model_path, model_id
            )
            self._refuse_waiting_alias(made)
            about = self._made(session, made, str(source))
            self._enqueue(session, about, self._authors(session, made.run_id, origin), known)
            self._show_new(session, made, known)
            if known is not None and origin is not None:
                self._show_copy(session, about, origin)
        self.on_work()
        return made

    def rename_registered_model(self, name: Any, new_name: Any) -> Any:
        exposed = self._exposed_by_rename(name, new_name)
        digests = {version.version: self.digest(version) for version in exposed}
        with self.transactions.transaction() as session:
            tables.lock(session)
            model = self._get_registered_model(session, name).name
            for version in self._exposed(session, name, new_name):
                _refuse_unknown(version, digests)
                self._require(
                    session,
                    version,
                    digests[version.version],
                    f"{new_name!r} makes {version.uri} reachable under a protected name",
                    name=str(new_name),
                )
            renamed = super().rename_registered_model(name, new_name)
            # What is free under the old name waits for no lock of ours, until the name has changed.
            session.expire_all()
            for version in self._exposed(session, new_name, new_name):
                _refuse_unknown(version, digests)
            workspace = self._get_active_workspace()
            jobs.rename(session, workspace, model, str(new_name))
            self._show_renamed(session, str(new_name))
            self._record(session, "renamed", workspace, str(new_name), 0, "", {"from": model})
        return renamed

    def delete_registered_model(self, name: Any) -> Any:
        with self.transactions.transaction() as session:
            tables.lock(session)
            model = self._get_registered_model(session, name).name
            super().delete_registered_model(name)
            jobs.forget(session, self._get_active_workspace(), model)

    def delete_model_version(self, name: Any, version: Any) -> Any:
        with self.transactions.transaction() as session:
            tables.lock(session)
            row = self._get_sql_model_version(session, name, version)
            model, number = row.name, row.version
            super().delete_model_version(name, version)
            jobs.forget(session, self._get_active_workspace(), model, number)

    def update_model_version(self, name: Any, version: Any, description: Any = None) -> Any:
        with self.transactions.transaction() as session:
            ours = summary.of(self._get_sql_model_version(session, name, version).description)
            told = summary.join(summary.strip(description), ours)
            return super().update_model_version(name, version, told)

    # --- promoting

    def set_registered_model_alias(self, name: Any, alias: Any, version: Any) -> Any:
        if not self._settings().protects_alias(str(name), str(alias)):
            return super().set_registered_model_alias(name, alias, version)
        with self._promotion(name, version, f"alias {alias!r}"):
            return super().set_registered_model_alias(name, alias, version)

    def transition_model_version_stage(
        self, name: Any, version: Any, stage: Any, archive_existing_versions: Any
    ) -> Any:
        if not self._settings().protects_stage(str(name), get_canonical_stage(stage)):
            return super().transition_model_version_stage(
                name, version, stage, archive_existing_versions
            )
        with self._promotion(name, version, f"stage {get_canonical_stage(stage)!r}"):
            return super().transition_model_version_stage(
                name, version, stage, archive_existing_versions
            )

    # --- tags

    def set_registered_model_tag(self, name: Any, tag: Any) -> Any:
        _refuse_reserved(tag.key)
        return super().set_registered_model_tag(name, tag)

    def delete_registered_model_tag(self, name: Any, key: Any) -> Any:
        _refuse_reserved(key)
        return super().delete_registered_model_tag(name, key)

    def set_model_version_tag(self, name: Any, version: Any, tag: Any) -> Any:
        if tag.key == names.SUBMIT:
            return self.submit(name, version, tag.value)
        if tag.key == names.REQUEST:
            return self.request(name, version, tag.value)
        _refuse_reserved(tag.key)
        return super().set_model_version_tag(name, version, tag)

    def delete_model_version_tag(self, name: Any, version: Any, key: Any) -> Any:
        _refuse_reserved(key)
        return super().delete_model_version_tag(name, version, key)

    # --- searching

    def search_model_versions(self, *arguments: Any, **options: Any) -> Any:
        with self._listing():
            return super().search_model_versions(*arguments, **options)

    def search_registered_models(self, *arguments: Any, **options: Any) -> Any:
        with self._listing():
            return super().search_registered_models(*arguments, **options)

    @contextmanager
    def _listing(self) -> Iterator[None]:
        """A list tells how each version stands, and not the policies of all of them."""
        self._local.listing = True
        try:
            yield
        finally:
            self._local.listing = False

    def _get_eager_model_version_query_options(self) -> list[Any]:
        if not getattr(self._local, "listing", False):
            return list(super()._get_eager_model_version_query_options())
        shown = SqlModelVersionTag.key.not_in(names.NOT_LISTED)
        return [subqueryload(SqlModelVersion.model_version_tags.and_(shown))]

    # --- reviewing

    def submit(self, name: Any, version: Any, envelope: Any) -> None:
        """Record a reviewer's signed statement about a version.

        Raises:
            MlflowException: it is not signed by a trusted reviewer, not about this version as it
                is now, or an approval that leaves something unanswered.
        """
        current = self._settings()
        now = time.time()
        try:
            signed = statements.verify(str(envelope), current)
            review.check_submission(signed.statement, current, now)
        except statements.UntrustedError as error:
            raise _refused(str(error)) from None
        except StatementError as error:
            raise MlflowException(f"modelarmor: {error}", INVALID_PARAMETER_VALUE) from None
        statement = signed.statement
        with self.transactions.transaction() as session:
            tables.lock(session)
            about = self._version(session, name, version)
            job = self._generated(session, about)
            self._check_subject(session, signed, about, job)
            if statement.decision == "approve":
                self._check_approval(statement, signed.reviewer, job, current)
            self._check_room(session, statement)
            records.append(
                session, kind=statement.decision, workspace=about.workspace, model=about.model,
                version=about.version, artifact=job.artifact, body=signed.envelope,
                time=int(now * 1000), statement=signed.identifier,
            )  # fmt: skip
            self._show_review(session, about, job)

    def request(self, name: Any, version: Any, what: Any) -> None:
        """Generate for a version that has no policy yet, or whose files have changed.

        Raises:
            MlflowException: nothing of that is the case, or something else was asked for.
        """
        if what != names.GENERATE:
            raise MlflowException(
                f"modelarmor: {names.REQUEST} is {names.GENERATE!r}", INVALID_PARAMETER_VALUE
            )
        with self.ManagedSessionMaker(read_only=False) as session:
            about = self._version(session, name, version)
            job = self._job(session, about)
        if not about.has_files:
            raise MlflowException(f"modelarmor: {about.uri} has no files", RESOURCE_CONFLICT)
        unchanged = job is not None and job.state == jobs.GENERATED and self._holds(about, job)
        with self.transactions.transaction() as session:
            tables.lock(session)
            row = self._get_sql_model_version(session, name, version)
            job = self._job(session, version_of(row))
            if job is None:
                authors = [*self._authors(session, row.run_id), *_claimed(row)]
                self._enqueue(session, version_of(row), authors, None)
                tags.show_job(session, row, jobs.QUEUED)
            elif job.state in (jobs.QUEUED, jobs.RUNNING):
                return
            elif unchanged:
                raise MlflowException(
                    f"modelarmor: {about.uri} has a policy, and its files are as they were",
                    RESOURCE_CONFLICT,
                )
            else:
                jobs.again(session, job, time.time())
                tags.show_job(session, row, jobs.QUEUED)
        self.on_work()

    # --- for the worker and for reports

    def queue(
        self,
        session: Session,
        rows: Iterable[SqlModelVersion],
        models: Sequence[str],
        *,
        retry: bool,
    ) -> int:
        """Have policies made for those of some versions that have none.

        Args:
            session: holds `tables.lock`.
            models: patterns of the registered models that are meant.
            retry: also where the generation has failed.

        Returns:
            For how many.
        """
        count = 0
        for row in rows:
            about = version_of(row)
            if not about.has_files or not names.matches(about.model, models):
                continue
            job = self._job(session, about)
            if job is None:
                with ServerWorkspaceContext(about.workspace):
                    authors = [*self._authors(session, row.run_id), *_claimed(row)]
                self._enqueue(session, about, authors, None)
            elif retry and job.state == jobs.FAILED:
                jobs.again(session, job, time.time())
            else:
                continue
            tags.show_job(session, row, jobs.QUEUED)
            count += 1
        return count

    def subject(self, session: Session, version: Version, job: Job) -> Subject:
        """What a review of a version is about."""
        return Subject(
            registry=tables.identifier(session), workspace=version.workspace, model=version.model,
            version=version.version, created=version.created, artifact=job.artifact,
            policy=job.policy, evidence=job.evidence,
        )  # fmt: skip

    def verdict(self, session: Session, version: Version, job: Job, digest: str = "") -> Verdict:
        """Whether a version is approved.

        Args:
            digest: of its files as they are now; without it, as they were.
        """
        subject = self.subject(session, version, job)
        return self._verdict(session, replace(subject, artifact=digest or job.artifact), job)

    def digest(self, version: Version) -> str:
        """``sha256:…`` of a version's files as they are now.

        Raises:
            MlflowException: they cannot be read.
        """
        try:
            return artifacts.digest(version.location, limit=self._settings().worker.model_size)
        except ArtifactError as error:
            raise _refused(f"{version.uri}: its files cannot be checked: {error}") from error

    def show_review(self, session: Session, row: SqlModelVersion, job: Job) -> None:
        """Show how the review of a version stands."""
        self._show_review(session, version_of(row), job)

    # --- private: promotions

    @contextmanager
    def _promotion(self, name: Any, version: Any, what: str) -> Iterator[None]:
        """What happens inside happens to an approved version, or not at all."""
        with self.ManagedSessionMaker(read_only=False) as session:
            about = self._version(session, name, version)
            if about.has_files:
                # Cheap, and first: nobody makes the server hash gigabytes for nothing.
                self._require(session, about, "", f"{what} of {about.uri} is protected")
            else:
                self._refuse_for_model(session, about.model, f"{what} of {about.uri}")
        digest = self.digest(about) if about.has_files else ""
        with self.transactions.transaction() as session:
            tables.lock(session)
            if self._version(session, name, version) != about:
                raise _refused(f"{about.uri} was replaced meanwhile; try again")
            if about.has_files:
                verdict = self._require(
                    session, about, digest, f"{what} of {about.uri} is protected"
                )
                self._record(
                    session, "promoted", about.workspace, about.model, about.version, digest,
                    {"to": what, "by": _user(), "approved_by": verdict.approved_by,
                     "statements": verdict.statements},
                )  # fmt: skip
            yield

    def _refuse_for_model(self, session: Session, model: Any, what: str) -> None:
        """Refuse a version without files what is protected, where other versions have files.

        Who loads a model by that name would get what lies in their own working directory under
        the name that MLflow gives a prompt for its source.
        """
        versions = self._get_query(session, SqlModelVersion).filter(
            SqlModelVersion.name == model,
            SqlModelVersion.source.not_in(_NO_FILES),
            SqlModelVersion.current_stage != STAGE_DELETED_INTERNAL,
        )
        if versions.first() is not None:
            raise _refused(
                f"{what} is protected, and {model!r} is a model: a prompt, which has no files, is"
                " registered under a name of its own"
            )

    def _require(
        self, session: Session, about: Version, digest: str, what: str, name: str = ""
    ) -> Verdict:
        """The verdict on a version, which is approved.

        Args:
            digest: of its files now; empty: believe what is recorded.
            what: is refused otherwise.
            name: as which other model it must be approved.
        """
        job = self._generated(session, about, what)
        if digest and digest != job.artifact:
            raise self._refusal(
                what, about, ["its files have changed since they were looked at: set the tag"
                              f" {names.REQUEST} to {names.GENERATE!r}, then review again"],
            )  # fmt: skip
        subject = self.subject(session, about, job)
        if name:
            subject = replace(subject, model=name)
        verdict = self._verdict(session, subject, job)
        if not verdict.approved:
            told = list(verdict.missing)
            if name:
                told.append(f"an approval says so with --name {name}")
            raise self._refusal(what, about, told)
        return verdict

    def _refusal(self, what: str, about: Version, missing: Sequence[str]) -> MlflowException:
        current = self._settings()
        where = f"modelarmor approve {about.uri} --reason …"
        if current.review_url:
            page = current.review_page(about.model, about.version)
            where = f"{page} or {where}"
        return _refused(f"{what}, and it is not approved. Missing: {'; '.join(missing)}."
                        f" Review: {where}")  # fmt: skip

    def _holds(self, about: Version, job: Job) -> bool:
        """Whether files and evidence are as the job left them."""
        with suppress(ArtifactError):
            limit = self._settings().worker.model_size
            if artifacts.digest(about.location, limit=limit) == job.artifact:
                artifacts.read_evidence(about.location, job.evidence)
                return True
        return False

    def _exposed_by_rename(self, name: Any, new_name: Any) -> list[Version]:
        with self.ManagedSessionMaker(read_only=False) as session:
            self._get_registered_model(session, name)
            exposed = list(self._exposed(session, name, new_name))
            for version in exposed:
                self._require(
                    session, version, "",
                    f"{new_name!r} makes {version.uri} reachable under a protected name",
                    name=str(new_name),
                )  # fmt: skip
        return exposed

    def _exposed(self, session: Session, name: Any, new_name: Any) -> Iterator[Version]:
        """The versions that a rename would promote."""
        current, new = self._settings(), str(new_name)
        model = self._get_registered_model(session, name)
        aliased = {
            alias.version
            for alias in model.registered_model_aliases
            if current.protects_alias(new, alias.alias)
        }
        rows = self._get_query(session, SqlModelVersion).filter(SqlModelVersion.name == model.name)
        for row in rows.order_by(SqlModelVersion.version).all():
            version = version_of(row)
            if row.current_stage == STAGE_DELETED_INTERNAL or not version.has_files:
                continue
            if (
                current.trusts_name(new)
                or version.version in aliased
                or current.protects_stage(new, version.stage)
            ):
                yield version

    def _check_copy(self, name: str, origin: Version | None) -> str:
        """The digest of a version that may be copied to a trusted name."""
        if origin is None:
            raise _refused(f"{_trusted(name)}, and this source is not a registered version")
        with self.ManagedSessionMaker(read_only=False) as session:
            self._require(session, origin, "", _trusted(name), name=name)
        return self.digest(origin)

    def _admit(self, session: Session, name: str, origin: Version, digest: str) -> jobs.Result:
        """What is known of a version that comes under a trusted name."""
        tables.lock(session)
        if self._version(session, origin.model, origin.version) != origin:
            raise _refused(f"{origin.uri} was replaced meanwhile; copy again")
        self._require(session, origin, digest, _trusted(name), name=name)
        job = self._generated(session, origin)
        return jobs.Result(
            artifact=job.artifact, policy=job.policy, evidence=job.evidence, concerns=job.concerns
        )

    def _refuse_waiting_alias(self, made: ModelVersion) -> None:
        """An alias that points to a version before it exists would promote it with its creation."""
        current = self._settings()
        for alias in made.aliases:
            if current.protects_alias(made.name, alias):
                raise _refused(
                    f"alias {alias!r} points to version {made.version} of {made.name} already;"
                    " delete the alias first"
                )

    # --- private: reviews

    def _verdict(self, session: Session, subject: Subject, job: Job) -> Verdict:
        current = self._settings()
        try:
            signed = statements.standing(self._relevant(session, subject), current)
        except StatementError as error:
            return Verdict(missing=(f"the record of decisions was tampered with: {error}",))
        return review.evaluate(
            subject, signed, concerns=job.concerns, authors=job.authors, settings=current,
            now=time.time(),
        )  # fmt: skip

    def _check_subject(
        self, session: Session, signed: statements.Signed, about: Version, job: Job
    ) -> None:
        statement, identifier = signed.statement, signed.identifier
        subject = self.subject(session, about, job)
        told, real = statement.subject.to_json(), subject.to_json()
        if wrong := [key for key, value in real.items() if told[key] != value]:
            raise _refused(
                f"the statement is about {statement.subject.uri} with another {' and '.join(wrong)}"
                f" than {about.uri} has; review it as it is now"
            )
        previous = records.last_decision(session, about.workspace, about.model, about.version)
        if statement.previous != previous or records.is_known(session, identifier):
            raise MlflowException(
                "modelarmor: another decision was recorded since this one was signed, or this one"
                " was recorded before; look at it, then sign anew",
                RESOURCE_CONFLICT,
            )

    def _check_approval(
        self, statement: Statement, reviewer: settings.Reviewer, job: Job, current: Settings
    ) -> None:
        if reviewer.is_any_of(job.authors):
            raise _refused(f"{reviewer.name} made this version, and another reviewer approves it")
        if left := review.refusal(statement, job.concerns, current):
            raise _refused(f"the approval leaves findings unanswered: {left}")

    def _relevant(self, session: Session, subject: Subject) -> list[str]:
        """The recorded envelopes that say something of a version."""
        envelopes = records.decisions(session, subject.workspace, subject.artifact)
        return review.relevant(envelopes, subject)

    def _check_room(self, session: Session, statement: Statement) -> None:
        """Refuse to take back what is not there, and to fill the record up."""
        subject = statement.subject
        told = review.own(records.decisions(session, subject.workspace, subject.artifact), subject)
        if statement.decision == "revoke" and not any(item.decision == "approve" for item in told):
            raise MlflowException(
                f"modelarmor: {subject.uri} has no approval to revoke", RESOURCE_CONFLICT
            )
        if statement.decision == "approve" and len(told) >= _DECISIONS_AT_MOST:
            raise _refused(f"{subject.uri} has {len(told)} decisions; register it anew")

    def _show_review(self, session: Session, about: Version, job: Job) -> None:
        row = self._get_sql_model_version(session, about.model, about.version)
        subject = self.subject(session, about, job)
        tags.show_review(
            session,
            row,
            subject,
            self.verdict(session, about, job),
            self._relevant(session, subject),
            records.last_decision(session, about.workspace, about.model, about.version),
            self._settings().default_days,
        )

    def _show_renamed(self, session: Session, model: str) -> None:
        """What a review of the versions is about has a new name in it."""
        session.flush()
        rows = self._get_query(session, SqlModelVersion).filter(SqlModelVersion.name == model)
        for row in rows.all():
            job = self._job(session, version_of(row))
            if job is not None and job.state == jobs.GENERATED:
                self._show_review(session, version_of(row), job)

    # --- private: jobs

    def _enqueue(
        self, session: Session, about: Version, authors: Sequence[str], result: jobs.Result | None
    ) -> None:
        jobs.enqueue(
            session, workspace=about.workspace, model=about.model, version=about.version,
            created=about.created, location=about.location, authors=authors, now=time.time(),
            result=result,
        )  # fmt: skip

    def _made(self, session: Session, made: ModelVersion, source: str) -> Version:
        """A version that this transaction has made; most are known without asking for them."""
        if urlsplit(source).scheme == "models":
            return self._version(session, made.name, made.version)
        return Version(
            workspace=made.workspace, model=made.name, version=int(made.version),
            created=made.creation_timestamp, location=source, stage=made.current_stage,
        )  # fmt: skip

    def _show_new(self, session: Session, made: ModelVersion, known: jobs.Result | None) -> None:
        tags.show_new(session, made, jobs.GENERATED if known else jobs.QUEUED)

    def _show_copy(self, session: Session, about: Version, origin: Version) -> None:
        tags.copied_from(
            session,
            self._get_sql_model_version(session, about.model, about.version),
            self._get_sql_model_version(session, origin.model, origin.version),
        )
        self._show_review(session, about, self._generated(session, about))

    def _authors(self, session: Session, run_id: Any, origin: Version | None = None) -> list[str]:
        """Who made a version: who registers it, who ran what it comes from, who made its original.

        Args:
            origin: the version that it is a copy of.
        """
        job = self._job(session, origin) if origin else None
        made = [_user(), self._run_user(session, run_id), *(job.authors if job else ())]
        return [user for user in made if user]

    def _run_user(self, session: Session, run_id: Any) -> str:
        from mlflow.server.constants import BACKEND_STORE_URI_ENV_VAR

        if not run_id or BACKEND_STORE_URI_ENV_VAR not in os.environ:
            return ""
        from mlflow.server import handlers
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Runs

        store = handlers._get_tracking_store()
        try:
            if not isinstance(store, Runs):
                return str(store.get_run(run_id).info.user_id or "")
            # Nothing else of it; and from here, where the runs lie in this database too.
            here = nullcontext(session) if store.db_uri == self.db_uri else None
            with here or store.ManagedSessionMaker() as opened:
                runs = store._get_query(opened, SqlRun).filter(SqlRun.run_uuid == run_id)
                return str(runs.with_entities(SqlRun.user_id).scalar() or "")
        except MlflowException:  # a run of another server; the client may name any
            return ""

    def _job(self, session: Session, about: Version) -> Job | None:
        job = jobs.find(session, about.workspace, about.model, about.version)
        # The job of a version that was deleted and made again says nothing of this one.
        return job if job is not None and job.created == about.created else None

    def _generated(self, session: Session, about: Version, what: str = "") -> Job:
        """The job of a version, which has come to a policy."""
        job = self._job(session, about)
        if job is not None and job.state == jobs.GENERATED and job.location == about.location:
            return job
        if job is None:
            why = (
                f"no policy was generated for it: set the tag {names.REQUEST} to"
                f" {names.GENERATE!r}, or run modelarmor registry scan"
            )
        elif job.state == jobs.FAILED:
            why = f"no policy could be generated: {job.progress}"
        else:
            why = f"its policy is being generated ({job.state} {job.progress})".rstrip()
        raise self._refusal(what or f"{about.uri} cannot be reviewed", about, [why])

    # --- private: small things

    def _settings(self) -> Settings:
        try:
            return self.settings.get()
        except (SettingsError, OSError) as error:
            raise MlflowException(
                f"modelarmor: nothing is promoted or registered until the configuration is right:"
                f" {error}",
                PERMISSION_DENIED,
            ) from error

    def _version(self, session: Session, name: Any, version: Any) -> Version:
        return version_of(self._get_sql_model_version(session, name, version))

    def _origin(self, source: Any) -> Version | None:
        """The registered version that a source names."""
        parts = urlsplit(str(source))
        if parts.scheme != "models":
            return None
        pieces = parts.path.strip("/").split("/")
        if len(pieces) != 2 or not pieces[1].isdigit():
            return None
        with self.ManagedSessionMaker(read_only=False) as session:
            return self._version(session, pieces[0], pieces[1])

    def _without_copied_tags(self, source: Any, given: list[Any]) -> list[Any]:
        """The tags that are the client's own.

        MLflow's client copies a version by creating one with all of its tags. Ours are dropped
        then, where they are exactly the original's; otherwise a client is making them up.
        """
        ours = [tag for tag in given if names.is_reserved(tag.key)]
        if not ours:
            return given
        if urlsplit(str(source)).scheme != "models":
            _refuse_reserved(ours[0].key)
        real = self._tags_of(source)
        for tag in ours:
            if real.get(tag.key) != tag.value:
                # The same where there is no such version: who may not read it learns nothing.
                raise _refused(
                    f"the tag {tag.key!r} is the server's own, and not what {source} has: copy the"
                    " version again, and leave its tags as they are"
                )
        return [tag for tag in given if not names.is_reserved(tag.key)]

    def _tags_of(self, source: Any) -> dict[str, str]:
        """The tags of the version that a source names; none where there is no such version."""
        with suppress(MlflowException):
            if (origin := self._origin(source)) is not None:
                with self.ManagedSessionMaker(read_only=False) as session:
                    row = self._get_sql_model_version(session, origin.model, origin.version)
                    return {tag.key: tag.value for tag in row.model_version_tags}
        return {}

    def _record(
        self,
        session: Session,
        kind: str,
        workspace: str,
        model: str,
        version: int,
        artifact: str,
        facts: dict[str, Any],
    ) -> None:
        records.append(
            session, kind=kind, workspace=workspace, model=model, version=version,
            artifact=artifact, body=json.dumps(facts, sort_keys=True), time=int(time.time() * 1000),
        )  # fmt: skip

    def record_generated(self, session: Session, job: Job, result: jobs.Result) -> None:
        """Write down that a policy was made, and which."""
        self._record(
            session, "generated", job.workspace, job.model, job.version, result.artifact,
            {"policy": result.policy, "evidence": result.evidence, "created": job.created},
        )  # fmt: skip


class GatedStore(Gate, SqlAlchemyStore):  # type: ignore[misc]
    """The store of a registry without workspaces."""


class GatedWorkspaceStore(Gate, WorkspaceAwareSqlAlchemyStore):  # type: ignore[misc]
    """The store of a registry with workspaces."""


def build(database: str) -> Gate:
    """The store for a database; in a server's process its worker is started too.

    Args:
        database: as SQLAlchemy writes it.
    """
    from mlflow.server.constants import (
        BACKEND_STORE_URI_ENV_VAR,
        READ_REPLICA_BACKEND_STORE_URI_ENV_VAR,
    )

    kind = GatedWorkspaceStore if MLFLOW_ENABLE_WORKSPACES.get() else GatedStore
    store = kind(database, read_db_uri=os.environ.get(READ_REPLICA_BACKEND_STORE_URI_ENV_VAR))
    if BACKEND_STORE_URI_ENV_VAR in os.environ:
        from . import worker

        if MLFLOW_ENABLE_WORKSPACES.get():
            from . import workspaces

            workspaces.guard(store)
        worker.start(store)
    return store


def version_of(row: SqlModelVersion) -> Version:
    return Version(
        workspace=row.workspace,
        model=row.name,
        version=row.version,
        created=row.creation_time,
        location=row.storage_location or row.source,
        stage=row.current_stage,
    )


def _refused(what: str) -> MlflowException:
    return MlflowException(f"modelarmor: {what}", PERMISSION_DENIED)


def _refuse_unknown(version: Version, digests: Mapping[int, str]) -> None:
    if version.version not in digests:
        raise _refused(f"{version.uri} was promoted meanwhile; rename again")


def _trusted(name: str) -> str:
    return f"{name!r} is a trusted name: a version comes there as a copy of an approved one"


def _refuse_reserved(key: Any) -> None:
    if key is not None and names.is_reserved(str(key)):
        raise _refused(f"the tag {key!r} is the server's own: nobody else sets or deletes it")


def _user() -> str:
    """Who is at the other end of the request, as MLflow's authentication says."""
    with suppress(ImportError, RuntimeError):
        from flask import g

        return str(getattr(g, "mlflow_authenticated_user", None) or "")
    return ""


def _claimed(row: SqlModelVersion) -> list[str]:
    return [row.user_id] if row.user_id else []
