"""What each voice finds, as a table.

    python -m tests.generate.scan.measure [--write docs/scanning.md]

Asks every voice that is installed (``$MODELARMOR_SCANNERS`` names further environments), each
confined, about our malicious models by kind, about the benign hold-out, and about the test files of
other scanners where ``$MODELARMOR_CORPORA`` has their checkouts. A model counts as flagged with a
finding of medium severity or worse that names a file of it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelarmor.generate.artifact import inspect
from modelarmor.generate.scan import VOICES, scan
from modelarmor.generate.scan import voices as scanners
from tests.generate.scan import benign, malicious

BEGIN, END = "<!-- measured -->", "<!-- end of what is measured -->"
_FLAGGED = ("critical", "high", "medium")
_MALICIOUS = re.compile(r"malicious|exploit|attack|GHSA|evil|bypass|injection", re.IGNORECASE)
_NO_MODELS = (".py", ".md", ".png", ".gif", ".svg", ".csv", ".toml", ".lock", ".yml")
#: what each holds, by name
_Cases = Mapping[str, malicious.Content]


def kinds() -> dict[str, _Cases]:
    """Our malicious models by kind."""
    pickles = malicious.pickles()
    made, formats = malicious.made(), malicious.formats()
    packed = re.compile(r".*\.(gz|bz2|xz|lzma|z|joblib)")

    def having(cases: _Cases, pattern: str) -> dict[str, malicious.Content]:
        return {name: case for name, case in cases.items() if re.fullmatch(pattern, name)}

    return {
        "pickle: gadgets": having(pickles, "gadget-.*"),
        "pickle: opcodes, evasions, bombs": {
            name: case
            for name, case in pickles.items()
            if not name.startswith("gadget-") and not packed.fullmatch(name)
        },
        "joblib and compressed pickle": {**having(pickles, packed.pattern),
                                         **having(made, r".*\.joblib")},
        "NumPy object arrays": having(made, r".*\.np[yz]"),
        "torch, TorchScript, pt2, zip, tar": malicious.archives(),
        "Keras, HDF5": having(formats, r".*\.(keras|h5)"),
        "TensorFlow SavedModel": having(formats, "tf-.*"),
        "ONNX": having(formats, r".*\.onnx"),
        "chat templates (GGUF, tokenizer, Jinja)": having(formats, "template-.*"),
        "skops": having(formats, r".*\.skops"),
        "other files": having(
            formats, r".*\.(safetensors|so|pyc|pmml|yaml|bin|sh)"
        ),
        "MLflow and transformers directories": malicious.directories(),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.generate.scan.measure")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this page")
    parser.add_argument("--voices", default=",".join(VOICES), help="(default: %(default)s)")
    parser.add_argument(
        "--skip", default="", metavar="VOICE,..", help="voices not asked about the hold-out"
    )
    parser.add_argument("--timeout", type=float, default=1800.0, metavar="SECONDS")
    arguments = parser.parse_args(argv)
    wanted = arguments.voices.split(",")
    installed = scanners.find([name for name in wanted if name in scanners.NAMES])
    asked = [name for name in wanted if name == "modelarmor" or name in installed]
    rows: list[tuple[str, int, dict[str, str]]] = []
    with tempfile.TemporaryDirectory(prefix="modelarmor-measure-") as base:
        for title, place, skip in _corpora(Path(base), arguments.skip.split(",")):
            count = sum(1 for _ in place.iterdir())
            figures = {}
            for voice in asked:
                if voice in skip:
                    continue
                begun = time.monotonic()
                flagged, note = _flagged(place, voice, arguments.timeout)
                print(f"{title}: {voice}: {flagged} of {count} in {time.monotonic() - begun:.0f} s"
                      f" {note}", file=sys.stderr)  # fmt: skip
                figures[voice] = f"{100 * flagged / count:.1f} %" + ("*" if note else "")
            rows.append((title, count, figures))
    versions = {name: f"{name} {installed[name].version}" for name in asked if name in installed}
    table = _table(rows, asked, versions)
    print(table)
    if arguments.write:
        page = arguments.write.read_text()
        head, _, rest = page.partition(BEGIN)
        _, _, tail = rest.partition(END)
        arguments.write.write_text(f"{head}{BEGIN}\n\n{table}\n{END}{tail}")
    return 0


def _corpora(base: Path, skip: Sequence[str]) -> list[tuple[str, Path, Sequence[str]]]:
    found: list[tuple[str, Path, Sequence[str]]] = []
    for title, cases in kinds().items():
        place = base / re.sub(r"\W+", "-", title)
        place.mkdir()
        malicious.write(place, cases)
        found.append((title, place, ()))
    if named := os.environ.get("MODELARMOR_CORPORA"):
        place = base / "others"
        place.mkdir()
        files = [
            path
            for path in sorted(Path(named).rglob("*"))
            if path.is_file() and _MALICIOUS.search(path.name) and path.suffix not in _NO_MODELS
        ]
        for number, path in enumerate(files):
            shutil.copyfile(path, place / f"{number:03}-{path.name}")
        found.append(("files that other scanners' tests call malicious", place, ()))
    place = base / "benign"
    place.mkdir()
    benign.write(place)
    found.append(("benign hold-out (false alarms)", place, skip))
    return found


def _flagged(place: Path, voice: str, timeout: float) -> tuple[int, str]:
    """How many of the models in a directory a voice flags, and what it says of itself."""
    said = scan(place, inspect(place), voices=(voice,), timeout=timeout)
    models = {path.name for path in place.iterdir()}
    flagged = {
        re.split(r"[/:!]", finding.location)[0]
        for finding in said.findings
        if finding.severity in _FLAGGED
    }
    (asked,) = said.voices
    return len(flagged & models), asked.note if asked.status == "failed" else ""


def _table(
    rows: Sequence[tuple[str, int, dict[str, str]]], asked: Sequence[str], versions: dict[str, str]
) -> str:
    lines = [
        ["", "models", *(versions.get(name, name) for name in asked)],
        *([title, str(n), *(said.get(name, "-") for name in asked)] for title, n, said in rows),
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    text = "".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |\n"
        for line in lines
    )
    return text + "\n\\* the scanner failed or was ended before its end. -: not asked.\n"


if __name__ == "__main__":
    sys.exit(main())
