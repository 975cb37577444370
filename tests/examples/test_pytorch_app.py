"""A deployment's published policy does not protect what it names; the corrected one does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from modelarmor import cli
from modelarmor.policy import document
from modelarmor.sandbox import Sandbox, Workload
from tests.examples.support import EXAMPLES, assert_stripped, run

pytestmark = pytest.mark.timeout(300)

APP = EXAMPLES / "pytorch-app"


def test_the_notebook_shows_what_each_policy_decides(tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(APP, work)
    done = run("pytorch-app", work)
    assert "allowed: read /etc/shadow" in done["explain-code"].printed
    assert "no rule matches" in done["explain-code"].printed
    assert done["lint-code"].printed.count("MA204") == 2
    corrected = done["corrected-code"].printed
    assert "blocked: read /etc/shadow" in corrected
    assert "allowed: read /etc/passwd" in corrected
    published, _, mended = done["run-code"].printed.partition("\npolicy.yaml")
    if os.getuid() == 0:  # others may not read it anyway
        assert "opened" in published
    assert "opened" not in mended
    assert "refused file /etc/shadow  [protect-passwords]" in mended


def test_the_corrected_policy_has_no_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lint", str(APP / "published.yaml")]) == 1
    assert cli.main(["lint", str(APP / "policy.yaml")]) == 0
    assert "MA204" not in capsys.readouterr().out.rpartition("policy.yaml")[2]


def test_the_app_answers_under_the_corrected_policy(tmp_path: Path) -> None:
    policies = document.load(APP / "policy.yaml")
    workload = Workload(
        "app", [sys.executable, str(APP / "app.py"), "0"], policies, env=dict(os.environ),
        cwd=tmp_path,
    )  # fmt: skip
    with Sandbox.start(workload, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = process.stdout.readline().rsplit(b" ", 1)[1].strip().decode()
        for body, status in ((json.dumps([0.5] * 10), 200), ("[1]", 400), ("x", 400)):
            request = urllib.request.Request(f"http://127.0.0.1:{port}/", body.encode())
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert answer.status == status
                    assert abs(json.load(answer) - 5) < 1
            except urllib.error.HTTPError as error:
                assert error.code == status
                error.close()
    assert not [alert for _, alert in process.recorder.after(0).alerts if alert.Action == "Block"]


def test_the_notebook_is_committed_without_outputs() -> None:
    assert_stripped("pytorch-app")
