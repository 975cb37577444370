"""MLflow's deployments target ``modelarmor``: models that are served under their policies.

A deployment is a `modelarmor serve` of its own, in the background, with a directory that says which
process it is, where it listens and what it said. With ``enforcer=kubernetes`` it is on a cluster
(`cluster_deployments`). MLflow finds `Client`, `run_local` and
`target_help` by the entry point ``mlflow.deployments``
(https://mlflow.org/docs/latest/plugins.html).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
)

from modelarmor.replacing import replacing
from modelarmor.visible import visible
from modelarmor_mlflow import cluster_deployments

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_READY_SECONDS: Final = 600.0
_STOP_SECONDS: Final = 20.0
_ASK_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.1
_SAID: Final = 3_000  # bytes of the log that an error quotes
_LARGEST_ANSWER: Final = 64 << 20
#: configuration that is an option of `modelarmor serve` with a value, and those without
_OPTIONS: Final = (
    "host", "port", "workers", "timeout", "python", "env_manager", "evidence", "guard", "config",
)  # fmt: skip
_FLAGS: Final = ("unreviewed", "no_guard", "audit", "allow_source")
_NO_ENDPOINTS: Final = (
    "there are no endpoints: each deployment is its own; see create, get and delete"
)

_HELP: Final = """\
The target `modelarmor` serves a model on this machine, in the sandbox, under the policy that was
approved for it. A deployment goes on in the background until it is deleted; it does not come back
after a reboot.

    mlflow deployments create -t modelarmor --name wine -m models:/wine@champion
    mlflow deployments create -t modelarmor --name try -m ./model -C unreviewed=true -C port=5001
    mlflow deployments get -t modelarmor --name wine
    mlflow deployments predict -t modelarmor --name wine -I input.json
    mlflow deployments update -t modelarmor --name wine -m models:/wine/4
    mlflow deployments delete -t modelarmor --name wine
    mlflow deployments run-local -t modelarmor --name wine -m models:/wine@champion

The model: models:/NAME/VERSION or models:/NAME@ALIAS, approved; with unreviewed=true whatever
MLflow serves. What nobody approved, and files that have changed, are refused.

Configuration (-C KEY=VALUE), as the options of `modelarmor serve`:

    host, port          where it listens (127.0.0.1, and a free port)
    workers, timeout    server processes, seconds for a request
    python              the interpreter of an environment that has what the model needs
    env_manager         virtualenv or uv: build the environment that the model asks for, confined
    allow_source=true   with env_manager: source packages too
    unreviewed=true     serve what nobody has approved
    evidence            with unreviewed: the evidence of `modelarmor generate`
    config              whose approvals count
    guard, no_guard     limits on requests
    audit=true          refuse nothing that the policy names, report it
    enforcer            local (the default), or kubernetes

With enforcer=kubernetes the configuration is that of `modelarmor deploy`, of which image is needed:

    mlflow deployments create -t modelarmor --name wine -m models:/wine@champion \
        -C enforcer=kubernetes -C image=registry.example/wine@sha256:... -C claim=models:wine/3

    image, prefix, interpreter, pull_secret           the container
    claim, or tracking_uri, fetch_secret, fetch_egress    where the model's files come from
    namespace, kubeconfig, context                    where it is served; it stays there
    replicas, max_replicas, gpus, timeout
    unreviewed, evidence, config, guard, no_guard     as above

A deployment is known on the machine that made it. Its `url` is an address within the cluster, so
`predict` does not ask it; `delete` ends its pods first, and then what confined them.

