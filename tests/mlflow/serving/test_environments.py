"""Environments that are built for models: from what, where, and what a hostile package gets."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import platform
import stat
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from modelarmor_mlflow.serving import environments, indexes
from modelarmor_mlflow.serving.environments import built
from modelarmor_mlflow.serving.indexes import Indexes
from modelarmor_mlflow.serving.requirements import needs
from modelarmor_mlflow.serving.server import ServeError

from modelarmor import cli, profiles
from modelarmor.alerts import Alert
from modelarmor.sandbox import Sandbox, Workload

from .conftest import PATIENCE, answer_to, command, wait_for_line, write_model

VERSION = platform.python_version()
SECRET = "not a real key"

#: a build backend within the package: pip runs it, and needs nothing else
_BACKEND = """
import os, socket, zipfile

def _try(what):
    try:
        return repr(what())
    except OSError as error:
        return type(error).__name__

def _connect():
    with socket.create_connection(("127.0.0.1", {port}), timeout=5) as connection:
        return connection.send(b"stolen")

def build_wheel(directory, config_settings=None, metadata_directory=None):
    outcome = {{
        "marker": _try(lambda: open({marker!r}, "w").close()),
        "secret": _try(lambda: open({secret!r}).read()),
        "network": _try(_connect),
        "variables": sorted(os.environ),
    }}
    {more}
    name = "hostile-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        info = "hostile-1.0.dist-info"
        wheel.writestr("hostile.py", f"OUTCOME = {{outcome!r}}")
        wheel.writestr(f"{{info}}/METADATA", "Metadata-Version: 2.1\\nName: hostile\\nVersion: 1.0")
        wheel.writestr(f"{{info}}/WHEEL",
                       "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any")
        wheel.writestr(f"{{info}}/RECORD", "")
    return name
"""


def write_wheel(directory: Path, name: str, code: str) -> Path:
    """A package of one module."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},{_digest(text)},{len(text)}\n" for file, text in files.items())
    path = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            wheel.writestr(file, text)
    return path


def _digest(text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
    return f"sha256={digest.decode().rstrip('=')}"


def write_source(directory: Path, **values: object) -> None:
    """A package whose build does what it should not, and tells how that went."""
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\n'
        'backend-path = ["."]\n[project]\nname = "hostile"\nversion = "1.0"\n',
        "backend.py": _BACKEND.format(**{"port": 9, "more": "pass", **values}),
    }
    with tarfile.open(directory / "hostile-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"hostile-1.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))


def model_of(directory: Path, *lines: str, python: str = VERSION) -> Path:
    """What of a model says what it needs."""
    directory.mkdir()
    (directory / "requirements.txt").write_text("".join(f"{line}\n" for line in lines))
    (directory / "python_env.yaml").write_text(
        f'python: "{python}"\nbuild_dependencies: [pip, setuptools]\n'
        "dependencies: [-r requirements.txt]\n"
    )
    return directory


class Place:
    """A home directory with a secret and no environments, and a directory of packages."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.packages = root / "packages"
        self.secret = self.home / ".ssh" / "id_rsa"
        self.marker = self.home / "marker"
        self.secret.parent.mkdir(parents=True)
        self.secret.write_text(SECRET)
        self.packages.mkdir()
        # the smallest that counts as MLflow: what serves is tried with the real one elsewhere
        write_wheel(self.packages, "mlflow", "")
        write_wheel(self.packages, "greeting", "TEXT = 'hello'\n")
        self.said: list[str] = []
        self.alerts: list[Alert] = []

    @property
    def environments(self) -> Path:
        return self.home / ".cache" / "modelarmor" / "environments"

    def variables(self) -> dict[str, str]:
        """Those of a user of the packages, and of nothing else."""
        return {
            "HOME": str(self.home),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_FIND_LINKS": str(self.packages),
            "PIP_NO_INDEX": "1",
        }

    def built(self, model: Path, manager: str = "virtualenv", **options: bool) -> Path:
        return built(
            model, manager, progress=self.said.append, alerts=self.alerts.append, **options
        )

    def left(self) -> list[str]:
        """What environments there are, finished or not."""
        return sorted({path.name for path in self.environments.glob("*")} - {".lock"})


def enter(place: Place, patch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "PYENV_ROOT"):
        patch.delenv(name, raising=False)
    for name, value in place.variables().items():
        patch.setenv(name, value)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    found = Place(tmp_path)
    enter(found, monkeypatch)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Path]:
    """A place with an environment that was built, and its interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        found = Place(tmp_path_factory.mktemp("built"))
        enter(found, patch)
        model = model_of(found.root / "model", "mlflow", "greeting>=1  # said first")
        return found, found.built(model)


