"""A kernel's violations as a widget: in its notebook, and in its hands as data.

    from modelarmor_jupyter.widget import ViolationsWidget

    w = ViolationsWidget()
    w                    # a table that follows what happens
    w.operation = "File"
    w.to_dataframe()

The labextension draws it and fills it, from the record that the server keeps: a confined kernel
can ask for a filter, and gets a copy to compute with. Which kernel it is about is not the kernel's
to say, and what it makes of its copy changes no count. Where the labextension is missing, nobody
fills the widget, and it says so.

This module is imported inside of the sandbox, so it uses nothing of ours but itself.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from ipywidgets import DOMWidget
from traitlets import Dict, Int, List, Unicode

if TYPE_CHECKING:
    from pandas import DataFrame

_MODULE: Final = "@modelarmor/labextension"
_VERSION: Final = "^0.1.0"
#: the most lines that the labextension sends
MAX_LIMIT: Final = 1_000
#: a column of the table, and the field of an alert that it shows
_COLUMNS: Final = {
    "time": "UpdatedTime",
    "action": "Action",
    "operation": "Operation",
    "resource": "Resource",
    "process": "ProcessName",
    "policy": "PolicyName",
    "severity": "Severity",
    "message": "Message",
}
_LIVE: Final = (
    "Live only in JupyterLab and Notebook 7 with the ModelArmor extension; what follows is what"
    " was known when this was written."
)


class ViolationsWidget(DOMWidget):  # type: ignore[misc]  # ipywidgets ships no types
    """What the kernel of this notebook was refused, newest first.

    Parameters
    ----------
    limit
        How many violations to show, 1 to `MAX_LIMIT`.
    operation, action, severity, cell, text
        What to show only: see the properties of these names.
    """

    _model_name = Unicode("ViolationsModel").tag(sync=True)
    _model_module = Unicode(_MODULE).tag(sync=True)
    _model_module_version = Unicode(_VERSION).tag(sync=True)
    _view_name = Unicode("ViolationsView").tag(sync=True)
    _view_module = Unicode(_MODULE).tag(sync=True)
    _view_module_version = Unicode(_VERSION).tag(sync=True)

    #: what is shown, newest first: ``{"seq": 7, "cell": 3, "alert": {...}}`` with KubeArmor's field
    #: names; ``cell`` is the ``n`` of ``[n]``, or None
    violations: Any = List(help="What is shown; the front end fills it.").tag(sync=True)
    #: of the whole record: ``total``, ``suppressed``, ``by_action``, ``by_operation``,
    #: ``by_policy``
    counts: Any = Dict(help="How many there were; the front end fills it.").tag(sync=True)
    filters: Any = Dict(help="What to show only, by the names of the properties.").tag(sync=True)
    limit = Int(100, min=1, max=MAX_LIMIT, help="How many to show.").tag(sync=True)

    def __init__(
        self,
        *,
        operation: str | Iterable[str] | None = None,
        action: str | Iterable[str] | None = None,
        severity: int = 0,
        cell: int | None = None,
        text: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        with self.hold_sync():
            self.operation, self.action = operation, action
            self.severity, self.cell, self.text = severity, cell, text

    @property
    def operation(self) -> tuple[str, ...]:
        """Only these operations: ``"File"``, ``"Process"``, ``"Network"`` …; empty for all."""
        return tuple(self.filters.get("operation", ()))

    @operation.setter
    def operation(self, value: str | Iterable[str] | None) -> None:
        self._filter("operation", _names("operation", value))

    @property
    def action(self) -> tuple[str, ...]:
        """Only these actions: ``"Block"``, ``"Audit"``; empty for all."""
        return tuple(self.filters.get("action", ()))

    @action.setter
    def action(self, value: str | Iterable[str] | None) -> None:
        self._filter("action", _names("action", value))

    @property
    def severity(self) -> int:
        """Only this severity and above, 1 to 10; 0 for all, also those that have none."""
        return int(self.filters.get("severity", 0))

    @severity.setter
    def severity(self, value: int) -> None:
        if not isinstance(value, int) or not 0 <= value <= 10:
            raise ValueError(f"severity is a whole number from 0 to 10, not {value!r}")
        self._filter("severity", value)

    @property
    def cell(self) -> int | None:
        """Only what fell into the cell of this ``[n]``; 0 for what fell into none, None for all."""
        value = self.filters.get("cell")
        return None if value is None else int(value)

    @cell.setter
    def cell(self, value: int | None) -> None:
        if value is not None and (not isinstance(value, int) or value < 0):
            raise ValueError(f"cell is the number in the brackets of a cell, not {value!r}")
        self._filter("cell", value)

    @property
    def text(self) -> str:
        """Only what has this in its resource, its process, its policy or its message."""
        return str(self.filters.get("text", ""))

    @text.setter
    def text(self, value: str) -> None:
        self._filter("text", str(value))

    def to_dataframe(self) -> DataFrame:
        """What is shown as a pandas data frame, a line for each violation.

        Raises
        ------
        ImportError
            when pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "to_dataframe() makes a pandas data frame; install pandas, or use .violations"
            ) from error
        rows = [_row(item) for item in self.violations]
        frame = pd.DataFrame(rows, columns=["seq", "cell", *_COLUMNS])
        frame["time"] = pd.to_datetime(frame["time"], errors="coerce", utc=True)
        frame["severity"] = pd.to_numeric(frame["severity"], errors="coerce").astype("Int64")
        return frame.astype({"seq": "Int64", "cell": "Int64"}).set_index("seq")

    def _filter(self, name: str, value: object) -> None:
        # a new dictionary: what is changed in place is not noticed
        kept = {key: item for key, item in self.filters.items() if key != name}
        # 0 is a cell, and no severity
        meant = value is not None if name == "cell" else bool(value)
        self.filters = {**kept, name: value} if meant else kept

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget; and for whoever cannot show it, a table that says what it is."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if isinstance(bundle, dict):
            total = self.counts.get("total", len(self.violations))
            bundle["text/plain"] = f"ViolationsWidget: {total} violations. {_LIVE}"
            bundle["text/html"] = self._as_html()
        return bundle

    def _as_html(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("cell", *_COLUMNS))
        body = "".join(
            "<tr>"
            + "".join(f"<td>{_escaped(row[name])}</td>" for name in ("cell", *_COLUMNS))
            + "</tr>"
            for row in map(_row, self.violations)
        )
        return f"<p>{_LIVE}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _names(what: str, value: str | Iterable[str] | None) -> list[str]:
    names = [value] if isinstance(value, str) else list(value or ())
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what} is a name or several, not {value!r}")
    return names


def _row(item: dict[str, Any]) -> dict[str, Any]:
    alert = item.get("alert") or {}
    row = {name: alert.get(field, "") for name, field in _COLUMNS.items()}
    return {"seq": item.get("seq"), "cell": item.get("cell"), **row}


def _escaped(value: object) -> str:
    text = "" if value is None else str(value)
    return html.escape("".join(c if c.isprintable() else "\ufffd" for c in text))
