"""``python -m tests.redteam.guard [--write]``: what the serving guard notices of crafted inputs.

A classifier of handwritten digits is attacked by `modelarmor.redteam`; the guard gets the ranges
that ``modelarmor guard`` takes from its training data, and is asked about each input by itself.
With ``--write`` the figures go into docs/redteam.md.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import joblib
import numpy
import pandas
from modelarmor_mlflow.serving import limits
from modelarmor_mlflow.serving.confined.modelarmor_guard import (
    Buckets,
    Column,
    Limits,
    Probing,
    Refused,
    check,
)
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from modelarmor.redteam import data, measure, render

PAGE = Path(__file__).parents[2] / "docs" / "redteam.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->"
NAMES = [f"p{number}" for number in range(64)]
TRAINED = 1200
EPSILONS = (0.03, 0.1, 0.3)


class Subject:
    """A model, its guard, and inputs that neither has seen."""

    def __init__(self, place: Path) -> None:
        digits = load_digits()
        self.inputs, self.labels = digits.data / 16, digits.target
        known = self.inputs[:TRAINED]
        model = LogisticRegression(max_iter=300).fit(known, self.labels[:TRAINED])
        self.model = place / "digits.joblib"
        joblib.dump(model, self.model)
        self._model = model
        pandas.DataFrame(known, columns=NAMES).to_csv(place / "known.csv", index=False)
        columns = tuple(Column(name=name, type="double") for name in NAMES)
        self.limits = limits.with_data(Limits(columns=columns), place / "known.csv")
        numpy.savez(place / "unknown.npz", x=self.inputs[TRAINED:], y=self.labels[TRAINED:])
        self.given = data.read(place / "unknown.npz", samples=200, limits=(0, 1))

    def measured(self) -> measure.Report:
        options = measure.Options(epsilons=EPSILONS, nearest=10)
        return measure.measure(self.model, self.given, options)

    def refused(self, rows: numpy.ndarray) -> float:
        """Share of inputs that the guard lets not through, each a request."""
        return float(numpy.mean([self._is_refused(row.tolist()) for row in rows]))

    def recognised(self, rows: numpy.ndarray, labels: Sequence[str]) -> float:
        """Share that the model takes for what it is."""
        return float(numpy.mean(self._model.predict(rows).astype(str) == numpy.array(labels)))

    def answers(self, rows: numpy.ndarray) -> numpy.ndarray:
        """What the model says of each, and no more: ones at the classes."""
        return numpy.eye(10)[self._model.predict(rows)]

    def within(self, rows: numpy.ndarray) -> numpy.ndarray:
        """What an attacker sends who knows the guard: the same, cut to its ranges."""
        low, high = (
            numpy.array([getattr(column, name) for column in self.limits.columns])
            for name in ("minimum", "maximum")
        )
        return rows.clip(low, high)

    def _is_refused(self, row: list[float]) -> bool:
        body = json.dumps({"dataframe_split": {"columns": NAMES, "data": [row]}}).encode()
        try:
            check(body, "application/json", self.limits)
        except Refused:
            return True
        return False


def inputs(
    subject: Subject, report: measure.Report
) -> Iterator[tuple[str, numpy.ndarray, Sequence[str]]]:
    """What is sent, and what it is; honest inputs first, then what should be noticed."""
    labels = subject.given.labels
    honest = [str(label) for label in subject.labels[TRAINED:]]
    yield "digits that the model has not seen (false alarms)", subject.inputs[TRAINED:], honest
    for item in report.crafted:
        known = labels[: len(item.units)]
        yield f"{item.attack}, ε {item.epsilon:g}", item.units.astype("float64"), known
    for item in report.crafted:
        known = labels[: len(item.units)]
        if item.attack != "noise":
            cut = subject.within(item.units.astype("float64"))
            yield f"{item.attack}, ε {item.epsilon:g}, cut to the guard's ranges", cut, known
    units = subject.given.units.astype("float64")
    draw = numpy.random.default_rng(0)
    yield "anything: each pixel drawn by chance", draw.random((200, 64)), ()
    yield "digits, black and white exchanged", 1 - units, labels
    yield "digits from 0 to 16, not scaled", units * 16, labels
    yield "one pixel of 64 set to 1e6", _with_one(units, 1e6), labels


def _with_one(units: numpy.ndarray, value: float) -> numpy.ndarray:
    changed = units.copy()
    changed[:, 20] = value
    return changed


def drip(rate: float, pace: float, queries: int) -> float:
    """Share of queries that a limit of `rate` a second refuses to one who sends `pace` a second."""
    now = 0.0
    buckets = Buckets(rate, lambda: now)
    refused = 0
    for _ in range(queries):
        now += 1 / pace
        refused += buckets.take("client") > 0
    return refused / queries


def asked(subject: Subject, number: int, *, steps: int = 10) -> numpy.ndarray:
    """What HopSkipJump asks about one unseen digit, cut to the guard's ranges, in its order."""
    from art.attacks.evasion import HopSkipJump
    from art.estimators.classification import BlackBoxClassifier

    queries: list[numpy.ndarray] = []

    def answer(rows: numpy.ndarray) -> numpy.ndarray:
        rows = subject.within(rows.reshape(len(rows), -1).astype("float64"))
        queries.append(rows)
        return subject.answers(rows)

    numpy.random.seed(0)  # the attack draws from here
    model = BlackBoxClassifier(answer, (64,), 10, clip_values=(0, 1))
    attack = HopSkipJump(model, max_iter=steps, max_eval=1000, init_eval=100, verbose=False)
    attack.generate(subject.inputs[TRAINED + number : TRAINED + number + 1].astype("float32"))
    return numpy.concatenate(queries)


