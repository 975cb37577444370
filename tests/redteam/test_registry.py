"""A registry that demands robustness promotes no model that has too little of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from modelarmor_mlflow.settings import RobustnessDemand
from modelarmor_mlflow.worker import _answers
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from modelarmor.generate.evidence import Artifact, Evidence, Robustness
from modelarmor.redteam import data
from tests.mlflow.support import Reviewer, Server, aliases, ensure_model, refused

pytestmark = [
    pytest.mark.timeout(600),
    # MLflow warns of its own type hints, and of what scikit-learn will call things.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.thorough  # two minutes and more, of parts that have tests of their own
def test_less_robustness_than_demanded_needs_a_waiver(tmp_path: Path) -> None:
    import mlflow.sklearn

    digits = load_digits()
    inputs, labels = digits.data / 16, digits.target
    numpy.savez(tmp_path / "digits.npz", x=inputs[1200:], y=labels[1200:])
    model = LogisticRegression(max_iter=300).fit(inputs[:1200], labels[:1200])
    mlflow.sklearn.save_model(
        model, str(tmp_path / "model"), input_example=inputs[:2], pip_requirements=["scikit-learn"]
    )
    demand = {"data": str(tmp_path / "digits.npz"), "epsilon": 0.2, "samples": 60}
    config = {
        "worker": {"generator": "modelarmor.generate.pipeline:generate", "lease_seconds": 60},
        "robustness": [
            {**demand, "models": ["strict"], "least_accuracy": 0.9},
            {**demand, "models": ["lax"], "least_accuracy": 0.0},
            {**demand, "models": ["blind"], "least_accuracy": 0.0, "data": "nowhere.npz"},
        ],
    }
    with Server(tmp_path / "registry", config=config) as server:
        ada = Reviewer(tmp_path, "ada").trusted_by(server)
        versions = {}
        for name in ("strict", "lax", "blind"):
            run = server.client.create_run("0").info
            server.client.log_artifacts(run.run_id, str(tmp_path / "model"), "model")
            ensure_model(server.client, name)
            versions[name] = server.client.create_model_version(
                name, f"{run.artifact_uri}/model", run_id=run.run_id
            )
        found = {}
        for name, version in versions.items():
            wait_long(server, name, version.version)
            found[name] = Evidence.loads(server.evidence(version).read_bytes())

        robustness = found["strict"].robustness
        assert robustness is not None
        assert robustness.accuracy > 0.8
        assert found["lax"].robustness is not None
        assert found["lax"].robustness.measures == robustness.measures
        concerns = {
            name: [one for one in evidence.findings if one.rule == "not-robust"]
            for name, evidence in found.items()
        }
        assert "recognises" in concerns["strict"][0].detail
        assert concerns["lax"] == []
        assert "nowhere.npz" in concerns["blind"][0].detail

        for name in ("strict", "blind"):
            with refused("finding"):
                ada.decide(server, versions[name])
            with refused("not approved"):
                server.client.set_registered_model_alias(name, "champion", versions[name].version)
        every = [one.fingerprint for one in found["lax"].findings]
        ada.decide(server, versions["lax"], waive=every)
        server.client.set_registered_model_alias("lax", "champion", versions["lax"].version)
        assert "champion" in aliases(server, "lax")
        every = [one.fingerprint for one in found["strict"].findings]
        ada.decide(server, versions["strict"], waive=every)
        server.client.set_registered_model_alias("strict", "champion", versions["strict"].version)
        assert "champion" in aliases(server, "strict")


def test_what_was_measured_answers_the_very_demand_only(tmp_path: Path) -> None:
    for name, labels in (("digits", (0, 1)), ("others", (1, 0))):
        numpy.savez(tmp_path / f"{name}.npz", x=numpy.eye(40), y=numpy.repeat(labels, 20))
    demand = RobustnessDemand(
        models=("*",), data=tmp_path / "digits.npz", epsilon=0.2, least_accuracy=0.9, samples=20
    )
    measured = Robustness(
        data=data.read(demand.data, samples=20).digest, samples=20, recognised=19,
        epsilon=0.2, least_accuracy=0.9,
    )  # fmt: skip
    evidence = Evidence(artifact=Artifact(source="m", flavour="sklearn"), robustness=measured)
    assert _answers(evidence, demand)
    for change in (
        {"epsilon": 0.1}, {"least_accuracy": 0.8}, {"samples": 30},
        {"data": tmp_path / "others.npz"}, {"data": tmp_path / "nowhere.npz"},
    ):  # fmt: skip
        assert not _answers(evidence, replace(demand, **change)), change
    assert not _answers(replace(evidence, robustness=None), demand)


def wait_long(server: Server, name: str, version: str) -> None:
    """A real generation takes longer than those of the registry's own tests."""
    for _ in range(10):
        try:
            server.wait_generated(name, version)
        except AssertionError as error:
            if "gave up" not in str(error):
                raise
        else:
            return
