"""`modelarmor keys`, `approve`, `reject`, `revoke`, `sign`, `audit` and `registry`.

MLflow and SQLAlchemy are imported by the commands that talk to a registry, and only when they run.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from modelarmor.replacing import replacing

from . import keys, settings, statements, trust
from .serving import commands as serving

if TYPE_CHECKING:
    from . import records
    from .deciding import Case

_REVIEW_EXAMPLES = """\
examples:
  modelarmor approve models:/fraud/3 --reason "scanned and read, loads only numpy"
  modelarmor approve models:/fraud/3 --reason "…" \\
      --waive "9f86d081884c7d65=the global is numpy's own@2027-01-31"
  modelarmor revoke models:/fraud/3 --reason "the training data was poisoned"

The statement is signed here, and is about the bytes, the policy and the evidence that are shown.
Exit status: 0 when it is recorded, 2 when it is not.
"""

#: seconds between two looks at a policy that is being made
_INTERVAL = 1.0

_Subparsers = argparse._SubParsersAction


def add_parsers(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    """Add the commands of this room to the command line."""
    _add_keys(subparsers)
    for decision, what in (
        ("approve", "sign that a model version may be promoted"),
        ("reject", "sign that a model version may not be promoted"),
        ("revoke", "take back the approvals of a model version"),
    ):
        _add_decision(subparsers, decision, what)
    _add_sign(subparsers)
    _add_audit(subparsers)
    _add_registry(subparsers)
    serving.add_parsers(subparsers)


# --- keys


def _add_keys(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "keys",
        help="make and trust reviewers' keys",
        description="Reviewers' keys. Each reviewer makes one; the registry's operator trusts its"
        " public half.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    new = commands.add_parser("new", help="make a key pair of your own")
    new.add_argument("name", metavar="NAME", help="who you are, as the registry will call you")
    new.add_argument("--directory", type=Path, metavar="DIR",
                     help="where the files go (default: ~/.config/modelarmor/keys)")  # fmt: skip
    new.add_argument("--no-passphrase", action="store_true",
                     help="leave the private key unencrypted, as for a machine")  # fmt: skip
    new.set_defaults(run=_new_key)
    shown = commands.add_parser("list", help="list your keys, and those that the registry trusts")
    shown.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    shown.set_defaults(run=_list_keys)
    add = commands.add_parser("trust", help="let a reviewer approve (on the registry's server)")
    add.add_argument("file", type=Path, metavar="FILE", help="the public key, NAME.pub")
    add.add_argument("--reviewer", metavar="NAME", help="whose it is (default: the file's name)")
    add.add_argument("--user", metavar="NAME", action="append", default=[],
                     help="what MLflow calls this person, so that nobody approves what they made"
                     " themselves; may be repeated")  # fmt: skip
    add.add_argument("--expires", type=_day, metavar="DATE",
                     help="from then on nothing that it signs counts: 2027-01-31")  # fmt: skip
    add.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    add.set_defaults(run=_trust_key)
    drop = commands.add_parser("distrust", help="let a key count no more, and what it signed")
    drop.add_argument("key", metavar="KEY", help="its identifier (see `keys list`), or its file")
    drop.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    drop.set_defaults(run=_distrust_key)


_CONFIG = "the registry's configuration (default: $MODELARMOR_REGISTRY_CONFIG, or" \
    " ~/.config/modelarmor/registry.yaml)"  # fmt: skip


def _new_key(arguments: argparse.Namespace) -> int:
    passphrase = None
    if not arguments.no_passphrase:
        passphrase = _passphrase("Passphrase for the new key: ", confirm=True)
        if not passphrase:
            raise keys.KeyFileError("an empty passphrase protects nothing; --no-passphrase says so")
    secret, public = keys.new(arguments.name, passphrase=passphrase, place=arguments.directory)
    print(f"{secret}  keep it to yourself")
    print(f"{public}  for the registry's operator: modelarmor keys trust {public}")
    return 0


def _list_keys(arguments: argparse.Namespace) -> int:
    for file in keys.own():
        public = file.with_suffix(".pub")
        identifier = keys.PublicKey.from_file(public).identifier if public.exists() else "?"
        print(f"own      {identifier[:16]}  {file}")
    current = settings.load(arguments.config)
    now = datetime.now(UTC).timestamp()
    for reviewer in current.reviewers:
        for item in reviewer.keys:
            until = "no end" if item.expires is None else f"until {_date(item.expires)}"
            gone = "  EXPIRED" if item.expires is not None and item.expires <= now else ""
            print(f"trusted  {item.key.identifier[:16]}  {reviewer.name}  {until}{gone}")
    if not current.reviewers:
        print(f"nobody is trusted to approve ({current.source or 'there is no configuration'})")
    return 0


def _trust_key(arguments: argparse.Namespace) -> int:
    key = keys.PublicKey.from_file(arguments.file)
    reviewer = arguments.reviewer or arguments.file.stem
    file = arguments.config or settings.path()
    trust.add(file, reviewer, key, users=arguments.user, expires=arguments.expires)
    print(f"{file}: {reviewer} may approve with key {key.identifier[:16]}")
    return 0


def _distrust_key(arguments: argparse.Namespace) -> int:
    named = arguments.key
    if Path(named).is_file():
        named = keys.PublicKey.from_file(Path(named)).identifier
    file = arguments.config or settings.path()
    for reviewer in trust.remove(file, named):
        print(f"{file}: what {reviewer} signed with key {named[:16]} counts no more")
    return 0


# --- approve, reject, revoke


def _add_decision(
    subparsers: _Subparsers[argparse.ArgumentParser], decision: str, what: str
) -> None:
    parser = subparsers.add_parser(
        decision,
        help=what,
        description=what.capitalize() + ". Shows what is decided on, signs it with your key and"
        " sends it to the registry.",
        epilog=_REVIEW_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="models:/NAME/VERSION or models:/NAME@ALIAS")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why; it is recorded")
    if decision == "approve":
        parser.add_argument("--waive", action="append", default=[], metavar="FINDING=REASON[@DATE]",
                            help="accept one finding, by its fingerprint, until a date (default:"
                            " as long as the approval); may be repeated")  # fmt: skip
        parser.add_argument("--name", action="append", default=[], metavar="NAME",
                            help="approve the same bytes as another registered model too, as for a"
                            " copy or a rename; may be repeated")  # fmt: skip
        parser.add_argument("--expires", type=_day, metavar="DATE",
                            help=f"until when it holds (default: {settings.DAYS} days, or what"
                            " the registry allows where that is less)")  # fmt: skip
        parser.add_argument("--against", metavar="MODEL",
                            help="show what differs from this version")  # fmt: skip
    _add_key(parser)
    parser.add_argument("--tracking-uri", metavar="URI",
                        help="the MLflow server (default: $MLFLOW_TRACKING_URI)")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="do not show the review")
    parser.add_argument("--no-wait", action="store_true",
                        help="do not wait for a policy that is being made")  # fmt: skip
    parser.set_defaults(run=_decide, decision=decision)


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", type=Path, metavar="FILE",
                        help="your private key (default: the one in"
                        " ~/.config/modelarmor/keys)")  # fmt: skip
    parser.add_argument("--reviewer", metavar="NAME",
                        help="who you are (default: the key's file name)")  # fmt: skip


def _decide(arguments: argparse.Namespace) -> int:
    from . import deciding

    file = arguments.key or _only_key()
    with mlflow_errors():
        case = _open(arguments)
        against = getattr(arguments, "against", None)
        if not arguments.quiet:
            sys.stdout.write(case.text(against, colour=sys.stdout.isatty()))
        wanted = deciding.Wanted(
            decision=arguments.decision,
            reviewer=arguments.reviewer or file.stem,
            reason=arguments.reason,
            names=tuple(getattr(arguments, "name", ())),
            waivers=tuple(map(deciding.waiver, getattr(arguments, "waive", ()))),
            expires=getattr(arguments, "expires", None),
        )
        identifier = case.submit(wanted, _signer(file))
        standing = case.standing()
    print(f"{arguments.decision}: {case.subject.uri}, recorded as {identifier}")
    print(f"{case.subject.uri} is now {standing}")
    return 0


def _open(arguments: argparse.Namespace) -> Case:
    """What is to be decided on, once its policy is made."""
    from modelarmor.generate.commands import Progress

    from . import deciding

    with Progress(sys.stderr) as progress:
        while True:
            try:
                return deciding.Case.open(arguments.model, arguments.tracking_uri)
            except deciding.StillGeneratingError as pending:
                if arguments.no_wait:
                    raise
                progress(str(pending))
                time.sleep(_INTERVAL)


def _add_sign(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "sign",
        help="sign a decision that a review page prepared",
        description="Sign a statement that the registry's review page prepared within the last"
        " hour, and print it as the page wants it. What it says goes to standard error, and you are"
        " asked before it is signed. The evidence is not looked at here; `modelarmor approve` does"
        " that too, and needs no page.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the statement")
    _add_key(parser)
    parser.add_argument("--yes", action="store_true", help="sign without asking, as in a script")
    parser.set_defaults(run=_sign)


def _sign(arguments: argparse.Namespace) -> int:
    from . import deciding

    file = arguments.key or _only_key()
    reviewer = arguments.reviewer or file.stem
    with arguments.file.open("rb") as stream:
        prepared = statements.Statement.from_payload(stream.read(statements.MAX_ENVELOPE))
    if prepared.reviewer != reviewer:
        raise ValueError(f"the statement is {prepared.reviewer!r:.80}'s, you are {reviewer}")
    deciding.check_prepared(prepared, time.time())
    sys.stderr.write("".join(f"{line}\n" for line in deciding.told(prepared)))
    if not arguments.yes:
        _ask(f"Sign this as {reviewer}? [y/N] ")
    # The registry takes what was signed a few minutes ago at most, however long the page was open.
    print(statements.sign(replace(prepared, time=int(time.time())), _signer(file)))
    return 0


def _ask(question: str) -> None:
    """Go on only where somebody at the terminal says so."""
    if not sys.stdin.isatty():
        raise ValueError("nothing was signed: nobody can be asked here; --yes signs all the same")
    sys.stderr.write(question)
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ValueError("nothing was signed")


def _only_key() -> Path:
    found = keys.own()
    if len(found) != 1:
        raise keys.KeyFileError(
            f"there are {len(found)} keys in {keys.directory()}; name one with --key"
            if found
            else f"there is no key in {keys.directory()}; make one: modelarmor keys new NAME"
        )
    return found[0]


def _signer(file: Path) -> Any:
    try:
        return keys.signer(file, os.environ.get(keys.PASSPHRASE_VARIABLE))
    except keys.NeedsPassphrase:
        return keys.signer(file, _passphrase(f"Passphrase for {file}: ", confirm=False))


def _passphrase(prompt: str, *, confirm: bool) -> str:
    if given := os.environ.get(keys.PASSPHRASE_VARIABLE):
        return given
    try:
        answer = getpass.getpass(prompt)
        if confirm and getpass.getpass("Once more: ") != answer:
            raise keys.KeyFileError("the two passphrases differ")
    except EOFError:
        raise keys.NeedsPassphrase(
            f"nobody can be asked for a passphrase; set ${keys.PASSPHRASE_VARIABLE}"
        ) from None
    return answer


# --- audit


def _add_audit(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "audit",
        help="export and verify the record of approvals and promotions",
        description="The record of what was generated, decided and promoted: each line is chained"
        " to the one before it, and decisions are signed.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    export = commands.add_parser("export", help="write the record as JSON lines")
    _add_database(export)
    export.add_argument("--output", "-o", type=Path, metavar="FILE", help="(default: stdout)")
    export.set_defaults(run=_export)
    check = commands.add_parser(
        "verify",
        help="check the chain and the signatures",
        description="Check the record in the database, or one that was exported. Exit status: 0"
        " when every line is as it was written and signed by a key that is trusted, else 1.",
    )
    check.add_argument("file", nargs="?", type=Path, metavar="FILE", help="an exported record")
    check.add_argument("--earlier", type=Path, metavar="FILE",
                       help="an export made before: nothing of it may be missing now")  # fmt: skip
    check.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    _add_database(check)
    check.set_defaults(run=_verify)


def _export(arguments: argparse.Namespace) -> int:
    with mlflow_errors(), _record(arguments) as lines:
        if arguments.output is None:
            return _write(lines, sys.stdout)
        with replacing(arguments.output) as file, file.open("w", encoding="utf-8") as stream:
            _write(lines, stream)
    return 0


def _write(lines: Iterator[records.Record], stream: TextIO) -> int:
    from . import records

    for record in lines:
        stream.write(records.dumps(record) + "\n")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from . import records

    current = settings.load(arguments.config)
    count, doubts = 0, []
    try:
        with mlflow_errors(), _either(arguments) as lines:
            for record in lines:
                count += 1
                if doubt := records.check_decision(record, current):
                    doubts.append(doubt)
        if arguments.earlier is not None:
            with _either(arguments) as lines, arguments.earlier.open(encoding="utf-8") as before:
                records.compare(lines, records.load(before))
    except records.ChainError as error:
        print(f"the record was tampered with: {error}")
        return 1
    for doubt in doubts:
        print(doubt)
    print(f"{count} records, chained without a gap; {len(doubts)} decisions that count no more")
    return 1 if doubts else 0


@contextmanager
def _either(arguments: argparse.Namespace) -> Iterator[Iterator[records.Record]]:
    from . import records

    if arguments.file is None:
        with _record(arguments) as lines:
            yield lines
    else:
        with arguments.file.open(encoding="utf-8") as stream:
            yield records.load(stream)


@contextmanager
def _record(arguments: argparse.Namespace) -> Iterator[Iterator[records.Record]]:
    from sqlalchemy.orm import Session

    from . import records

    # A session of MLflow's would turn what is wrong with the record into an error of its own.
    with Session(_store(arguments).engine) as session:
        yield records.every(session)


# --- registry


def _add_registry(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "registry",
        help="look at a whole registry",
        description="Commands for the operator of a registry, run where its database and its"
        " artifacts are.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    scan = commands.add_parser(
        "scan",
        help="generate a policy for every version that has none",
        description="Put every version that has no policy in the queue, and show how the servers'"
        " workers get on. It may be ended and started again.",
    )
    _add_database(scan)
    scan.add_argument("--models", action="append", default=[], metavar="PATTERN",
                      help="only these registered models; may be repeated")  # fmt: skip
    scan.add_argument("--retry", action="store_true", help="those that failed as well")
    scan.add_argument("--no-wait", action="store_true", help="queue them, and return")
    scan.add_argument("--work", action="store_true",
                      help="generate here too, as where no server is running")  # fmt: skip
    scan.set_defaults(run=_scan)
    report = commands.add_parser(
        "report",
        help="what is promoted without a valid approval",
        description="Check each version that has a protected alias, stage or name: its bytes, its"
        " policy, its approvals and the record. Exit status: 0 when all are as approved, else 1.",
    )
    _add_database(report)
    report.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    report.add_argument(
        "--format", choices=("text", "json"), default="text", help="(default: text)"
    )
    report.set_defaults(run=_report)
    worker = commands.add_parser("worker", help="generate policies, without a server")
    _add_database(worker)
    worker.set_defaults(run=_work)


def _add_database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--registry-store-uri", metavar="URI",
                        help="as for mlflow server: modelarmor: and the database (default:"
                        " $MLFLOW_REGISTRY_URI)")  # fmt: skip
    parser.add_argument("--backend-store-uri", metavar="URI",
                        help="as for mlflow server (default: the registry's database)")  # fmt: skip
    parser.add_argument("--artifacts-destination", metavar="URI",
                        help="as for mlflow server: where its artifacts are (default:"
                        " ./mlartifacts)")  # fmt: skip


def _store(arguments: argparse.Namespace) -> Any:
    from . import registry

    uri = arguments.registry_store_uri or os.environ.get("MLFLOW_REGISTRY_URI")
    if not uri:
        raise ValueError("name the registry: --registry-store-uri modelarmor:sqlite:///mlflow.db")
    return registry.open_store(uri, arguments.backend_store_uri, arguments.artifacts_destination)


def _scan(arguments: argparse.Namespace) -> int:
    from modelarmor.generate.commands import Progress

    from . import registry

    with mlflow_errors():
        store = _store(arguments)
        with Progress(sys.stderr) as progress:
            queued = registry.enqueue(
                store, arguments.models or ["*"], progress, retry=arguments.retry
            )
        print(f"{queued} versions queued")
        if arguments.no_wait:
            return 0
        failed = registry.follow(store, _tell(sys.stderr), work=arguments.work)
    print(f"done; {failed} failed" if failed else "done")
    return 1 if failed else 0


def _report(arguments: argparse.Namespace) -> int:
    from modelarmor.generate.commands import Progress

    from . import registry

    with mlflow_errors(), Progress(sys.stderr) as progress:
        lines = registry.report(_store(arguments), settings.load(arguments.config), progress)
    if arguments.format == "json":
        print(json.dumps([line.to_json() for line in lines], indent=2))
    else:
        for line in lines:
            print(line)
    wrong = sum(bool(line.problems) for line in lines)
    if arguments.format == "text":
        print(f"{len(lines)} promoted, {wrong} not as approved")
    return 1 if wrong else 0


def _work(arguments: argparse.Namespace) -> int:
    from .worker import Worker

    with mlflow_errors():
        Worker(_store(arguments)).run()
    return 0


def _tell(stream: TextIO) -> Callable[[str], None]:
    def tell(text: str) -> None:
        print(text, file=stream, flush=True)

    return tell


# --- small things


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """MLflow's errors are the user's to read, without a traceback."""
    # a server that is not there is said soon, not after some minutes of silence
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    try:
        import mlflow
        from mlflow.exceptions import MlflowException

        from modelarmor.generate.artifact.inspection import public
    except ImportError:
        raise ValueError("MLflow is missing: pip install 'modelarmor[mlflow]'") from None
    try:
        yield
    except MlflowException as error:
        asked = public(mlflow.get_registry_uri())
        said = str(error)
        raise ValueError(said if asked in said else f"{said} (the registry is {asked})") from None


def _day(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} should be a date such as 2027-01-31") from None


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