def probing(
    subject: Subject, rows: numpy.ndarray, *, others: int = 0, each: int | None = None
) -> tuple[float, int]:
    """How one client fares who sends rows, one a request.

    Args:
        others: unseen digits that are sent before each row, to hide it.
        each: rows that one address sends before the next one goes on; all of them if left out.

    Returns:
        the share of the rows that is refused as probing, and the number of the first.
    """
    assert subject.limits.near is not None
    watch = Probing(subject.limits.near, subject.limits.columns)
    hiding = itertools.cycle(subject.inputs[TRAINED:])
    refused = []
    for number, row in enumerate(rows):
        client = str(number // each) if each else ""
        for _ in range(others):
            watch.found(client, [dict(zip(NAMES, next(hiding).tolist(), strict=True))])
        refused.append(watch.found(client, [dict(zip(NAMES, row.tolist(), strict=True))]))
    return float(numpy.mean(refused)), refused.index(True) + 1 if any(refused) else 0


def probes(subject: Subject) -> Iterator[str]:
    """The table about probing."""
    yield "| one client sends | refused | the first is number |"
    yield "|---|---:|---:|"
    unseen = subject.inputs[TRAINED:]
    draw = numpy.random.default_rng(0)
    seen_again = numpy.repeat(unseen[:10], 60, axis=0)
    seen_again = subject.within(seen_again + draw.normal(0, 0.02, seen_again.shape))
    queries = [asked(subject, number) for number in range(10)]
    for name, each in (
        ("digits that the model has not seen (false alarms)", [probing(subject, unseen)]),
        ("each of ten digits 60 times, with noise of 2 % (false alarms)",
         [probing(subject, seen_again)]),
        ("HopSkipJump", [probing(subject, rows) for rows in queries]),
        ("HopSkipJump, two unseen digits before each query",
         [probing(subject, rows, others=2) for rows in queries]),
        ("HopSkipJump, five unseen digits before each query",
         [probing(subject, rows, others=5) for rows in queries]),
        ("HopSkipJump, from a new address after 20 queries",
         [probing(subject, rows, each=20) for rows in queries]),
    ):  # fmt: skip
        first = statistics.median(number for _, number in each)
        yield (
            f"| {name} | {statistics.mean(share for share, _ in each):.1%} |"
            f" {f'{first:g}' if first else 'none'} |"
        )


def figures() -> str:
    """The part of the page, in Markdown."""
    with tempfile.TemporaryDirectory() as place:
        subject = Subject(Path(place))
        report = subject.measured()
        lines = ["```text", *render.table(report.robustness, report.seconds), "```", ""]
        lines += ["| sent | refused by the guard | recognised by the model |", "|---|---:|---:|"]
        for name, rows, labels in inputs(subject, report):
            right = f"{subject.recognised(rows, labels):.1%}" if labels else ""
            lines.append(f"| {name} | {subject.refused(rows):.1%} | {right} |")
    nearest = [one for one in report.robustness.measures if one.attack == "hopskipjump"]
    queries = nearest[0].queries // nearest[0].samples
    lines += ["", f"HopSkipJump asks {queries:,} times for one input. With `rate: 1`:", ""]
    lines += ["| the attacker's pace | refused | seconds for one input |", "|---|---:|---:|"]
    for pace in (20.0, 2.0, 0.9):
        refused = drip(1.0, pace, queries)
        passed = pace * (1 - refused)
        lines.append(f"| {pace:g} a second | {refused:.0%} | {queries / passed:,.0f} |")
    lines += [
        "",
        f"Probing, with `near: {subject.limits.near}`, as `modelarmor guard` finds it:",
        "",
    ]
    lines += probes(subject)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and print or write."""
    text = figures()
    if "--write" not in sys.argv:
        print(text, end="")
        return
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + text + END + rest.split(END, 1)[1])


if __name__ == "__main__":
    main()
