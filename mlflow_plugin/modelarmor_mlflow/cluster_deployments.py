"""The deployments target on Kubernetes: what `modelarmor deploy` makes, by a name of this user.

What runs is the cluster's to say, and is asked each time. Here it is only written down which model,
where and how: MLflow names a deployment, and nothing else, to look at it or to delete it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_ALREADY_EXISTS

from modelarmor.replacing import replacing
from modelarmor.visible import visible

if TYPE_CHECKING:
    from modelarmor.cluster.client import Cluster
    from modelarmor.cluster.deployed import Deployed

_T = TypeVar("_T")

#: configuration that is an option of `modelarmor deploy` with a value, and those without
OPTIONS: Final = (
    "image", "namespace", "prefix", "interpreter", "pull_secret", "claim", "tracking_uri",
    "fetch_secret", "fetch_egress", "replicas", "max_replicas", "gpus", "guard", "evidence",
    "config", "kubeconfig", "context", "timeout",
)  # fmt: skip
FLAGS: Final = ("unreviewed", "no_guard")
#: where a deployment is; another place is another deployment
_WHERE: Final = ("namespace", "kubeconfig", "context")
_NAME: Final = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_FILE: Final = "cluster.json"
_SAID: Final = 3_000
_END_SECONDS: Final = 300.0


@dataclass(frozen=True, kw_only=True)
class OnCluster:
    """What is written down of one."""

    name: str
    model_uri: str
    config: dict[str, str]
    created: float

    @property
    def namespace(self) -> str:
        """Where it is."""
        return self.config.get("namespace", "default")

    @property
    def url(self) -> str:
        """Its address within the cluster."""
        return f"http://{self.name}.{self.namespace}.svc"


def check(name: str, config: Mapping[str, str]) -> None:
    """Raise `MlflowException` where a deployment cannot be called or configured so."""
    if not _NAME.fullmatch(name):
        _wrong(f"{name!r:.80}: on a cluster a name is a DNS label of 40 characters at most")
    if not config.get("image"):
        _wrong("a cluster needs an image: -C image=registry.example/name@sha256:…")
    for key, value in config.items():
        if key not in (*OPTIONS, *FLAGS):
            known = ", ".join((*OPTIONS, *FLAGS, "enforcer"))
            _wrong(f"there is no {key!r} to configure on a cluster; known are {known}")
        if key in FLAGS and value.lower() not in ("true", "false"):
            _wrong(f"{key} is true or false, not {value!r}")


def create(directory: Path, name: str, uri: str, config: dict[str, str]) -> OnCluster:
    """Deploy a model, and return once it serves.

    Raises:
        MlflowException: the cluster has one of that name there, or it does not come up; nothing of
            it is left then.
    """
    made = OnCluster(name=name, model_uri=uri, config=config, created=time.time())
    if _asked(made, _looked(made)) is not None:
        raise MlflowException(
            f"modelarmor: {made.namespace} has a deployment {name!r} already, made by `modelarmor"
            " deploy` or on another machine; choose another name",
            RESOURCE_ALREADY_EXISTS,
        )
    _deploy(made)
    write(directory, made)
    return made


def update(directory: Path, old: OnCluster, uri: str, config: Mapping[str, str]) -> None:
    """Deploy another model, or the same one otherwise; where it does not come up, the former stays.

    Raises:
        MlflowException: it did not come up.
    """
    if moved := [
        key for key in _WHERE if config.get(key, old.config.get(key)) != old.config.get(key)
    ]:
        _wrong(f"a deployment stays where it is ({', '.join(moved)}); create another one there")
    new = dataclasses.replace(old, model_uri=uri, config={**old.config, **config})
    check(new.name, new.config)
    _deploy(new)
    write(directory, new)


def delete(found: OnCluster) -> None:
    """End it, and what confined it when its pods are gone.

    Raises:
        MlflowException: the cluster refuses, or its pods do not end.
    """
    from modelarmor.cluster import deployed

    async def remove(cluster: Cluster) -> None:
        await deployed.remove(cluster, found.namespace, found.name, _END_SECONDS)

    _asked(found, remove)


def state(found: OnCluster) -> dict[str, Any]:
    """What the cluster says of it now; it does not answer: that, as its state."""
    told: dict[str, Any] = {
        "name": found.name,
        "model_uri": found.model_uri,
        "flavor": "python_function",
        "enforcer": "kubernetes",
        "namespace": found.namespace,
        "url": found.url,
        "created": found.created,
    }
    try:
        there = _asked(found, _looked(found))
    except MlflowException as error:
        return {**told, "state": "unknown", "why": str(error)}
    if there is None:
        return {**told, "state": "ended", "why": "the cluster has no such Deployment"}
    return {**told, **asdict(there)}


def write(directory: Path, found: OnCluster) -> None:
    """Write a deployment down."""
    directory.mkdir(mode=0o700, exist_ok=True)
    with replacing(directory / _FILE, 0o600) as unfinished:
        unfinished.write_text(json.dumps(asdict(found)))


def read(directory: Path) -> OnCluster | None:
    """What was written down of a deployment; None where that is none on a cluster."""
    try:
        found = json.loads((directory / _FILE).read_text())
        made = OnCluster(**{item.name: found[item.name] for item in dataclasses.fields(OnCluster)})
        check(made.name, made.config)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, MlflowException):
        return None
    texts = (made.name, made.model_uri, *made.config.values())
    return made if all(type(text) is str for text in texts) else None


def _deploy(wanted: OnCluster) -> None:
    """Have `modelarmor deploy` do it; each value stays one, whatever it begins with."""
    words = [f"--name={wanted.name}"]
    for key, value in wanted.config.items():
        option = f"--{key.replace('_', '-')}"
        if key == "fetch_egress":  # several, with commas between them
            words += [f"{option}={item}" for item in value.split(",")]
        elif key in OPTIONS:
            words.append(f"{option}={value}")
        elif value.lower() == "true":
            words.append(option)
    done = subprocess.run(
        [sys.executable, "-m", "modelarmor", "deploy", *words, "--", wanted.model_uri],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr[-_SAID:].decode(errors="replace").strip().splitlines()
        lines = "\n".join(visible(line, _SAID) for line in said)
        raise MlflowException(f"modelarmor: {wanted.name} could not be deployed:\n{lines}")


def _looked(found: OnCluster) -> Callable[[Cluster], Awaitable[Deployed | None]]:
    from modelarmor.cluster import deployed

    async def look(cluster: Cluster) -> Deployed | None:
        return await deployed.look(cluster, found.namespace, found.name)

    return look


def _asked(found: OnCluster, ask: Callable[[Cluster], Awaitable[_T]]) -> _T:
    try:
        from modelarmor.cluster.client import Cluster, ClusterError
    except ImportError as error:
        raise MlflowException(
            f"modelarmor: a cluster needs modelarmor[kubernetes] ({error})"
        ) from None

    async def run() -> _T:
        options = found.config
        cluster = await Cluster.connect(options.get("kubeconfig", ""), options.get("context", ""))
        try:
            return await ask(cluster)
        finally:
            await cluster.close()

    try:
        with ThreadPoolExecutor(1) as beside:  # a notebook's own loop runs here already
            return beside.submit(lambda: asyncio.run(run())).result()
    except ClusterError as error:
        raise MlflowException(f"modelarmor: {found.name}: {error}") from None


def _wrong(what: str) -> None:
    raise MlflowException(f"modelarmor: {what}", INVALID_PARAMETER_VALUE)