# --- what a model may ask for


def test_packages_of_an_index_are_read_with_their_versions(tmp_path):
    model = model_of(
        tmp_path / "m", "# all of it", "", "Mlflow==3.1", "a[x] >= 2, <3", "a[x]<3,>=2"
    )
    assert needs(model).packages == ("Mlflow==3.1", "a[x]<3,>=2")
    assert needs(model).python == VERSION


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--index-url https://attacker.example/simple", "option"),
        ("-i https://attacker.example/simple", "option"),
        ("--find-links https://attacker.example/", "option"),
        ("-r /etc/passwd", "option"),
        ("-c other.txt", "option"),
        ("-e .", "option"),
        ("numpy --global-option=x", "option"),
        ("numpy \\", "option"),
        ("numpy==${HOME}", "option"),
        ("git+https://attacker.example/x.git", "no requirement"),
        ("https://attacker.example/x-1.0.tar.gz", "no requirement"),
        ("./code/x-1.0.tar.gz", "no requirement"),
        ("/tmp/x", "no requirement"),
        ("x @ https://attacker.example/x-1.0.tar.gz", "names an address"),
        ("x @ file:///tmp/x", "names an address"),
        ("x\x1b[2J", "no requirement"),
    ],
)
def test_what_is_more_than_a_package_is_refused_by_its_line(tmp_path, line, told):
    with pytest.raises(ServeError, match=f"requirements.txt line 2: .*{told}") as refused:
        needs(model_of(tmp_path / "m", "mlflow", line))
    assert "\x1b" not in str(refused.value)


def test_the_same_holds_for_what_the_other_files_list(tmp_path):
    model = model_of(tmp_path / "m", "mlflow")
    (model / "python_env.yaml").write_text('python: "3.11"\ndependencies: [mlflow, "-e ."]\n')
    with pytest.raises(ServeError, match=r"python_env.yaml: dependency 2: '-e \.' is an option"):
        needs(model)


def test_of_condas_file_the_part_of_pip_is_taken(tmp_path):
    model = tmp_path / "m"
    model.mkdir()
    conda = "dependencies:\n- python=3.11.7\n- pip<=23.2.1\n- pip:\n  - mlflow==3.1\n"
    (model / "conda.yaml").write_text(conda)
    assert needs(model).packages == ("mlflow==3.1",)
    assert needs(model).python == "3.11.7"
    (model / "conda.yaml").write_text(conda + "- cudatoolkit=11\n")
    with pytest.raises(ServeError, match="'cudatoolkit=11' is a package of conda's"):
        needs(model)


def test_a_model_without_mlflow_among_its_requirements_is_told_why_not(tmp_path):
    with pytest.raises(ServeError, match="mlflow is not among the model's requirements"):
        needs(model_of(tmp_path / "m", "mlflow-skinny", "numpy"))


@pytest.mark.parametrize("name", ["requirements.txt", "python_env.yaml"])
@pytest.mark.parametrize("how", ["link", "pipe", "large"])
def test_a_file_that_is_no_plain_small_one_is_refused(tmp_path, name, how):
    model = model_of(tmp_path / "m", "mlflow")
    file = model / name
    text = file.read_text()
    file.unlink()
    if how == "link":
        (tmp_path / "elsewhere").write_text(text)
        file.symlink_to(tmp_path / "elsewhere")
    elif how == "pipe":
        os.mkfifo(file)
    else:
        file.write_text(text + "#" * (1 << 16))
    with pytest.raises(ServeError, match=name):
        needs(model)


def test_a_python_that_is_not_there_is_named(place):
    with pytest.raises(ServeError, match=r"asks for Python 3\.99\.1, and there is none"):
        place.built(model_of(place.root / "m", "mlflow", python="3.99.1"))
    assert not place.left()


def test_another_number_at_the_end_of_pythons_version_is_taken_and_told(place):
    minor = VERSION.rpartition(".")[0]
    found = environments.interpreter(f"{minor}.999", place.said.append)
    assert found.version == VERSION
    assert f"{minor}.999; taking {VERSION}" in "".join(place.said)


