"""The manifests in deploy/ grant what is said."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelarmor_jupyter.config import ModelArmor
from modelarmor_jupyter.pods import KernelPods
from traitlets.config import Config

from modelarmor.cluster.apply import RolloutError
from modelarmor.cluster.deployed import look, remove
from modelarmor.cluster.doctor import NEEDED
from modelarmor.generate.evidence import Evidence
from tests.cluster.test_apply import _UNPULLED, _mend, cluster, evidence
from tests.cluster.test_apply import NAMESPACE as MODELS

__all__ = ["evidence"]  # a fixture
ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
EXAMPLES = ("base", "jupyterhub", "jupyterlab", "mlflow", "models", "recording")

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl builds what is in deploy/"
)


def built(name: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def documented(kind: str) -> Any:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    (found,) = (
        item
        for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
        for item in yaml.safe_load_all(block)
        if isinstance(item, dict) and item.get("kind") == kind
    )
    return found


def only(items: list[dict[str, Any]], kind: str, name: str = "modelarmor") -> Any:
    (found,) = (item for item in items if (item["kind"], item["metadata"]["name"]) == (kind, name))
    return found


def granted(role: Any) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_role_has_exactly_the_rights_that_are_documented_and_looked_for() -> None:
    base = built("base")
    rights = granted(only(base, "Role"))
    assert rights == granted(documented("Role"))
    assert rights == {(group, what, verb) for group, what, verbs in NEEDED for verb in verbs}
    assert only(base, "ClusterRole")["rules"] == documented("ClusterRole")["rules"]


def test_the_namespace_is_annotated_as_documented() -> None:
    said = only(built("base"), "Namespace", "kernels")["metadata"]["annotations"]
    assert said == documented("Namespace")["metadata"]["annotations"]
    assert said == only(built("models"), "Namespace", "models")["metadata"]["annotations"]


def test_record_mode_has_the_same_rights_in_a_namespace_that_differs_in_its_posture_alone() -> None:
    items = built("recording")
    roles = [item for item in items if item["kind"] == "Role"]
    assert {role["metadata"]["namespace"] for role in roles} == {"kernels", "kernels-recorded"}
    assert granted(roles[0]) == granted(roles[1])
    kernels, recorded = (
        only(items, "Namespace", name)["metadata"]["annotations"]
        for name in ("kernels", "kernels-recorded")
    )
    assert recorded == {key: value.replace("block", "audit") for key, value in kernels.items()}


def test_who_deploys_models_has_exactly_the_rights_that_it_uses(
    tmp_path: Path, evidence: Evidence
) -> None:
    async def life() -> list[tuple[str, str]]:
        async with cluster(tmp_path) as here:
            for user in (1000, 1001, 1002):
                last = await here.deploy(evidence, user=user)
            here.controller.broken = _UNPULLED
            here.server.store.listeners.append(lambda *_: _mend(here, last))
            with pytest.raises(RolloutError, match="the former revision serves again"):
                await here.deploy(evidence, user=1003)
            here.server.store.listeners.pop()
            await look(here.cluster, MODELS, "iris")
            await remove(here.cluster, MODELS, "iris", 60.0)
            return here.server.requests

    used = {right for request in asyncio.run(life()) for right in rights_of(*request)}
    assert used == granted(only(built("models"), "Role", "deployer"))


def rights_of(method: str, path: str) -> set[tuple[str, str, str]]:
    """What a request takes."""
    found = re.fullmatch(
        r"/(?:api/v1|apis/(?P<group>[^/]+)/[^/]+)/namespaces/[^/]+/(?P<what>[^/]+)(?P<one>/.+)?",
        path,
    )
    assert found is not None, path
    verbs = {
        "GET": ["get" if found["one"] else "list"],
        "PATCH": ["patch", "create"],  # applied where there was none
        "DELETE": ["delete"],
    }[method]
    return {(found["group"] or "", found["what"], verb) for verb in verbs}


@pytest.mark.parametrize("name", EXAMPLES)
def test_rights_are_bound_to_roles_and_accounts_that_are_there(name: str) -> None:
    items = built(name)
    accounts = {
        (item["metadata"]["namespace"], item["metadata"]["name"])
        for item in items
        if item["kind"] == "ServiceAccount"
    } | {("hub", "hub")}  # the chart's
    for item in items:
        if item["kind"].endswith("RoleBinding"):
            assert any(
                (role["kind"], role["metadata"]["name"])
                == (item["roleRef"]["kind"], item["roleRef"]["name"])
                and role["metadata"].get("namespace") == item["metadata"].get("namespace")
                for role in items
            )
            for subject in item["subjects"]:
                assert (subject["namespace"], subject["name"]) in accounts


@pytest.mark.parametrize("name", ["jupyterlab", "mlflow"])
def test_servers_are_not_root_and_have_no_capability(name: str) -> None:
    (server,) = (item for item in built(name) if item["kind"] == "Deployment")
    pod = server["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_mlflow_is_asked_by_the_name_of_its_service_and_has_a_first_password() -> None:
    items = built("mlflow")
    (container,) = only(items, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    meta = only(items, "Service", "mlflow")["metadata"]
    (hosts,) = (word for word in container["args"] if word.startswith("--allowed-hosts="))
    assert f"{meta['name']}.{meta['namespace']}.svc" in hosts.partition("=")[2].split(",")
    # without one MLflow's authentication does not start
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" in {item["name"] for item in container["env"]}


def _hub() -> str:
    values = yaml.safe_load((DEPLOY / "jupyterhub" / "values.yaml").read_text())
    assert values["singleuser"]["serviceAccountName"] == "modelarmor"
    assert values["hub"]["config"]["KubeSpawner"]["namespace"] == "kernels"
    text: str = values["singleuser"]["extraFiles"]["modelarmor"]["stringData"]
    return text


def test_the_jupyterlab_of_the_example_starts_no_kernel_beside_itself() -> None:
    config = Config()
    text = (DEPLOY / "jupyterlab" / "jupyter_server_config.py").read_text()
    exec(compile(text, "jupyter_server_config.py", "exec"), {"get_config": lambda: config})
    strict = json.loads((ROOT / "jupyter_ext/modelarmor_jupyter/strict_config.json").read_text())
    assert config["ServerApp"] == strict["ServerApp"]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        (
            (DEPLOY / "jupyterlab" / "jupyter_server_config.py").read_text(),
            {"app.kubernetes.io/name": "jupyterlab"},
        ),
        (_hub(), {"component": "singleuser-server"}),
    ],
    ids=["jupyterlab", "jupyterhub"],
)
def test_the_servers_configuration_is_one(
    text: str, labels: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTNAME", "jupyter-ada")
    config = Config()
    exec(compile(text, "jupyter_server_config.py", "exec"), {"get_config": lambda: config})
    pods, armor = KernelPods(config=config), ModelArmor(config=config)
    assert {*config["KernelPods"]} <= {*pods.trait_names()}
    assert armor.enforcer == "kubernetes"
    for profile in armor.allowed_profiles:
        assert pods.settings(profile, "kernels").server_pods == labels
