from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from modelarmor_jupyter.config import ModelArmor, RefusedRequest
from modelarmor_jupyter.provisioner import ModelArmorProvisioner
from nbclient import NotebookClient
from traitlets import TraitError
from traitlets.config import Config

from modelarmor import profiles
from modelarmor.alerts import Alert
from modelarmor.sandbox import CannotConfine, Sandbox

from .conftest import Place, StartKernel

PROFILES = Path(__file__).parents[2] / "kernel_profiles"


async def _until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


def test_a_kernel_runs_over_private_encrypted_sockets_with_an_environment_of_its_own(
    kernel: StartKernel, place: Place
) -> None:
    async def main() -> None:
        started = time.perf_counter()
        async with kernel() as k:
            print(f"ready in {time.perf_counter() - started:.2f} s")
            scratch = Path(k.manager.connection_file).parent
            connection = json.loads(Path(k.manager.connection_file).read_text())
            env = json.loads(await k.run("import os, json; print(json.dumps(dict(os.environ)))"))

            assert scratch.parent == place.scratch
            assert connection["transport"] == "ipc"
            assert connection["ip"].startswith(str(scratch))
            assert connection["curve_publickey"]
            assert psutil.Process().net_connections("tcp") == []
            assert not {"SECRET_TOKEN", "JPY_PARENT_PID"} & set(env)
            assert Path(env["TMPDIR"]).is_relative_to(scratch)
            assert Path(env["IPYTHONDIR"]).is_relative_to(scratch)
            assert Path(env["MPLCONFIGDIR"]).is_relative_to(scratch)
            assert await k.run("import os; print(os.getcwd())") == str(place.workspace)
            assert await k.run("import os; print(os.isatty(0), os.isatty(1))") == "False False"
            assert k.provisioner.resolve_path("/etc/passwd") is None
            assert k.provisioner.plan is not None
        assert list(place.scratch.iterdir()) == []

    asyncio.run(main())


def test_an_interrupt_stops_a_cell_and_not_the_kernel(kernel: StartKernel) -> None:
    async def main() -> None:
        async with kernel() as k:
            await k.run("x = 1")
            on = asyncio.Event()
            code = "import time\nprint('on', flush=True)\ntime.sleep(60)"
            cell = asyncio.create_task(k.run(code, heard=on))
            await asyncio.wait_for(on.wait(), 20)
            started = time.perf_counter()
            await k.manager.interrupt_kernel()
            said = await cell
            print(f"interrupted in {time.perf_counter() - started:.3f} s")

            assert "KeyboardInterrupt" in said
            assert await k.run("print(x)") == "1"

    asyncio.run(main())


def test_a_restart_keeps_the_profile_the_directory_and_the_record(kernel: StartKernel) -> None:
    async def main() -> None:
        async with kernel() as k:
            seq = k.provisioner.recorder.append(Alert(PolicyName="before"))
            before = (k.provisioner.confinement, k.manager.connection_file)
            await k.run("x = 1")
            for now in (False, True):
                await k.manager.restart_kernel(now=now)
                await k.reconnect()

                assert "NameError" in await k.run("print(x)")
                assert (k.provisioner.confinement, k.manager.connection_file) == before
                assert k.provisioner.recorder.counts.by_policy["before"] == 1
                page = k.provisioner.recorder.after(seq - 1)
                assert page.alerts[0] == (seq, Alert(PolicyName="before"))

    asyncio.run(main())


def test_a_kernel_that_was_killed_comes_back_confined(kernel: StartKernel) -> None:
    async def main() -> None:
        async with kernel() as k:
            restarted = asyncio.Event()
            k.manager.add_restart_callback(restarted.set)
            first = k.provisioner.pid
            k.client.execute("import os; os.kill(os.getpid(), 9)")
            await asyncio.wait_for(restarted.wait(), 20)
            await _until(lambda: k.provisioner.pid != first)
            await k.reconnect()

            assert await k.run("print(6 * 7)") == "42"
            assert k.provisioner.plan is not None

    asyncio.run(main())


def test_nothing_that_a_kernel_started_outlives_it(kernel: StartKernel, place: Place) -> None:
    async def main() -> None:
        async with kernel() as k:
            told = await k.run(
                "import os, time\n"
                "r, w = os.pipe()\n"
                "if os.fork() == 0:\n"
                "    os.setsid()\n"
                "    if os.fork() == 0:\n"
                "        os.write(w, str(os.getpid()).encode())\n"
                "        time.sleep(600)\n"
                "    os._exit(0)\n"
                "os.wait()\n"
                "print(os.read(r, 20).decode())"
            )
            daemon = psutil.Process(int(told.split()[0]))  # a warning about fork may follow
            helper = psutil.Process(k.provisioner.pid)
            family = [daemon, helper, *helper.children(recursive=True)]

        _, alive = psutil.wait_procs(family, timeout=60)
        assert alive == []
        assert list(place.scratch.iterdir()) == []

    asyncio.run(main())


