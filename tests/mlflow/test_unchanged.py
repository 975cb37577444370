"""Where nothing is protected, the registry does what MLflow's own does."""

import re
import warnings

import pytest
from mlflow.exceptions import MlflowException
from modelarmor_mlflow import names, summary

from tests.mlflow.support import Server


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A server with the plugin, and one without."""
    directory = tmp_path_factory.mktemp("unchanged")
    config = {"protected": [], "worker": {"enabled": False}}
    with (
        Server(directory / "plain", plugin=False) as plain,
        Server(directory / "gated", config=config) as gated,
    ):
        yield plain, gated


class Script:
    """Uses everything that a client can do with a registry, and writes down what it is told."""

    def __init__(self, server):
        self.server = server
        self.client = server.client
        self.told = []

    def tell(self, what, call):
        try:
            self.told.append((what, self.plain(call())))
        except MlflowException as error:
            message = re.sub(r"\(Background on this error.*", "", str(error), flags=re.DOTALL)
            self.told.append((what, error.error_code, self.neutral(message)))

    def neutral(self, text):
        """Without what differs between any two servers."""
        text = text.replace(str(self.server.directory), "DIR").replace(
            str(self.server.port), "PORT"
        )
        return re.sub(r"[0-9a-f]{32}|[0-9a-f-]{36}|\b1[0-9]{12}\b", "ID", text)

    def plain(self, value):
        if isinstance(value, list | tuple):
            return [self.plain(item) for item in value]
        if not hasattr(value, "__dict__"):
            return self.neutral(repr(value))
        found = {}
        for key, item in vars(value).items():
            name = key.lstrip("_")
            if name == "tags":
                own = item if isinstance(item, dict) else {tag.key: tag.value for tag in item}
                found[name] = {k: v for k, v in own.items() if not names.is_reserved(k)}
            elif name == "description":
                found[name] = summary.strip(item)
            elif name == "latest_version":
                found[name] = self.plain(item)
            else:
                found[name] = self.plain(item)
        return found

    def run(self):
        client, tell = self.client, self.tell
        source, run = self.server.upload()
        for name in ("a", "b", "a", "", "a/b", "a:b", " ", "ä", "x" * 300):
            tell("create", lambda name=name: client.create_registered_model(name, {"k": "v"}, "d"))
        for name in ("a", "a", "b", "nobody"):
            tell("version", lambda name=name: client.create_model_version(
                name, source, run, {"t": "1"}, None, "a description"))  # fmt: skip
        for bad in ("/etc", "file:///etc", "models:/nobody/1", "models:/a/9", "http://x/y", ""):
            tell("source", lambda bad=bad: client.create_model_version("a", bad))
        tell("copy", lambda: client.copy_model_version("models:/a/1", "copied"))
        tell("get", lambda: client.get_registered_model("a"))
        tell("get", lambda: client.get_model_version("copied", "1"))
        tell("uri", lambda: client.get_model_version_download_uri("copied", "1"))
        for alias in ("champion", "production", "", "v1", "latest", "a b", "x" * 300, "ä"):
            tell("alias", lambda alias=alias: client.set_registered_model_alias("a", alias, "1"))
            tell("by", lambda alias=alias: client.get_model_version_by_alias("a", alias))
        tell("alias", lambda: client.set_registered_model_alias("a", "champion", "2"))
        tell("alias", lambda: client.set_registered_model_alias("a", "champion", "99"))
        tell("alias", lambda: client.set_registered_model_alias("nobody", "champion", "1"))
        tell("unalias", lambda: client.delete_registered_model_alias("a", "production"))
        tell("unalias", lambda: client.delete_registered_model_alias("a", "missing"))
        for stage in ("Staging", "production", "Archived", "none", "Nonsense", ""):
            for archive in (False, True):
                for version in ("1", "2", "9"):
                    tell("stage", lambda v=version, s=stage, x=archive:
                         client.transition_model_version_stage("a", v, s, x))  # fmt: skip
        tell("latest", lambda: client.get_latest_versions("a"))
        tell("latest", lambda: client.get_latest_versions("a", ["Production"]))
        tell("describe", lambda: client.update_model_version("a", "1", "new words"))
        tell("describe", lambda: client.update_model_version("a", "9", "new words"))
        tell("describe", lambda: client.update_registered_model("a", "new words"))
        for key in ("k", "", "a.b", "x" * 300, "a b", "/x"):
            tell("tag", lambda key=key: client.set_model_version_tag("a", "1", key, "v"))
            tell("untag", lambda key=key: client.delete_model_version_tag("a", "1", key))
            tell("tag", lambda key=key: client.set_registered_model_tag("a", key, "v"))
            tell("untag", lambda key=key: client.delete_registered_model_tag("a", key))
        tell("tag", lambda: client.set_model_version_tag("a", "1", "long", "v" * 100_001))
        tell("tag", lambda: client.set_model_version_tag("a", stage="Staging", key="s", value="1"))
        for query in ("", "name='a'", "name LIKE '%'", "tags.t='1'", "run_id='x'", "nonsense"):
            tell("search", lambda query=query: client.search_model_versions(query))
            tell("search", lambda query=query: client.search_registered_models(query))
        tell("search", lambda: client.search_registered_models(order_by=["name DESC"]))
        for new in ("c", "b", "", "x/y"):
            tell("rename", lambda new=new: client.rename_registered_model("a", new))
        tell("rename", lambda: client.rename_registered_model("nobody", "d"))
        tell("get", lambda: client.get_registered_model("c"))
        tell("get", lambda: client.get_model_version_by_alias("c", "champion"))
        tell("prompt", lambda: client.create_prompt("p"))
        tell("prompt", lambda: client.create_prompt_version("p", "Hi {{x}}", "m", {"t": "1"}))
        tell("prompt", lambda: client.set_prompt_alias("p", "champion", 1))
        tell("prompt", lambda: client.set_prompt_version_tag("p", "1", "k", "v"))
        tell("prompt", client.search_prompts)
        tell("delete", lambda: client.delete_model_version("c", "1"))
        tell("delete", lambda: client.delete_model_version("c", "1"))
        tell("delete", lambda: client.delete_model_version("c", "nonsense"))
        tell("get", lambda: client.get_model_version("c", "1"))
        tell("version", lambda: client.create_model_version("c", source, run))
        tell("delete", lambda: client.delete_registered_model("c"))
        tell("delete", lambda: client.delete_registered_model("c"))
        tell("search", client.search_model_versions)
        return self.told


def test_client_is_told_the_same(both, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    warnings.simplefilter("ignore")
    plain, gated = (Script(server).run() for server in both)
    assert len(plain) == len(gated) > 140
    different = [pair for pair in zip(plain, gated, strict=True) if pair[0] != pair[1]]
    assert different == []
    assert sum(len(item) == 2 for item in plain) > 60  # it was not all errors
