"""Under the profiles real work gets done, and is not reported as if it were an attack."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from modelarmor import profiles
from modelarmor.policy.model import PathRule
from modelarmor.sandbox.planner import make_plan
from modelarmor.sandbox.probe import probe

HERE = Path(__file__).parent
NOBODY = 65534
ELSEWHERE = [  # not for a notebook
    "benign_models", "make_models", "other_programs", "read_only_workspace", "connections",
    "devices",
]  # fmt: skip
EVERYDAY = [
    node.name
    for node in ast.parse((HERE / "everyday.py").read_text()).body
    if isinstance(node, ast.FunctionDef)
    and not node.name.startswith("_")
    and node.name not in ELSEWHERE
]
NEEDS = {
    "git": "git", "ipython_bang": "IPython", "joblib_loky": "joblib", "pandas_files": "pandas",
    "matplotlib_figure": "matplotlib", "memory_maps": "numpy", "sklearn_model": "sklearn",
    "torch_dataloader": "torch", "torch_trains_and_saves": "torch", "benign_models": "torch",
}  # fmt: skip

# What libraries try that a profile means to refuse, and do without: (operation, resource).
ASKS_FOR_IPV6 = ("Network", "domain=AF_INET6 type=SOCK_STREAM *")  # urllib3 does, on import
ASKS_FOR_MAC = ("Network", "domain=AF_INET type=SOCK_DGRAM *")  # libuuid does, for a uuid1
EXPECTED = {
    # So do older versions of pip whatever they are asked.
    "pip_list": [ASKS_FOR_IPV6, ("File", "/etc")],
    # pip, which venv installs, brings urllib3 along, and looks for the distribution's name.
    "virtual_environment": [ASKS_FOR_IPV6, ("File", "/etc")],
    "web_libraries": [ASKS_FOR_IPV6, ("Network", "domain=AF_INET type=SOCK_STREAM *")],
    "machine_facts": [ASKS_FOR_MAC],
}
NO_PROGRAMS = {
    "machine_facts": [ASKS_FOR_MAC, ("Process", "*/uname *")],
    "matplotlib_figure": [("Process", "*/fc-list *")],
}


@dataclass
class Outcome:
    status: int
    output: str
    alerts: list[dict[str, Any]]

    def unexpected(self, expected: list[tuple[str, str]]) -> list[str]:
        """Refusals that no pair of operation and resource accounts for."""
        return [
            f"{alert['Operation']} {alert['Resource']} by {alert.get('ProcessName')}"
            f" [{alert['PolicyName']}]"
            for alert in self.alerts
            if alert["Action"] == "Block"
            and not any(
                alert["Operation"] == operation and fnmatchcase(alert["Resource"], resource)
                for operation, resource in expected
            )
        ]


Run = Callable[..., Outcome]


#: root's own kernels are everywhere in the other tests
ROOTS = pytest.mark.thorough if os.getuid() == 0 else ()


@pytest.fixture(params=[pytest.param("own user", marks=ROOTS), "nobody"])
def work(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run a function of ``everyday.py`` confined, in a workspace of its own."""
    uid = os.getuid() if request.param == "own user" else NOBODY
    if uid != os.getuid() and os.getuid() != 0:
        pytest.skip("only root can become another user")
    # Not pytest's own directory, which is closed to other users.
    root = Path(tempfile.mkdtemp(prefix="modelarmor-work-"))
    root.chmod(0o755)
    for name in ("home", "work", "tmp"):
        (root / name).mkdir()
    (root / "home" / ".gitconfig").write_text("[user]\n\tname = Somebody\n")
    shutil.copy(HERE / "everyday.py", root / "work")
    for path in (root, *root.rglob("*")):
        os.chown(path, uid, uid if uid == NOBODY else -1)

    def run(
        function: str, *arguments: str, profile: str = "notebook", cwd: str = "work",
        serve: tuple[str, ...] = (), prepare: str = "",
    ) -> Outcome:  # fmt: skip
        missing = NEEDS.get(function)
        if missing and not (shutil.which(missing) or find_spec(missing)):
            pytest.skip(f"{missing} is not installed")
        command = [sys.executable, str(root / "work" / "everyday.py"), function, *arguments]
        if prepare:
            subprocess.run([*command[:2], prepare], cwd=root / cwd, check=True)
        job = {"uid": uid, "profile": profile, "home": str(root / "home"), "serve": serve,
               "workspace": str(root / "work"), "tmp": str(root / "tmp"), "cwd": str(root / cwd),
               "command": command}  # fmt: skip
        path = os.pathsep.join((str(Path(sys.executable).parent), "/usr/bin", "/bin"))
        done = subprocess.run(
            [sys.executable, "-m", f"{__package__}.confine", json.dumps(job)],
            cwd=HERE.parents[1], env={"PATH": path, "LANG": "C.UTF-8", "USER": "somebody",
                                      "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        outcome = json.loads(done.stdout)
        if "unavailable" in outcome:
            pytest.skip(outcome["unavailable"])
        assert "refused" not in outcome, outcome["refused"] + done.stderr
        return Outcome(**outcome)

    yield run
    shutil.rmtree(root)


# --- notebook


@pytest.mark.parametrize("function", EVERYDAY)
def test_a_notebook_does_everyday_work_without_an_alarm(work: Run, function: str) -> None:
    outcome = work(function)
    assert outcome.status == 0, outcome.output
    assert outcome.unexpected(EXPECTED.get(function, [])) == []


# --- untrusted-model


@pytest.mark.parametrize(
    "function",
    ["multiprocessing_fork", "multiprocessing_spawn", "process_pool_executor", "joblib_loky",
     "torch_dataloader", "threads", "machine_facts", "matplotlib_figure", "shared_memory",
     "temporary_files"],
)  # fmt: skip
def test_an_untrusted_model_computes_in_its_scratch_directory(work: Run, function: str) -> None:
    outcome = work(function, profile="untrusted-model", cwd="tmp")
    assert outcome.status == 0, outcome.output
    assert outcome.unexpected(NO_PROGRAMS.get(function, [])) == []


def test_a_benign_model_loads_as_an_untrusted_one(work: Run) -> None:
    outcome = work("benign_models", profile="untrusted-model", prepare="make_models")
    assert outcome.status == 0, outcome.output
    assert outcome.unexpected([]) == []


def test_an_untrusted_model_starts_nothing_but_python(work: Run) -> None:
    outcome = work("other_programs", profile="untrusted-model", cwd="tmp")
    assert outcome.status == 0, outcome.output
    refused = [alert["Resource"] for alert in outcome.alerts if alert["Operation"] == "Process"]
    for program in ("sh -c id", "/true", "/script.sh", "/copy-of-true", "so.2 /bin/true"):
        assert any(resource.endswith(program) for resource in refused), (program, refused)


def test_an_untrusted_model_leaves_its_workspace_as_it_is(work: Run) -> None:
    outcome = work("read_only_workspace", profile="untrusted-model", cwd="tmp")
    assert outcome.status == 0, outcome.output
    refused = [alert["Resource"] for alert in outcome.alerts if alert["Operation"] == "File"]
    assert len([resource for resource in refused if "/work/" in resource]) >= 9, refused


# --- notebook-online

PRIVATE = ["127.0.0.1:443", "169.254.169.254:443", "10.1.2.3:443", "172.16.1.1:443",
           "192.168.7.7:443", "100.64.1.1:443", "::1:443", "fd00:ec2::254:443"]  # fmt: skip
PUBLIC = "203.0.113.5"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a network to try it in")
def test_the_online_notebook_reaches_https_of_public_addresses_alone(work: Run) -> None:
    # Each answers, in a network namespace where these addresses are: what follows is our doing.
    targets = (*PRIVATE, f"{PUBLIC}:443", f"{PUBLIC}:80", f"{PUBLIC}:8888")
    outcome = work("connections", *targets, profile="notebook-online", serve=targets)
    assert outcome.status == 0, outcome.output
    came = dict(line.split(" ", 1) for line in outcome.output.splitlines())
    assert came == {**dict.fromkeys(targets, "refused"), f"{PUBLIC}:443": "connected"}
    said = [alert["Resource"] for alert in outcome.alerts if alert["Operation"] == "Network"]
    assert len(said) == len(targets) - 1, said
    for host in ("127.0.0.1", "169.254.169.254", "10.1.2.3", "fd00:ec2::254", PUBLIC):
        assert any(host in resource for resource in said), (host, said)


def test_private_addresses_are_refused_to_the_online_notebook(work: Run) -> None:
    targets = (*PRIVATE, "192.0.2.1:80")
    outcome = work("connections", *targets, profile="notebook-online")
    assert outcome.output.splitlines() == [f"{target} refused" for target in targets]


@pytest.mark.parametrize("function", ["joblib_loky", "torch_dataloader", "pip_list", "pipelines"])
@pytest.mark.parametrize("profile", ["notebook-online", "gpu"])
def test_the_other_notebooks_work_as_well(work: Run, function: str, profile: str) -> None:
    outcome = work(function, profile=profile)
    assert outcome.status == 0, outcome.output
    local = ("Network", "remoteip=::1 *")  # what asking for IPv6 comes to where sockets exist
    assert outcome.unexpected([*EXPECTED.get(function, []), local]) == []


# --- gpu


@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="there is no GPU here")
def test_the_interpreter_computes_on_the_gpu(work: Run) -> None:
    outcome = work("devices", profile="gpu")
    assert outcome.status == 0, outcome.output
    assert outcome.unexpected([("File", "/dev/nvidia*")]) == []


def test_the_plan_tells_how_each_device_is_kept_to_the_interpreter(tmp_path: Path) -> None:
    """Where there is no GPU this is all that can be seen: device nodes have no stand-ins."""
    for name in ("home", "work", "tmp"):
        (tmp_path / name).mkdir()
    profile = profiles.load(
        "gpu", workspace=tmp_path / "work", home=tmp_path / "home", tmp=tmp_path / "tmp",
        prefix=Path(sys.prefix),
    )  # fmt: skip
    plan = make_plan(
        profile.policies, profile.posture, egress=profile.network, resources=profile.resources,
        capabilities=frozenset(), command=[sys.executable], machine=probe().machine,
    )  # fmt: skip
    planned = {
        rule.rule.value: rule
        for rule in plan.rules
        if isinstance(rule.rule, PathRule) and rule.rule.value.startswith(("/dev/n", "/dev/dri"))
    }
    names = ("nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-caps/", "dri/")
    assert {f"/dev/{name}" for name in names} <= set(planned)
    for rule in planned.values():
        assert rule.fidelity == "exact", rule
        assert os.path.realpath(sys.executable) in rule.rule.from_source  # type: ignore[union-attr]
