"""``modelarmor serve`` and ``modelarmor guard``."""

from __future__ import annotations

import argparse
import io
import json
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, redirect_stderr
from dataclasses import replace
from functools import cache, partial
from logging import makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from modelarmor.alerts import Alert
from modelarmor.options import real, whole
from modelarmor.replacing import replacing

if TYPE_CHECKING:
    from modelarmor_mlflow.serving.server import Server
    from modelarmor_mlflow.serving.source import Subject

#: exit status of what could not be confined, as container runtimes have it
_CANNOT_CONFINE: Final = 125
#: bytes of lines in a file; as many that are older lie beside it
_LARGEST_FILE: Final = 64 << 20

_SERVE_EXAMPLES: Final = """\
examples:
  modelarmor serve -m models:/iris@champion        an approved version, under its policy
  modelarmor serve -m ./model --unreviewed         any model, under a policy that is made now
  modelarmor serve -m models:/iris/3 --env-manager virtualenv
                                                   in an environment with what it asks for
  modelarmor serve -m models:/iris/3 --audit --alerts alerts.jsonl
                                                   refuse nothing, report everything
  modelarmor serve -m models:/iris/3 --guard guard.yaml --admin-port 9100
                                                   limit what clients may ask; metrics beside it

It answers /ping, /version and /invocations as `mlflow models serve` does. Ctrl-C ends it.

Exit status: 0 when it was ended, 1 when the model may not be served or did not start, 2 for a
mistake in the command line or a file, 125 when this machine cannot confine it.
"""
_GUARD_EXAMPLES: Final = """\
examples:
  modelarmor guard ./model                         the limits that the signature names
  modelarmor guard ./model --data train.csv -o guard.yaml
                                                   and the range of each number that was seen
  modelarmor serve -m ./model --unreviewed --guard guard.yaml
"""


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``serve`` and ``guard``; each sets ``run``, which takes the parsed arguments."""
    _add_serve(subparsers)
    _add_guard(subparsers)


def _add_serve(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="serve a model under its policy",
        description="Serve an MLflow model in the sandbox: found once, downloaded once, checked"
        " against its approval, and run under the policy that was approved. The options are those"
        " of `mlflow models serve`.",
        epilog=_SERVE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,  # -h is the host, as in `mlflow models serve`
    )
    parser.add_argument("--help", action="help", help="show this and exit")
    parser.add_argument("-m", "--model-uri", required=True, metavar="URI",
                        help="models:/NAME/VERSION, models:/NAME@ALIAS, or with --unreviewed a"
                        " directory or whatever else MLflow serves")  # fmt: skip
    parser.add_argument("-h", "--host", default="127.0.0.1", metavar="HOST",
                        help="address to listen on (default: %(default)s)")  # fmt: skip
    parser.add_argument("-p", "--port", type=whole(0, 65535), default=5000, metavar="PORT",
                        help="port to listen on; 0 takes a free one (default:"
                        " %(default)s)")  # fmt: skip
    parser.add_argument("-w", "--workers", type=whole(1, 10**6), default=1, metavar="N",
                        help="server processes (default: %(default)s)")  # fmt: skip
    parser.add_argument("-t", "--timeout", type=whole(1, 10**6), default=60, metavar="SECONDS",
                        help="for one request (default: %(default)s)")  # fmt: skip
    parser.add_argument("--env-manager", choices=("local", "virtualenv", "uv", "conda"),
                        default="local",
                        help="local: the environment that this command runs in, or that of"
                        " --python; virtualenv and uv: one with what the model asks for, built"
                        " confined and kept; conda is not run, and says so (default:"
                        " %(default)s)")  # fmt: skip
    parser.add_argument("--allow-source", action="store_true",
                        help="with virtualenv and uv: take source packages too; their code runs,"
                        " confined, when they are built")  # fmt: skip
    parser.add_argument("--python", type=Path, metavar="FILE",
                        help="the interpreter of an environment that has what the model needs"
                        " (default: this one)")  # fmt: skip
    parser.add_argument("--unreviewed", action="store_true",
                        help="serve what nobody has approved")  # fmt: skip
    parser.add_argument("--evidence", type=Path, metavar="FILE",
                        help="with --unreviewed: the evidence of `modelarmor generate`, instead of"
                        " making a policy now")  # fmt: skip
    parser.add_argument("--config", type=Path, metavar="FILE",
                        help="whose approvals count (default: $MODELARMOR_REGISTRY_CONFIG, or"
                        " ~/.config/modelarmor/registry.yaml)")  # fmt: skip
    parser.add_argument("--guard", type=Path, metavar="FILE",
                        help="limits on requests (see `modelarmor guard`); without it those of the"
                        " model's signature")  # fmt: skip
    parser.add_argument("--no-guard", action="store_true", help="let every request through")
    parser.add_argument("--audit", action="store_true",
                        help="refuse nothing that the policy names, report it; the network and the"
                        " limits of resources still hold")  # fmt: skip
    parser.add_argument("--alerts", metavar="FILE",
                        help="append each alert as a line of JSON, besides the lines on"
                        " stderr; at 64 MiB it becomes FILE.1, in place of the one"
                        " before")  # fmt: skip
    parser.add_argument("--log", type=Path, metavar="FILE",
                        help="append what is told on stderr there instead; at 64 MiB it becomes"
                        " FILE.1, in place of the one before")  # fmt: skip
    parser.add_argument("--admin-port", type=whole(0, 65535), metavar="PORT",
                        help="answer /alerts, /state and /metrics on this port of 127.0.0.1; 0"
                        " takes a free one")  # fmt: skip
    parser.add_argument("--admin-token", type=Path, metavar="FILE",
                        help="the token that clients of --admin-port send; without it one is made"
                        " and shown")  # fmt: skip
    parser.add_argument("--ready-file", type=Path, metavar="FILE",
                        help="write {url, admin} there once the model answers, as"
                        " JSON")  # fmt: skip
    parser.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    from modelarmor.sandbox import CannotConfine
    from modelarmor_mlflow.commands import mlflow_errors
    from modelarmor_mlflow.serving.server import ServeError

    try:
        with mlflow_errors(), ExitStack() as stack:
            if arguments.log is not None:
                stack.enter_context(_told_to(arguments.log))
            return _run(arguments, stack)
    except CannotConfine as error:
        _say(f"error: {error}")
        return _CANNOT_CONFINE
    except ServeError as error:
        _say(f"error: {error}")
        return 1


def _run(arguments: argparse.Namespace, stack: ExitStack) -> int:
    from modelarmor.generate.workload import filled
    from modelarmor_mlflow.serving import source
    from modelarmor_mlflow.serving.confined.modelarmor_guard import Limits
    from modelarmor_mlflow.serving.limits import from_signature, read
    from modelarmor_mlflow.serving.server import Server, Service

    python_of = _interpreter(arguments)
    token = _token(arguments.admin_token)
    limits = read(arguments.guard) if arguments.guard else Limits()
    subject = stack.enter_context(
        source.found(
            arguments.model_uri,
            unreviewed=arguments.unreviewed,
            evidence=arguments.evidence,
            config=arguments.config,
            progress=_say,
            prefix=lambda model: python_of(model).parent.parent,
        )
    )
    if not arguments.no_guard and not arguments.guard:
        limits = from_signature(subject.root)
    python = python_of(subject.root)
    server = stack.enter_context(
        Server(
            Service(
                name=subject.name,
                model=subject.root,
                python=python,
                host=arguments.host,
                port=arguments.port,
                workers=arguments.workers,
                timeout=arguments.timeout,
                limits=limits if not arguments.no_guard else replace(limits, action="audit"),
                audit=arguments.audit,
            ),
            lambda scratch: filled(
                subject.evidence, model=subject.root, prefix=python.parent.parent, tmp=scratch
            ),
            _say,
        )
    )
    stack.enter_context(_reported(server, subject, arguments.alerts))
    admin = ""
    if arguments.admin_port is not None:
        admin = stack.enter_context(
            _endpoint(
                server, subject, arguments.admin_port, token, shown=arguments.admin_token is None
            )
        )
    if arguments.ready_file is not None:
        threading.Thread(
            target=_tell_ready, args=(server, admin, arguments.ready_file), daemon=True
        ).start()
    _announce(subject, audit=arguments.audit)
    with _until_signalled(server):
        server.run()
    return 0


def _interpreter(arguments: argparse.Namespace) -> Callable[[Path], Path]:
    """Gives the interpreter that serves the model in a directory, built when it is first wanted."""
    manager, given = arguments.env_manager, arguments.python
    if manager != "local":
        if given is not None:
            raise ValueError(
                f"--python is an environment that is there, and --env-manager {manager} builds"
                " one; leave one of them out"
            )
        from modelarmor_mlflow.serving import environments

        environments.check(manager)
        return cache(
            partial(
                environments.built,
                manager=manager,
                progress=_say,
                allow_source=arguments.allow_source,
            )
        )
    if arguments.allow_source:
        raise ValueError(
            "--allow-source goes with --env-manager virtualenv or uv: nothing is built here"
        )
    file = Path(sys.executable) if given is None else given
    if not file.exists():
        raise ValueError(f"--python {file}: there is no such file")
    # not resolved: a virtual environment's is a link
    return lambda model: Path.cwd() / file


def _tell_ready(server: Server, admin: str, file: Path) -> None:
    server.ready.wait()
    with replacing(file) as unfinished:
        unfinished.write_text(json.dumps({"url": server.url, "admin": admin}))


def _announce(subject: Subject, *, audit: bool) -> None:
    evidence = subject.evidence
    who = f"approved by {', '.join(subject.approved_by)}" if subject.approved_by else "UNREVIEWED"
    _say(f"serving {subject.name} ({who})")
    _say(f"  files  {evidence.artifact.digest}")
    _say(f"  policy {evidence.policy_digest}{' (audit: nothing is refused)' if audit else ''}")


@contextmanager
def _reported(server: Server, subject: Subject, file: str | None) -> Iterator[None]:
    """Alerts as lines on stderr, and in a file; expected refusals only in the file."""
    from modelarmor.sandbox.commands import show_alert

    expected = _expected(server, subject)
    with ExitStack() as stack:
        lines = None
        if file is not None:
            lines = stack.enter_context(_lines_in(Path(file), "--alerts"))

        def tell(seq: int, alert: Alert) -> None:
            if lines is not None:
                lines(json.dumps(alert.to_json()))
            if not expected(alert):
                show_alert(alert)

        stack.callback(server.recorder.subscribe(tell))
        yield


@contextmanager
def _told_to(file: Path) -> Iterator[None]:
    """Have what goes to stderr written to a file."""
    with _lines_in(file, "--log") as write, redirect_stderr(_Lines(write)):
        yield


class _Lines(io.TextIOBase):
    """A stream of whole lines."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._rest = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._rest = f"{self._rest}{text}".split("\n")
            for line in lines:
                self._write(line)
        return len(text)


