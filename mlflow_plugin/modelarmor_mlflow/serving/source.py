"""The model that is to be served: found, brought here once, and checked against its approval.

An alias is looked up once, and what is downloaded is what is hashed, what the approval is about and
what is served. Files of a registered version can be changed after the fact, and tags of a registry
by whoever reaches its database: only the signatures count, and they are checked here again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelarmor.generate.artifact import open_model
from modelarmor.generate.artifact.source import Model
from modelarmor.generate.commands import read_evidence
from modelarmor.generate.evidence import Evidence
from modelarmor_mlflow import deciding, names, settings, statements
from modelarmor_mlflow.review import Concern, evaluate
from modelarmor_mlflow.serving.server import ServeError

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model that may be served, for as long as `found` is open."""

    #: ``iris/3``, or the name of a file
    name: str
    root: Path
    evidence: Evidence
    #: reviewers whose approvals count; empty where it is served unreviewed
    approved_by: tuple[str, ...] = ()


@contextmanager
def found(
    uri: str,
    *,
    unreviewed: bool = False,
    evidence: Path | None = None,
    config: Path | None = None,
    progress: Progress | None = None,
    prefix: Callable[[Path], Path] | None = None,
) -> Iterator[Subject]:
    """Find the model at `uri`.

    Args:
        uri: ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, or whatever else MLflow serves.
        unreviewed: serve it although nobody has approved it, under a policy that is made now, or
            was made for exactly these bytes.
        evidence: of a policy that was made before (``modelarmor generate --evidence``).
        config: whose reviewers are trusted, instead of `settings.path`.
        progress: told how far it is.
        prefix: gives the Python environment for the model's directory, in which a policy that is
            made now watches it; if left out, that of this program.

    Raises:
        ServeError: it may not be served, or cannot.
        ArtifactError, MlflowException: it is not there.
        EvidenceError, OSError: `evidence` is none, or cannot be read.
    """
    version = None if evidence is not None else _registered(uri)
    if version is None and not unreviewed:
        raise ServeError(
            f"{uri} is no version of a registered model, so nobody can have approved it. Register"
            " it, or serve it with --unreviewed, under a policy that is made now"
        )
    exact = uri if version is None else f"models:/{version.name}/{version.version}"
    with open_model(exact, progress=progress) as model:
        if not (model.root / "MLmodel").is_file():
            raise ServeError(
                f"{exact} is no MLflow model: a directory with a file MLmodel, which says how"
                " it is loaded and asked; save it with mlflow.<flavour>.save_model"
            )
        if not model.artifact.digest:
            told = "; ".join(finding.title for finding in model.artifact.findings)
            raise ServeError(f"{exact} cannot be served: its files cannot be vouched for: {told}")
        if version is not None and (names.SUBJECT in version.tags or not unreviewed):
            yield _approved(version, model, unreviewed, config)
            return
        made = _made(exact, model, evidence, progress, prefix)
        yield Subject(name=_name(exact), root=model.root, evidence=made)


def _registered(uri: str) -> Any:
    """The version of a registered model that `uri` means; None where it means something else."""
    rest = uri.removeprefix("models:/")
    if rest == uri or ("/" not in rest and "@" not in rest):
        return None
    from mlflow import MlflowClient

    return deciding.find_version(MlflowClient(), uri)


def _approved(version: Any, model: Model, unreviewed: bool, config: Path | None) -> Subject:
    from mlflow import MlflowClient

    uri = f"models:/{version.name}/{version.version}"
    try:
        subject = deciding.offer_of(version).subject
        evidence = deciding.evidence_of(MlflowClient(), version, subject)
    except deciding.NothingToReviewError as error:
        raise ServeError(f"cannot serve {error}") from None
    if model.artifact.digest != subject.artifact:
        raise ServeError(
            f"{uri} cannot be served: its files have changed since the policy was made"
            f" ({model.artifact.digest} now, {subject.artifact} then). Find out who changed them;"
            " modelarmor registry scan makes a policy for what is there now"
        )
    if unreviewed:
        return Subject(name=_name(uri), root=model.root, evidence=evidence)
    current = settings.load(config)
    try:
        envelopes = json.loads(version.tags.get(names.STATEMENTS, "[]"))
        signed = statements.standing(map(json.dumps, envelopes), current)
    except (ValueError, TypeError, RecursionError) as error:
        raise ServeError(f"{uri}: its approvals cannot be read: {error}") from None
    verdict = evaluate(
        subject,
        signed,
        concerns=[Concern.of(finding) for finding in evidence.findings],
        authors=frozenset({version.user_id} - {None, ""}),
        settings=current,
        now=time.time(),
    )
    if not verdict.approved:
        raise ServeError(
            f"{uri} is not approved: {'; '.join(verdict.missing)}. Review it: modelarmor review"
            f" {uri}, then modelarmor approve {uri} --reason …; or serve it with --unreviewed"
        )
    return Subject(
        name=_name(uri),
        root=model.root,
        evidence=evidence,
        approved_by=verdict.approved_by,
    )


def _made(
    uri: str,
    model: Model,
    file: Path | None,
    progress: Progress | None,
    prefix: Callable[[Path], Path] | None,
) -> Evidence:
    """Evidence of a model that nobody has reviewed: what was made before, or now."""
    if file is not None:
        evidence = read_evidence(file)
        if evidence.artifact.digest != model.artifact.digest:
            raise ServeError(
                f"{file} is about other files than those of {uri}: {evidence.artifact.digest}, not"
                f" {model.artifact.digest}. modelarmor generate {uri} makes a policy for them"
            )
        return evidence
    from modelarmor.generate.pipeline import generate

    environment = None if prefix is None else prefix(model.root)
    return generate(str(model.root), progress=progress, prefix=environment)


def _name(uri: str) -> str:
    return uri.removeprefix("models:/") if uri.startswith("models:/") else Path(uri).name or uri
