"""A reviewer's side: what is there to decide on, shown, signed and sent.

What the registry says is not believed where it can be checked: the evidence must have the digest
that is signed, and the policy in it too. The signature is made here; the server only records it.
"""

from __future__ import annotations

import errno
import json
import resource
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from modelarmor.generate.artifact import own
from modelarmor.generate.evidence import MAX_BYTES, Evidence
from modelarmor.generate.review import as_text, review
from modelarmor.visible import visible

from . import names, settings, statements
from .statements import Decision, Statement, Subject, Waiver

_TRIES = 3
#: seconds that a page's statement may wait for its signature, and that clocks may differ
_PREPARED: Final = 3600
_SKEW: Final = 300
#: what `names.STATE` says of a version whose policy is to come (`jobs.QUEUED`, `jobs.RUNNING`)
_PENDING: Final = ("queued", "running")
_MADE_ANEW: Final = f"set the tag {names.REQUEST} to {names.GENERATE!r} to have it made anew"


class NothingToReviewError(ValueError):
    """A version that cannot be decided on now; says why and what to do."""


class StillGeneratingError(NothingToReviewError):
    """A version whose policy is being made; it can be decided on soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a reviewer has decided."""

    decision: Decision
    reviewer: str
    reason: str
    names: tuple[str, ...] = ()
    #: those without an end hold as long as the approval
    waivers: tuple[Waiver, ...] = ()
    expires: datetime | None = None


def waiver(text: str) -> Waiver:
    """``FINDING=REASON[@DATE]``; without a date it ends with the approval (0).

    Raises:
        ValueError: it is not of this form.
    """
    finding, equals, reason = text.partition("=")
    told, at, day = reason.rpartition("@")
    expires = 0
    if at:
        try:
            expires = int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
            reason = told
        except ValueError:  # an @ in the reason itself
            expires = 0
    if not equals or not reason.strip():
        raise ValueError(f"--waive {text!r}: should be FINDING=REASON or FINDING=REASON@2027-01-31")
    return Waiver(finding=finding.strip().lower(), reason=reason.strip(), expires=expires)


