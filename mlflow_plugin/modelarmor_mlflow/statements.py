"""What a reviewer signs: an in-toto statement in a DSSE envelope, with one Ed25519 signature.

The subject is the model's bytes, the predicate says which version of which model in which
registry they were reviewed as, with which policy and evidence, by whom, why, until when, and which
findings were waived. ``previous`` names the last statement about the same bytes, so statements
have one order, and none is of use twice.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
https://github.com/secure-systems-lab/dsse/blob/master/envelope.md
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from .settings import Reviewer, Settings

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:modelarmor:review:v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"

#: the longest envelope, in bytes
MAX_ENVELOPE: Final = 48_000
_MAX_WAIVERS = 200
_MAX_NAMES = 50
_MAX_REASON = 2_000

Decision = Literal["approve", "reject", "revoke"]
DECISIONS: Final[tuple[Decision, ...]] = get_args(Decision)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class StatementError(ValueError):
    """An envelope that is none, or whose statement does not say what it must."""


class UntrustedError(StatementError):
    """An envelope that nobody signed who may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a review is about: exactly these bytes, as this version, with this policy."""

    #: identifies the registry; the same names in another one are something else
    registry: str
    workspace: str
    model: str
    version: int
    #: when the version was registered, in milliseconds; one that was deleted and made again differs
    created: int
    #: ``sha256:…`` each: the model's files, its policy, the evidence for it
    artifact: str
    policy: str
    evidence: str

    @property
    def uri(self) -> str:
        """``models:/NAME/VERSION``."""
        return f"models:/{self.model}/{self.version}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Subject:
        """Read what `to_json` wrote; raises `StatementError`."""
        item = _mapping("subject", value, tuple(cls.__slots__))
        for name in ("artifact", "policy", "evidence"):
            if not _DIGEST.fullmatch(_text(name, item[name])):
                raise StatementError(f"{name} should be sha256: and 64 hexadecimal digits")
        for name in ("registry", "workspace", "model"):
            _text(name, item[name])
        for name in ("version", "created"):
            if not isinstance(item[name], int) or isinstance(item[name], bool):
                raise StatementError(f"{name} should be a whole number")
        return cls(**item)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """One finding that the reviewer accepts."""

    #: `modelarmor.generate.evidence.Finding.fingerprint`
    finding: str
    reason: str
    #: seconds since 1970
    expires: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One decision of one reviewer."""

    decision: Decision
    subject: Subject
    reviewer: str
    reason: str
    #: seconds since 1970: when it was signed, and until when it holds
    time: int
    expires: int
    waivers: tuple[Waiver, ...] = ()
    #: other names under which the same bytes are approved
    names: tuple[str, ...] = ()
    #: identifier of the last statement about the same bytes; empty: there is none
    previous: str = ""

    def payload(self) -> bytes:
        """The in-toto statement, the same bytes for the same decision."""
        subject = self.subject.to_json()
        artifact = subject.pop("artifact")
        body = {
            "_type": STATEMENT_TYPE,
            "subject": [
                {"name": self.subject.uri, "digest": {"sha256": artifact.removeprefix("sha256:")}}
            ],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                **subject,
                "decision": self.decision,
                "reviewer": self.reviewer,
                "reason": self.reason,
                "time": _write_time(self.time),
                "expires": _write_time(self.expires),
                "waivers": [
                    {**asdict(waiver), "expires": _write_time(waiver.expires)}
                    for waiver in self.waivers
                ],
                "names": list(self.names),
                "previous": self.previous,
            },
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_payload(cls, payload: bytes) -> Statement:
        """Read an in-toto statement of ours; raises `StatementError`."""
        body = _mapping(
            "statement", _json(payload), ("_type", "subject", "predicateType", "predicate")
        )
        if body["_type"] != STATEMENT_TYPE or body["predicateType"] != PREDICATE_TYPE:
            raise StatementError(f"this is no {PREDICATE_TYPE} statement")
        predicate = dict(_mapping("predicate", body["predicate"], _PREDICATE))
        artifact, name = _read_subject(body["subject"])
        subject = Subject.from_json(
            {key: predicate.pop(key) for key in _SUBJECT} | {"artifact": artifact}
        )
        if subject.uri != name:
            raise StatementError(f"the subject {name!r:.80} is not {subject.uri}")
        if predicate["decision"] not in DECISIONS:
            raise StatementError(f"decision should be one of {', '.join(DECISIONS)}")
        previous = predicate["previous"]
        if previous != "" and not _DIGEST.fullmatch(_text("previous", previous)):
            raise StatementError("previous should be the identifier of a statement, or empty")
        return cls(
            decision=predicate["decision"],
            subject=subject,
            reviewer=_text("reviewer", predicate["reviewer"]),
            reason=_reason(predicate["reason"]),
            time=_read_time("time", predicate["time"]),
            expires=_read_time("expires", predicate["expires"]),
            waivers=tuple(
                _read_waiver(item) for item in _list("waivers", predicate["waivers"], _MAX_WAIVERS)
            ),
            names=tuple(
                _text("names", item) for item in _list("names", predicate["names"], _MAX_NAMES)
            ),
            previous=previous,
        )


