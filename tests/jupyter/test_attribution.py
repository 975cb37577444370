from __future__ import annotations

from modelarmor_jupyter.attribution import Executions


def _cells() -> Executions:
    cells = Executions()
    for n in (1, 2):
        cells.started(f"m{n}", 10.0 * n)
        cells.counted(f"m{n}", n, 10.0 * n)
        cells.ended(f"m{n}", 10.0 * n + 5)
    return cells


def test_an_alert_belongs_to_the_cell_that_ran() -> None:
    assert _cells().at(12).to_json() == {
        "attributed": "time",
        "msg_id": "m1",
        "execution_count": 1,
    }


def test_what_a_thread_does_between_cells_is_after_the_last_one() -> None:
    cells = _cells()

    assert cells.at(17).to_json() == {"attributed": "after", "msg_id": "m1", "execution_count": 1}
    assert cells.at(99).to_json() == {"attributed": "after", "msg_id": "m2", "execution_count": 2}


def test_what_happens_before_the_first_cell_belongs_to_the_start() -> None:
    assert _cells().at(9).to_json() == {"attributed": "startup"}


def test_a_cell_that_still_runs_has_no_end() -> None:
    cells = _cells()
    cells.started("m3", 30)

    assert cells.at(1e9).to_json() == {
        "attributed": "time",
        "msg_id": "m3",
        "execution_count": None,
    }


def test_a_restart_ends_what_ran_and_begins_a_start() -> None:
    cells = _cells()
    cells.started("m3", 30)
    cells.restarted(40)
    cells.started("m4", 50)

    assert cells.at(39).to_json()["msg_id"] == "m3"
    assert cells.at(45).to_json() == {"attributed": "startup"}
    assert cells.at(51).to_json()["msg_id"] == "m4"


def test_cells_that_overlap_are_all_named() -> None:
    cells = _cells()
    cells.started("a", 30)
    cells.started("b", 31)

    assert cells.at(30.5).to_json()["msg_id"] == "a"
    assert cells.at(32).to_json() == {
        "attributed": "time",
        "msg_id": "b",
        "execution_count": None,
        "others": ["a"],
    }


def test_a_start_that_was_not_heard_is_taken_from_the_input() -> None:
    cells = Executions()
    cells.counted("m1", 1, 10)

    assert cells.at(11).to_json()["execution_count"] == 1


def test_a_cell_whose_start_was_not_heard_began_when_the_one_before_it_ended() -> None:
    cells = _cells()
    cells.ended("m3", 40)

    assert cells.at(30).to_json() == {
        "attributed": "time",
        "msg_id": "m3",
        "execution_count": None,
    }


def test_a_request_id_that_comes_again_is_another_execution() -> None:
    cells = _cells()
    cells.started("m1", 30)
    cells.counted("m1", 3, 30)

    assert cells.at(12).to_json()["execution_count"] == 1
    assert cells.at(31).to_json()["execution_count"] == 3


def test_a_kernel_that_lies_about_the_time_keeps_the_order_of_its_cells() -> None:
    cells = _cells()
    cells.started("m3", 0)
    cells.ended("m3", 0)

    assert cells.at(22).to_json()["msg_id"] == "m2"
    assert cells.at(20).to_json()["msg_id"] == "m3"


def test_only_so_many_executions_are_remembered() -> None:
    cells = Executions(capacity=100)
    for n in range(1_000):
        cells.started(f"m{n}", float(n))
        cells.ended(f"m{n}", n + 0.5)
    cells.started("m" * 10_000, 2_000.0)

    assert cells.at(5).how == "unknown"
    assert cells.at(999.2).to_json()["msg_id"] == "m999"
    assert cells.at(999.7).how == "after"
    assert len(cells._order) == len(cells._by_id) <= 100