@dataclass(frozen=True, slots=True)
class Offer:
    """What the registry offers for a decision on one version."""

    subject: Subject
    #: the statement before; empty: there is none
    previous: str
    #: how long an approval holds that says nothing else, in days
    days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One version that waits for a decision."""

    client: Any
    offer: Offer
    evidence: Evidence

    @classmethod
    def open(cls, uri: str, tracking_uri: str | None = None) -> Case:
        """Read a version's evidence from the registry.

        Args:
            uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
            tracking_uri: the server, instead of MLflow's own setting.

        Raises:
            StillGeneratingError: its policy is being made.
            NothingToReviewError: it has no policy, or its evidence is not what it should be.
            MlflowException: the server does not answer, or has no such version.
        """
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        version = find_version(client, uri)
        offer = offer_of(version)
        return cls(client=client, offer=offer, evidence=evidence_of(client, version, offer.subject))

    @property
    def subject(self) -> Subject:
        """What the decision is about."""
        return self.offer.subject

    def text(self, against: str | None = None, *, colour: bool = False) -> str:
        """The review, for a terminal, with what a decision is about."""
        earlier = None
        if against is not None:
            version = find_version(self.client, against)
            earlier = evidence_of(self.client, version, offer_of(version).subject)
        told = self.subject
        return (
            f"{told.uri} (workspace {told.workspace}, registry {told.registry})\n"
            f"  files    {told.artifact}\n  policy   {told.policy}\n  evidence {told.evidence}\n\n"
            f"{as_text(review(self.evidence, earlier), colour=colour)}\n"
        )

    def standing(self) -> str:
        """How the review stands now, as the registry tells it."""
        told = find_version(self.client, self.subject.uri).tags.get(names.REVIEW, "unknown")
        return visible(told, 4000)

    def submit(self, wanted: Wanted, signer: Any) -> str:
        """Sign the decision and have it recorded.

        Returns:
            The identifier of the statement.

        Raises:
            NothingToReviewError: the version has changed since it was shown.
            MlflowException: the server refuses it; says why.
        """
        from mlflow.exceptions import MlflowException

        offer, subject = self.offer, self.subject
        for attempt in range(_TRIES):
            text = statements.sign(statement_of(wanted, offer), signer)
            try:
                self.client.set_model_version_tag(
                    subject.model, str(subject.version), names.SUBMIT, text
                )
                return statements.read(text)[1]
            except MlflowException as error:
                # Another reviewer was quicker, about the same bytes: sign after that one.
                if error.error_code != "RESOURCE_CONFLICT" or attempt + 1 == _TRIES:
                    raise
                latest = offer_of(find_version(self.client, subject.uri))
                if latest.subject != subject:
                    raise NothingToReviewError(
                        f"{subject.uri} has changed since it was shown; review it again"
                    ) from None
                if latest.previous == offer.previous:
                    raise
                offer = latest
        raise AssertionError("unreachable")


def statement_of(wanted: Wanted, offer: Offer) -> Statement:
    """What a reviewer signs."""
    now = int(time.time())
    end = int(wanted.expires.timestamp()) if wanted.expires else now + offer.days * 86400
    return Statement(
        decision=wanted.decision,
        subject=offer.subject,
        reviewer=wanted.reviewer,
        reason=wanted.reason,
        time=now,
        expires=end,
        names=wanted.names,
        waivers=tuple(
            item if item.expires else Waiver(finding=item.finding, reason=item.reason, expires=end)
            for item in wanted.waivers
        ),
        previous=offer.previous,
    )


def check_prepared(statement: Statement, now: float) -> None:
    """Refuse to sign what was prepared at another time than now.

    The registry checks the same of the time of the signature. Of the time before it, nobody else
    can: an old statement may be about what its reviewer no longer thinks.

    Raises:
        NothingToReviewError: it was prepared too long ago or in the future, or has expired.
    """
    age = now - statement.time
    if not -_SKEW <= age <= _PREPARED:
        when = f"{age:.0f} s ago" if age > 0 else f"{-age:.0f} s in the future"
        raise NothingToReviewError(
            f"the statement was prepared {when}, and at most {_PREPARED} s may pass until it is"
            " signed; prepare it anew on the review page, and check the clock"
        )
    if statement.expires <= now:
        raise NothingToReviewError(
            f"the statement ended on {_day(statement.expires)}; prepare it anew"
        )


def told(statement: Statement) -> list[str]:
    """What a statement says, a line each, for a terminal."""
    subject = statement.subject
    facts = [
        ("decision", statement.decision),
        ("model", f"{subject.uri} (workspace {subject.workspace}, registry {subject.registry})"),
        ("files", subject.artifact),
        ("policy", subject.policy),
        ("evidence", subject.evidence),
        ("reviewer", statement.reviewer),
        ("reason", statement.reason),
        ("prepared", datetime.fromtimestamp(statement.time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")),
    ]
    if statement.decision == "approve":
        facts += [("until", _day(statement.expires))]
        facts += [
            ("waives", f"{item.finding} until {_day(item.expires)}: {item.reason}")
            for item in statement.waivers
        ]
        facts += [("also as", name) for name in statement.names]
    return [f"{name:9} {visible(text, 2000)}" for name, text in facts]


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def find_version(client: Any, uri: str) -> Any:
    """The registry's record of ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

    Raises:
        NothingToReviewError: `uri` is of another form.
        MlflowException: there is no such version.
    """
    prefix, _, rest = uri.partition("models:/")
    if prefix or not rest:
        raise NothingToReviewError(f"{uri!r} should be models:/NAME/VERSION or models:/NAME@ALIAS")
    if "@" in rest and "/" not in rest:
        name, _, alias = rest.rpartition("@")
        return client.get_model_version_by_alias(name, alias)
    name, _, version = rest.rpartition("/")
    return client.get_model_version(name, version)


def offer_of(version: Any) -> Offer:
    """What a decision on a version is about, and what comes with it.

    Raises:
        StillGeneratingError: its policy is being made.
        NothingToReviewError: it has no policy, says that it is another version, or nonsense.
    """
    uri = f"models:/{version.name}/{version.version}"
    state = version.tags.get(names.STATE, "")
    if names.SUBJECT not in version.tags:
        progress = version.tags.get(names.PROGRESS, "")
        if state in _PENDING:
            raise StillGeneratingError(
                f"{uri}: its policy is still being made ({progress or state}); try again in a while"
            )
        raise NothingToReviewError(
            f"{uri} cannot be reviewed: its policy is {state} {progress}".rstrip()
            if state
            else f"{uri} has no policy: is this registry ModelArmor's? modelarmor registry scan"
            " makes one for versions that are older"
        )
    try:
        told = dict(json.loads(version.tags[names.SUBJECT]))
        previous = str(told.pop("previous", ""))
        longest = told.pop("approval_days", settings.DAYS)
        if not isinstance(longest, int) or longest < 1:
            raise ValueError("approval_days should be a number of days")
        subject = Subject.from_json(told)
    except (ValueError, TypeError, RecursionError) as error:
        raise NothingToReviewError(
            f"{uri}: its tags are not what the server writes ({error}); do not approve it"
        ) from None
    if (subject.model, str(subject.version)) != (version.name, str(version.version)):
        raise NothingToReviewError(f"{uri}: its tags are another version's, {subject.uri}")
    return Offer(subject, previous, min(settings.DAYS, longest))


def evidence_of(client: Any, version: Any, subject: Subject) -> Evidence:
    """The evidence that lies beside a version's files.

    Raises:
        NothingToReviewError: it is not what `subject` names.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    location = client.get_model_version_download_uri(version.name, version.version)
    with tempfile.TemporaryDirectory(prefix="modelarmor-review-") as scratch:
        repository = get_artifact_repository(location, tracking_uri=client.tracking_uri)
        evidence = Evidence.loads(_download(repository, Path(scratch, "evidence.json"), subject))
    if evidence.digest != subject.evidence:
        raise NothingToReviewError(
            f"{subject.uri}: the evidence beside the model is not what the registry recorded;"
            f" {_MADE_ANEW}"
        )
    if (evidence.artifact.digest, evidence.policy_digest) != (subject.artifact, subject.policy):
        raise NothingToReviewError(
            f"{subject.uri}: the evidence is about other files or another policy than the registry"
            " says; do not approve it"
        )
    return evidence


def _download(repository: Any, target: Path, subject: Subject) -> bytes:
    """One file of a bounded size, whatever the registry has there and says of it."""
    refusal = NothingToReviewError(
        f"{subject.uri}: the evidence beside the model has more than {MAX_BYTES} bytes, which none"
        " has that ModelArmor wrote; find out who put it there, and do not approve"
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = MAX_BYTES + 1 if hard == resource.RLIM_INFINITY else min(MAX_BYTES + 1, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))  # each kind of storage writes itself
    try:
        # Not `download_artifacts`, which takes whole directories.
        repository._download_file(own.evidence(subject.evidence), str(target))
    except Exception as error:  # each kind of storage has errors of its own
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            raise refusal from None
        raise NothingToReviewError(
            f"{subject.uri}: the evidence beside the model cannot be read: {error}; {_MADE_ANEW}"
        ) from None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    if target.stat().st_size > MAX_BYTES:
        raise refusal
    return target.read_bytes()
