"""`modelarmor sign`: what a page prepared, signed on the reviewer's machine."""

import json
import time

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


def prepared(tmp_path, **changes):
    long_ago = int(time.time()) - 86400
    told = Statement(
        decision="approve", subject=SUBJECT, reviewer="ada", reason="read it", time=long_ago,
        expires=long_ago + 9 * 86400, names=("other",),
        waivers=(Waiver(finding=16 * "a", reason="known", expires=long_ago + 86400 * 5),),
    )  # fmt: skip
    file = tmp_path / "statement.json"
    file.write_bytes(Statement.payload(told) if not changes else changes["payload"])
    return told, file


def sign(file, reviewer, capsys, *more):
    status = cli.main(["sign", str(file), "--key", str(reviewer.secret), *more])
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