_SUBJECT = ("registry", "workspace", "model", "version", "created", "policy", "evidence")
_PREDICATE = (
    *_SUBJECT, "decision", "reviewer", "reason", "time", "expires", "waivers", "names", "previous",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A statement whose signature is that of a trusted reviewer."""

    statement: Statement
    reviewer: Reviewer
    #: ``sha256:…`` of the statement: what the next one calls ``previous``
    identifier: str
    envelope: str


def sign(statement: Statement, signer: Signer) -> str:
    """The envelope: JSON, as a client submits it.

    Raises:
        StatementError: it would be longer than the server accepts.
    """
    from securesystemslib.dsse import Envelope

    envelope = Envelope(statement.payload(), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    text = json.dumps(envelope.to_dict(), separators=(",", ":"))
    if len(text) > MAX_ENVELOPE:
        raise StatementError(
            f"the signed statement has {len(text)} bytes, more than {MAX_ENVELOPE}; shorten the"
            " reasons of the waivers"
        )
    return text


def verify(text: str, settings: Settings) -> Signed:
    """Check an envelope against the keys that are trusted now.

    Args:
        text: what `sign` returned; anybody may have made it.
        settings: whose reviewers count.

    Raises:
        UntrustedError: it is not signed by a key that is trusted, or was no longer when it signed.
        StatementError: it is no envelope with a statement of ours.
    """
    from securesystemslib.exceptions import VerificationError

    envelope = _envelope(text)
    known = [key for key in envelope.signatures if key in settings.by_key]
    if not known:
        raise UntrustedError(
            "the statement is signed by a key that this registry does not trust"
            " (modelarmor keys trust)"
        )
    reviewer, trusted = settings.by_key[known[0]]
    try:
        envelope.verify([trusted.key.key], 1)
    except VerificationError:
        raise UntrustedError("the signature does not fit the statement") from None
    statement = Statement.from_payload(envelope.payload)
    if statement.reviewer != reviewer.name:
        raise UntrustedError(
            f"the statement is {statement.reviewer!r:.80}'s, the key is {reviewer.name}'s"
        )
    if trusted.expires is not None and statement.time >= trusted.expires:
        raise UntrustedError(f"the key of {reviewer.name} had expired when it signed")
    return Signed(
        statement=statement,
        reviewer=reviewer,
        identifier="sha256:" + hashlib.sha256(envelope.payload).hexdigest(),
        envelope=text,
    )


def standing(envelopes: Iterable[str], settings: Settings) -> list[Signed]:
    """Those of recorded envelopes that have a say now, in their order.

    An approval counts only while its key is trusted. A rejection or revocation goes on to count
    when its reviewer has left: that somebody is trusted no longer makes nothing approved.
    """
    found = []
    for text in envelopes:
        try:
            found.append(verify(text, settings))
        except UntrustedError:
            statement, identifier = read(text)
            if statement.decision != "approve":
                found.append(
                    Signed(
                        statement=statement,
                        reviewer=Reviewer(name=statement.reviewer),
                        identifier=identifier,
                        envelope=text,
                    )
                )
    return found


def read(text: str) -> tuple[Statement, str]:
    """The statement of an envelope and its identifier, whoever signed it.

    Raises:
        StatementError: it is no envelope with a statement of ours.
    """
    payload = _envelope(text).payload
    return Statement.from_payload(payload), "sha256:" + hashlib.sha256(payload).hexdigest()


def _envelope(text: str) -> Any:
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import FormatError

    if len(text.encode("utf-8", "surrogatepass")) > MAX_ENVELOPE:
        raise StatementError(f"an envelope has at most {MAX_ENVELOPE} bytes")
    body = _mapping("envelope", _json(text), ("payload", "payloadType", "signatures"))
    if body["payloadType"] != PAYLOAD_TYPE:
        raise StatementError(f"payloadType should be {PAYLOAD_TYPE}")
    signatures = _list("signatures", body["signatures"], 1)
    if len(signatures) != 1:
        raise StatementError("an envelope has exactly one signature: one statement a reviewer")
    signature = _mapping("signatures[0]", signatures[0], ("keyid", "sig"))
    for name, value in (("payload", body["payload"]), *signature.items()):
        _text(name, value)
    try:
        return Envelope.from_dict(
            {
                "payload": body["payload"],
                "payloadType": PAYLOAD_TYPE,
                "signatures": [dict(signature)],
            }
        )
    except (FormatError, ValueError, KeyError, TypeError) as error:
        raise StatementError(f"this is no DSSE envelope: {error}") from None


def _read_subject(value: Any) -> tuple[str, str]:
    subjects = _list("subject", value, 1)
    if len(subjects) != 1:
        raise StatementError("a statement has exactly one subject")
    subject = _mapping("subject[0]", subjects[0], ("name", "digest"))
    digest = _mapping("subject[0].digest", subject["digest"], ("sha256",))
    return "sha256:" + _text("digest", digest["sha256"]), _text("name", subject["name"])


def _read_waiver(value: Any) -> Waiver:
    item = _mapping("waiver", value, ("finding", "reason", "expires"))
    if not _FINGERPRINT.fullmatch(_text("finding", item["finding"])):
        raise StatementError("a waiver is about one finding, by its fingerprint")
    return Waiver(
        finding=item["finding"],
        reason=_reason(item["reason"]),
        expires=_read_time("waiver.expires", item["expires"]),
    )


def _reason(value: Any) -> str:
    reason = _text("reason", value)
    if not reason.strip() or len(reason) > _MAX_REASON:
        raise StatementError(f"a reason has 1 to {_MAX_REASON} characters")
    return reason


def _write_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(_TIME)


def _read_time(where: str, value: Any) -> int:
    try:
        return int(datetime.strptime(_text(where, value), _TIME).replace(tzinfo=UTC).timestamp())
    except (ValueError, OverflowError):
        raise StatementError(f"{where} should be a time such as 2027-01-31T12:00:00Z") from None


def _json(text: str | bytes) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):  # two readers could take a different one of them
            raise StatementError("a name occurs twice in one object")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except StatementError:
        raise
    except (ValueError, RecursionError) as error:
        raise StatementError(f"this is no JSON: {error}") from None


def _mapping(where: str, value: Any, names: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise StatementError(f"{where} should be an object of {', '.join(names)}")
    return value


def _list(where: str, value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise StatementError(f"{where} should be a list of at most {most}")
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise StatementError(f"{where} should be a text")
    return value
