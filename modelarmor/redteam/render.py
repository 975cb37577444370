"""A measurement to read: text, JSON, and one page with curves and pictures."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

from modelarmor.generate.review import page
from modelarmor.generate.review.markup import NOTHING, Html, document, element
from modelarmor.generate.review.robustness import NAMES, figure, rows, table, verdict
from modelarmor.redteam.measure import Crafted, Report
from modelarmor.visible import visible

#: grows when a reader of the previous version would misread the document
FORMAT: Final = 1
_PICTURES: Final = 6
#: the longer side of a picture, in points of the input
_MOST_POINTS: Final = 128


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
    sheet = page.SHEET.read_text(encoding="utf-8")
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
            element("section", element("h2", "Attacks"), rows(robustness, report.seconds)),
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
