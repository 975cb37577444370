"""A real MLflow server, and the people around it."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import yaml
from mlflow import MlflowClient
from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine
from modelarmor_mlflow import deciding, keys, names, trust
from modelarmor_mlflow.statements import Waiver

from modelarmor.generate.artifact import own
from tests.ports import free_port

KIT = Path(__file__).parent / "kit"
#: what a version needs to be promoted under the configuration of these tests
PATIENCE = 90.0


def wait_for(condition, what):
    """Wait until `condition` returns something true, and return that."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"gave up waiting for {what}"
        time.sleep(0.1)
    return found


@cache
def template():
    """A database with MLflow's tables; made once."""
    file = Path(tempfile.mkdtemp(prefix="modelarmor-tests-"), "mlflow.db")
    atexit.register(shutil.rmtree, file.parent, ignore_errors=True)
    engine = create_sqlalchemy_engine(f"sqlite:///{file}")
    _initialize_tables(engine)
    engine.dispose()
    return file


class Server:
    """`mlflow server` in a process, with a database and artifacts in a directory of its own."""

    def __init__(
        self,
        directory,
        *,
        plugin=True,
        config=None,
        options=(),
        workers=1,
        database="",
        **variables,
    ):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.database = database or f"sqlite:///{self.directory}/mlflow.db"
        self.registry_uri = f"modelarmor:{self.database}" if plugin else self.database
        self.artifacts = self.directory / "artifacts"
        self.config = self.directory / "registry.yaml"
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.variables = variables
        self.options = options
        self.workers = workers
        self.log = self.directory / f"server-{self.port}.log"
        self.process = None
        if plugin and not self.config.exists():
            self.configure(**(config or {}))

    def configure(self, **settings):
        settings.setdefault("worker", {})
        settings["worker"].setdefault("generator", "registry_generator:generate")
        settings["worker"].setdefault("lease_seconds", 4)
        self.config.write_text(yaml.safe_dump(settings))

    def environment(self):
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "PYTHONPATH": f"{KIT}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"),
            "MODELARMOR_REGISTRY_CONFIG": str(self.config),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "A_SECRET_OF_THE_SERVER": "hunter2",
            **self.variables,
        }

    def start(self):
        self._lay_out_database()
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
            "--port", str(self.port), "--backend-store-uri", self.database,
            "--registry-store-uri", self.registry_uri, "--workers", str(self.workers),
            "--artifacts-destination", str(self.artifacts), *self.options,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self.environment(), cwd=self.directory, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        wait_for(self._is_up, f"the server to start; see {self.log}")
        return self

    def _lay_out_database(self):
        """Copy a database with MLflow's tables, as making them takes longer than all the rest."""
        file = Path(self.database.removeprefix("sqlite:///"))
        if self.database.startswith("sqlite:///") and not file.exists():
            shutil.copy(template(), file)

    def _is_up(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self, how=signal.SIGKILL):
        """End the server and everything in its session at once."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, how)
            self.process.wait(30)
        self.process = None

    def restart(self):
        self.stop()
        return self.start()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    @property
    def client(self):
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    # --- models

    def register(self, name, files=None, *, client=None, wait=True, experiment="0", **options):
        """Log a model, register a version of it and wait for its policy."""
        client = client or self.client
        source, run = self.upload(files, client=client, experiment=experiment)
        return self.register_source(name, source, run, client=client, wait=wait, **options)

    def register_source(self, name, source, run=None, *, client=None, wait=True, **options):
        client = client or self.client
        ensure_model(client, name)
        version = client.create_model_version(name, source, run_id=run, **options)
        if wait:
            self.wait_generated(name, version.version, client=client)
        return version

    def upload(self, files=None, *, client=None, experiment="0"):
        """Log a model; returns its source and its run."""
        client = client or self.client
        run = client.create_run(experiment).info
        base = self.directory / "uploads" / run.run_id
        for path, text in {"MLmodel": "flavors: {}\n", "data.bin": "1", **(files or {})}.items():
            file = base / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        client.log_artifacts(run.run_id, str(base), "model")
        return f"{run.artifact_uri}/model", run.run_id

    def stored(self, version):
        """The directory in which the server keeps a version's files."""
        source = self.client.get_model_version_download_uri(version.name, version.version)
        return self.artifacts / source.partition("mlflow-artifacts:/")[2].lstrip("/")

    def evidence(self, version):
        """The file in which the server keeps what is known of a version."""
        told = self.client.get_model_version(version.name, version.version).tags[names.SUBJECT]
        return self.stored(version) / own.evidence(json.loads(told)["evidence"])

    def wait_generated(self, name, version, *, client=None, state="generated"):
        client = client or self.client

        def reached():
            tags = client.get_model_version(name, version).tags
            if tags.get(names.STATE) in ("generated", "failed"):
                assert tags[names.STATE] == state, tags.get(names.PROGRESS)
                return tags
            return None

        return wait_for(reached, f"models:/{name}/{version} to be {state}")

    # --- raw requests

    def post(self, path, body=None, *, method="POST", headers=None, data=None):
        """A request as any program could send it; returns status and answer."""
        request = urllib.request.Request(
            self.uri + path,
            data=json.dumps(body).encode() if data is None else data,
            method=method,
            headers={"Content-Type": "application/json", **(headers or {})},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def ensure_model(client, name):
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        assert error.error_code == "RESOURCE_ALREADY_EXISTS", error


class Reviewer:
    """Somebody with a key."""

    def __init__(self, directory, name):
        self.name = name
        self.secret, self.public = keys.new(name, passphrase=None, place=Path(directory))
        self.signer = keys.signer(self.secret)
        self.key = keys.PublicKey.from_file(self.public)

    def trusted_by(self, server, *, name=None, users=(), expires=None):
        trust.add(server.config, name or self.name, self.key, users=list(users), expires=expires)
        return self

    def decide(self, server, version, decision="approve", **wanted):
        case = deciding.Case.open(f"models:/{version.name}/{version.version}", server.uri)
        return case.submit(self.wanted(decision, **wanted), self.signer)

    def wanted(self, decision="approve", *, reason="looked at it", waive=(), **more):
        return deciding.Wanted(
            decision=decision,
            reviewer=more.pop("reviewer", self.name),
            reason=reason,
            waivers=tuple(Waiver(finding=item, reason="known", expires=0) for item in waive),
            **more,
        )

    def statement(self, server, version, decision="approve", **changes):
        """A statement that a test can bend before it is signed."""
        from dataclasses import replace

        case = deciding.Case.open(f"models:/{version.name}/{version.version}", server.uri)
        told = deciding.statement_of(self.wanted(decision), case.offer)
        return replace(told, **changes)


@contextmanager
def refused(*told, code="PERMISSION_DENIED"):
    """What happens inside is refused by the registry, which says each of `told`."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:  # copying wraps the answer in an error of its own
        assert code in (error.error_code, str(error).partition(code)[1]), error
        for text in ("modelarmor", *told):
            assert text in str(error), f"{text!r} is not in: {error}"
    else:
        raise AssertionError("it was not refused")


def transition(server, version, stage, **options):
    """Set a stage; MLflow's client warns that stages will go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return server.client.transition_model_version_stage(
            version.name, version.version, stage, **options
        )


def aliases(server, name):
    return dict(server.client.get_registered_model(name).aliases)
