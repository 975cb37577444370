"""What the registry and `modelarmor serve` cost, against plain MLflow in the same run.

    python -m benchmarks.registry [--output docs/benchmarks-mlflow.md]

Two real servers with a database each, SQLite, one with our store; and one model, a scikit-learn
classifier, served by `mlflow models serve` and by `modelarmor serve` under its approved policy.
What is compared is done in turns, in random order, so that what slows the machine down slows both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

import aiohttp
import psutil
import requests
import yaml

from benchmarks import table
from tests.mlflow.support import Reviewer, Server
from tests.ports import free_port

OURS, PLAIN = "ModelArmor", "plain MLflow"
_BIN = Path(sys.executable).parent
_CONNECTIONS = 24
_WORKER = {"generator": "modelarmor.generate.pipeline:generate"}
_PATIENCE = 180.0  # seconds for a server to answer

# In a process of its own, with MLflow's warnings.
_SAVE = """
import sys, warnings
warnings.simplefilter("ignore")
import mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
data, kinds = load_iris(return_X_y=True, as_frame=True)
model = LogisticRegression(max_iter=500).fit(data, kinds)
mlflow.sklearn.save_model(
    model, sys.argv[1], input_example=data.head(3), pip_requirements=["scikit-learn"],
    serialization_format="skops",
)
"""
_ROW = {
    "dataframe_split": {
        "columns": [
            "sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)",
        ],
        "data": [[5.1, 3.5, 1.4, 0.2]],
    }
}  # fmt: skip


@dataclass
class Row:
    """Something that both did, and how long each took, in seconds, a value a round."""

    title: str
    goal: float | None = None
    values: dict[str, list[float]] = field(default_factory=lambda: {OURS: [], PLAIN: []})

    @property
    def ratio(self) -> float:
        """Ours over MLflow's own, of the medians."""
        return statistics.median(self.values[OURS]) / statistics.median(self.values[PLAIN])

    def cells(self) -> list[str]:
        """The line of the table."""
        goal = "-"
        if self.goal is not None:
            goal = f"≤ {self.goal:g}: " + ("met" if self.ratio <= self.goal else "**not met**")
        shown = [f"{1000 * statistics.median(self.values[name]):.4g} ms" for name in (PLAIN, OURS)]
        return [self.title, *shown, f"{self.ratio:.2f}", goal]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.registry", description=__doc__)
    parser.add_argument("--calls", type=int, default=200, help="of the registry, each (200)")
    parser.add_argument("--starts", type=int, default=7, help="of a served model, each (7)")
    parser.add_argument(
        "--requests", type=int, default=14_000, help="to a served model, each (14000)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the page there")
    arguments = parser.parse_args(argv)
    load = os.getloadavg()[0]
    if warning := table.warning(load):
        print(f"benchmarks: warning: {warning}", file=sys.stderr)
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelarmor-bench-")))
        model = base / "model"
        _say("training a model")
        subprocess.run([sys.executable, "-W", "ignore", "-c", _SAVE, model], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        servers = {
            PLAIN: stack.enter_context(Server(base / "plain", plugin=False)),
            OURS: stack.enter_context(Server(base / "ours", config={"worker": _WORKER})),
        }
        _say("registering it, making its policy, approving it")
        _champion(servers, model, base)
        _without_worker(servers[OURS])
        rows = [*_registry(servers, arguments.calls), *_serving(servers, arguments, base)]
    text = _table(rows)
    print(text)
    if arguments.output is not None:
        said = f"> {warning}\n\n" if warning else ""
        facts = "\n".join(f"* {name}: {value}" for name, value in table.facts(load).items())
        page = _PAGE.format(warning=said, table=text, facts=facts, calls=arguments.calls,
                            starts=arguments.starts, requests=arguments.requests,
                            connections=_CONNECTIONS)  # fmt: skip
        arguments.output.write_text(page, encoding="utf-8")
    return 0


def _without_worker(server: Server) -> None:
    """Leave its versions to another machine's worker, so that no policy is made meanwhile."""
    settings = yaml.safe_load(server.config.read_text())
    settings["worker"]["enabled"] = False
    server.configure(**settings)
    server.restart()


def _champion(servers: dict[str, Server], model: Path, base: Path) -> None:
    """Version 1 of ``iris``, the champion of both registries; approved in ours."""
    reviewer = Reviewer(base / "keys", "ada").trusted_by(servers[OURS])
    for name, server in servers.items():
        client = server.client
        run = client.create_run("0").info
        client.log_artifacts(run.run_id, str(model), "model")
        source = f"{run.artifact_uri}/model"
        client.create_registered_model("iris")
        version = client.create_model_version("iris", source, run_id=run.run_id)
        if name == OURS:
            server.wait_generated("iris", version.version)
            reviewer.decide(server, version)
        client.set_registered_model_alias("iris", "champion", version.version)


# --- the registry


def _registry(servers: dict[str, Server], calls: int) -> Iterator[Row]:
    """Rows of what clients ask a registry."""
    sessions = {name: requests.Session() for name in servers}
    runs: dict[str, tuple[str, str]] = {}
    for name, server in servers.items():
        version = server.client.get_model_version("iris", "1")
        runs[name] = version.source, version.run_id
        server.client.create_registered_model("many")

    def call(name: str, method: str, path: str, body: dict[str, Any]) -> None:
        url = f"{servers[name].uri}/api/2.0/mlflow/{path}"
        asked = {"params": body} if method == "GET" else {"json": body}
        answer = sessions[name].request(method, url, timeout=_PATIENCE, **asked)
        answer.raise_for_status()

    def create(name: str) -> None:
        source, run = runs[name]
        call(name, "POST", "model-versions/create",
             {"name": "many", "source": source, "run_id": run})  # fmt: skip

    kinds: list[tuple[str, Callable[[str], None]]] = [
        ("create a version", create),
        ("set an alias, not protected", lambda name: call(
            name, "POST", "registered-models/alias",
            {"name": "many", "alias": "candidate", "version": "1"})),
        ("set an alias, protected, of an approved version", lambda name: call(
            name, "POST", "registered-models/alias",
            {"name": "iris", "alias": "champion", "version": "1"})),
        ("look an alias up", lambda name: call(
            name, "GET", "registered-models/alias", {"name": "iris", "alias": "champion"})),
        ("search versions, 100 of them", lambda name: call(
            name, "GET", "model-versions/search",
            {"filter": "name='many'", "max_results": "100"})),
        ("search models", lambda name: call(name, "GET", "registered-models/search", {})),
    ]  # fmt: skip
    for title, act in kinds:
        _say(title)
        row = Row(title, None if "protected, of" in title else 1.1)
        for number in range(calls + 5):
            for name in random.sample([*servers], 2):
                began = perf_counter()
                act(name)
                if number >= 5:  # the first ones make caches
                    row.values[name].append(perf_counter() - began)
        yield row


# --- serving


def _serving(
    servers: dict[str, Server], arguments: argparse.Namespace, base: Path
) -> Iterator[Row]:
    """Rows of a served model."""
    ready = Row("`serve`: ready", 1.2)
    cpu, middle, slow = (
        Row(f"request, {_CONNECTIONS} connections: {what}", goal)
        for what, goal in (("processor time", 1.03), ("p50", None), ("p99", 1.1))
    )
    asked: dict[str, list[float]] = {OURS: [], PLAIN: []}
    for number in range(arguments.starts + 1):
        _say(f"serving, round {number} of {arguments.starts}")
        for name in random.sample([*servers], 2):
            with _served(name, servers[name], base) as (url, process, seconds):
                before = _processor_seconds(process)
                took = asyncio.run(_ask(url, arguments.requests // arguments.starts))
                used = _processor_seconds(process) - before
            if number:
                ready.values[name].append(seconds)
                cpu.values[name].append(used / len(took))
                asked[name] += took
    # Of all rounds together: a burst is either fair to its connections or starves a few, plain
    # MLflow's too, and which of the two is chance.
    for name, took in asked.items():
        middle.values[name].append(statistics.median(took))
        slow.values[name].append(statistics.quantiles(took, n=100)[98])
    yield from (ready, cpu, middle, slow)


@contextmanager
def _served(name: str, server: Server, base: Path) -> Iterator[tuple[str, psutil.Process, float]]:
    """A served model: its address, its process, and after how many seconds it answered."""
    port = free_port()
    options = ["-m", "models:/iris@champion", "-p", str(port), "--env-manager", "local"]
    program = {
        OURS: [str(_BIN / "modelarmor"), "serve", *options],
        PLAIN: [str(_BIN / "mlflow"), "models", "serve", *options],
    }[name]
    environ = {
        **os.environ,
        "MLFLOW_TRACKING_URI": server.uri,
        "MODELARMOR_REGISTRY_CONFIG": str(server.config),
        "PATH": f"{_BIN}:{os.environ['PATH']}",
    }
    log = base / "serve.log"
    with log.open("wb") as stream:
        began = monotonic()
        process = psutil.Popen(program, env=environ, stdout=stream, stderr=stream)
    try:
        url = f"http://127.0.0.1:{port}"
        while not _answers(f"{url}/ping"):
            if process.poll() is not None or monotonic() - began > _PATIENCE:
                raise RuntimeError(f"{name} does not serve: {log.read_text()[-3000:]}")
            sleep(0.02)
        yield url, process, monotonic() - began
    finally:
        family = [process, *process.children(recursive=True)] if process.is_running() else []
        for each in family[:1]:
            each.terminate()
        psutil.wait_procs(family, 20)
        for left in family:
            if left.is_running():
                left.kill()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def _processor_seconds(process: psutil.Process) -> float:
    """Of the command and all that it started, our helper included."""
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


async def _ask(url: str, count: int) -> list[float]:
    """Ask for predictions over several connections at once; seconds of each."""
    took: list[float] = []
    body = json.dumps(_ROW)
    headers = {"Content-Type": "application/json"}

    async def one(session: aiohttp.ClientSession, times: int, *, counts: bool) -> None:
        for _ in range(times):
            began = perf_counter()
            async with session.post(f"{url}/invocations", data=body, headers=headers) as answer:
                text = await answer.text()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {text[:1000]}")
            if counts:
                took.append(perf_counter() - began)

    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:
        for times, counts in ((2, False), (max(1, count // _CONNECTIONS), True)):
            await asyncio.gather(*(one(session, times, counts=counts) for _ in range(_CONNECTIONS)))
    return took


# --- telling


def _table(rows: Sequence[Row]) -> str:
    lines = [["", PLAIN, OURS, "ratio", "goal"], ["---"] * 5, *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _say(what: str) -> None:
    print(f"benchmarks: {what}", file=sys.stderr, flush=True)


_PAGE = """\
# The registry and serving, against plain MLflow

Written by `python -m benchmarks.registry`; do not edit.

{warning}{table}
Medians, and of requests the 50th and 99th of 100 over all rounds; *ratio* is ours over plain
MLflow's.

{facts}

## How it is measured

* Two `mlflow server`s with one process each and SQLite, one with `modelarmor:` before the address
  of its registry. {calls} calls of each kind to each, in turns and in random order, over one kept
  connection each. No policy is generated meanwhile: `worker.enabled` is false, as where `modelarmor
  registry worker` runs on a machine of its own. So the versions that are searched wait for theirs;
  of one that has a policy a list shows two short tags more.
* A scikit-learn classifier, version 1 and champion of both registries, approved in ours. Each of
  {starts} rounds starts `mlflow models serve` and `modelarmor serve -m models:/iris@champion`, in
  random order. *Ready* is from the start of the command to the first answer of `/ping`.
* Then {connections} connections at once ask for predictions of one row, about {requests} in all
  rounds together. Processor time is that of the command and all that it started, the helper of the
  sandbox included. The guard checks each request against the model's signature.
"""


if __name__ == "__main__":
    sys.exit(main())