`update` ends the old server, starts the new one, and goes back to the old one where the new one
does not come up. `get` shows the process, the address, the digests, who approved, and how often the
policy was violated; logs and alerts lie in ~/.local/state/modelarmor/deployments/NAME.
"""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A model must not send who asks it to another address."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


#: to our own address: by no proxy, and wherever an answer points, no further
_HTTP: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


@dataclass(frozen=True, kw_only=True)
class _Deployment:
    """What is written down of one."""

    name: str
    model_uri: str
    config: dict[str, str]
    pid: int
    #: when the process started, in the kernel's ticks: a number that another process never has
    started: int
    url: str
    admin: str
    created: float

    @property
    def runs(self) -> bool:
        return 0 < self.started == _started(self.pid)


class Client(BaseDeploymentClient):  # type: ignore[misc]
    """Deployments of this user on this machine."""

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve a model, and return once it answers.

        Args:
            name: letters, digits, ``_``, ``.`` and ``-``.
            model_uri: as `modelarmor serve` takes it.
            flavor: none, or ``python_function``.
            config: see `target_help`.
            endpoint: none; a deployment is its own.

        Raises:
            MlflowException: there is one of this name, or the model may not or cannot be served;
                nothing is left behind.
        """
        _no_endpoint(endpoint)
        _check_flavor(flavor)
        with _locked(name) as directory:
            if _read(directory) is not None or cluster_deployments.read(directory) is not None:
                raise MlflowException(
                    f"modelarmor: there is a deployment {name!r}; update or delete it",
                    RESOURCE_ALREADY_EXISTS,
                )
            try:
                if _enforcer(config or {}) == "kubernetes":
                    wanted = _texts(config or {})
                    cluster_deployments.check(name, wanted)
                    there = cluster_deployments.create(directory, name, model_uri, wanted)
                    return {"name": name, "flavor": "python_function", "url": there.url}
                made = _start(directory, name, model_uri, _checked(config or {}))
            except BaseException:
                shutil.rmtree(directory, ignore_errors=True)
                raise
        return {"name": name, "flavor": "python_function", "url": made.url}

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve another model, or with another configuration, at the same address.

        Raises:
            MlflowException: there is no such deployment, or the new one does not come up; the old
                one serves again then.
        """
        _no_endpoint(endpoint)
        _check_flavor(flavor)
        with _locked(name) as directory:
            if (there := cluster_deployments.read(directory)) is not None:
                _stays(config or {}, "kubernetes")
                uri = model_uri or there.model_uri
                cluster_deployments.update(directory, there, uri, _texts(config or {}))
                return {"flavor": "python_function"}
            old = _existing(directory, name)
            _stays(config or {}, "local")
            uri = model_uri or old.model_uri
            # The address stays, though nobody may have chosen it.
            port = old.config.get("port") or old.url.rpartition(":")[2]
            wanted = {**old.config, "port": port, **_checked(config or {})}
            _stop(old)
            try:
                _start(directory, name, uri, wanted)
            except BaseException:
                _start(directory, name, old.model_uri, {**old.config, "port": port})
                raise
        return {"flavor": "python_function"}

    def delete_deployment(
        self,
        name: str,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> None:
        """End a deployment, and remove its logs; one that is not there is no error."""
        _no_endpoint(endpoint)
        with _locked(name) as directory:
            if (there := cluster_deployments.read(directory)) is not None:
                cluster_deployments.delete(there)
            if (old := _read(directory)) is not None:
                _stop(old)
            shutil.rmtree(directory, ignore_errors=True)

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """All of them, with their state and address."""
        _no_endpoint(endpoint)
        top = _top()
        names = sorted(entry.name for entry in top.iterdir()) if top.is_dir() else []
        found = [_any(top / name) for name in names if _NAME.fullmatch(name)]
        return [each for each in found if each is not None]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """One of them: its process or revision, address, digests, approvals and violations.

        Raises:
            MlflowException: there is no such deployment.
        """
        _no_endpoint(endpoint)
        directory = _directory(name)
        if (there := cluster_deployments.read(directory)) is not None:
            return {**cluster_deployments.state(there), "config": there.config}
        found = _existing(directory, name)
        told = {
            **_summary(found),
            "config": found.config,
            "pid": found.pid,
            "log": str(directory / "serve.log"),
            "alerts": str(directory / "alerts.jsonl"),
        }
        if found.runs:
            with contextlib.suppress(OSError, ValueError):
                state = json.loads(_get(f"{found.admin}/state", _token(directory)))
                told |= {
                    key: state[key]
                    for key in ("artifact", "policy", "approved_by", "restarts", "audit", "counts")
                }
        return told

    def predict(
        self,
        deployment_name: str | None = None,
        inputs: Any = None,
        endpoint: str | None = None,
    ) -> PredictionsResponse:
        """Ask a deployment.

        Args:
            deployment_name: which.
            inputs: a pandas DataFrame, a NumPy array, or what JSON has; what is in the words of
                MLflow's scoring server (``{"inputs": …}``) is sent as it is.
            endpoint: none.

        Raises:
            MlflowException: there is no such deployment, or it refuses; says why.
        """
        _no_endpoint(endpoint)
        if deployment_name is None:
            raise MlflowException("modelarmor: name a deployment", INVALID_PARAMETER_VALUE)
        if (there := cluster_deployments.read(_directory(deployment_name))) is not None:
            _wrong(
                f"{deployment_name} is on a cluster, which this machine is no part of: ask"
                f" {there.url}/invocations from within, or use `kubectl port-forward -n"
                f" {there.namespace} service/{there.name} 8080:80`"
            )
        found = _existing(_directory(deployment_name), deployment_name)
        request = urllib.request.Request(
            f"{found.url}/invocations",
            json.dumps(_body(inputs)).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with _HTTP.open(request, timeout=_ASK_SECONDS) as answer:
                text = answer.read(_LARGEST_ANSWER).decode()
        except urllib.error.HTTPError as error:
            said = _shown(error.read(_SAID))
            if error.code // 100 == 3:
                said = f"it points elsewhere ({error.code}), which is not followed {said}"
            raise MlflowException(f"modelarmor: {deployment_name} answers: {said}") from None
        except OSError as error:
            raise MlflowException(
                f"modelarmor: {deployment_name} does not answer at {found.url}: {error}"
            ) from None
        return PredictionsResponse.from_json(text)

    def explain(
        self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None
    ) -> NoReturn:
        """Not offered: MLflow's scoring server has no explanations."""
        raise MlflowException(
            "modelarmor: MLflow's scoring server explains no predictions; log an explainer as a"
            " model of its own, and deploy that",
            INVALID_PARAMETER_VALUE,
        )

    def create_endpoint(self, name: str, config: Any = None) -> NoReturn:
        """Not offered: each deployment is its own."""
        _wrong(_NO_ENDPOINTS)

    def update_endpoint(self, endpoint: str, config: Any = None) -> NoReturn:
        """Not offered: each deployment is its own."""
        _wrong(_NO_ENDPOINTS)

    def delete_endpoint(self, endpoint: str) -> NoReturn:
        """Not offered: each deployment is its own."""
        _wrong(_NO_ENDPOINTS)

    def list_endpoints(self) -> list[dict[str, Any]]:
        """There are none."""
        return []

    def get_endpoint(self, endpoint: str) -> NoReturn:
        """Not offered: each deployment is its own."""
        _wrong(_NO_ENDPOINTS)


