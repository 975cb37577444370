"""A namespace of a test's own on a real cluster, and the account of the server in it."""

from __future__ import annotations

import asyncio
import base64
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException
from traitlets.config import Config

from modelarmor.cluster.client import KUBEARMOR, Cluster
from tests.cluster.conftest import Here

_DEPLOY = Path(__file__).parents[3] / "deploy"
#: a loaded cluster may take that long for anything
_PATIENCE = 240.0
#: what docs/kubernetes.md adds for a server that is not on the cluster itself
_FORWARD = {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["get", "create"]}
IMAGE = os.environ.get("MODELARMOR_TEST_IMAGE", "quay.io/jupyter/base-notebook:latest")
#: what `readlink -f /opt/conda/bin/python` says in it
INTERPRETER = os.environ.get("MODELARMOR_TEST_INTERPRETER", "/opt/conda/bin/python3.13")


@dataclass
class Place:
    """A namespace, seen by its administrator."""

    name: str
    admin: Cluster
    #: of the ServiceAccount that deploy/ makes: what ModelArmor connects with
    kubeconfig: Path

    def here(self, **pods: Any) -> Here:
        """A server that is configured for this namespace, as that account."""
        settings = {
            "image": IMAGE,
            "namespace": self.name,
            "server_name": "server-1",
            "kubeconfig": str(self.kubeconfig),
            "launch_seconds": 240.0,
            "interpreters": {"untrusted-model": INTERPRETER},
        }
        # what has ended stays so, for the test to see
        config = Config({"KernelPods": settings | pods, "KernelManager": {"autorestart": False}})
        return Here(None, None, config)  # type: ignore[arg-type]

    async def left(self) -> dict[str, list[str]]:
        """What is there that is labelled as ModelArmor's, by kind."""
        found = {
            "secrets": await self._named(self.admin.core.list_namespaced_secret),
            "pods": await self._named(self.admin.core.list_namespaced_pod),
            "networkpolicies": await self._named(
                self.admin.networking.list_namespaced_network_policy
            ),
            "kubearmorpolicies": [
                item["metadata"]["name"] for item in (await self.policies())["items"]
            ],
        }
        return {kind: names for kind, names in found.items() if names}

    async def emptied(self) -> None:
        """Wait until the collector has taken what belonged to a Secret."""

        async def empty() -> bool:
            return await self.left() == {}

        await until("nothing is left", empty)

    async def policies(self) -> Any:
        """The KubeArmorPolicies."""
        return await self.admin.custom.list_namespaced_custom_object(
            KUBEARMOR[0], KUBEARMOR[1], self.name, KUBEARMOR[2]
        )

    async def pod(self) -> Any:
        """The one pod."""
        (found,) = (await self.admin.core.list_namespaced_pod(self.name)).items
        return found

    async def _named(self, function: Any) -> list[str]:
        found = await function(self.name, label_selector="app.kubernetes.io/managed-by=modelarmor")
        return [item.metadata.name for item in found.items]


@asynccontextmanager
async def place(
    directory: Path, manifests: str = "base", server: str = "modelarmor"
) -> AsyncIterator[Place]:
    """Make a namespace as one directory of deploy/ has it, under another name; delete it after.

    Args:
        directory: for the kubeconfig.
        manifests: of deploy/.
        server: the ServiceAccount of these.
    """
    admin = await Cluster.connect(os.environ["KUBECONFIG"])
    name = f"modelarmor-test-{uuid.uuid4().hex[:8]}"
    (former,) = _read(manifests, "namespace.yaml")
    rights = [_renamed(item, former["metadata"]["name"], name)
              for item in _read(manifests, "rights.yaml")]  # fmt: skip
    made: list[Any] = []
    try:
        former["metadata"]["name"] = name
        await admin.core.create_namespace(former)
        for item in rights:
            await _create(admin, name, item)
            made.append(item)
        token = await admin.core.create_namespaced_service_account_token(
            server, name, {"spec": {"expirationSeconds": 3600}}
        )
        file = _kubeconfig(admin, directory, name, token.status.token)
        yield Place(name, admin, file)
    finally:
        rbac = client.RbacAuthorizationV1Api(admin.api)
        for item in made:
            if item["kind"] == "ClusterRole":
                await rbac.delete_cluster_role(item["metadata"]["name"])
            elif item["kind"] == "ClusterRoleBinding":
                await rbac.delete_cluster_role_binding(item["metadata"]["name"])
        try:
            await admin.core.delete_namespace(name)
        except ApiException as error:
            if error.status not in (404, 409):  # a test has deleted it
                raise
        await admin.close()


def _read(manifests: str, file: str) -> list[Any]:
    return list(yaml.safe_load_all((_DEPLOY / manifests / file).read_text()))


def _renamed(item: Any, former: str, name: str) -> Any:
    """The rights in another namespace; what has no namespace is named by it."""
    meta = item["metadata"]
    if "namespace" in meta:
        meta["namespace"] = name
    else:
        meta["name"] = name
        if "roleRef" in item:
            item["roleRef"]["name"] = name
    for subject in item.get("subjects", ()):
        subject["namespace"] = name
    for rule in item.get("rules", ()):
        if rule.get("resourceNames") == [former]:
            rule["resourceNames"] = [name]
    if item["kind"] == "Role":
        item["rules"].append(_FORWARD)
    return item


async def _create(admin: Cluster, namespace: str, item: Any) -> None:
    rbac = client.RbacAuthorizationV1Api(admin.api)
    if item["kind"] == "ServiceAccount":
        await admin.core.create_namespaced_service_account(namespace, item)
    elif item["kind"] == "Role":
        await rbac.create_namespaced_role(namespace, item)
    elif item["kind"] == "RoleBinding":
        await rbac.create_namespaced_role_binding(namespace, item)
    elif item["kind"] == "ClusterRole":
        await rbac.create_cluster_role(item)
    else:
        assert item["kind"] == "ClusterRoleBinding"
        await rbac.create_cluster_role_binding(item)


def _kubeconfig(admin: Cluster, directory: Path, namespace: str, token: str) -> Path:
    """The file by which the account connects, and to the same server as the administrator."""
    server = {"server": admin.configuration.host}
    if trusted := admin.configuration.ssl_ca_cert:
        data = base64.b64encode(Path(trusted).read_bytes()).decode()
        server["certificate-authority-data"] = data
    named = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "it", "cluster": server}],
        "users": [{"name": "server", "user": {"token": token}}],
        "contexts": [
            {
                "name": "it",
                "context": {"cluster": "it", "user": "server", "namespace": namespace},
            }
        ],
        "current-context": "it",
    }
    file = directory / f"{namespace}.kubeconfig"
    file.write_text(yaml.safe_dump(named))
    return file


async def until(what: str, holds: Callable[[], Awaitable[Any]]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + _PATIENCE
    while not await holds():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.5)
