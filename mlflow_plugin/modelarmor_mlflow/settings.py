"""What the operator decides: what is protected, who may approve, and how policies are made.

One YAML file, ``$MODELARMOR_REGISTRY_CONFIG`` or ``~/.config/modelarmor/registry.yaml``, every
field optional (docs/mlflow-registry.md has all of them)::

    protected:
      - aliases: [champion, production]
        stages: [Production]
        models: ["*"]
    reviewers:
      ada:
        users: [ada@example.org]
        keys: [{key: "-----BEGIN PUBLIC KEY----- …", expires: 2027-01-01}]

Without the file the defaults hold: promotions are refused, as there is nobody who may approve.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from modelarmor import _yaml
from modelarmor.generate.evidence import SEVERITIES, Severity

from . import keys, names

VARIABLE: Final = "MODELARMOR_REGISTRY_CONFIG"
#: how long an approval holds at most that says nothing else, in days
DAYS: Final = 180

_MAX_REVIEWERS = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")


class SettingsError(ValueError):
    """A configuration that cannot be used; says which field of which file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """Aliases and stages of some models that only an approved version may have."""

    models: tuple[str, ...] = ("*",)
    aliases: tuple[str, ...] = ()
    #: in MLflow's spelling
    stages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A public key, and until when what it signs counts."""

    key: keys.PublicKey
    #: seconds since 1970; None: no end
    expires: float | None = None
    #: where it was read; None: it is in the configuration itself
    file: Path | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewer:
    """A person who may approve."""

    name: str
    keys: tuple[TrustedKey, ...] = ()
    #: what MLflow calls this person, so that an author does not approve
    users: tuple[str, ...] = ()

    def is_any_of(self, users: frozenset[str]) -> bool:
        """Whether one of MLflow's `users` is this person."""
        mine = {names.fold(user) for user in (self.name, *self.users)}
        return bool(mine & {names.fold(user) for user in users})


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """How policies are generated."""

    enabled: bool = True
    #: generations at a time, over all servers of the registry
    concurrency: int = 1
    #: after this many tries that ended without a result, a generation has failed
    attempts: int = 3
    #: seconds until a generation is given up
    timeout: float = 1800.0
    #: seconds without a sign of life after which another worker takes over
    lease: float = 60.0
    #: the most memory of the generator's own process, in bytes
    memory: int = 16 << 30
    #: the largest model that is looked at, in bytes
    model_size: int = 64 << 30
    #: ``module:function``, called as `modelarmor.generate.pipeline.generate` is
    generator: str = "modelarmor.generate.pipeline:generate"


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustnessDemand:
    """What some models have to bear of crafted inputs (`modelarmor.redteam.demand.Demand`)."""

    models: tuple[str, ...]
    #: a file of labelled inputs, absolute
    data: Path
    epsilon: float
    least_accuracy: float
    samples: int = 200


