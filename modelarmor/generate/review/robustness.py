"""How a model bears crafted inputs, as a review and a measurement show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from modelarmor.generate.evidence import Attack, Measure, Robustness
from modelarmor.visible import visible

from .markup import Html, element

NAMES: Final[dict[Attack, str]] = {
    "noise": "Gaussian noise (control)",
    "fgsm": "FGSM (one step along the gradient)",
    "pgd": "PGD (20 steps along the gradient)",
    "hopskipjump": "HopSkipJump (asks only for the class)",
}


def curves(robustness: Robustness) -> list[tuple[Attack, list[Measure]]]:
    """The measures of each attack by epsilon."""
    grouped = groupby(robustness.measures, key=lambda measure: measure.attack)
    return [(attack, sorted(found, key=lambda one: one.epsilon)) for attack, found in grouped]


def table(robustness: Robustness, seconds: Mapping[str, float] | None = None) -> Iterator[str]:
    """Accuracy by attack and epsilon, in lines; what was asked for, and whether it was met."""
    if robustness.error:
        yield f"  {verdict(robustness)}"
        return
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
    if robustness.error:
        return f"NOT MEASURED: {visible(robustness.error)}"
    least, epsilon = robustness.least_accuracy, robustness.epsilon
    if least is None or epsilon is None:
        return "No accuracy was asked for."
    shortfall = robustness.shortfall(least, epsilon)
    if shortfall:
        return f"NOT MET: {shortfall}."
    return f"Met: at least {least:.1%} at an epsilon of {epsilon:g}."


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


def rows(robustness: Robustness, seconds: Mapping[str, float] | None = None) -> Html:
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
                f"{seconds[attack]:.1f}" if first and seconds and attack in seconds else "",
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