def run_local(
    name: str,
    model_uri: str,
    flavor: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Serve a model in the foreground, until Ctrl-C.

    MLflow 3.17 gives no target, though the interface that it documents has one.

    Raises:
        MlflowException: it may not or cannot be served; stderr says why.
    """
    _check_flavor(flavor)
    options = _arguments(model_uri, {"port": "5000", **_checked(config or {})})
    status = subprocess.run([sys.executable, "-m", "modelarmor", *options], check=False).returncode
    if status not in (0, 130):
        raise MlflowException(f"modelarmor: {name} was not served (status {status}); see above")


def target_help() -> str:
    """What ``mlflow deployments help -t modelarmor`` shows."""
    return _HELP


# --- configuration


def _enforcer(config: Mapping[str, Any]) -> str:
    enforcer = str(config.get("enforcer", "local"))
    if enforcer not in ("local", "kubernetes"):
        _wrong(f"enforcer is local or kubernetes, not {enforcer!r}")
    return enforcer


def _stays(config: Mapping[str, Any], enforcer: str) -> None:
    if "enforcer" in config and _enforcer(config) != enforcer:
        _wrong(f"its enforcer is {enforcer} and stays so; create another deployment")


def _texts(config: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in config.items() if key != "enforcer"}


def _checked(config: Mapping[str, Any]) -> dict[str, str]:
    if _enforcer(config) != "local":
        _wrong("run-local is here, not on a cluster")
    told = _texts(config)
    for key, value in told.items():
        if key not in (*_OPTIONS, *_FLAGS):
            known = ", ".join((*_OPTIONS, *_FLAGS, "enforcer"))
            _wrong(f"there is no {key!r} to configure; known are {known}")
        if key in _FLAGS and value.lower() not in ("true", "false"):
            _wrong(f"{key} is true or false, not {value!r}")
    return told


def _arguments(uri: str, config: Mapping[str, str]) -> list[str]:
    """The command line of `modelarmor serve`; each value stays one, whatever it begins with."""
    options = ["serve", f"--model-uri={uri}"]
    for key, value in config.items():
        option = f"--{key.replace('_', '-')}"
        if key in _OPTIONS:
            options.append(f"{option}={value}")
        elif value.lower() == "true":
            options.append(option)
    return options


def _check_flavor(flavor: str | None) -> None:
    if flavor not in (None, "python_function"):
        _wrong(f"a model is served by its flavour python_function, not {flavor!r}")


def _no_endpoint(endpoint: str | None) -> None:
    if endpoint is not None:
        _wrong(_NO_ENDPOINTS)


def _wrong(what: str) -> NoReturn:
    raise MlflowException(f"modelarmor: {what}", INVALID_PARAMETER_VALUE)


# --- what is written down


def _top() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "modelarmor" / "deployments"


def _directory(name: str) -> Path:
    if not _NAME.fullmatch(name):
        _wrong(f"{name!r:.80} is no name: letters, digits, _ . and -, 63 at most")
    return _top() / name


@contextmanager
def _locked(name: str) -> Iterator[Path]:
    """The directory of a deployment that nobody else changes meanwhile."""
    directory = _directory(name)
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(directory.parent / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory
    finally:
        os.close(lock)


def _read(directory: Path) -> _Deployment | None:
    try:
        found = json.loads((directory / "deployment.json").read_text())
        fields = {item.name: found[item.name] for item in dataclasses.fields(_Deployment)}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    numbers, texts = ("pid", "started"), ("name", "model_uri", "url", "admin")
    if any(type(fields[key]) is not int for key in numbers) or any(
        type(fields[key]) is not str for key in texts
    ):
        return None
    return _Deployment(**fields)


def _any(directory: Path) -> dict[str, Any] | None:
    there = cluster_deployments.read(directory)
    if there is not None:
        return cluster_deployments.state(there)
    found = _read(directory)
    return None if found is None else _summary(found)


def _existing(directory: Path, name: str) -> _Deployment:
    if (found := _read(directory)) is None:
        raise MlflowException(
            f"modelarmor: there is no deployment {name!r}", RESOURCE_DOES_NOT_EXIST
        )
    return found


def _write(file: Path, text: str) -> None:
    with replacing(file, 0o600) as unfinished:
        unfinished.write_text(text)


def _summary(found: _Deployment) -> dict[str, Any]:
    return {
        "name": found.name,
        "model_uri": found.model_uri,
        "flavor": "python_function",
        "state": "running" if found.runs else "ended",
        "url": found.url,
        "created": found.created,
    }


def _token(directory: Path) -> str:
    return (directory / "token").read_text()


# --- processes


def _start(directory: Path, name: str, uri: str, config: dict[str, str]) -> _Deployment:
    """Start the server of a deployment, and wait until it answers."""
    directory.mkdir(mode=0o700, exist_ok=True)
    ready = directory / "ready.json"
    ready.unlink(missing_ok=True)
    _write(directory / "token", secrets.token_urlsafe(24))
    log = directory / "serve.log"
    command = [
        sys.executable, "-m", "modelarmor", *_arguments(uri, {"port": "0", **config}),
        f"--alerts={directory / 'alerts.jsonl'}", f"--log={log}", "--admin-port=0",
        f"--admin-token={directory / 'token'}", f"--ready-file={ready}",
    ]  # fmt: skip
    log.unlink(missing_ok=True)
    with log.open("ab") as stream:  # what is told before and after there is a log
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # it outlives the command that made it
        )
    try:
        where = _awaited(process, ready, log, name)
    except BaseException:
        _end(process.pid)
        process.wait()
        raise
    made = _Deployment(
        name=name,
        model_uri=uri,
        config=config,
        pid=process.pid,
        started=_started(process.pid),
        url=where["url"],
        admin=where["admin"],
        created=time.time(),
    )
    if not made.started:
        raise MlflowException(f"modelarmor: {name} ended as it was ready:\n{_last_of(log)}")
    _write(directory / "deployment.json", json.dumps(asdict(made), indent=2))
    process.returncode = 0  # so that Popen does not complain that it is left running
    return made


def _awaited(process: subprocess.Popen[bytes], ready: Path, log: Path, name: str) -> dict[str, str]:
    deadline = time.monotonic() + _READY_SECONDS
    while not ready.exists():
        if process.poll() is not None:
            raise MlflowException(f"modelarmor: {name} could not be served:\n{_last_of(log)}")
        if time.monotonic() > deadline:
            raise MlflowException(
                f"modelarmor: {name} did not answer within {_READY_SECONDS:.0f} s; it was ended"
            )
        time.sleep(_POLL_SECONDS)
    where: dict[str, str] = json.loads(ready.read_text())
    return where


def _last_of(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - _SAID))
        return _shown(stream.read(_SAID))


def _shown(said: bytes) -> str:
    """What a model may have written, line by line, fit for a terminal."""
    lines = said.decode(errors="replace").strip().splitlines()
    return "\n".join(visible(line, _SAID) for line in lines)


def _stop(found: _Deployment) -> None:
    """End its process, if that still is the one."""
    deadline = time.monotonic() + _STOP_SECONDS
    if found.runs:
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGTERM)
    while found.runs and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if found.runs:
        _end(found.pid)


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _started(pid: int) -> int:
    """When a process started (field 22 of ``/proc/PID/stat``); 0 for one that runs no more."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def _get(url: str, token: str) -> bytes:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with _HTTP.open(request, timeout=10) as answer:
        return bytes(answer.read(_LARGEST_ANSWER))


def _body(inputs: Any) -> Any:
    known = ("dataframe_split", "dataframe_records", "instances", "inputs")
    if isinstance(inputs, Mapping) and any(name in inputs for name in known):
        return inputs
    if hasattr(inputs, "to_json"):  # a DataFrame
        return {"dataframe_split": json.loads(inputs.to_json(orient="split", index=False))}
    return {"inputs": inputs.tolist() if hasattr(inputs, "tolist") else inputs}
