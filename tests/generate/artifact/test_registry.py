"""The same bytes have the same digest, whichever of MLflow's addresses leads to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelarmor.generate.artifact import ArtifactError, open_model

mlflow = pytest.importorskip("mlflow")
pytest.importorskip("sklearn")
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # MLflow's and its libraries' own
]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from sklearn.linear_model import LogisticRegression

    place = tmp_path_factory.mktemp("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{place}/mlflow.db")
    experiment = mlflow.create_experiment("e", artifact_location=str(place / "artifacts"))
    with mlflow.start_run(experiment_id=experiment) as run:
        info = mlflow.sklearn.log_model(
            LogisticRegression().fit([[0], [1]], [0, 1]),
            name="model",
            registered_model_name="iris",
            pip_requirements=[],
        )
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("iris", "champion", 1)
    yield run.info.run_id, info.model_uri, place
    mlflow.set_tracking_uri(None)


def test_every_address_of_a_version_has_one_digest(logged: Any, tmp_path: Path) -> None:
    run, model, _ = logged
    digests = {}
    for source in ("models:/iris/1", "models:/iris@champion", model, f"runs:/{run}/model"):
        with open_model(source, cache=tmp_path) as opened:
            digests[source] = opened.artifact.digest
            assert opened.artifact.source == source
            assert opened.artifact.flavour == "sklearn"
            assert not opened.artifact.findings
            with open_model(opened.root) as copy:
                digests[str(opened.root)] = copy.artifact.digest
    assert len(digests) == 8
    assert len(set(digests.values())) == 1
    assert "" not in digests.values()
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_registered_is_an_error(logged: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="models:/nobody/1: MLflow could not download it"):
        open_model("models:/nobody/1", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
