"""A measurement to read: text, JSON, and one page with curves and pictures."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from modelarmor.generate.evidence import Attack, Measure, Robustness
from modelarmor.generate.review import page
from modelarmor.generate.review.markup import NOTHING, Html, document, element
from modelarmor.generate.review.words import visible
from modelarmor.redteam.measure import Crafted, Report

#: grows when a reader of the previous version would misread the document
FORMAT: Final = 1
NAMES: Final[dict[Attack, str]] = {
    "noise": "Gaussian noise (control)",
    "fgsm": "FGSM (one step along the gradient)",
    "pgd": "PGD (20 steps along the gradient)",
    "hopskipjump": "HopSkipJump (asks only for the class)",
}
_SHEET: Final = Path(__file__).with_name("page.css")
_PICTURES: Final = 6
#: the longer side of a picture, in points of the input
_MOST_POINTS: Final = 128


def curves(robustness: Robustness) -> list[tuple[Attack, list[Measure]]]:
    """The measures of each attack by epsilon."""
    grouped = groupby(robustness.measures, key=lambda measure: measure.attack)
    return [(attack, sorted(found, key=lambda one: one.epsilon)) for attack, found in grouped]


# --- text


def as_text(report: Report) -> str:
    """A table: an attack a line, an epsilon a column."""
    robustness = report.robustness
    lines = [
        f"Robustness of {visible(report.source)}",
        f"  model   {visible(report.flavour)}, {visible(report.digest)}",
        f"  data    {robustness.samples} inputs, {robustness.data}",
        f"  attacks {robustness.library}, seed {robustness.seed}",
        "",
        *table(robustness, report.seconds),
    ]
    for (operation, policy), count in sorted(report.refused.items()):
        lines.append(f"  refused meanwhile: {operation} by {visible(policy)}, {count} times")
    return "\n".join(lines) + "\n"


def table(robustness: Robustness, seconds: Any = None) -> Iterator[str]:
    """Accuracy by attack and epsilon, in lines; what was asked for, and whether it was met."""
    known = curves(robustness)
    epsilons = [measure.epsilon for measure in known[0][1]] if known else []
    yield f"  {'recognised of all inputs':<38}" + "".join(f"{f'ε {e:g}':>9}" for e in epsilons)
    yield f"  {'as they are':<38}{robustness.accuracy:>9.1%}"
    for attack, measures in known:
        facts = f"{measures[0].samples} inputs"
        if queries := sum({m.epsilon: m.queries for m in measures}.values()):
            # hopskipjump asks once for all epsilons
            queries = measures[0].queries if attack == "hopskipjump" else queries
            facts += f", {queries:,} queries"
        if seconds and attack in seconds:
            facts += f", {seconds[attack]:.1f} s"
        shown = "".join(f"{measure.accuracy:>9.1%}" for measure in measures)
        yield f"  {NAMES[attack]:<38}{shown}  ({facts})"
    for reason in robustness.not_tried:
        yield f"  not tried: {visible(reason)}"
    yield f"  {verdict(robustness)}"


def verdict(robustness: Robustness) -> str:
    """Whether what was asked for is met, in a sentence."""
    least, epsilon = robustness.least_accuracy, robustness.epsilon
    if least is None or epsilon is None:
        return "No accuracy was asked for."
    shortfall = robustness.shortfall(least, epsilon)
    if shortfall:
        return f"NOT MET: {shortfall}."
    return f"Met: at least {least:.1%} at an epsilon of {epsilon:g}."


# --- JSON


def as_json(report: Report) -> str:
    """The measurement as one JSON document."""
    robustness = report.robustness
    body = {
        "format": FORMAT,
        "source": report.source,
        "flavour": report.flavour,
        "digest": report.digest,
        "accuracy": robustness.accuracy,
        "robustness": asdict(robustness),
        "seconds": dict(report.seconds),
        "refused": [
            {"operation": operation, "policy": policy, "count": count}
            for (operation, policy), count in sorted(report.refused.items())
        ],
    }
    return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=True) + "\n"


# --- HTML


def as_html(report: Report) -> str:
    """The measurement as one page that needs nothing else and runs no script."""
    robustness = report.robustness
    sheet = page.SHEET.read_text(encoding="utf-8") + _SHEET.read_text(encoding="utf-8")
    pictures = _pictures(report)
    return document(
        f"Robustness of {report.source}",
        sheet,
        element(
            "header",
            element("p", "ModelArmor · robustness", class_="kicker"),
            element("h1", report.source),
            element("p", f"{report.flavour} · {report.digest}", class_="lead"),
            element("p", verdict(robustness)),
        ),
        element(
            "main",
            element("section", element("h2", "Accuracy over epsilon"), figure(robustness)),
            element("section", element("h2", "Attacks"), _rows(robustness, report.seconds)),
            element("section", element("h2", "What the model takes it for"), pictures)
            if pictures
            else NOTHING,
        ),
        element(
            "footer",
            element(
                "p",
                f"{robustness.samples} inputs ({robustness.data}), seed {robustness.seed},"
                f" {robustness.library}. Epsilon is the most that a feature was changed, as a"
                " share of its range. What other attacks do is not known.",
            ),
        ),
        images=True,
    )


_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 640, 300, 48, 12, 632, 262


def figure(robustness: Robustness) -> Html:
    """The curves as a picture of lines, with a description for who cannot see it."""
    known = curves(robustness)
    most = max((measure.epsilon for measure in robustness.measures), default=1.0)

    def place(epsilon: float, accuracy: float) -> tuple[float, float]:
        # The root spreads small epsilons, where most happens.
        x = _LEFT + (_RIGHT - _LEFT) * (epsilon / most) ** 0.5
        return round(x, 1), round(_BOTTOM - (_BOTTOM - _TOP) * accuracy, 1)

    marks = [*_axes(sorted({m.epsilon for m in robustness.measures}), place)]
    for attack, measures in known:
        points = [place(0, robustness.accuracy), *(place(m.epsilon, m.accuracy) for m in measures)]
        drawn = " ".join(f"{x},{y}" for x, y in points)
        marks.append(element("polyline", points=drawn, class_=f"curve {attack}"))
        for (x, y), measure in zip(points[1:], measures, strict=True):
            said = f"{NAMES[attack]}, epsilon {measure.epsilon:g}: {measure.accuracy:.1%}"
            marks.append(
                element("circle", element("title", said), cx=str(x), cy=str(y), r="3.5",
                        class_=f"point {attack}")
            )  # fmt: skip
    keys = (
        element("li", element("span", class_=f"key {attack}"), NAMES[attack]) for attack, _ in known
    )
    return element(
        "figure",
        element(
            "svg", *marks, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", class_="curves",
            aria_label="Accuracy over epsilon, a curve for each attack; the table has the numbers",
        ),
        element("ul", *keys, class_="keys"),
    )  # fmt: skip


def _axes(epsilons: Sequence[float], place: Any) -> Iterator[Html]:
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = str(place(0, share)[1])
        yield element("line", x1=str(_LEFT), x2=str(_RIGHT), y1=y, y2=y, class_="grid")
        yield element("text", f"{share:.0%}", x=str(_LEFT - 6), y=y, class_="share")
    for epsilon in epsilons:
        x = str(place(epsilon, 0)[0])
        yield element("text", f"{epsilon:g}", x=x, y=str(_BOTTOM + 18), class_="epsilon")
    middle = str((_LEFT + _RIGHT) // 2)
    yield element("text", "epsilon", x=middle, y=str(_HEIGHT - 4), class_="epsilon")


def _rows(robustness: Robustness, seconds: Any) -> Html:
    head = ("Attack", "Epsilon", "Recognised", "Queries", "Seconds")
    rows = []
    for attack, measures in curves(robustness):
        for number, measure in enumerate(measures):
            first = number == 0
            cells = (
                NAMES[attack] if first else "",
                f"{measure.epsilon:g}",
                f"{measure.accuracy:.1%} ({measure.recognised} of {measure.samples})",
                f"{measure.queries:,}" if measure.queries else "",
                f"{seconds[attack]:.1f}" if first and attack in seconds else "",
            )
            rows.append(element("tr", *(element("td", cell) for cell in cells)))
    said = f"As they are: {robustness.accuracy:.1%} ({robustness.recognised} of"
    skipped = [element("p", f"Not tried: {reason}") for reason in robustness.not_tried]
    return element(
        "div",
        element("p", f"{said} {robustness.samples})"),
        element(
            "table",
            element("tr", *(element("th", name, scope="col") for name in head)),
            *rows,
        ),
        *skipped,
    )


# --- pictures


def _pictures(report: Report) -> Html:
    """Some inputs that the model knew, and what each attack made of them at one epsilon."""
    shape = _picture_shape(report.given.low.shape)
    if shape is None or not report.crafted:
        return NOTHING
    epsilon = _shown_epsilon(report)
    chosen = [item for item in report.crafted if item.epsilon == epsilon]
    rows = [
        _picture_row(report, number, chosen, shape)
        for number in _telling(report, chosen)[:_PICTURES]
    ]
    names = ("As it is", *(f"{NAMES[item.attack].partition(' (')[0]}" for item in chosen))
    return element(
        "div",
        element("p", f"With an epsilon of {epsilon:g}; what the model says stands below each."),
        element(
            "table",
            element("tr", *(element("th", name, scope="col") for name in names)),
            *rows,
            class_="pictures",
        ),
    )


def _picture_shape(shape: tuple[int, ...]) -> tuple[int, int, int, bool] | None:
    """Height, width, channels, and whether channels come first; None for what is no picture."""
    if len(shape) == 2 and min(shape) > 1:
        return shape[0], shape[1], 1, False
    if len(shape) == 3 and shape[2] in (1, 3):
        return shape[0], shape[1], shape[2], False
    if len(shape) == 3 and shape[0] in (1, 3):
        return shape[1], shape[2], shape[0], True
    return None


def _shown_epsilon(report: Report) -> float:
    """The one that was asked for; or the least that makes a difference."""
    robustness = report.robustness
    if robustness.epsilon is not None and any(
        item.epsilon == robustness.epsilon for item in report.crafted
    ):
        return robustness.epsilon
    epsilons = sorted({item.epsilon for item in report.crafted})
    for epsilon in epsilons:
        worst = robustness.worst(epsilon)
        if worst is not None and worst.accuracy < robustness.accuracy / 2:
            return epsilon
    return epsilons[-1]


def _telling(report: Report, chosen: Iterable[Crafted]) -> list[int]:
    """Numbers of inputs that every attack was made on, those first that deceived the model."""
    chosen = list(chosen)
    count = min(len(item.answers) for item in chosen)
    known = [n for n in range(count) if report.answers[n] == report.given.labels[n]]
    return sorted(
        known, key=lambda n: -sum(item.answers[n] != report.given.labels[n] for item in chosen)
    )


def _picture_row(
    report: Report, number: int, chosen: Iterable[Crafted], shape: tuple[int, int, int, bool]
) -> Html:
    pairs = [(report.given.units[number], report.answers[number])]
    pairs += [(item.units[number], item.answers[number]) for item in chosen]
    label = report.given.labels[number]
    cells = []
    for units, answer in pairs:
        right = answer == label
        said = element("span", answer, class_="right" if right else "wrong")
        source = "data:image/png;base64," + base64.b64encode(_png(units, shape)).decode()
        cells.append(element("td", _image(source, f"taken for {answer}"), said))
    return element("tr", *cells)


def _image(source: str, said: str) -> Html:
    # The address is Base64 of ours, longer than what is shown of a stranger's text.
    alternative = element("i", said)[3:-4]
    return Html(f'<img src="{source}" alt="{alternative}">')


def _png(units: Any, shape: tuple[int, int, int, bool]) -> bytes:
    """A picture of what lies in the unit cube (PNG, https://www.w3.org/TR/png-3/)."""
    height, width, channels, first = shape
    points = units.reshape(channels, height, width).transpose(1, 2, 0) if first else units
    points = (points.reshape(height, width, channels) * 255).round().astype("uint8")
    step = -(-max(height, width) // _MOST_POINTS)
    points = points[::step, ::step]
    height, width = points.shape[:2]
    lines = b"".join(b"\0" + points[line].tobytes() for line in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    body = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in body
    )
