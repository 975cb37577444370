"""The worker: takes versions from the queue and generates their policies, one at a time.

A thread in each process of the server (or `modelarmor registry worker` on its own). The queue in
the database keeps them from doing anything twice; what one leaves behind when it is killed,
another takes up when the lease is over. Hostile code runs in `generation`'s process, never here.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlflow.exceptions import MlflowException
from mlflow.utils.workspace_context import (
    clear_server_request_workspace,
    set_server_request_workspace,
)
from sqlalchemy.exc import SQLAlchemyError

from modelarmor.generate.evidence import Evidence

from . import artifacts, generation, jobs, tables, tags
from .artifacts import ArtifactError
from .generation import AbandonedError, GenerationError
from .jobs import Job, Result
from .review import Concern
from .settings import RobustnessDemand

if TYPE_CHECKING:
    from .store import Gate

_logger = logging.getLogger(__name__)

#: seconds between two looks at the queue where nobody rings
_INTERVAL: Final = 2.0

_started: dict[str, Worker] = {}
_lock = threading.Lock()


def start(store: Gate) -> None:
    """Start the worker of this process, once for each database."""
    if not store.settings.get().worker.enabled:
        return
    with _lock:
        worker = _started.get(store.db_uri)
        # A thread does not survive a fork.
        if worker is None or worker.process != os.getpid():
            worker = _started[store.db_uri] = Worker(store)
            threading.Thread(target=worker.run, name="modelarmor-worker", daemon=True).start()
    store.on_work = worker.ring


class Worker:
    """Works through the queue of one registry."""

    def __init__(self, store: Gate) -> None:
        self.process = os.getpid()
        self._store = store
        self._name = f"{socket.gethostname()[:24]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._bell = threading.Event()

    def ring(self) -> None:
        """Say that there is something in the queue."""
        self._bell.set()

    def run(self) -> None:
        """Work until the process ends."""
        while True:
            self._bell.wait(_INTERVAL)
            self._bell.clear()
            try:
                while self.work():
                    pass
            except Exception:  # a database that is away for a while must not end the worker
                _logger.exception("modelarmor: the worker could not work; it goes on trying")
                time.sleep(_INTERVAL)

    def work(self) -> bool:
        """Do one job; False where there is none to do."""
        settings = self._store.settings.get().worker
        with self._store.ManagedSessionMaker(read_only=False) as session:
            if not jobs.waiting(session, settings, time.time()):
                return False
        with self._store.transactions.transaction() as session:
            tables.lock(session)
            reaped = jobs.reap(session, settings, time.time())
            job = jobs.claim(session, self._name, settings, time.time())
        for lost in reaped:
            with in_workspace(lost.workspace):
                self._show_lost(lost)
        if job is None:
            return False
        with in_workspace(job.workspace):
            self._do(job)
        return True

    def _show_lost(self, lost: Job) -> None:
        """Show what became of a job whose worker died, where it is still that."""
        store = self._store
        with store.transactions.transaction() as session:
            tables.lock(session)
            job = jobs.find(session, lost.workspace, lost.model, lost.version)
            if job == lost:
                row = store._get_sql_model_version(session, job.model, job.version)
                tags.show_job(session, row, job.state, job.progress)

    def _do(self, job: Job) -> None:
        uri = f"models:/{job.model}/{job.version}"
        try:
            if not self._alive(job, "copying the files"):
                return
            self._generate(job)
            _logger.info("modelarmor: generated a policy for %s", uri)
        except AbandonedError:
            _logger.info("modelarmor: %s is another worker's, or gone", uri)
        except (ArtifactError, GenerationError) as error:
            self._fail(job, str(error), final=getattr(error, "final", False))
        except (MlflowException, SQLAlchemyError):
            raise
        except Exception as error:  # whatever it was, the version must say so
            _logger.exception("modelarmor: the generation for %s failed", uri)
            self._fail(job, f"{type(error).__name__}: {error}", final=False)

    def _generate(self, job: Job) -> None:
        current = self._store.settings.get()
        with artifacts.copied(job.location, limit=current.worker.model_size) as model:
            demand = current.robustness_of(job.model)
            if self._adopt(job, artifacts.digest_of(model), demand):
                return
            with tempfile.TemporaryDirectory(prefix="modelarmor-generation-") as scratch:
                evidence = generation.run(
                    model,
                    current.worker,
                    lambda news: self._alive(job, news),
                    Path(scratch),
                    demand,
                )
            digest = artifacts.digest_of(model)
        if evidence.artifact.digest != digest:
            raise GenerationError(
                f"the evidence is about {evidence.artifact.digest}, the files are {digest}",
                final=True,
            )
        # It was looked at in a private copy, which nobody else finds.
        source = f"models:/{job.model}/{job.version}"
        evidence = replace(evidence, artifact=replace(evidence.artifact, source=source))
        artifacts.attach(job.location, evidence)
        self._finish(job, evidence)

    def _adopt(self, job: Job, digest: str, demand: RobustnessDemand | None) -> bool:
        """Take over what is known of a version with the same bytes at the same place."""
        with self._store.ManagedSessionMaker(read_only=False) as session:
            known = jobs.alike(session, job, digest)
        for candidate in known:
            try:
                evidence = Evidence.loads(artifacts.read_evidence(job.location, candidate))
            except ArtifactError:
                continue
            if demand is None or _answers(evidence, demand):
                self._finish(job, evidence)
                return True
        return False

    def _finish(self, job: Job, evidence: Evidence) -> None:
        store = self._store
        result = Result(
            artifact=evidence.artifact.digest,
            policy=evidence.policy_digest,
            evidence=evidence.digest,
            concerns=tuple(Concern.of(finding) for finding in evidence.findings),
        )
        with store.transactions.transaction() as session:
            tables.lock(session)
            if not jobs.finish(session, job, result, time.time()):
                raise AbandonedError
            store.record_generated(session, job, result)
            row = store._get_sql_model_version(session, job.model, job.version)
            url = store.settings.get().review_page(row.name, row.version)
            tags.show_job(session, row, jobs.GENERATED)
            tags.show_evidence(session, row, evidence, url)
            done = jobs.find(session, job.workspace, job.model, job.version)
            assert done is not None
            store.show_review(session, row, done)

    def _alive(self, job: Job, news: str | None) -> bool:
        """Keep the lease, and show what is new."""
        store = self._store
        with store.transactions.transaction() as session:
            if not jobs.beat(session, job, time.time(), news):
                return False
            if news is not None:
                row = store._get_sql_model_version(session, job.model, job.version)
                tags.show_job(session, row, jobs.RUNNING, news)
        return True

    def _fail(self, job: Job, why: str, *, final: bool) -> None:
        store = self._store
        settings = store.settings.get().worker
        with store.transactions.transaction() as session:
            tables.lock(session)
            state = jobs.fail(session, job, why, settings, time.time(), final=final)
            if state is not None:
                row = store._get_sql_model_version(session, job.model, job.version)
                tags.show_job(session, row, state, why)
        _logger.warning("modelarmor: models:/%s/%s: %s", job.model, job.version, why)


@contextmanager
def in_workspace(name: str) -> Iterator[None]:
    """Work in the workspace that a version is in."""
    set_server_request_workspace(name)
    try:
        yield
    finally:
        clear_server_request_workspace()


def _answers(evidence: Evidence, demand: RobustnessDemand) -> bool:
    """Whether what is known of a model tells how it bears what is demanded now."""
    from modelarmor.redteam import data

    found = evidence.robustness
    if found is None or found.error:
        return False
    try:
        given = data.read(demand.data, samples=demand.samples)
    except (data.DataError, OSError):
        return False  # measuring it will say what is wrong
    asked = (given.digest, demand.epsilon, demand.least_accuracy)
    return (found.data, found.epsilon, found.least_accuracy) == asked
