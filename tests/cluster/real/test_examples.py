"""What is in deploy/ is what a real API server takes."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.real.conftest import Known
from tests.cluster.real.places import place

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

_DEPLOY = Path(__file__).parents[3] / "deploy"
_MANIFESTS = sorted(
    file for file in _DEPLOY.glob("*/*.yaml") if file.stem not in ("kustomization", "values")
)


@pytest.mark.parametrize("file", _MANIFESTS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_manifest_is_accepted_as_it_is(tmp_path: Path, known: Known, file: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl sends what is in deploy/")

    async def body() -> None:
        async with place(tmp_path) as there:
            items = list(yaml.safe_load_all(file.read_text()))
            for item in items:
                if item["kind"] != "Namespace" and not item["kind"].startswith("Cluster"):
                    item["metadata"]["namespace"] = there.name
            # strictly: a field that the server does not know is an error
            command = ["kubectl", "apply", "--dry-run=server", "--validate=true", "-f", "-"]
            done = await asyncio.to_thread(
                subprocess.run, command, input=yaml.safe_dump_all(items),
                capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("dry run") == len(items)

    asyncio.run(body())
