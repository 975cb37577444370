"""NIM under its policies: what they mean, and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from modelarmor.cli import main
from modelarmor.cluster import models, nim
from modelarmor.policy import document
from modelarmor.policy.decide import Operation, Table
from modelarmor.policy.lint import lint
from modelarmor.policy.model import Posture

CRDS = Path(__file__).parents[3] / "shared" / "conformance" / "crd"
PYTHON = "/usr/bin/python3.10"
NIM = nim.Nim(name="llm", namespace="nim", image="nvcr.example/nim@sha256:00", claim="weights")


@pytest.mark.parametrize("name", ["policy.yaml", "host.yaml"])
def test_the_policies_are_without_error_and_fit_kubearmors_schema(name: str) -> None:
    text = nim.policy_text(name)
    found = lint(document.load(text), posture=Posture())
    assert [item.message for item in found if item.severity == "error"] == []
    if not CRDS.is_dir():
        pytest.skip("KubeArmor's CRDs are not here")
    for item in yaml.safe_load_all(text):
        crd = yaml.safe_load((CRDS / f"{item['kind']}.yaml").read_text())
        jsonschema.validate(item, crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])


@pytest.mark.parametrize(
    ("kind", "path", "source", "verdict"),
    [
        # what the published policy kept the interpreter from
        ("read", "/usr/lib/x86_64-linux-gnu/libc.so.6", PYTHON, "allow"),
        ("read", "/usr/local/cuda-12.6/lib64/libcudart.so", PYTHON, "allow"),
        ("read", "/opt/nim/llm/vllm_nvext/server.py", PYTHON, "allow"),
        ("read", "/opt/nim/.cache/weights.bin", PYTHON, "allow"),
        ("write", "/opt/nim/llm/vllm_nvext/server.py", PYTHON, "block"),
        ("read", "/opt/nim/.cache/weights.bin", "/usr/bin/bash", "block"),
        ("read", "/dev/nvidia0", PYTHON, "allow"),
        ("read", "/dev/nvidia0", "/usr/bin/bash", "block"),
        ("read", "/etc/shadow", PYTHON, "block"),
        ("exec", PYTHON, "/usr/bin/bash", "allow"),
        ("exec", "/usr/bin/nvidia-smi", PYTHON, "block"),
        ("exec", "/usr/local/bin/nvidia-smi", PYTHON, "block"),
        ("exec", "/usr/bin/curl", PYTHON, "block"),
        ("exec", "/tmp/xmrig", PYTHON, "block"),
        ("exec", "/dev/shm/dropped", PYTHON, "block"),
    ],
)
def test_what_the_policies_say(kind: Any, path: str, source: str, verdict: str) -> None:
    table = Table(document.load(nim.policy_text()), Posture())
    operation = Operation(kind, path, source=source, parent=source)
    assert table.decide(operation).verdict == verdict


def test_it_is_served_behind_the_canary_without_a_way_out() -> None:
    made = {item["kind"]: item for item in nim.manifests(NIM)}
    pod = made["Deployment"]["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    assert server["command"][-2:] == list(nim._START)
    assert server["command"][3] == (Path(models.__file__).parent / "canary.py").read_text()
    assert server["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert server["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["automountServiceAccountToken"] is False
    assert made["NetworkPolicy"]["spec"]["egress"] == []
    selected = made["KubeArmorPolicy"]["spec"]["selector"]["matchLabels"]
    assert selected.items() <= made["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    assert models.write(nim.manifests(NIM)) == models.write(nim.manifests(NIM))


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["deploy", "llm", "--nim", "--image", NIM.image, "--namespace", "nim"]
    command += ["--claim", "weights", "--dry-run=client"]
    assert main(command) == 0
    assert capsys.readouterr().out == models.write(nim.manifests(NIM))
    assert main([*command, "--name", "a b"]) == 1
    assert main([*command, "--kserve"]) == 2