_DEFAULT_PROTECTION = Protection(aliases=("champion", "production"), stages=("Production",))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The whole configuration."""

    protected: tuple[Protection, ...] = (_DEFAULT_PROTECTION,)
    #: under these names a version comes only as a copy, or by a rename, of an approved one
    trusted_names: tuple[str, ...] = ()
    reviewers: tuple[Reviewer, ...] = ()
    #: how many reviewers, the author not counted, must approve
    quorum: int = 1
    #: findings of this severity and worse need a waiver each
    refuse_findings: Severity = "high"
    #: the longest that an approval or a waiver holds, in days
    approval_days: int = 365
    #: how far a reviewer's clock may be off, in seconds
    clock_skew: float = 300.0
    #: where to review, with ``{model}`` and ``{version}``; told to whoever is refused
    review_url: str = ""
    worker: Worker = field(default_factory=Worker)
    #: the first that names a model holds for it
    robustness: tuple[RobustnessDemand, ...] = ()
    #: where this was read; None: the defaults
    source: Path | None = field(default=None, compare=False)

    @property
    def default_days(self) -> int:
        """How long an approval holds that says nothing else, in days."""
        return min(DAYS, self.approval_days)

    def protects_alias(self, model: str, alias: str) -> bool:
        """Whether `alias` of `model` needs an approval."""
        return any(
            names.matches(model, item.models) and names.matches(alias, item.aliases)
            for item in self.protected
        )

    def protects_stage(self, model: str, stage: str) -> bool:
        """Whether `stage` of `model` needs an approval."""
        return any(
            names.matches(model, item.models) and names.matches(stage, item.stages)
            for item in self.protected
        )

    def review_page(self, model: str, version: int) -> str:
        """Where a version is reviewed; a model's name says nothing else of the address."""
        return self.review_url.format(model=quote(model, safe=""), version=version)

    def robustness_of(self, model: str) -> RobustnessDemand | None:
        """What `model` has to bear of crafted inputs, where anything is demanded."""
        return next((item for item in self.robustness if names.matches(model, item.models)), None)

    def trusts_name(self, model: str) -> bool:
        """Whether every version of `model` counts as promoted."""
        return names.matches(model, self.trusted_names)

    @cached_property
    def by_key(self) -> Mapping[str, tuple[Reviewer, TrustedKey]]:
        """Who signs with which key, by the key's identifier."""
        return {
            trusted.key.identifier: (reviewer, trusted)
            for reviewer in self.reviewers
            for trusted in reviewer.keys
        }

    def is_severe(self, severity: Severity) -> bool:
        """Whether a finding of `severity` needs a waiver."""
        return SEVERITIES.index(severity) <= SEVERITIES.index(self.refuse_findings)


def path() -> Path:
    """Where the configuration is, or would be."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "modelarmor" / "registry.yaml"


def load(file: Path | None = None) -> Settings:
    """Read the configuration.

    Args:
        file: instead of `path`; a file that is named, here or in the environment, must exist.

    Raises:
        SettingsError: it cannot be read, or says what cannot be meant.
    """
    place = file or path()
    if file is None and VARIABLE not in os.environ and not place.exists():
        return Settings()
    try:
        return _Reader(place).settings()
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(f"{place}: {error}") from None


class Current:
    """The configuration as it is now: read again when it or a key's file that it names has changed.

    A key that is withdrawn counts no more from that moment, without a restart.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._seen: tuple[object, ...] | None = None
        self._settings = Settings()

    def get(self) -> Settings:
        """The settings; raises `SettingsError` while the file is wrong."""
        state = self._state()
        if state != self._seen:
            self._settings = load(self._file)
            self._seen = state
        return self._settings

    def _state(self) -> tuple[object, ...]:
        """What tells that one of the files has changed.

        Taken before they are read, so that no change is lost: what a new configuration names is
        in the next one, which differs, and is read once more.
        """
        named = [item.file for who in self._settings.reviewers for item in who.keys if item.file]
        return tuple(map(_identity, (self._file or path(), *named)))


def _identity(file: Path) -> tuple[object, ...]:
    try:
        status = file.stat()
    except OSError as error:
        return (file, error.errno)
    return (file, status.st_mtime_ns, status.st_size, status.st_ino)