def test_the_home_directory_is_no_workspace(kernel: StartKernel, place: Place) -> None:
    async def start(cwd: Path, config: Config | None = None) -> str:
        async with kernel(cwd=cwd, config=config) as k:
            return await k.run("import os; print(os.getcwd())")

    for cwd in (place.home, place.home.parent, Path("/")):
        with pytest.raises(RefusedRequest, match=r"c\.ModelArmor\.workspace"):
            asyncio.run(start(cwd))
    assert not place.scratch.exists() or list(place.scratch.iterdir()) == []

    config = Config({"ModelArmor": {"workspace": str(place.workspace)}})
    assert asyncio.run(start(place.home, config)) == str(place.workspace)


def test_a_kernelspec_only_asks_and_the_administrator_decides(
    kernel: StartKernel, place: Place
) -> None:
    async def start() -> None:
        config = Config({"ModelArmor": {"allowed_profiles": ["untrusted-model"]}})
        async with kernel(config=config):
            pass

    with pytest.raises(RefusedRequest, match=r"does not allow \(allowed: untrusted-model"):
        asyncio.run(start())
    assert not place.scratch.exists() or list(place.scratch.iterdir()) == []


def test_a_kernelspec_cannot_lift_the_limit_by_configuring_the_provisioner() -> None:
    spec = KernelSpecManager().get_kernel_spec("modelarmor-notebook")
    ceiling = ModelArmor(config=Config({"ModelArmor": {"allowed_profiles": ["gpu"]}}))
    provisioner = ModelArmorProvisioner(
        kernel_id="k",
        kernel_spec=spec,
        parent=ceiling,
        # what a kernelspec's `config` stanza would pass
        profile="notebook",
        config=Config({"ModelArmor": {"allowed_profiles": None}}),
    )

    with pytest.raises(RefusedRequest):
        asyncio.run(provisioner.pre_launch())


def test_a_relative_directory_in_the_configuration_is_refused() -> None:
    with pytest.raises(TraitError, match="absolute"):
        ModelArmor(scratch_directory="here")


def test_a_kernel_that_cannot_be_confined_does_not_start_and_says_why(
    kernel: StartKernel, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise CannotConfine("this kernel lacks Landlock; boot with lsm=landlock")

    monkeypatch.setattr(Sandbox, "start", refuse)

    async def start() -> None:
        async with kernel():
            pass

    with pytest.raises(CannotConfine, match="lacks Landlock"):
        asyncio.run(start())
    assert list(place.scratch.iterdir()) == []


def _notebook(*cells: str) -> nbformat.NotebookNode:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {
        "name": "modelarmor-notebook",
        "display_name": "Python 3 (confined)",
        "language": "python",
    }
    return notebook


def test_nbclient_runs_a_notebook_confined(place: Place) -> None:
    notebook = _notebook("x = 20", "print(x + 1)")
    NotebookClient(
        notebook, resources={"metadata": {"path": str(place.workspace)}}, timeout=60
    ).execute()

    assert notebook.cells[1].outputs[0].text == "21\n"


@pytest.mark.filterwarnings("ignore")  # papermill's own
def test_papermill_runs_a_notebook_confined(place: Place) -> None:
    source, target = place.workspace / "in.ipynb", place.workspace / "out.ipynb"
    nbformat.write(_notebook("print(6 * 7)"), source)
    papermill.execute_notebook(source, target, cwd=place.workspace, progress_bar=False)

    assert nbformat.read(target, 4).cells[0].outputs[0].text == "42\n"


@pytest.mark.parametrize(
    "name", sorted(path.parent.name for path in PROFILES.glob("*/kernel.json"))
)
def test_each_profile_has_a_kernelspec_that_asks_for_it(name: str, place: Place) -> None:
    spec = json.loads((PROFILES / name / "kernel.json").read_text())
    loaded = profiles.load(
        name,
        workspace=place.workspace,
        home=place.home,
        tmp=place.workspace,
        prefix=Path("/usr"),
        search_path=[PROFILES],
    )

    assert spec["metadata"]["kernel_provisioner"]["config"] == {"profile": name}
    assert spec["display_name"] == loaded.display_name
    assert spec["interrupt_mode"] == "message"
    assert re.match(r"<svg ", (PROFILES / name / "logo-svg.svg").read_text())
