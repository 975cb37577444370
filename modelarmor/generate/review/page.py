"""A review as one page: to be read before a promotion, printed, and kept with the approval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from modelarmor.generate.evidence import ArtifactFile, Finding, Robustness

from .markup import NOTHING, Html, document, element, join, text
from .model import Barrier, Capability, Changes, Grant, Refusal, Review, Verdict, Why
from .robustness import figure, verdict
from .robustness import rows as robustness_rows
from .words import number, size

SHEET: Final = Path(__file__).with_name("page.css")
#: rows of one table; the JSON has all
_ROWS: Final = 500
_OPEN_ROWS: Final = 12
_DETAIL: Final = 2000
_SECTIONS: Final = {
    "points": "Before you approve",
    "verdicts": "Who looked",
    "findings": "Findings",
    "permits": "What the policy permits",
    "changes": "What changed",
    "refusals": "What it would refuse",
    "coverage": "What was recorded",
    "robustness": "Against crafted inputs",
    "reasons": "Why each rule is there",
    "files": "Files",
}
_ABILITIES: Final = {
    "exec": "Run programs",
    "read": "Read files",
    "write": "Write files",
    "network": "Use the network",
    "capabilities": "Use privileges",
    "resources": "Use the machine",
}
_COUNTED: Final = {
    "exec": "program",
    "read": "place",
    "write": "place",
    "network": "destination",
    "capabilities": "privilege",
    "resources": "limit",
}
_STANDINGS: Final = {
    "clean": "Nothing found",
    "findings": "Findings",
    "incomplete": "Incomplete",
    "failed": "Failed",
    "absent": "Did not look",
}


def as_html(review: Review) -> str:
    """The review as one page of HTML that needs no other resource and runs no script."""
    return document(
        f"Review of {review.evidence.artifact.source}",
        SHEET.read_text(encoding="utf-8"),
        _header(review),
        as_fragment(review),
        _footer(review),
    )


def as_fragment(review: Review) -> Html:
    """The sections of the review and a list of them, for a page that has `SHEET` and a headline."""
    parts = {
        "points": _points(review),
        "verdicts": _verdicts(review.verdicts),
        "findings": _findings(review.evidence.findings),
        "permits": _permits(review.capabilities, review.barriers),
        "changes": _changes(review.changes),
        "refusals": _refusals(review),
        "coverage": _coverage(review),
        "robustness": _robustness(review.evidence.robustness),
        "reasons": _reasons(review.reasons),
        "files": _files(review),
    }
    sections = [
        element(
            "section",
            element("h2", _SECTIONS[name], id=f"{name}-title"),
            content,
            id=name,
            aria_labelledby=f"{name}-title",
        )
        for name, content in parts.items()
        if content
    ]
    contents = _contents(name for name, content in parts.items() if content)
    return join(contents, element("main", *sections))


def _header(review: Review) -> Html:
    artifact = review.evidence.artifact
    what = [artifact.flavour]
    if artifact.loader:
        what.append(f"loaded by {artifact.loader}")
    what += [number(len(artifact.files), "file"), size(artifact.size)]
    return element(
        "header",
        element("p", "ModelArmor · model review", class_="kicker"),
        element("h1", _stranger(artifact.source)),
        element("p", _stranger(" · ".join(what)), class_="lead"),
        _facts(
            ("Model", _code(artifact.digest or "no digest")),
            ("Policy", _code(review.evidence.policy_digest)),
            ("Evidence", _code(review.evidence.digest)),
        ),
    )


def _contents(names: Iterable[str]) -> Html:
    items = (element("li", element("a", _SECTIONS[name], href=f"#{name}")) for name in names)
    return element("nav", element("ul", *items), aria_label="On this page")


def _footer(review: Review) -> Html:
    by = review.evidence.generator or "an unnamed version"
    return element(
        "footer",
        element(
            "p",
            "Computed from the evidence named above (ModelArmor ",
            _stranger(by),
            "). It tells what was looked at and what follows; it does not say that a model is"
            " safe. The policy is what confines it.",
        ),
    )


# --- sections


def _points(review: Review) -> Html:
    if not review.points:
        return element(
            "p", "Nothing was found that waits for a decision. That is not a proof of safety."
        )
    items = [
        element(
            "li",
            element("span", _mark(point.severity)),
            element("span", _stranger(point.what), " ", _see(point.section)),
        )
        for point in review.points[:_ROWS]
    ]
    return join(element("ul", *items, class_="points"), _more(review.points, _ROWS))


def _verdicts(verdicts: Iterable[Verdict]) -> Html:
    return element("ul", *(_verdict(verdict) for verdict in verdicts), class_="strip")


def _verdict(verdict: Verdict) -> Html:
    counts = ", ".join(f"{count} {severity}" for severity, count in verdict.counts.items())
    says = _STANDINGS[verdict.standing]
    if counts:
        says = counts if verdict.standing == "findings" else f"{says}; {counts}"
    notes = []
    if verdict.inspected:
        notes.append(f"{number(verdict.inspected, 'file')} looked into")
    if verdict.note:
        notes.append(verdict.note)
    return element(
        "li",
        element("strong", _stranger(" ".join(filter(None, (verdict.name, verdict.version))))),
        element("span", says, class_="says"),
        element("p", _stranger("; ".join(notes)), class_="note") if notes else NOTHING,
        class_=next(iter(verdict.counts), verdict.standing),
    )


def _findings(findings: Sequence[Finding]) -> Html:
    if not findings:
        return element("p", "None.")
    rows = [
        (
            _mark(finding.severity),
            join(
                element("strong", _stranger(finding.title)),
                element("p", _stranger(finding.detail, _DETAIL), class_="detail")
                if finding.detail
                else NOTHING,
            ),
            _code(finding.location) if finding.location else NOTHING,
            join(
                _stranger(finding.source),
                element("p", _code(finding.rule), class_="quiet"),
                element("p", _stranger(", ".join(finding.techniques)), class_="quiet")
                if finding.techniques
                else NOTHING,
            ),
        )
        for finding in findings[:_ROWS]
    ]
    columns = ("Severity", "What", "Where", "Who says so; technique")
    table = _table(columns, rows, widths=(10, 46, 20, 24))
    return join(table, _more(findings, _ROWS))


def _permits(capabilities: Sequence[Capability], barriers: Sequence[Barrier]) -> Html:
    glance = element("ul", *(_at_a_glance(item) for item in capabilities), class_="strip")
    return join(glance, *(_capability(item) for item in capabilities), _barriers(barriers))


def _at_a_glance(capability: Capability) -> Html:
    granted = number(len(capability.grants), _COUNTED[capability.ability])
    if capability.ability == "resources":
        says = f"{granted} set" if capability.grants else "not limited"
    else:
        says = granted if capability.grants else "nothing by name"
        says += ", and what no rule names" if capability.open else ", nothing else"
        says = "nothing" if not capability.grants and not capability.open else says
    idle = sum(grant.unobserved for grant in capability.grants)
    return element(
        "li",
        element("strong", _ABILITIES[capability.ability]),
        element("span", says, class_="says"),
        element("p", f"{idle} never observed", class_="note") if idle else NOTHING,
        class_="high" if capability.open and capability.ability != "resources" else "info",
    )


def _capability(capability: Capability) -> Html:
    grants = element("ul", *(_grant(grant) for grant in capability.grants[:_ROWS]), class_="grants")
    # What was never needed is what a reviewer can take away, so it is not folded away.
    idle = sum(grant.unobserved for grant in capability.grants)
    heading = _ABILITIES[capability.ability]
    if len(capability.grants) > _OPEN_ROWS:
        told = number(len(capability.grants), "grant")
        told += f", {idle} of them never observed" if idle else ""
        grants = element("details", element("summary", told), grants)
    return element(
        "div",
        element("h3", heading),
        grants if capability.grants else NOTHING,
        _more(capability.grants, _ROWS),
        element(
            "p", _stranger(capability.otherwise),
            class_="otherwise open" if capability.open else "otherwise",
        ),
        class_="able",
    )  # fmt: skip


def _grant(grant: Grant) -> Html:
    if grant.observed is None:
        use: str | Html = NOTHING
    elif grant.unobserved:
        use = element("span", "never observed", class_="mark medium")
    else:
        use = element("span", f"used {number(grant.observed, 'time')}", class_="quiet")
    why = " · ".join(filter(None, (grant.reason, grant.policy, grant.rule)))
    return element(
        "li",
        _code(grant.subject),
        " ",
        _stranger(" ".join(grant.limits)),
        join(" — ", _stranger(grant.meaning)) if grant.meaning else NOTHING,
        " ",
        use,
        element("div", _stranger(why), class_="why") if why else NOTHING,
    )


def _barriers(barriers: Sequence[Barrier]) -> Html:
    rows = [
        (
            join(
                _stranger(barrier.message or barrier.policy),
                element("p", _stranger(", ".join(barrier.tags)), class_="quiet"),
            ),
            element("span", _stranger(", ".join(barrier.subjects), 4000), class_="mono"),
            str(barrier.severity) if barrier.severity else "",
        )
        for barrier in barriers
    ]
    heading = element("h3", "Refused whatever is granted")
    body = (
        _table(("What for", "What", "Severity"), rows, widths=(30, 61, 9), numbers=(2,))
        if rows
        else element("p", "Nothing is refused by name.")
    )
    return element("div", heading, body, class_="able")


def _changes(changes: Changes | None) -> Html:
    if changes is None:
        return NOTHING
    parts = [
        _facts(
            ("Compared with", _stranger(changes.source)),
            ("Its model", _code(changes.artifact_digest or "no digest")),
            ("Its evidence", _code(changes.evidence_digest)),
            ("Bytes", "the same" if changes.same_bytes else "not the same"),
        )
    ]
    if changes.problem:
        parts.append(
            element("p", _stranger(f"The policies could not be compared: {changes.problem}"))
        )
    if not changes:
        parts.append(element("p", "Nothing else differs, and the policy decides the same."))
    permissions = [
        element("li", _stranger(line), class_=kind, data_mark=mark)
        for kind, mark, lines in (
            ("gained", "+", changes.gained),
            ("lost", "-", changes.lost),
            ("reported", "~", changes.reported),
        )
        for line in lines[:_ROWS]
    ]
    if permissions:
        parts += [element("h3", "Permissions"), element("ul", *permissions, class_="change")]
    if changes.facts:
        rows = [
            (_stranger(name), _code(before), _code(after)) for name, before, after in changes.facts
        ]
        parts += [element("h3", "Facts"), _table(("What", "Was", "Is"), rows, widths=(30, 35, 35))]
    if changes.files:
        file_rows = [
            (file.change, _code(file.path), _hash(file.before), _hash(file.after))
            for file in changes.files[:_ROWS]
        ]
        parts.append(element("h3", "Files"))
        columns = ("Change", "Path", "Was (SHA-256)", "Is (SHA-256)")
        parts.append(_table(columns, file_rows, widths=(10, 30, 30, 30)))
        parts.append(_more(changes.files, _ROWS))
    for title, found in (("New", changes.new_findings), ("Gone", changes.gone_findings)):
        if found:
            parts.append(element("h3", f"{title} findings"))
            items = (
                element("li", _mark(finding.severity), " ", _stranger(finding.title))
                for finding in found[:_ROWS]
            )
            parts.append(element("ul", *items, class_="grants"))
    return join(*parts)


def _refusals(review: Review) -> Html:
    if review.evidence.observation is None:
        return element("p", "Not known: the model was not run.")
    if not review.refusals:
        return element("p", "Nothing that was recorded.")
    surprising = [refusal for refusal in review.refusals if not refusal.expected]
    expected = [refusal for refusal in review.refusals if refusal.expected]
    parts = []
    if surprising:
        parts.append(
            _refused("These were recorded, and the model may fail without them.", surprising)
        )
    else:
        parts.append(element("p", "Nothing beyond what is refused on purpose."))
    if expected:
        caption = "Refused on purpose: a benign load tries these and goes on without."
        parts.append(_refused(caption, expected))
    return join(*parts)


def _refused(caption: str, refusals: Sequence[Refusal]) -> Html:
    rows = [
        (
            _code(refusal.operation),
            ", ".join(refusal.phases),
            f"{refusal.count:,}",
            _stranger(refusal.why),
        )
        for refusal in refusals[:_ROWS]
    ]
    columns = ("Operation", "During", "Times", "Why")
    table = _table(columns, rows, widths=(34, 12, 8, 46), caption=caption, numbers=(2,))
    return join(table, _more(refusals, _ROWS))


def _coverage(review: Review) -> Html:
    observation = review.evidence.observation
    rows = [
        (
            phase.phase,
            element("span", "completed", class_="mark completed")
            if phase.completed
            else element("span", "did not complete", class_="mark failed"),
            f"{phase.operations:,}",
            f"{phase.events:,}",
        )
        for phase in review.coverage
    ]
    columns = ("Phase", "Came to its end", "Distinct operations", "Events")
    parts = [_table(columns, rows, widths=(20, 30, 25, 25), numbers=(2, 3))]
    if observation is None:
        parts = [element("p", "The model was not run. What it would do is not known.")]
    else:
        usage = observation.usage
        facts = [
            ("Asked with", _stranger(observation.input or "nothing")),
            ("Predictions", f"{observation.predictions:,}"),
            ("Not listed", number(observation.unlisted, "operation")),
            (
                "At most",
                f"{usage.cpu_seconds:.1f} s of processor time, {size(usage.memory)} of memory,"
                f" {number(usage.processes, 'process', 'processes')}, {size(usage.disk)} written",
            ),
        ]
        if observation.error:
            facts.append(("It failed", _stranger(observation.error, _DETAIL)))
        parts.append(_facts(*facts))
    if unseen := review.evidence.scan.uninspected:
        items = (element("li", _code(path)) for path in unseen[:_ROWS])
        parts.append(element("h3", "Looked into by nobody"))
        parts.append(element("ul", *items, class_="grants"))
        parts.append(_more(unseen, _ROWS))
    return join(*parts)


def _robustness(robustness: Robustness | None) -> Html:
    if robustness is None:
        return element("p", "Not measured: ", _code("modelarmor redteam"), " does.")
    return join(element("p", verdict(robustness)), figure(robustness), robustness_rows(robustness))


def _reasons(reasons: Sequence[Why]) -> Html:
    if not reasons:
        return NOTHING
    rows = [
        (
            why.action,
            join(
                _code(why.says),
                element("p", _stranger(f"{why.policy} · {why.rule}"), class_="quiet"),
            ),
            join(
                element("span", why.kind, class_=f"mark {why.kind}") if why.kind else NOTHING,
                " ",
                _stranger(why.reason or "no reason is given"),
            ),
        )
        for why in reasons[:_ROWS]
    ]
    columns = ("Action", "Rule", "Why")
    return _folded(number(len(reasons), "rule"), columns, rows, len(reasons), (8, 46, 46))


def _files(review: Review) -> Html:
    artifact = review.evidence.artifact
    rows = [
        (_code(file.path), file.format or "", size(file.size), _hash(file))
        for file in artifact.files[:_ROWS]
    ]
    columns = ("Path", "What it is", "Size", "SHA-256")
    total = len(artifact.files)
    parts = [_folded(number(total, "file"), columns, rows, total, (34, 12, 12, 42))]
    if artifact.requirements:
        items = (element("li", _code(line)) for line in artifact.requirements[:_ROWS])
        parts += [element("h3", "Requirements"), element("ul", *items, class_="grants")]
    return join(*parts)


# --- pieces


def _stranger(value: str, limit: int = 400) -> Html:
    """Text that is not ours: its direction stays within it."""
    return element("bdi", text(value, limit))


def _code(value: str) -> Html:
    return element("code", _stranger(value))


def _see(section: str) -> Html:
    return element("a", f"see: {_SECTIONS[section]}", href=f"#{section}", class_="see")


def _mark(severity: str) -> Html:
    return element("span", severity, class_=f"mark {severity}")


def _hash(file: ArtifactFile | None) -> Html:
    return element("code", file.sha256) if file else NOTHING


def _facts(*pairs: tuple[str, str | Html]) -> Html:
    return element(
        "dl",
        *(join(element("dt", name), element("dd", value)) for name, value in pairs),
        class_="facts",
    )


def _table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Html]],
    *,
    widths: Sequence[int] = (),
    caption: str = "",
    numbers: Sequence[int] = (),
) -> Html:
    def kind(at: int) -> str:
        return "number" if at in numbers else ""

    head = [element("th", name, scope="col", class_=kind(at)) for at, name in enumerate(columns)]
    body = [
        element("tr", *(element("td", cell, class_=kind(at)) for at, cell in enumerate(row)))
        for row in rows
    ]
    table = element(
        "table",
        element("caption", caption) if caption else NOTHING,
        element("colgroup", *(element("col", width=f"{width}%") for width in widths)),
        element("thead", element("tr", *head)),
        element("tbody", *body),
    )
    return element("div", table, class_="scroll")


def _folded(
    summary: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Html]],
    total: int,
    widths: Sequence[int],
) -> Html:
    table = _table(columns, rows, widths=widths)
    if total > _OPEN_ROWS:
        table = element("details", element("summary", summary), table)
    return join(table, _more(range(total), _ROWS))


def _more(items: Sequence[object], shown: int) -> Html:
    if len(items) <= shown:
        return NOTHING
    return element("p", f"… and {len(items) - shown:,} more, which the JSON has.", class_="quiet")