class _Reader:
    """The file, checked field by field."""

    def __init__(self, file: Path) -> None:
        self._file = file
        read = _yaml.read(file)
        self._data = self._mapping("document", {} if read is None else read, _FIELDS)

    def settings(self) -> Settings:
        data = self._data
        given: dict[str, Any] = {}
        if "protected" in data:
            given["protected"] = tuple(
                self._protection(f"protected[{index}]", item)
                for index, item in enumerate(self._list("protected", data["protected"]))
            )
        if "trusted_names" in data:
            given["trusted_names"] = self._texts("trusted_names", data["trusted_names"])
        if "refuse_findings" in data:
            given["refuse_findings"] = self._severity(data["refuse_findings"])
        for key, most in (("quorum", _MAX_REVIEWERS), ("approval_days", 36500)):
            if key in data:
                given[key] = self._number(key, data[key], 1, most, whole=True)
        if "clock_skew" in data:
            given["clock_skew"] = self._number("clock_skew", data["clock_skew"], 0, 86400)
        if "review_url" in data:
            given["review_url"] = self._review_url(data["review_url"])
        if "robustness" in data:
            given["robustness"] = tuple(
                self._robustness(f"robustness[{index}]", item)
                for index, item in enumerate(self._list("robustness", data["robustness"]))
            )
        given["reviewers"] = self._reviewers(data.get("reviewers", {}))
        given["worker"] = self._worker(data.get("worker", {}))
        settings = Settings(**given, source=self._file)
        self._check_keys(settings)
        return settings

    def _protection(self, where: str, value: Any) -> Protection:
        item = self._mapping(where, value, ("models", "aliases", "stages"))
        return Protection(
            models=self._texts(f"{where}.models", item.get("models", ["*"])),
            aliases=self._texts(f"{where}.aliases", item.get("aliases", [])),
            stages=self._texts(f"{where}.stages", item.get("stages", [])),
        )

    def _robustness(self, where: str, value: Any) -> RobustnessDemand:
        known = ("models", "data", "epsilon", "least_accuracy", "samples")
        item = self._mapping(where, value, known)
        for key in ("data", "epsilon", "least_accuracy"):
            if key not in item:
                raise self._wrong(f"{where}: {key} is missing")
        return RobustnessDemand(
            models=self._texts(f"{where}.models", item.get("models", ["*"])),
            data=self._file.parent.absolute() / self._text(f"{where}.data", item["data"]),
            epsilon=self._number(f"{where}.epsilon", item["epsilon"], 1e-6, 1),
            least_accuracy=self._number(f"{where}.least_accuracy", item["least_accuracy"], 0, 1),
            samples=int(
                self._number(f"{where}.samples", item.get("samples", 200), 1, 100_000, whole=True)
            ),
        )

    def _reviewers(self, value: Any) -> tuple[Reviewer, ...]:
        reviewers = self._mapping("reviewers", value)
        if len(reviewers) > _MAX_REVIEWERS:
            raise self._wrong(f"reviewers: more than {_MAX_REVIEWERS}")
        found = tuple(self._reviewer(name, item) for name, item in reviewers.items())
        # Two spellings of one name would be two people of a quorum.
        if len({names.fold(reviewer.name) for reviewer in found}) < len(found):
            raise self._wrong("reviewers: two names differ only in case or accents")
        return found

    def _reviewer(self, name: Any, value: Any) -> Reviewer:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise self._wrong(f"reviewers: {_yaml.show(name)} should be a name like ada@example")
        where = f"reviewers.{name}"
        item = self._mapping(where, value, ("keys", "users"))
        return Reviewer(
            name=name,
            users=self._texts(f"{where}.users", item.get("users", [])),
            keys=tuple(
                self._key(f"{where}.keys[{index}]", entry)
                for index, entry in enumerate(self._list(f"{where}.keys", item.get("keys", [])))
            ),
        )

    def _key(self, where: str, value: Any) -> TrustedKey:
        item = self._mapping(where, value, ("key", "file", "expires"))
        if ("key" in item) == ("file" in item):
            raise self._wrong(f"{where}: give either key (the PEM text) or file")
        file = None
        try:
            if "key" in item:
                key = keys.PublicKey.from_pem(self._text(f"{where}.key", item["key"]))
            else:
                file = self._file.parent / self._text(f"{where}.file", item["file"])
                key = keys.PublicKey.from_file(file)
        except keys.KeyFileError as error:
            raise self._wrong(f"{where}: {error}") from None
        expires = self._moment(f"{where}.expires", item.get("expires"))
        return TrustedKey(key=key, expires=expires, file=file)

    def _check_keys(self, settings: Settings) -> None:
        every = [item.key.identifier for who in settings.reviewers for item in who.keys]
        for identifier in every:
            if every.count(identifier) > 1:
                raise self._wrong(f"reviewers: the key {identifier[:16]}… is named twice; one key"
                                  " is one person's")  # fmt: skip

    def _worker(self, value: Any) -> Worker:
        item = self._mapping("worker", value, _WORKER_FIELDS)
        given: dict[str, Any] = {}
        if "enabled" in item:
            if not isinstance(item["enabled"], bool):
                raise self._wrong("worker.enabled: should be true or false")
            given["enabled"] = item["enabled"]
        for key in ("concurrency", "attempts"):
            if key in item:
                given[key] = self._number(f"worker.{key}", item[key], 1, 100, whole=True)
        for key, (name, factor, least) in _WORKER_AMOUNTS.items():
            if key in item:
                amount = self._number(f"worker.{key}", item[key], least, 1e6) * factor
                given[name] = amount if name in ("timeout", "lease") else int(amount)
        if "generator" in item:
            given["generator"] = self._text("worker.generator", item["generator"])
            if not re.fullmatch(r"[\w.]+:\w+", given["generator"]):
                raise self._wrong("worker.generator: should be module:function")
        return Worker(**given)

    def _severity(self, value: Any) -> Severity:
        for severity in SEVERITIES:
            if value == severity:
                return severity
        raise self._wrong(f"refuse_findings: should be one of {', '.join(SEVERITIES)}")

    def _review_url(self, value: Any) -> str:
        url = self._text("review_url", value)
        try:
            url.format(model="m", version="1")
        except (LookupError, ValueError, AttributeError):
            raise self._wrong("review_url: only {model} and {version} are filled in") from None
        return url

    def _moment(self, where: str, value: Any) -> float | None:
        if value is None:
            return None
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, date):
            return datetime.combine(value, time(), UTC).timestamp()
        raise self._wrong(f"{where}: should be a date such as 2027-01-31")

    def _number(
        self, where: str, value: Any, least: float, most: float, *, whole: bool = False
    ) -> float:
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            raise self._wrong(f"{where}: should be a number from {least:g} to {most:g}")
        return value

    def _texts(self, where: str, value: Any) -> tuple[str, ...]:
        return tuple(self._text(where, item) for item in self._list(where, value))

    def _text(self, where: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(f"{where}: {_yaml.show(value)} should be a text; quote it")
        return value

    def _list(self, where: str, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise self._wrong(f"{where}: should be a list")
        return value

    def _mapping(
        self, where: str, value: Any, fields: tuple[str, ...] | None = None
    ) -> Mapping[Any, Any]:
        if not isinstance(value, dict):
            raise self._wrong(f"{where}: should be a mapping")
        for key in _yaml.unknown(value, value if fields is None else fields):
            raise self._wrong(f"{where}: {key} is no field here; known: {', '.join(fields or ())}")
        return value

    def _wrong(self, what: str) -> SettingsError:
        return SettingsError(f"{self._file}: {what}")


_FIELDS = (
    "protected", "trusted_names", "reviewers", "quorum", "refuse_findings", "approval_days",
    "clock_skew", "review_url", "robustness", "worker",
)  # fmt: skip
#: in the file: the field of `Worker`, what one unit is, and the least that lets anything come to an
#: end: a worker gives a sign of life every two seconds, and Python does not start in less memory
_WORKER_AMOUNTS: Final = {
    "timeout_minutes": ("timeout", 60.0, 0.01),
    "lease_seconds": ("lease", 1.0, 4),
    "memory_gib": ("memory", float(1 << 30), 0.1),
    "model_size_gib": ("model_size", float(1 << 30), 1e-6),
}
_WORKER_FIELDS = ("enabled", "concurrency", "attempts", "generator", *_WORKER_AMOUNTS)