@contextmanager
def _lines_in(file: Path, option: str) -> Iterator[Callable[[str], object]]:
    """Appends lines to a file, which a model that is refused all day does not fill the disk with.

    Raises:
        ValueError: it cannot be written.
    """
    # What a link names (/dev/stderr) may be in other hands too, and is left where it is.
    most = 0 if file.is_symlink() else _LARGEST_FILE
    try:
        handler = RotatingFileHandler(file, maxBytes=most, backupCount=1, encoding="utf-8",
                                      errors="backslashreplace")  # fmt: skip
    except OSError as error:
        raise ValueError(f"{option} {file}: {error.strerror}") from None
    with closing(handler):
        yield lambda line: handler.handle(makeLogRecord({"msg": line}))


def _expected(server: Server, subject: Subject) -> Callable[[Alert], bool]:
    from modelarmor.generate.places import Places
    from modelarmor.generate.workload import is_expected

    places = Places.of(
        model=subject.root,
        prefix=server.service.python.parent.parent,
        tmp=server.scratch,
        home=Path.home(),
    )
    return lambda alert: is_expected(subject.evidence, alert, places)


@contextmanager
def _endpoint(
    server: Server, subject: Subject, port: int, token: str, *, shown: bool
) -> Iterator[str]:
    from modelarmor_mlflow.serving.endpoint import Endpoint

    evidence = subject.evidence
    facts = {
        "model": subject.name,
        "artifact": evidence.artifact.digest,
        "policy": evidence.policy_digest,
        "evidence": evidence.digest,
        "approved_by": list(subject.approved_by),
    }
    try:
        endpoint = Endpoint(server, "127.0.0.1", port, token, facts)
    except OSError as error:
        raise ValueError(f"--admin-port {port}: {error.strerror}") from None
    _say(f"alerts and metrics at {endpoint.url} (/alerts, /state, /metrics)")
    if shown:
        _say(f"  token {token}")
    try:
        yield endpoint.url
    finally:
        endpoint.close()


