"""Loads models and asks each a thousand times, as a server does: runs confined.

    python worker.py RUNNER MODEL-AS-JSON...

Each model is ``{"count": …, "given": …, "root": …, "flavour": …, "loader": …, "files": […]}``.
Loading is what the observation's own runner does; the questions differ from those that it asks:
other values, other sizes, several threads.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def _load_runner(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("runner", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _other_values(example: Any, seed: int) -> Any:
    """The same question with other numbers and, for a table, in another order."""
    import numpy

    random = numpy.random.default_rng(seed)
    if hasattr(example, "select_dtypes"):
        changed = example.copy()
        for name in changed.select_dtypes("float"):
            changed[name] += random.normal(size=len(changed))
        return changed.sample(frac=1, random_state=seed)
    if isinstance(example, numpy.ndarray) and example.dtype.kind == "f":
        return example + random.normal(size=example.shape).astype(example.dtype)
    return example


def main() -> None:
    runner = _load_runner(sys.argv[1])
    asked = 0
    for text in sys.argv[2:]:
        said = json.loads(text)
        count = said["count"]
        task = runner._Task(Path(said["root"]), said["flavour"], said["loader"], said["files"])
        task.load()
        assert task.predict is not None, "there is nothing to ask"
        given = said["given"]
        example = task.example() if given is None else runner._parse_given(given)
        # what the model takes only in one size is asked in that size
        sizes = [example]
        for question in itertools.islice(runner._variants(example), 1, 3):
            try:
                task.predict(question)
                sizes.append(question)
            except Exception:
                continue
        questions = [
            _other_values(size, seed)
            for seed, size in zip(range(count), itertools.cycle(sizes), strict=False)
        ]
        half = count // 2
        for question in questions[:half]:
            task.predict(question)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(task.predict, questions[half:]))
        asked += count
        task = None
    print(f"asked {asked}")


if __name__ == "__main__":
    main()
