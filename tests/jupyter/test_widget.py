"""The widget, in a confined kernel and as data."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from modelarmor_jupyter.widget import ViolationsWidget

from .conftest import StartKernel

SENT: list[dict[str, Any]] = [
    {
        "seq": 9,
        "cell": 3,
        "alert": {
            "UpdatedTime": "2026-11-22T20:00:00.000001Z",
            "Action": "Block",
            "Operation": "File",
            "Resource": "/etc/shadow<script>",
            "Severity": "9",
            "PolicyName": "p",
        },
    },
    {"seq": 7, "cell": None, "alert": {"Action": "Audit", "Operation": "Network"}},
]


@pytest.mark.parametrize("profile", ["notebook", "untrusted-model"])
def test_it_can_be_made_in_a_confined_kernel(kernel: StartKernel, profile: str) -> None:
    widget = Path(sys.modules[ViolationsWidget.__module__].__file__ or "")

    async def main() -> None:
        async with kernel(profile) as k:
            said = await k.run(
                "from modelarmor_jupyter.widget import ViolationsWidget\n"
                "w = ViolationsWidget(limit=20, operation='File')\n"
                "print(w.operation, w.limit, len(w.violations), w.comm is not None)"
            )
            assert said == "('File',) 20 0 True"
            assert "PermissionError" in await k.run(f"open({str(widget)!r}, 'a')")
            # the rest of this checkout stays where it was
            assert "PermissionError" in await k.run(f"open({str(Path(__file__))!r})")

    asyncio.run(main())


def test_it_names_the_model_that_the_labextension_draws() -> None:
    state = ViolationsWidget().get_state()

    assert state["_model_module"] == state["_view_module"] == "@modelarmor/labextension"
    assert (state["_model_name"], state["_view_name"]) == ("ViolationsModel", "ViolationsView")
    assert "kernel_id" not in state
    assert state["filters"] == {}


def test_its_properties_are_what_the_labextension_filters_by() -> None:
    w = ViolationsWidget(operation="File", action=["Block", "Audit"], severity=5, cell=0)

    assert w.filters == {
        "operation": ["File"], "action": ["Block", "Audit"], "severity": 5, "cell": 0,
    }  # fmt: skip
    w.operation = w.action = w.cell = None
    w.severity = 0
    assert w.filters == {}
    assert (w.operation, w.action, w.severity, w.cell, w.text) == ((), (), 0, None, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [("severity", 11), ("severity", "9"), ("cell", -1), ("cell", "x"), ("operation", [1])],
)
def test_a_filter_that_makes_no_sense_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        setattr(ViolationsWidget(), name, value)


def test_it_becomes_a_data_frame() -> None:
    pytest.importorskip("pandas")
    w = ViolationsWidget()
    w.violations = SENT

    frame = w.to_dataframe()

    assert list(frame.index) == [9, 7]
    assert frame.loc[9, "resource"] == "/etc/shadow<script>"
    assert frame.loc[9, "severity"] == 9
    assert frame.loc[9, "time"].year == 2026
    assert frame["cell"].isna().tolist() == [False, True]
    assert ViolationsWidget().to_dataframe().empty


def test_without_pandas_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)

    with pytest.raises(ImportError, match="install pandas"):
        ViolationsWidget().to_dataframe()


def test_elsewhere_it_is_a_table_that_says_that_it_does_not_follow() -> None:
    w = ViolationsWidget()
    w.violations, w.counts = SENT, {"total": 2}

    bundle = w._repr_mimebundle_()

    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "Live only in JupyterLab and Notebook 7" in bundle["text/html"]
    assert "/etc/shadow&lt;script&gt;" in bundle["text/html"]
    assert "<script" not in bundle["text/html"]
    assert bundle["text/plain"].startswith("ViolationsWidget: 2 violations.")