def _token(file: Path | None) -> str:
    if file is None:
        return secrets.token_urlsafe(24)
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--admin-token {file}: {error}") from None
    if len(token) < 16:
        raise ValueError(f"--admin-token {file}: a token has at least 16 characters")
    return token


@contextmanager
def _until_signalled(server: Server) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        server.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(f"modelarmor: {text}", file=sys.stderr, flush=True)


# --- guard


def _add_guard(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "guard",
        help="write the limits on what a served model may be asked",
        description="Write the limits that `modelarmor serve --guard` puts in front of a model:"
        " columns, types and shapes of its signature, and from data that you vouch for the range"
        " of each number, and how near inputs are to each other where somebody is probing.",
        epilog=_GUARD_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="DIR", help="an MLflow model's directory")
    parser.add_argument("--data", type=Path, metavar="FILE", help="known inputs: .csv or .parquet")
    parser.add_argument("--margin", type=real(0, 10), default=0.1, metavar="PART",
                        help="how far beyond the data a number may lie, as a part of the data's"
                        " span (default: %(default)s)")  # fmt: skip
    parser.add_argument("-o", "--output", metavar="FILE", help="(default: stdout)")
    parser.set_defaults(run=_guard)


def _guard(arguments: argparse.Namespace) -> int:
    from modelarmor.generate.commands import write
    from modelarmor_mlflow.serving import limits

    found: Any = limits.from_signature(arguments.model)
    if arguments.data is not None:
        found = limits.with_data(found, arguments.data, margin=arguments.margin)
    write(limits.write(found), arguments.output)
    return 0
