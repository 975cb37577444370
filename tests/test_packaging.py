"""What is installed, and what it costs to import."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PANEL = Path("jupyter_ext", "modelarmor_jupyter", "labextension")
PROFILES = sorted(file.parent.name for file in ROOT.glob("kernel_profiles/*/profile.yaml"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that building does not touch the tree that other tests run from."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "hatch_build.py", "LICENSE", "README.md"):
        shutil.copy2(ROOT / name, copy)
    compiled = shutil.ignore_patterns("__pycache__", "modelarmor-helper*", "syscall_table.h")
    for name in ("modelarmor", "jupyter_ext", "kernel_profiles"):
        shutil.copytree(ROOT / name, copy / name, ignore=compiled)
    modules = shutil.ignore_patterns("node_modules", "lib")
    shutil.copytree(ROOT / "labextension", copy / "labextension", ignore=modules)
    return copy


def build(checkout: Path, hook: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Call a hook of the build backend as pip does, in a process of its own."""
    code = f"import sys, hatchling.build as b; print(b.{hook}(sys.argv[1]))"
    return subprocess.run(
        [sys.executable, "-c", code, str(checkout / "dist")],
        cwd=checkout,
        env={**os.environ, "MODELARMOR_WITHOUT_PANEL": "1", **env},
        capture_output=True,
        text=True,
        check=False,
    )


def built(checkout: Path, hook: str, **env: str) -> zipfile.ZipFile:
    (checkout / "dist").mkdir(exist_ok=True)
    done = build(checkout, hook, **env)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(checkout / "dist" / done.stdout.split()[-1])


def test_the_wheel_carries_helper_profiles_and_kernels(checkout: Path) -> None:
    wheel = built(checkout, "build_wheel")
    assert re.search(r"-py3-none-linux_\w+\.whl$", str(wheel.filename))
    names = set(wheel.namelist())
    assert "modelarmor/py.typed" in names
    assert "modelarmor_jupyter/__init__.py" in names
    assert not [name for name in names if name.startswith(("tests/", "modelarmor/sandbox/helper/"))]
    mode = wheel.getinfo("modelarmor/sandbox/modelarmor-helper").external_attr >> 16
    assert mode & 0o777 == 0o755
    data = next(name for name in names if ".data/data/" in name).partition("/data/")[0] + "/data/"
    for profile in PROFILES:
        for file in ("profile.yaml", "policy.yaml", "network.yaml"):
            assert f"modelarmor/kernel_profiles/{profile}/{file}" in names
        assert f"{data}share/jupyter/kernels/modelarmor-{profile}/kernel.json" in names
        assert f"{data}share/jupyter/kernels/modelarmor-{profile}/logo-svg.svg" in names
    assert f"{data}etc/jupyter/jupyter_server_config.d/modelarmor.json" in names


@pytest.mark.parametrize("hook", ["build_wheel", "build_editable"])
def test_the_panel_lies_where_jupyterlab_looks(checkout: Path, hook: str) -> None:
    if not (ROOT / PANEL / "install.json").exists():
        pytest.skip("the panel was not bundled when this checkout was installed: no npm")
    shutil.rmtree(checkout / PANEL)
    shutil.copytree(ROOT / PANEL, checkout / PANEL)
    wheel = built(checkout, hook, MODELARMOR_WITHOUT_PANEL="", NPM="/nowhere/npm")
    place = "/data/share/jupyter/labextensions/@modelarmor/labextension/"
    inside = [name.partition(place)[2] for name in wheel.namelist() if place in name]
    assert {"install.json", "package.json"} <= set(inside)
    assert "schemas/@modelarmor/labextension/plugin.json" in inside
    package = next(name for name in wheel.namelist() if name.endswith(f"{place}package.json"))
    assert json.loads(wheel.read(package))["jupyterlab"]["_build"]["load"] in inside
    assert not [name for name in wheel.namelist() if name.startswith("modelarmor_jupyter/lab")]