def test_conda_is_not_run_and_what_to_do_is_told(place):
    model = model_of(place.root / "m", "mlflow")
    with pytest.raises(ServeError, match=r"conda confined\. --env-manager virtualenv takes"):
        place.built(model, manager="conda")


def test_uv_that_is_not_there_is_told(place, monkeypatch):
    monkeypatch.setenv("PATH", str(place.root))
    with pytest.raises(ServeError, match=r"no uv on PATH; --env-manager virtualenv"):
        place.built(model_of(place.root / "m", "mlflow"), manager="uv")


# --- where packages come from


def test_pips_configuration_is_taken_as_pip_takes_it():
    found = indexes._indexes(
        [
            "global.index-url='https://one.example/simple'",
            "global.find-links='/a\\n/b c'",
            "global.cert='/etc/ssl/certs/ca-certificates.crt'",
            "install.index-url='https://user:word@two.example/simple'",
            ":env:.extra-index-url='file:///srv/simple'",
            "download.index-url='https://other.example'",
            "list.format='columns'",
        ]
    )
    assert found.urls == ("https://user:word@two.example/simple", "file:///srv/simple")
    assert found.links == ("/a", "/b", "c")
    assert found.secrets() == ["two.example"]
    assert found.certificates == "/etc/ssl/certs/ca-certificates.crt"


def test_only_the_indexes_can_be_reached_by_their_addresses():
    asked = Indexes(urls=("https://127.0.0.2/simple", "http://127.0.0.3:8080/simple"))
    _, route = indexes.reachable(asked, print)
    assert route.egress.allows("127.0.0.2", 443) and route.egress.allows("127.0.0.3", 8080)
    assert not route.egress.allows("127.0.0.3", 443) and not route.egress.allows("127.0.0.2", 80)
    assert not route.egress.allows("127.0.0.53", 53, "udp")
    assert route.names == {"127.0.0.2": ("127.0.0.2",), "127.0.0.3": ("127.0.0.3",)}


def test_without_an_index_on_the_network_there_is_no_network(tmp_path):
    _, route = indexes.reachable(Indexes(urls=(f"file://{tmp_path}/simple",)), print)
    assert route.egress.is_none


def test_an_index_whose_name_is_unknown_is_left_out_and_told():
    said: list[str] = []
    asked = Indexes(urls=("https://index.invalid/simple", "file:///srv/simple"))
    left, route = indexes.reachable(asked, said.append)
    assert left.urls == ("file:///srv/simple",)
    assert route.egress.is_none
    assert "index.invalid" in said[0]


def test_behind_a_proxy_nothing_but_the_proxy_is_reached():
    asked = Indexes(urls=("https://pypi.org/simple", "file:///srv"), proxy="http://127.0.0.4:3128")
    left, route = indexes.reachable(asked, print)
    assert left == asked
    assert list(route.names) == ["127.0.0.4"]
    assert route.egress.allows("127.0.0.4", 3128)
    left, route = indexes.reachable(replace(asked, proxy="http://proxy.invalid:3128"), print)
    assert left.urls == ("file:///srv",)
    assert route.egress.is_none


def test_packages_in_the_home_directory_itself_would_show_it_all(place):
    with pytest.raises(ServeError, match="contains the home directory"):
        Indexes(urls=(), links=(str(place.home),)).places()


def test_a_package_comes_from_an_index_on_the_network_and_by_its_name(place, monkeypatch):
    simple = place.root / "site" / "simple"
    for name in ("mlflow", "greeting"):
        (simple / name).mkdir(parents=True)
        file = f"{name}-1.0-py3-none-any.whl"
        (place.packages / file).rename(simple / name / file)
        (simple / name / "index.html").write_text(f'<a href="{file}">{file}</a>')
    handler = partial(SimpleHTTPRequestHandler, directory=str(simple.parent))
    handler.func.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://localhost:{server.server_port}/simple")
        python = place.built(model_of(place.root / "m", "mlflow", "greeting"))
        server.shutdown()
    assert output(python, "import greeting; print(greeting.TEXT)") == "hello"


# --- building


