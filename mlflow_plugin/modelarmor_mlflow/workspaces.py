"""A workspace that is deleted can leave its models to the default one: that is a promotion too.

Their aliases, stages and names come along, and every approval is for the workspace that it was
given in. MLflow's store of workspaces is not the registry's and knows no plugin for it beside its
own kinds, so its one method is replaced, in the server's processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any

from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.entities.workspace import WorkspaceDeletionMode
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModelAlias
from mlflow.store.workspace.sqlalchemy_store import SqlAlchemyStore as Workspaces
from sqlalchemy.orm import Session

from .settings import Settings

if TYPE_CHECKING:
    from .store import Gate


def guard(gate: Gate) -> None:
    """Refuse, in this process, what `refuse_moving` refuses."""
    original = getattr(Workspaces.delete_workspace, "__wrapped__", Workspaces.delete_workspace)

    @wraps(original)
    def delete_workspace(
        self: Any,
        workspace_name: str,
        mode: WorkspaceDeletionMode = WorkspaceDeletionMode.RESTRICT,
    ) -> None:
        if mode == WorkspaceDeletionMode.SET_DEFAULT:
            refuse_moving(gate, workspace_name)
        original(self, workspace_name, mode=mode)

    Workspaces.delete_workspace = delete_workspace


def refuse_moving(gate: Gate, workspace: str) -> None:
    """Refuse to leave a workspace's models to another one while some are promoted.

    Raises:
        MlflowException: one is; says which, and what to do.
    """
    current = gate._settings()
    with gate.ManagedSessionMaker(read_only=False) as session:
        found = next(_promoted(session, workspace, current), None)
    if found is not None:
        raise MlflowException(
            f"modelarmor: {found} in the workspace {workspace!r} is protected, and an approval is"
            " for one workspace: take the alias or stage away, or copy the version, then delete"
            " the workspace and promote again",
            PERMISSION_DENIED,
        )


def _promoted(session: Session, workspace: str, current: Settings) -> Iterator[str]:
    from .store import version_of

    aliases = session.query(SqlRegisteredModelAlias).filter(
        SqlRegisteredModelAlias.workspace == workspace
    )
    protected = {
        (item.name, item.version): item.alias
        for item in aliases
        if current.protects_alias(item.name, item.alias)
    }
    rows = session.query(SqlModelVersion).filter(
        SqlModelVersion.workspace == workspace,
        SqlModelVersion.current_stage != STAGE_DELETED_INTERNAL,
    )
    for version in map(version_of, rows.yield_per(1000)):
        if not version.has_files:
            continue
        if alias := protected.get((version.model, version.version)):
            yield f"alias {alias!r} of {version.model!r}"
        if current.trusts_name(version.model):
            yield f"the name {version.model!r}"
        if current.protects_stage(version.model, version.stage):
            yield f"stage {version.stage!r} of {version.model!r}"
