"""NIM's policies: what was published, and what a model in the server is refused by ours."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from modelarmor.sandbox.probe import probe
from tests.examples.support import EXAMPLES, assert_stripped, run

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not probe().can_confine, reason="nothing can be confined here"),
    pytest.mark.skipif(not Path("/usr/bin/bash").exists(), reason="there is no /usr/bin/bash"),
]
WORKS = {
    "the server answers", "the server reads its weights", "the server writes its cache",
    "the server opens the GPU", "the server reads CUDA", "a shell reads HPC-X",
}  # fmt: skip
ATTACKS = {
    "the model changes the server's code": ("file", "DefaultPosture"),
    "a shell reads the weights": ("file", "DefaultPosture"),
    "a shell opens the GPU": ("file", "DefaultPosture"),
    "a shell connects": ("network", "DefaultPosture"),
    "nvidia-smi runs": ("process", "nvidia-nim-tools"),
    "another program runs": ("process", "DefaultPosture"),
    "a miner that was dropped runs": ("process", "nvidia-nim-mining"),
    "the model reads /etc/shadow": ("file", "nvidia-nim-credentials"),
    "the model reads the registry's key": ("file", "nvidia-nim-credentials"),
}


def _said(printed: str) -> dict[str, str]:
    return dict(
        re.findall(r"^((?:the|a|another|nvidia)\b.+): (SUCCEEDED|refused)", printed, re.MULTILINE)
    )


def test_a_model_that_has_taken_the_server_over_is_refused_what_it_tries(tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(EXAMPLES / "nvidia-nim", work)
    done = run("nvidia-nim", work)
    published = done["published-code"].printed
    assert "did you mean fromSource?" in published
    assert "MA302 allow-list-without-libraries" in published
    decided = done["explain-code"].printed
    assert decided.count("first.yaml: python3.10: blocked: read") == 2
    assert decided.count("policy.yaml: python3.10: allowed: read") == 2
    assert "policy.yaml: bash: blocked: read /opt/nim/.cache/weights.bin" in decided
    assert "policy.yaml: " in decided and "error" not in decided
    assert _said(done["plain-code"].printed) == dict.fromkeys(WORKS | ATTACKS.keys(), "SUCCEEDED")
    confined = done["confined-code"].printed
    assert {what for what, came in _said(confined).items() if came == "SUCCEEDED"} == WORKS
    assert {what for what, came in _said(confined).items() if came == "refused"} == set(ATTACKS)
    for operation, policy in ATTACKS.values():
        assert re.search(rf"refused {operation} .*\[{policy}\]", confined), (operation, policy)
    assert re.search(r"noticed file .*libucp.so  \[nvidia-nim-libraries\] by bash", confined)
    nodes = done["nodes-code"].printed
    assert "blocked: exec /root/xmrig" in nodes
    assert "allowed: write /usr/bin/ls" in nodes and "audited by" in nodes


def test_it_is_committed_without_outputs() -> None:
    assert_stripped("nvidia-nim")
