"""Run the benchmarks: one command, one table."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import table
from benchmarks.runners import CONTENDERS, OURS, UNCONFINED, Failed, Place, missing
from benchmarks.table import Measured
from benchmarks.workloads import Experiment, Sizes, experiments, listener

_NAMES = ("start", "imports", "torch", "opens", "creates", "exec", "connects", "kernel", "requests")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 1 when ModelArmor itself failed a row."""
    arguments = _arguments(argv)
    load = os.getloadavg()[0]
    if warning := table.warning(load):
        print(f"benchmarks: warning: {warning}", file=sys.stderr)
    sizes = Sizes.small() if arguments.quick else Sizes()
    with tempfile.TemporaryDirectory(prefix="modelarmor-benchmark-") as base:
        places = {name: Place.make(Path(base) / name) for name in CONTENDERS}
        with listener(Place.make(Path(base) / "outside")) as port:
            measured = [
                row
                for experiment in experiments(sizes, port)
                if experiment.name in arguments.only
                for row in _measure(experiment, places, arguments.rounds)
            ]
    print(table.render(measured))
    if arguments.output is not None:
        text = table.page(measured, arguments.rounds, load, small=arguments.quick)
        arguments.output.write_text(text, encoding="utf-8")
    return int(any(OURS in each.absent for each in measured))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run the same work unconfined and in each sandbox, and print what it costs.",
        epilog="Run it when the machine has nothing else to do. sandlock and bubblewrap take part"
        " if they are installed (pip install sandlock; package bubblewrap).",
    )
    parser.add_argument(
        "--rounds", type=_positive, default=None, metavar="N", help="(default: 9; 2 with --quick)"
    )
    parser.add_argument(
        "--only",
        type=_names,
        default=_NAMES,
        metavar="ROW,..",
        help="run some of: " + ", ".join(_NAMES),
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it works; not a result"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="also write the table with its conditions here"
    )
    arguments = parser.parse_args(argv)
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 9)
    return arguments


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("should be 1 or more")
    return number


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in _NAMES]:
        raise argparse.ArgumentTypeError(
            f"no row {', '.join(unknown)}; known are {', '.join(_NAMES)}"
        )
    return names


def _measure(experiment: Experiment, places: dict[str, Place], rounds: int) -> list[Measured]:
    """Run an experiment: a round to warm up, then those that count, each in random order."""
    absent = missing()
    if lacking := experiment.lacking:
        absent = dict.fromkeys(CONTENDERS, f"{', '.join(lacking)} is not installed")
    measured = [Measured(row, absent=dict(absent)) for row in experiment.rows]
    settings = list({id(row.setting): row.setting for row in experiment.rows}.values())
    # What is unconfined is the same whatever the setting: one run serves all rows.
    runs = [(UNCONFINED, settings[0])]
    runs += [(name, setting) for setting in settings for name in CONTENDERS if name != UNCONFINED]
    runs = [(name, setting) for name, setting in runs if name not in absent]
    for number in range(rounds + 1):
        random.shuffle(runs)
        print(f"{experiment.name}: round {number} of {rounds}", file=sys.stderr)
        for each in measured:
            if number > 0:
                each.rounds.append({})
        for name, setting in list(runs):
            concerned = [e for e in measured if name == UNCONFINED or e.row.setting is setting]
            try:
                figures = experiment.run(name, places[name], setting)
            except Failed as error:
                _give_up(concerned, name, str(error))
                runs.remove((name, setting))
                continue
            if number > 0:
                for each in concerned:
                    each.rounds[-1][name] = figures[each.row.figure]
    return measured


def _give_up(concerned: list[Measured], name: str, why: str) -> None:
    """Note why a contender takes no further part. What it did until then is no result either."""
    titles = ", ".join(each.row.title for each in concerned)
    print(f"benchmarks: {name}: {titles}: {why}", file=sys.stderr)
    for each in concerned:
        each.absent[name] = why
        for samples in each.rounds:
            samples.pop(name, None)


if __name__ == "__main__":
    sys.exit(main())
