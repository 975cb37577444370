"""Quantities in Kubernetes' notation."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelarmor.sandbox.resources import ResourceError, Resources, parse_quantity


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        ("100m", "0.1"),
        (2, "2"),
        (0.5, "0.5"),
        ("4Gi", str(4 * 2**30)),
        ("1e3", "1000"),
        ("1E3", "1000"),
        ("12e-1", "1.2"),
        ("1E", str(10**18)),
        ("500M", "500000000"),
        ("64k", "64000"),
        ("1.5Gi", str(3 * 2**29)),
        (".5", "0.5"),
        ("5.", "5"),
        ("250u", "0.00025"),
    ],
)
def test_quantities_are_read_as_kubernetes_reads_them(quantity: Any, number: str) -> None:
    assert parse_quantity(quantity) == Decimal(number)


@pytest.mark.parametrize(
    ("quantity", "message"),
    [
        ("4GB", "unknown unit 'GB'; did you mean G or Gi?"),
        ("4gi", "did you mean G or Gi?"),
        ("4K", "did you mean k or Ki?"),
        ("4 Gi", "unknown unit ' Gi'"),
        ("", "no quantity"),
        ("-1", "no quantity"),
        ("1e999999999", "no quantity"),
        ("9" * 1000, "no quantity"),
        ("1\n", "no quantity"),
        ("nan", "no quantity"),
        (float("inf"), "no quantity"),
        pytest.param(10**5000, "below 2**63", id="vast"),
        (0, "more than 0"),
        ("1e99", "below 2**63"),
        (True, "True should be a quantity"),
        (None, "None should be a quantity"),
        (["1"], "should be a quantity"),
    ],
)
def test_what_is_no_quantity_is_refused(quantity: Any, message: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse_quantity(quantity)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


def test_limits_are_read_by_their_kubernetes_names() -> None:
    limits = {
        "cpu": "1500m",
        "memory": "4Gi",
        "pids": 256,
        "ephemeral-storage": "10G",
        "open-files": "1k",
    }
    resources = Resources.from_kubernetes(limits)
    assert resources == Resources(1.5, 4 * 2**30, 256, 1000, 10 * 10**9)
    assert resources.to_json() == {
        "cpu": 1.5,
        "memory": 4 * 2**30,
        "processes": 256,
        "open_files": 1000,
        "disk": 10 * 10**9,
    }


def test_no_limit_is_no_entry() -> None:
    assert Resources.from_kubernetes({}) == Resources()
    assert Resources().to_json() == {}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"gpu": 1}, "'gpu' is no resource here; known are cpu, memory"),
        ({"memory": "128m"}, "memory: 0.128 is less than one; m is a thousandth, M a million"),
        ({"pids": "0.5"}, "pids: 0.5 is less than one"),
        ({"cpu": "two"}, "cpu: 'two' is no quantity"),
        (["cpu"], "should be a mapping"),
    ],
)
def test_a_bad_limit_is_refused_by_name(limits: Any, message: str) -> None:
    with pytest.raises(ResourceError) as caught:
        Resources.from_kubernetes(limits)
    assert message in str(caught.value)


@given(st.text(max_size=30) | st.integers() | st.floats() | st.booleans() | st.none())
def test_anything_is_a_positive_number_or_a_clear_error(value: Any) -> None:
    try:
        number = parse_quantity(value)
    except ResourceError:
        return
    assert 0 < number < 2**63
