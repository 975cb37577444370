"""A server of a real cluster: what it may, what it leaves when it is killed, and what it hears."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio import client

from modelarmor.cluster.client import Cluster
from modelarmor.cluster.doctor import NEEDED, examine
from modelarmor.cluster.watch import Watch
from tests.cluster.conftest import kernel
from tests.cluster.real.conftest import Known
from tests.cluster.real.places import place

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

_SECONDS = 240.0
_ROOT = Path(__file__).parents[3]


def test_what_a_killed_server_left_is_swept_by_the_next(
    tmp_path: Path, startable: None, known: Known
) -> None:
    async def body() -> None:
        async with place(tmp_path) as there:
            more = [] if known.enforces else ["--stand-in"]
            server = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.cluster.real.server", str(there.kubeconfig),
                there.name, *more, cwd=_ROOT, stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )  # fmt: skip
            try:
                assert server.stdout is not None
                assert await asyncio.wait_for(server.stdout.readline(), _SECONDS) == b"started\n"
            finally:
                server.send_signal(signal.SIGKILL)
                await server.wait()
            (orphan,) = (await there.left())["pods"]
            async with kernel(there.here(), tmp_path, str(uuid.uuid4())) as started:
                assert await started.run("print(6 * 7)") == "42"
                said = started.provisioner.progress
                assert any(orphan in line and "left behind" in line for line in said)
                async with asyncio.timeout(_SECONDS):
                    while any(orphan in names for names in (await there.left()).values()):
                        await asyncio.sleep(0.5)
                assert await started.run("print('untouched')") == "untouched"

    asyncio.run(body())


def test_the_rights_in_deploy_are_those_that_a_server_needs_and_no_more(
    tmp_path: Path, known: Known
) -> None:
    async def body() -> None:
        async with place(tmp_path) as there:
            server = await Cluster.connect(str(there.kubeconfig))
            try:
                checks = {check.name: check for check in await examine(server, there.name)}
                for _, resource, _ in NEEDED:
                    assert checks[f"rights: {resource}"].state == "ok"
                assert checks["namespace"].state == "ok"
                assert checks["policies"].state == ("ok" if known.kinds else "missing")
                forbidden = [
                    ("", "pods/exec", "create", there.name),
                    ("", "secrets", "get", there.name),
                    ("", "secrets", "list", "default"),
                    ("", "pods", "create", "default"),
                    ("", "namespaces", "patch", there.name),
                    ("security.kubearmor.com", "kubearmorpolicies", "delete", there.name),
                    ("rbac.authorization.k8s.io", "roles", "create", there.name),
                ]
                for right in forbidden:
                    assert not await _may(server, *right), right
            finally:
                await server.close()

    asyncio.run(body())


async def _may(cluster: Cluster, group: str, resource: str, verb: str, namespace: str) -> bool:
    name, _, sub = resource.partition("/")
    asked: dict[str, Any] = {
        "spec": {
            "resourceAttributes": {
                "group": group, "resource": name, "subresource": sub, "verb": verb,
                "namespace": namespace,
            }
        }
    }  # fmt: skip
    answer = await client.AuthorizationV1Api(cluster.api).create_self_subject_access_review(asked)
    assert answer.status is not None
    return bool(answer.status.allowed)


def test_a_watch_goes_on_from_a_version_that_has_expired(tmp_path: Path, known: Known) -> None:
    async def body() -> None:
        async with place(tmp_path) as there:
            core = there.admin.core
            watch = Watch(
                there.admin,
                core.list_namespaced_config_map,
                core.list_namespaced_config_map_without_preload_content,
                {"namespace": there.name, "label_selector": "test"},
                "config maps",
            )
            made = {"metadata": {"name": "one", "labels": {"test": "1"}}, "data": {"a": "b"}}
            await core.create_namespaced_config_map(there.name, made)
            # no cluster that has run for a while knows what came after its first version
            task = asyncio.create_task(watch._run("1"))
            try:
                async with asyncio.timeout(_SECONDS):
                    while watch.get("one") is None:
                        await watch.changed(1.0)
                    await core.delete_namespaced_config_map("one", there.name)
                    while watch.get("one") is not None:
                        await watch.changed(1.0)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(body())
