"""`modelarmor sign`: what a page prepared, signed on the reviewer's machine."""

import io
import json
import time
from dataclasses import replace

import pytest
from modelarmor_mlflow import settings, statements
from modelarmor_mlflow.settings import TrustedKey
from modelarmor_mlflow.statements import Statement, Subject, Waiver

from modelarmor import cli
from tests.mlflow.support import Reviewer

DIGEST = "sha256:" + 64 * "0"
SUBJECT = Subject(
    registry="r", workspace="default", model="m\x1b[2J\u202e", version=1, created=1,
    artifact=DIGEST, policy=DIGEST, evidence=DIGEST,
)  # fmt: skip


@pytest.fixture
def ada(tmp_path):
    return Reviewer(tmp_path, "ada")


class Terminal(io.StringIO):
    """Somebody who answers."""

    def isatty(self):
        return True


def prepared(tmp_path, *, payload=None, ago=1200, **changes):
    before = int(time.time()) - ago
    told = Statement(
        decision="approve", subject=SUBJECT, reviewer="ada", reason="read it", time=before,
        expires=before + 9 * 86400, names=("other",),
        waivers=(Waiver(finding=16 * "a", reason="known", expires=before + 86400 * 5),),
    )  # fmt: skip
    file = tmp_path / "statement.json"
    file.write_bytes(replace(told, **changes).payload() if payload is None else payload)
    return told, file


def sign(file, reviewer, capsys, *more, ask=False):
    options = ["--key", str(reviewer.secret), *more, *([] if ask else ["--yes"])]
    status = cli.main(["sign", str(file), *options])
    return status, *capsys.readouterr()


def test_it_says_what_it_signs_and_signs_it_as_of_now(ada, tmp_path, capsys):
    told, file = prepared(tmp_path)
    status, envelope, shown = sign(file, ada, capsys)
    assert status == 0
    current = settings.Settings(
        reviewers=(settings.Reviewer(name="ada", keys=(TrustedKey(key=ada.key),)),)
    )
    signed = statements.verify(envelope.strip(), current).statement
    assert abs(signed.time - time.time()) < 100
    assert signed.subject == told.subject and signed.expires == told.expires
    assert signed.waivers == told.waivers and signed.names == told.names
    for text in ("approve", DIGEST, "read it", 16 * "a", "known", "other", r"m\x1b[2J\u202e"):
        assert text in shown
    assert "\x1b" not in shown and "\u202e" not in shown


def test_it_asks_before_it_signs(ada, tmp_path, capsys, monkeypatch):
    _, file = prepared(tmp_path)
    for answer, signed in (
        ("y\n", True),
        ("Yes\n", True),
        ("n\n", False),
        ("\n", False),
        ("", False),
    ):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        status, envelope, shown = sign(file, ada, capsys, ask=True)
        assert (status == 0, envelope != "") == (signed, signed), answer
        for text in ("approve", DIGEST, "read it", "Sign this as ada?"):
            assert text in shown
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    status, envelope, shown = sign(file, ada, capsys, ask=True)
    assert (status, envelope) == (2, "")
    assert "--yes" in shown


def test_what_was_prepared_at_another_time_is_not_signed(ada, tmp_path, capsys):
    ended = int(time.time()) - 10
    for changes, told in (
        ({"ago": 7200}, "s ago"),
        ({"ago": -3000}, "in the future"),
        ({"expires": ended}, "ended on"),
    ):
        _, file = prepared(tmp_path, **changes)
        status, envelope, error = sign(file, ada, capsys)
        assert (status, envelope) == (2, "")
        assert told in error


def test_what_is_somebody_elses_or_no_statement_is_not_signed(ada, tmp_path, capsys):
    _, file = prepared(tmp_path)
    status, envelope, error = sign(file, ada, capsys, "--reviewer", "bob")
    assert (status, envelope) == (2, "")
    assert "you are bob" in error
    for payload in (b"", b"{}", b"\xff", json.dumps({"_type": "x"}).encode(), b"[" * 100_000):
        _, file = prepared(tmp_path, payload=payload)
        status, envelope, error = sign(file, ada, capsys)
        assert (status, envelope) == (2, "")
        assert "Traceback" not in error
