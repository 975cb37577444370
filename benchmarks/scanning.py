"""Looking into a model: how long it takes, against `sha256sum` of the same bytes.

    python -m benchmarks.scanning

A model is hashed, and looked into by a confined process that hashes it again, so that what was
looked into is what was digested. Both read every byte; `sha256sum` reads them once.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import pickle
import random
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from benchmarks import table

OURS, HASH = "ModelArmor", "sha256sum"
_BLOCK = 16 << 20


@dataclass
class Sample:
    """One file's or directory's measurements, by who did it."""

    title: str
    place: Path
    seconds: dict[str, list[float]] = field(default_factory=lambda: {OURS: [], HASH: []})
    #: bytes, the most of any process
    memory: list[int] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = _arguments(argv)
    if arguments.one is not None:
        print(json.dumps(_one(arguments.one)))
        return 0
    load = os.getloadavg()[0]
    if warning := table.warning(load):
        print(f"benchmarks: warning: {warning}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="modelarmor-benchmark-", dir=arguments.dir) as base:
        samples = [
            Sample(title, _made(Path(base) / str(number), make, arguments.mib << 20))
            for number, (title, make) in enumerate(_MODELS.items())
        ]
        for number in range(arguments.rounds + 1):
            print(f"round {number} of {arguments.rounds}", file=sys.stderr)
            for sample in samples:
                _round(sample, counts=number > 0)
    text = _table(samples)
    print(text)
    if arguments.output is not None:
        facts = "\n".join(f"* {name}: {value}" for name, value in table.facts(load).items())
        said = f"> {warning}\n\n" if warning else ""
        page = _PAGE.format(warning=said, table=text, mib=arguments.mib, rounds=arguments.rounds,
                            facts=facts)  # fmt: skip
        arguments.output.write_text(page, encoding="utf-8")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scanning")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default: 5)")
    parser.add_argument(
        "--mib", type=int, default=1024, help="size of the large models (default: 1024)"
    )
    parser.add_argument("--dir", type=Path, help="where models are made (default: as tempfile has)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write a page here")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _made(place: Path, make: Callable[[Path, int], None], size: int) -> Path:
    place.mkdir()
    make(place, size)
    return place


def _round(sample: Sample, *, counts: bool) -> None:
    steps = [OURS, HASH]
    random.shuffle(steps)
    for step in steps:
        if step == OURS:
            said = subprocess.run(
                [sys.executable, "-m", "benchmarks.scanning", "--one", str(sample.place)],
                check=True, capture_output=True,
            )  # fmt: skip
            figures = json.loads(said.stdout)
            seconds = figures["seconds"]
            if counts:
                sample.memory.append(figures["memory"])
        else:
            begin = perf_counter()
            subprocess.run(
                f"find {sample.place} -type f -print0 | xargs -0 sha256sum > /dev/null",
                shell=True, check=True,
            )  # fmt: skip
            seconds = perf_counter() - begin
        if counts:
            sample.seconds[step].append(seconds)


def _one(place: Path) -> Mapping[str, float]:
    """Hash and look, in a process of its own, so that its memory is its own too."""
    from modelarmor.generate.artifact import inspect
    from modelarmor.generate.scan import scan

    begin = perf_counter()
    artifact = inspect(place)
    said = scan(place, artifact, voices=("modelarmor",))
    seconds = perf_counter() - begin
    if said.uninspected or said.findings:
        raise RuntimeError(f"a benign model was not passed: {said}")
    # Of this process by its own pages: its ru_maxrss is what started it, at first.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    own = int(status.partition("VmHWM:")[2].split()[0])
    most = max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return {"seconds": seconds, "memory": most * 1024}


# --- the models


def _noise(size: int) -> Sequence[bytes]:
    block = os.urandom(_BLOCK)
    return [block] * (size // _BLOCK)


def _pickle(place: Path, size: int) -> None:
    with (place / "model.pkl").open("wb") as file:
        file.write(b"\x80\x05](")
        for block in _noise(size):
            file.write(b"\x8e" + struct.pack("<Q", len(block)) + block)
        file.write(b"e.")


def _torch(place: Path, size: int) -> None:
    with zipfile.ZipFile(place / "model.pt", "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps({}, 2))
        archive.writestr("m/version", b"3\n")
        for number, block in enumerate(_noise(size)):
            archive.writestr(f"m/data/{number}", block)


def _safetensors(place: Path, size: int) -> None:
    total = len(_noise(size)) * _BLOCK
    header = json.dumps({"w": {"dtype": "U8", "shape": [total], "data_offsets": [0, total]}})
    with (place / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header.encode())
        for block in _noise(size):
            file.write(block)


def _numbers(place: Path, size: int) -> None:
    values = [random.random() for _ in range(size // 512)]
    (place / "model.pkl").write_bytes(pickle.dumps(values, 5))


def _compressed(place: Path, size: int) -> None:
    content = pickle.dumps(os.urandom(size // 16), 5)
    (place / "model.pkl.gz").write_bytes(gzip.compress(content, 3))


def _many(place: Path, size: int) -> None:
    content = pickle.dumps({"a": list(range(50))}, 5)
    for number in range(max(10, size >> 18)):
        (place / f"{number}.pkl").write_bytes(content)


_MODELS: Mapping[str, Callable[[Path, int], None]] = {
    "pickle of large arrays": _pickle,
    "torch archive": _torch,
    "safetensors": _safetensors,
    "compressed pickle, a sixteenth of the size": _compressed,
    "pickle of numbers, 2,000 a MiB": _numbers,
    "small pickles, 4 a MiB": _many,
}


def _table(samples: Sequence[Sample]) -> str:
    lines = [["", HASH, OURS, "ratio", "memory"], ["---"] * 5]
    for sample in samples:
        ratios = [a / b for a, b in zip(sample.seconds[OURS], sample.seconds[HASH], strict=True)]
        lines.append([
            sample.title,
            f"{statistics.median(sample.seconds[HASH]):.2f} s",
            f"{statistics.median(sample.seconds[OURS]):.2f} s",
            f"{statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]",
            f"{max(sample.memory) >> 20} MiB",
        ])  # fmt: skip
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


_PAGE = """\
# Scanning: how long it takes

Written by `python -m benchmarks.scanning`; do not edit. Hashing a model and looking into it,
confined, against `sha256sum` of the same files in the same round. A ratio of 1 is the speed of
`sha256sum`.

{warning}{table}
Models of {mib} MiB where nothing else is said, in the page cache; medians of {rounds} rounds,
ratios with [least-greatest]. *memory* is the most that any process took. The start of an
interpreter and of the sandbox is part of ModelArmor's time; other scanners are not.

{facts}
"""


if __name__ == "__main__":
    sys.exit(main())
