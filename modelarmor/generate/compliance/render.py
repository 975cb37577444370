"""A compliance report as text, JSON and one page."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, Final

from modelarmor.generate.review.markup import NOTHING, Html, document, element, join, text
from modelarmor.generate.review.page import SHEET
from modelarmor.generate.review.words import number
from modelarmor.visible import visible

from .assess import STATUSES, Assessment, Proof, Report, Result

#: grows when a reader of the previous version would misread the document
FORMAT: Final = 1
_WIDTH: Final = 100
_COLOURS: Final = {
    "met": "\033[32m",
    "met here": "\033[32m",
    "partly": "\033[33m",
    "not met": "\033[31m",
}
_BOLD, _RESET = "\033[1m", "\033[0m"
_CLASSES: Final = {"met": "met", "met here": "met", "partly": "medium", "not met": "critical"}
_TIERS: Final = (
    "Tiers are those of the embedded sandbox on Linux 6.12 or newer: kernel, what Landlock and"
    " seccomp hold; supervised, what its helper decides. On a cluster KubeArmor's LSM enforces."
)
_ABOUT: Final = (
    "“Met here”: all that a policy and its evidence can do for the control is done, and others have"
    " to do the rest, which stands beside it. This report does not certify anything."
)


def as_data(report: Report) -> dict[str, Any]:
    """The report as plain data; docs/review.md says what is in it."""
    evidence = report.subject.evidence
    return {
        "format": FORMAT,
        "subject": {
            "name": report.subject.name,
            "artifact_digest": evidence.artifact.digest if evidence else None,
            "policy_digest": evidence.policy_digest if evidence else None,
            "evidence_digest": evidence.digest if evidence else None,
        },
        "controls": [
            {
                "framework": assessment.control.framework,
                "id": assessment.control.id,
                "title": assessment.control.title,
                "what": assessment.control.what,
                "source": assessment.control.source,
                "status": assessment.status,
                "checks": [
                    {"what": result.what, "holds": result.holds,
                     "proofs": [asdict(proof) for proof in result.proofs]}
                    for result in assessment.results
                ],
                "rest": [asdict(rest) for rest in assessment.control.rest],
            }
            for assessment in report.assessments
        ],
    }  # fmt: skip


def as_json(reports: Sequence[Report]) -> str:
    """The reports as one JSON array, ASCII only."""
    return json.dumps([as_data(report) for report in reports], indent=2, ensure_ascii=True) + "\n"


# --- text


def as_text(report: Report, *, colour: bool = False) -> str:
    """The report for people.

    Args:
        report: what to show.
        colour: whether to mark the status by terminal escapes.
    """
    return "\n".join(_lines(report, colour)) + "\n"


def _lines(report: Report, colour: bool) -> Iterator[str]:
    def paint(what: str, code: str) -> str:
        return f"{code}{what}{_RESET}" if colour else what

    yield paint(f"Controls that {visible(report.subject.name)} meets a part of", _BOLD)
    counts = ((status, report.count(status)) for status in STATUSES)
    yield "  " + ", ".join(f"{count} {status}" for status, count in counts)
    yield from textwrap.wrap(_ABOUT, _WIDTH, initial_indent="  ", subsequent_indent="  ")
    for framework, members in groupby(report.assessments, lambda item: item.control.framework):
        yield ""
        yield paint(framework, _BOLD)
        for item in members:
            status = paint(item.status, _COLOURS[item.status]) + " " * (9 - len(item.status))
            yield f"  {status}{item.control.id}  {item.control.title}"
            for result in item.results:
                yield f"           {'+' if result.holds else '-'} {result.what}: {_short(result)}"
                for proof in (proof for proof in result.proofs if not proof.holds):
                    yield from textwrap.wrap(
                        visible(f"{proof.asked}: {proof.answer}"), _WIDTH,
                        initial_indent=" " * 15, subsequent_indent=" " * 17,
                    )  # fmt: skip
            for rest in item.control.rest:
                yield f"           > {rest.by}: {rest.what}"


def _short(result: Result) -> str:
    held = sum(proof.holds for proof in result.proofs)
    tiers = sorted({proof.tier for proof in result.proofs if proof.tier})
    said = f"{held} of {len(result.proofs)}"
    return said + (f" ({', '.join(tiers)})" if tiers else "")


# --- page


def as_html(report: Report) -> str:
    """The report as one page of HTML that needs no other resource and runs no script."""
    evidence = report.subject.evidence
    facts: list[tuple[str, str]] = []
    if evidence:
        facts = [
            ("Model", evidence.artifact.digest or "no digest"),
            ("Policy", evidence.policy_digest),
            ("Evidence", evidence.digest),
        ]
    header = element(
        "header",
        element("p", "ModelArmor · compliance", class_="kicker"),
        element("h1", _stranger(report.subject.name)),
        element("p", _ABOUT, class_="lead"),
        element(
            "dl",
            *(
                join(element("dt", name), element("dd", element("code", _stranger(value))))
                for name, value in facts
            ),
            class_="facts",
        )
        if facts
        else NOTHING,
    )
    grouped = [
        (framework, list(members))
        for framework, members in groupby(report.assessments, lambda item: item.control.framework)
    ]
    sections = [_framework(framework, members) for framework, members in grouped]
    return document(
        f"Compliance of {report.subject.name}",
        SHEET.read_text(encoding="utf-8"),
        header,
        element("main", _overview(grouped), *sections),
        element("footer", element("p", _TIERS)),
    )


def _overview(grouped: Sequence[tuple[str, Sequence[Assessment]]]) -> Html:
    tiles = []
    for framework, members in grouped:
        counts = dict.fromkeys(_CLASSES, 0)
        for item in members:
            counts[item.status] += 1
        says = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        worst = next(status for status in reversed(STATUSES) if counts[status])
        tiles.append(
            element(
                "li",
                element("strong", element("a", framework, href=f"#{_anchor(framework)}")),
                element("span", says, class_="says"),
                class_=_CLASSES[worst],
            )
        )
    return element(
        "section",
        element("h2", "At a glance", id="glance"),
        element("ul", *tiles, class_="strip"),
        aria_labelledby="glance",
    )


def _framework(framework: str, members: Sequence[Assessment]) -> Html:
    name = _anchor(framework)
    columns = ("Control", "What was computed", "Not met by a policy")
    table = element(
        "table",
        element("colgroup", *(element("col", style=f"width: {w}%") for w in (27, 49, 24))),
        element("thead", element("tr", *(element("th", name, scope="col") for name in columns))),
        element("tbody", *(_row(item) for item in members)),
    )
    return element(
        "section",
        element("h2", framework, id=f"{name}-title"),
        element("div", table, class_="scroll"),
        id=name,
        aria_labelledby=f"{name}-title",
    )


def _row(item: Assessment) -> Html:
    control = item.control
    return element(
        "tr",
        element(
            "td",
            element("span", item.status, class_=f"mark {_CLASSES[item.status]}"),
            element("p", element("a", element("strong", control.id), href=control.source)),
            element("p", control.title),
            element("p", control.what, class_="quiet"),
        ),
        element("td", *(_result(result) for result in item.results)),
        element(
            "td",
            element(
                "ul",
                *(
                    element("li", element("strong", rest.by), ": ", rest.what)
                    for rest in control.rest
                ),
                class_="grants",
            )
            if control.rest
            else NOTHING,
        ),
    )


def _result(result: Result) -> Html:
    # What does not hold is shown at once; what holds can be unfolded, and is on paper.
    failed = [proof for proof in result.proofs if not proof.holds]
    held = [proof for proof in result.proofs if proof.holds]
    mark = element(
        "span", "holds" if result.holds else "fails",
        class_=f"mark {'met' if result.holds else 'critical'}",
    )  # fmt: skip
    summary = element(
        "p", mark, " ", result.what, " ", element("span", _short(result), class_="quiet")
    )
    return join(
        summary,
        element("ul", *(_proof(proof) for proof in failed), class_="grants") if failed else NOTHING,
        element(
            "details",
            element("summary", f"{number(len(held), 'answer')} as it should be"),
            element("ul", *(_proof(proof) for proof in held), class_="grants"),
        )
        if held
        else NOTHING,
    )


def _proof(proof: Proof) -> Html:
    rests = " · ".join(filter(None, (proof.rule, proof.tier)))
    return element(
        "li",
        element("code", _stranger(proof.asked)),
        " ",
        _stranger(proof.answer, 1000),
        element("div", _stranger(rests), class_="why") if rests else NOTHING,
    )


def _stranger(value: str, limit: int = 400) -> Html:
    return element("bdi", text(value, limit))


def _anchor(framework: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in framework.lower())
