import warnings

import pytest

with warnings.catch_warnings():
    # MLflow's own modules use what SQLAlchemy and others deprecate.
    warnings.simplefilter("ignore")
    pytest.importorskip("mlflow.server.handlers")

from tests.mlflow.support import Reviewer, Server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server with the plugin; tests use registered models of their own."""
    config = {
        "protected": [
            {"aliases": ["champion", "prod*"], "stages": ["Production"]},
            {"models": ["guarded-*"], "aliases": ["*"], "stages": ["*"]},
        ],
        "trusted_names": ["trusted.*"],
        "robustness": [
            {
                "models": ["demanding-*"],
                "data": "nowhere.npz",
                "epsilon": 0.1,
                "least_accuracy": 0.5,
            }
        ],
        "review_url": "https://review.example/{model}/{version}",
    }
    with Server(tmp_path_factory.mktemp("registry"), config=config) as running:
        yield running


@pytest.fixture(scope="session")
def ada(server, tmp_path_factory):
    """A reviewer whom the server trusts."""
    return Reviewer(tmp_path_factory.mktemp("ada"), "ada").trusted_by(server)


@pytest.fixture(scope="session")
def bob(server, tmp_path_factory):
    """Another one."""
    return Reviewer(tmp_path_factory.mktemp("bob"), "bob").trusted_by(server)


@pytest.fixture(scope="session")
def mallory(tmp_path_factory):
    """Somebody with a key that nobody trusts."""
    return Reviewer(tmp_path_factory.mktemp("mallory"), "mallory")


@pytest.fixture(scope="session")
def sample(server):
    """A version with a policy and without an approval, which no test approves."""
    return server.register("sample")


@pytest.fixture
def name(request):
    """A registered model's name for this test alone."""
    return f"m-{abs(hash(request.node.nodeid)) % 10**10}"