def output(python: Path, code: str) -> str:
    asked = subprocess.run(
        [str(python), "-I", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return asked.stdout.strip()


def test_the_environment_holds_what_the_model_asks_for_and_is_private(finished):
    place, python = finished
    assert output(python, "import greeting; print(greeting.TEXT)") == "hello"
    assert output(python, "import sys; print(sys.prefix)") == str(python.parent.parent)
    assert python.is_relative_to(place.environments)
    assert stat.S_IMODE(place.environments.stat().st_mode) == 0o700
    assert any("Successfully installed greeting-1.0" in line for line in place.said)


def test_an_ordinary_build_is_refused_nothing(finished):
    place, _ = finished
    assert [(alert.Operation, alert.Resource) for alert in place.alerts] == []


def test_it_is_used_again_for_the_same_needs_and_no_others(finished, monkeypatch):
    place, python = finished
    enter(place, monkeypatch)
    before = python.parent.parent.stat().st_mtime_ns
    place.said.clear()
    same = model_of(place.root / "same", "greeting>=1", "mlflow", "", "mlflow  # twice")
    assert place.built(same) == python
    assert not any("building" in line for line in place.said)
    assert python.parent.parent.stat().st_mtime_ns == before
    with pytest.raises(ServeError, match="was not built"):
        place.built(model_of(place.root / "other", "greeting>=2", "mlflow"))


def test_the_served_model_cannot_write_to_it(finished, tmp_path):
    _, python = finished
    prefix = python.parent.parent
    target = next(prefix.glob("lib/python*/site-packages/greeting/__init__.py"))
    before = target.read_text()
    code = (
        "import greeting, sys\nprint(greeting.TEXT)\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        open(name, 'a').write('x = 1')\n        print('written')\n"
        "    except OSError as error:\n        print(type(error).__name__)\n"
    )
    for name in ("tmp", "model"):
        (tmp_path / name).mkdir()
    profile = profiles.load(
        "untrusted-model", workspace=tmp_path / "model", model=tmp_path / "model",
        home=Path.home(), tmp=tmp_path / "tmp", prefix=prefix,
    )  # fmt: skip
    files = [target, prefix / "pyvenv.cfg", target.parent.parent / "sitecustomize.py"]
    workload = Workload(
        "m", [str(python), "-c", code, *map(str, files)], profile.policies, profile.posture,
        profile.network, env=profile.environ({"PATH": "/usr/bin"}), cwd=tmp_path / "tmp",
    )  # fmt: skip
    with Sandbox.start(workload, stdout=subprocess.PIPE) as process:
        lines = process.stdout.read().decode().split()
    assert lines == ["hello", *["PermissionError"] * 3]
    assert target.read_text() == before


def test_a_build_that_is_interrupted_leaves_nothing(place):
    def interrupt(line: str) -> None:
        if "Processing" in line or "Looking" in line:
            raise KeyboardInterrupt

    model = model_of(place.root / "m", "mlflow", "greeting")
    with pytest.raises(KeyboardInterrupt):
        built(model, "virtualenv", progress=interrupt, alerts=place.alerts.append)
    assert place.left() == []


def test_what_a_build_that_was_killed_left_is_removed_by_the_next(place):
    killed = place.environments / "0123"
    (killed / "bin").mkdir(parents=True)
    place.environments.chmod(0o700)
    with pytest.raises(ServeError):
        place.built(model_of(place.root / "m", "mlflow", "absent"))
    assert place.left() == []


def test_a_directory_for_environments_that_others_can_write_is_refused(place):
    place.environments.mkdir(parents=True)
    place.environments.chmod(0o777)
    with pytest.raises(ServeError, match="not a directory that only you can use"):
        place.built(model_of(place.root / "m", "mlflow"))


@pytest.fixture
def uv(monkeypatch):
    """uv is found on PATH, as a user's is."""
    program = Path(pytest.importorskip("uv").find_uv_bin())
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_uv_builds_one_of_its_own_and_is_refused_nothing(place, uv):
    model = model_of(place.root / "m", "mlflow", "greeting")
    python = place.built(model, manager="uv")
    assert output(python, "import greeting; print(greeting.TEXT)") == "hello"
    assert [(alert.Operation, alert.Resource) for alert in place.alerts] == []
    assert place.built(model, manager="uv") == python
    assert place.built(model) != python


# --- hostile packages


MANAGERS = pytest.mark.parametrize(
    "manager", ["virtualenv", pytest.param("uv", marks=pytest.mark.thorough)]
)


@MANAGERS
def test_a_source_package_is_refused_and_nothing_of_it_runs(place, uv, manager):
    write_source(place.packages, marker=str(place.marker), secret=str(place.secret))
    with pytest.raises(ServeError, match=r"hostile.*--allow-source"):
        place.built(model_of(place.root / "m", "mlflow", "hostile"), manager)
    assert not place.marker.exists()
    assert place.left() == []


@MANAGERS
def test_a_source_package_that_is_allowed_runs_confined_and_alerts_are_told(
    place, uv, manager, monkeypatch
):
    monkeypatch.setenv("DATABASE_PASSWORD", SECRET)
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        write_source(
            place.packages,
            marker=str(place.marker),
            secret=str(place.secret),
            port=server.server_port,
        )
        python = place.built(
            model_of(place.root / "m", "mlflow", "hostile"), manager, allow_source=True
        )
    outcome = json.loads(output(python, "import json, hostile; print(json.dumps(hostile.OUTCOME))"))
    assert outcome["marker"] == outcome["secret"] == outcome["network"] == "PermissionError"
    assert "DATABASE_PASSWORD" not in outcome["variables"]
    assert not place.marker.exists()
    told = {(alert.Operation, alert.Resource) for alert in place.alerts if alert.blocked}
    assert {("File", str(place.marker)), ("File", str(place.secret))} <= told
    assert any(operation == "Network" for operation, _ in told)


@pytest.mark.parametrize(
    ("deed", "told"),
    [
        ("open(env + '/pyvenv.cfg', 'w').write('home = /etc/x')", "which interpreter"),
        pytest.param("os.unlink(env + '/bin/python3'); os.symlink('/bin/sh', env + '/bin/python3')",
                     "which interpreter", marks=pytest.mark.thorough),
        pytest.param("os.symlink('/etc', env + '/lib/data')", "a link out of the environment",
                     marks=pytest.mark.thorough),
    ],
)  # fmt: skip
def test_a_build_that_would_widen_what_the_model_is_granted_is_not_used(place, deed, told):
    more = f"import sys; env = sys.prefix; {deed}"
    write_source(place.packages, marker=str(place.marker), secret=str(place.secret), more=more)
    with pytest.raises(ServeError, match=told):
        place.built(model_of(place.root / "m", "mlflow", "hostile"), allow_source=True)
    assert place.left() == []


def test_settings_of_an_environment_that_are_no_plain_file_are_never_waited_for(tmp_path):
    (tmp_path / "bin").mkdir()
    os.mkfifo(tmp_path / "pyvenv.cfg")
    assert environments._identity(tmp_path) is None


def test_a_password_of_an_index_is_not_shown_to_source_packages(place, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:word@index.invalid/simple")
    with pytest.raises(ServeError, match=r"a password for index\.invalid"):
        place.built(model_of(place.root / "m", "mlflow"), allow_source=True)
    assert place.left() == []


# --- serving


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--env-manager", "virtualenv", "--python", sys.executable), "leave one of them out"),
        (("--allow-source",), "goes with --env-manager virtualenv"),
        (("--env-manager", "conda"), "--env-manager virtualenv takes"),
    ],
)
def test_the_command_says_what_does_not_go_together(place, capsys, arguments, told):
    assert cli.main(["serve", "-m", str(place.root), "--unreviewed", *arguments]) in (1, 2)
    assert told in capsys.readouterr().err


@pytest.mark.thorough
@pytest.mark.timeout(1800)
def test_a_model_is_served_in_the_environment_that_was_built(tmp_path):
    """With the real MLflow, from the index that this machine is configured with."""
    place = Place(tmp_path)
    (place.packages / "mlflow-1.0-py3-none-any.whl").unlink()
    model = write_model(
        tmp_path / "model", "import greeting, sys; return [greeting.TEXT, sys.prefix]"
    )
    with (model / "requirements.txt").open("a") as file:
        file.write("\ngreeting\n")
    links = " ".join((os.environ.get("PIP_FIND_LINKS", ""), str(place.packages)))
    variables = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PIP_FIND_LINKS": links.strip()}
    with command(
        "-m", str(model), "--unreviewed", "--env-manager", "virtualenv", **variables
    ) as (process, lines):  # fmt: skip
        while process.poll() is None and not any("ready at " in line for line in lines):
            time.sleep(0.5)
        address = wait_for_line(process, lines, "ready at ").split()[-1]
        body = json.dumps({"dataframe_records": [{"a": 1.0, "b": 2.0}]}).encode()
        request = urllib.request.Request(
            f"{address}/invocations", body, {"Content-Type": "application/json"}
        )
        status, answer = answer_to(request)
    assert status == 200, answer
    text, prefix = json.loads(answer)["predictions"]
    assert text == "hello"
    assert prefix.startswith(str(tmp_path / "cache"))
