"""Models that a deleted workspace leaves behind are not promoted by that."""

import shutil

import pytest
from mlflow.entities import Workspace
from mlflow.entities.workspace import WorkspaceDeletionMode
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
from mlflow.store.workspace.sqlalchemy_store import SqlAlchemyStore as Workspaces
from mlflow.utils.workspace_context import ServerWorkspaceContext
from modelarmor_mlflow import workspaces
from modelarmor_mlflow.store import GatedWorkspaceStore

from tests.mlflow.support import template


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry with workspaces, in this process."""
    shutil.copy(template(), tmp_path / "mlflow.db")
    config = tmp_path / "registry.yaml"
    config.write_text('worker: {enabled: false}\ntrusted_names: ["prod.*"]\n')
    monkeypatch.setenv("MODELARMOR_REGISTRY_CONFIG", str(config))
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    monkeypatch.setattr(Workspaces, "delete_workspace", Workspaces.delete_workspace)
    store = GatedWorkspaceStore(f"sqlite:///{tmp_path}/mlflow.db")
    workspaces.guard(store)
    return store


def in_red(registry, name, source="mlflow-artifacts:/0/model", **promoted):
    """A version in a workspace, promoted as by an approval that counted there."""
    database = registry.db_uri
    plain = WorkspaceAwareSqlAlchemyStore(database)
    Workspaces(database).create_workspace(Workspace(name="red"))
    with ServerWorkspaceContext("red"):
        plain.create_registered_model(name)
        plain.create_model_version(name, source)
        if alias := promoted.get("alias"):
            plain.set_registered_model_alias(name, alias, "1")
        if stage := promoted.get("stage"):
            plain.transition_model_version_stage(name, "1", stage, False)
    return Workspaces(database)


@pytest.mark.parametrize(
    ("name", "promoted"),
    [("m", {"alias": "champion"}), ("m", {"stage": "Production"}), ("prod.m", {})],
)
@pytest.mark.filterwarnings("ignore")  # MLflow's, of stages
def test_promoted_models_are_not_left_to_another_workspace(registry, name, promoted):
    found = in_red(registry, name, **promoted)
    with pytest.raises(MlflowException, match="is protected, and an approval") as refusal:
        found.delete_workspace("red", mode=WorkspaceDeletionMode.SET_DEFAULT)
    assert refusal.value.error_code == "PERMISSION_DENIED"
    with ServerWorkspaceContext("default"), pytest.raises(MlflowException, match="not found"):
        registry.get_registered_model(name)


def test_other_models_are_left_and_promoted_ones_deleted(registry):
    found = in_red(registry, "m", alias="candidate")
    found.delete_workspace("red", mode=WorkspaceDeletionMode.SET_DEFAULT)
    with ServerWorkspaceContext("default"):
        assert registry.get_registered_model("m").name == "m"
    found = in_red(registry, "prompt", source="prompt-template", alias="champion")
    found.delete_workspace("red", mode=WorkspaceDeletionMode.SET_DEFAULT)
    found = in_red(registry, "n", alias="champion")
    found.delete_workspace("red", mode=WorkspaceDeletionMode.CASCADE)