def test_a_wheel_without_npm_is_refused_with_the_cure(checkout: Path) -> None:
    shutil.rmtree(checkout / PANEL, ignore_errors=True)
    done = build(checkout, "build_wheel", MODELARMOR_WITHOUT_PANEL="", NPM="/nowhere/npm")
    assert done.returncode != 0
    assert "no npm: '/nowhere/npm' was not found" in done.stderr + done.stdout
    assert "install Node.js 20 or newer" in done.stderr + done.stdout


def test_an_editable_install_goes_on_without_npm_and_says_so(checkout: Path) -> None:
    shutil.rmtree(checkout / PANEL, ignore_errors=True)
    done = build(checkout, "build_editable", MODELARMOR_WITHOUT_PANEL="", NPM="/nowhere/npm")
    assert done.returncode == 0, done.stderr
    assert "going on without the panel. no npm" in done.stderr + done.stdout


def test_the_wheel_finds_its_profiles(checkout: Path, tmp_path: Path) -> None:
    built(checkout, "build_wheel").extractall(tmp_path)
    code = "from modelarmor import profiles; print(*profiles.names())"
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == PROFILES


def test_an_editable_install_compiles_in_place_and_places_the_kernels(checkout: Path) -> None:
    wheel = built(checkout, "build_editable")
    names = wheel.namelist()
    assert os.access(checkout / "modelarmor" / "sandbox" / "modelarmor-helper", os.X_OK)
    assert [name for name in names if name.endswith("modelarmor-notebook/kernel.json")]
    assert [name for name in names if name.endswith("jupyter_server_config.d/modelarmor.json")]
    # A directory modelarmor/ beside the checkout's would be a second home for the package.
    assert not [name for name in names if name.startswith("modelarmor/")]


def test_a_missing_compiler_is_named_with_its_cure(checkout: Path) -> None:
    done = build(checkout, "build_wheel", CC="/nowhere/cc")
    assert done.returncode != 0
    assert "no C compiler: '/nowhere/cc' was not found" in done.stderr + done.stdout
    assert "apt install gcc" in done.stderr + done.stdout


def test_a_failing_compiler_leaves_the_old_helper(checkout: Path) -> None:
    helper = checkout / "modelarmor" / "sandbox" / "modelarmor-helper"
    helper.write_text("old")
    broken = checkout / "modelarmor" / "sandbox" / "helper" / "broken.c"
    broken.write_text("int main(\n")
    try:
        done = subprocess.run(
            [sys.executable, "hatch_build.py"],
            cwd=checkout,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        broken.unlink()
    assert done.returncode == 1
    assert "hatch_build.py: the C compiler failed" in done.stderr
    assert "broken.c" in done.stderr
    assert helper.read_text() == "old"
    assert list(helper.parent.glob("modelarmor-helper.*")) == []


def test_the_syscall_table_is_sorted_and_knows_what_rules_name(checkout: Path) -> None:
    built(checkout, "build_editable")
    table = (checkout / "modelarmor" / "sandbox" / "helper" / "syscall_table.h").read_text()
    names = re.findall(r'\{"(\w+)", SYS_\1\},', table)
    assert names == sorted(set(names))
    assert {"openat", "execve", "connect", "mount", "ptrace"} <= set(names)


def test_importing_the_package_is_quick_and_pulls_in_no_extra() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import modelarmor;"
        "print(time.perf_counter() - start, *sys.modules)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    assert min(float(run[0]) for run in runs) < 0.1
    extras = {"jupyter_client", "jupyter_server", "traitlets", "mlflow", "kubernetes", "picklescan"}
    assert not extras & set(runs[0])


def test_the_command_line_pulls_in_no_extra() -> None:
    code = "import sys, modelarmor.cli; modelarmor.cli._parser(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    extras = {
        "art", "cryptography", "grpc", "jupyter_client", "jupyter_server", "kubernetes", "mlflow",
        "numpy", "pandas", "picklescan", "sqlalchemy", "traitlets",
    }  # fmt: skip
    assert "modelarmor_mlflow.commands" in done.stdout.split()
    assert not extras & set(done.stdout.split())
