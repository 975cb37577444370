"""Manifests of a served model: what they say, and that the pod's programs do it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from modelarmor_mlflow.serving import pod

from modelarmor.cli import main
from modelarmor.cluster import fetch, models
from modelarmor.generate.evidence import Evidence
from modelarmor.generate.pipeline import generate
from modelarmor.policy import document
from modelarmor.policy.decide import Operation, Table
from modelarmor.policy.model import Posture

IMAGE = "registry.example/iris@sha256:" + "0" * 64
TARGET = models.Target(name="iris", namespace="models", image=IMAGE, claim="files")
CRD = Path(__file__).parents[3] / "shared" / "conformance" / "crd" / "KubeArmorPolicy.yaml"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "iris"
    (place / "data").mkdir(parents=True)
    (place / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: iris\n")
    (place / "data" / "weights.bin").write_bytes(b"\0" * 3_000_000)
    return place


@pytest.fixture(scope="module")
def evidence(model: Path) -> Evidence:
    return generate(str(model), run=False)


def by_kind(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {item["kind"]: item for item in items}


def test_the_same_input_gives_the_same_bytes(evidence: Evidence) -> None:
    first = models.write(models.manifests(evidence, TARGET))
    assert first == models.write(models.manifests(evidence, TARGET))
    assert "&id" not in first


@pytest.mark.parametrize("text", ["a: [", "- " * 5_000 + "x", "x: &a [1]\ny: *b"])
def test_evidence_that_is_no_policy_is_an_error_in_words(evidence: Evidence, text: str) -> None:
    with pytest.raises(models.DeployError, match="cannot be used: <approved policy>"):
        models.manifests(replace(evidence, policy=text), TARGET)
    with pytest.raises(ValueError, match="network policy>"):
        models.manifests(replace(evidence, network=text), TARGET)


def test_policy_comes_before_what_it_confines(evidence: Evidence) -> None:
    kinds = [item["kind"] for item in models.manifests(evidence, TARGET)]
    assert kinds == [
        "ConfigMap",
        "KubeArmorPolicy",
        "NetworkPolicy",
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
    ]


def test_what_every_process_reads_in_proc_is_not_refused_in_a_pod(evidence: Evidence) -> None:
    """KubeArmor's protectProc would refuse it; the pod's PID namespace stands for it."""
    made = by_kind(models.manifests(evidence, TARGET))
    presets = [rule["name"] for rule in made["KubeArmorPolicy"]["spec"]["presets"]]
    assert "protectProc" in evidence.policy
    assert "protectEnv" in presets and "protectProc" not in presets


@pytest.mark.parametrize("kserve", [False, True])
def test_policies_select_exactly_the_pods_of_their_revision(
    evidence: Evidence, kserve: bool
) -> None:
    made = by_kind(models.manifests(evidence, replace(TARGET, kserve=kserve)))
    selected = made["KubeArmorPolicy"]["spec"]["selector"]["matchLabels"]
    labels = (
        made["InferenceService"]["spec"]["predictor"]["labels"]
        if kserve
        else made["Deployment"]["spec"]["template"]["metadata"]["labels"]
    )
    assert selected.items() <= labels.items()
    assert made["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == selected
    assert set(selected) == {models.MODEL_LABEL, models.REVISION_LABEL}


def test_a_change_of_model_policy_or_image_is_a_revision_that_leaves_the_last_in_place(
    evidence: Evidence,
) -> None:
    before = by_kind(models.manifests(evidence, TARGET))
    other_policy = replace(evidence, policy=evidence.policy.replace("severity: 5", "severity: 6"))
    seen = {before["KubeArmorPolicy"]["metadata"]["name"]}
    for changed in (
        models.manifests(other_policy, TARGET),
        models.manifests(evidence, replace(TARGET, image=IMAGE.replace("000", "111"))),
    ):
        after = by_kind(changed)
        seen.add(after["KubeArmorPolicy"]["metadata"]["name"])
        # one Deployment rolls over; a selector of a Deployment can never change
        for key in ("metadata", "spec"):
            assert after["Deployment"][key].keys() == before["Deployment"][key].keys()
        assert after["Deployment"]["metadata"]["name"] == "iris"
        assert after["Deployment"]["spec"]["selector"] == before["Deployment"]["spec"]["selector"]
        assert after["Service"]["spec"] == before["Service"]["spec"]
    assert len(seen) == 3
    # what a rollback leads back to
    assert before["Deployment"]["spec"]["revisionHistoryLimit"] > 0
    for kind in ("ConfigMap", "KubeArmorPolicy", "NetworkPolicy"):
        annotations = before[kind]["metadata"]["annotations"]
        assert annotations["argocd.argoproj.io/sync-options"] == "PruneLast=true"


@pytest.mark.parametrize("kserve", [False, True])
def test_no_container_has_a_privilege_and_the_server_waits_for_the_canary(
    evidence: Evidence, kserve: bool
) -> None:
    made = by_kind(models.manifests(evidence, replace(TARGET, kserve=kserve)))
    pod = (
        made["InferenceService"]["spec"]["predictor"]
        if kserve
        else made["Deployment"]["spec"]["template"]["spec"]
    )
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["initContainers"], *pod["containers"]):
        context = container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
    (server,) = pod["containers"]
    settings = json.loads(server["command"][4])
    assert set(settings["denied"]) == {"rule", "posture"}
    mounts = {item["mountPath"]: item for item in server["volumeMounts"]}
    assert mounts["/model"]["readOnly"] is True
    assert "envFrom" not in server and not any("source" in path for path in mounts)
    assert "uvicorn" in server["command"]
    # what the canary is, in its own words
    assert server["command"][3] == (Path(models.__file__).parent / "canary.py").read_text()


def test_the_policy_is_the_approved_one_for_the_paths_of_the_image(evidence: Evidence) -> None:
    target = replace(TARGET, prefix="/opt/venv", interpreter="/usr/bin/python3.12")
    written = yaml.safe_dump(by_kind(models.manifests(evidence, target))["KubeArmorPolicy"])
    table = Table(document.load(written), Posture())

    def verdict(kind: Any, path: str, **more: Any) -> str:
        return table.decide(Operation(kind, path, **more)).verdict

    python = "/usr/bin/python3.12"
    assert "${" not in written and "/opt/venv/bin/python" not in written
    assert verdict("exec", python) == "allow"
    assert verdict("exec", "/usr/bin/bash") == "block"
    assert verdict("read", "/model/data/weights.bin", source=python) == "allow"
    assert verdict("write", "/model/data/weights.bin", source=python) == "block"
    assert verdict("read", "/opt/venv/lib/python3.12/os.py", source=python) == "allow"
    assert verdict("write", "/tmp/cache/x", source=python) == "allow"
    assert verdict("read", "/etc/shadow", source=python) == "block"


def test_the_network_is_closed_but_for_clients_and_what_fetching_needs(
    evidence: Evidence,
) -> None:
    spec = by_kind(models.manifests(evidence, TARGET))["NetworkPolicy"]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"] and spec["egress"] == []
    fetching = replace(
        TARGET, claim="", tracking_uri="http://mlflow:5000", fetch_egress=["10.0.0.7/32:5000"]
    )
    spec = by_kind(models.manifests(evidence, fetching, "models:/iris/3"))["NetworkPolicy"]["spec"]
    (rule,) = spec["egress"]
    assert rule["to"] == [{"ipBlock": {"cidr": "10.0.0.7/32"}}]
    # no range: before Kubernetes 1.21 there is no endPort, and apply refuses what it does not know
    assert rule["ports"] == [{"port": 5000, "protocol": "TCP"}]


def test_every_object_is_what_the_schema_says(evidence: Evidence) -> None:
    if not CRD.exists():
        pytest.skip("KubeArmor's CRD is not here")
    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    made = by_kind(models.manifests(evidence, TARGET))["KubeArmorPolicy"]
    jsonschema.validate(made, version["schema"]["openAPIV3Schema"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "Iris"}, "DNS label"),
        ({"name": "a" * 41}, "DNS label"),
        ({"namespace": "a b"}, "DNS label"),
        ({"user": 0}, "not root"),
        ({"prefix": "../x"}, "absolute path"),
        ({"claim": ""}, "name one"),
        ({"claim": "", "tracking_uri": "http://x"}, "fetch-egress"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(models.DeployError, match=said):
        replace(TARGET, **changes)


def test_a_policy_that_would_prove_nothing_is_refused(evidence: Evidence) -> None:
    opened = evidence.policy.replace("dir: ${MODEL}/", "dir: /run/", 1)
    with pytest.raises(models.DeployError, match="cannot confine a pod"):
        models.manifests(replace(evidence, policy=opened), TARGET)
    with pytest.raises(models.DeployError, match=r"policy>:\d+: .* is not an absolute dir"):
        models.manifests(
            replace(evidence, policy=evidence.policy.replace("${TMP}", "${OTHER}")), TARGET
        )


def test_evidence_without_every_file_is_refused(evidence: Evidence) -> None:
    short = replace(evidence.artifact, files=evidence.artifact.files[1:])
    with pytest.raises(models.DeployError, match="does not name every file"):
        models.manifests(replace(evidence, artifact=short), TARGET)


# --- the init container's program


def approved(evidence: Evidence) -> dict[str, tuple[int, str]]:
    made = by_kind(models.manifests(evidence, TARGET))["ConfigMap"]
    files: dict[str, tuple[int, str]] = json.loads(made["data"]["plan.json"])["files"]
    return files


def test_approved_files_are_copied_and_others_stay_behind(
    model: Path, evidence: Evidence, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    subprocess.run(["cp", "-r", model, source], check=True)
    (source / "extra.py").write_text("nobody approved this")
    weights = source / "data" / "weights.bin"
    data = weights.read_bytes()
    weights.write_bytes(data[1:])
    assert "weights.bin is not what was approved" in fetch.copy(
        str(source), str(target), approved(evidence)
    )
    weights.write_bytes(data)  # a kubelet runs it again, with what the first has left
    assert fetch.copy(str(source), str(target), approved(evidence)) == ""
    names = {str(file.relative_to(target)) for file in target.rglob("*") if file.is_file()}
    assert names == {"MLmodel", "data/weights.bin"}


@pytest.mark.parametrize("change", ["other", "longer", "shorter", "gone"])
def test_a_file_that_differs_ends_the_start(
    model: Path, evidence: Evidence, tmp_path: Path, change: str
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    subprocess.run(["cp", "-r", model, source], check=True)
    weights = source / "data" / "weights.bin"
    data = weights.read_bytes()
    changed = {"other": b"\1" + data[1:], "longer": data + b"\0", "shorter": data[1:]}
    weights.unlink()
    if change != "gone":
        weights.write_bytes(changed[change])
    plan = {"claim": str(source), "target": str(target), "files": approved(evidence)}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    # as in the pod: the source of the program, given to a Python
    program = Path(fetch.__file__).read_text()
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(tmp_path / "plan.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == fetch.NOT_APPROVED
    assert "data/weights.bin" in done.stderr


def test_a_list_of_files_never_leads_out_of_the_model(tmp_path: Path) -> None:
    for path in ("../x", "/etc/passwd", "a/../../x", "", "a//b"):
        assert "no path within a model" in fetch.copy("/", str(tmp_path), {path: (1, "0")})
    assert list(tmp_path.iterdir()) == []


# --- the command


def test_the_command_prints_what_kubectl_takes(
    evidence: Evidence, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "evidence.json"
    file.write_text(evidence.dumps())
    command = ["deploy", "./iris", "--image", IMAGE, "-n", "models", "--claim", "files"]
    command += ["--evidence", str(file), "--dry-run=client", "-o", "yaml"]
    assert main(command) == 2
    assert "--unreviewed" in capsys.readouterr().err
    assert main([*command, "--unreviewed"]) == 0
    guard = models.Guard(pod.files(None), pod.PROGRAM)
    told = capsys.readouterr()
    assert told.out == models.write(models.manifests(evidence, TARGET, guard=guard))
    assert "its signature is not known" in told.err
    assert main([*command, "--unreviewed", "--no-guard"]) == 0
    assert capsys.readouterr().out == models.write(models.manifests(evidence, TARGET))
    # a model that is here, and is not the one that the evidence is about
    other = tmp_path / "iris"
    other.mkdir()
    (other / "MLmodel").write_text("signature: {}\n")
    command[1] = str(other)
    assert main([*command, "--unreviewed"]) == 2
    assert "not the one that the evidence is about" in capsys.readouterr().err
    assert main([*command, "--unreviewed", "--name", "NO"]) == 1


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_renames_it_as_a_whole(evidence: Evidence, tmp_path: Path) -> None:
    made = models.manifests(evidence, TARGET)
    (tmp_path / "iris.yaml").write_text(models.write(made))
    (tmp_path / "kustomization.yaml").write_text("resources: [iris.yaml]\nnamePrefix: prod-\n")
    done = subprocess.run(
        ["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, check=True
    )
    renamed = by_kind(list(yaml.safe_load_all(done.stdout)))
    assert len(renamed) == len(made)
    config = renamed["ConfigMap"]["metadata"]["name"]
    assert config.startswith("prod-iris-")
    volumes = renamed["Deployment"]["spec"]["template"]["spec"]["volumes"]
    assert {item["configMap"]["name"] for item in volumes if "configMap" in item} == {config}
    scaled = renamed["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]
    assert scaled == renamed["Deployment"]["metadata"]["name"] == "prod-iris"
