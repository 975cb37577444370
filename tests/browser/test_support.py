"""The harness itself: a kernel of either application runs what a user runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .support import CONFINED, Browser, Home, Lab


@pytest.fixture(scope="module", params=["lab", "notebook"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(Home(tmp_path_factory.mktemp("b")), app=request.param)
    yield lab
    lab.stop()


def test_a_notebook_runs_in_a_confined_kernel(lab: Lab, browser: Browser) -> None:
    lab.write_notebook("sum.ipynb", ["print(40 + 2)"], kernel=CONFINED)

    with browser.user(lab) as user:
        user.open("sum.ipynb")
        user.run_all()

        assert user.outputs() == ["42\n"]
        assert [state["kernel_id"] for state in lab.kernels()] == [user.kernel_id()]
        assert lab.unconfined() == []
