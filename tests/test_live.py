"""What `sweep` shows while a study runs: a table that fits its terminal, and lines for a log."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from finetricks_tuning.across import Across
from finetricks_tuning.cell_run import CellOrder
from finetricks_tuning.live import results_table, status_table, watching
from finetricks_tuning.status import ConfigurationStatus, Status, StatusKeeper
from test_data_sets import summary
from test_report import manifest, trial

LONG = "discriminative_lr(decay=2.6) + [bold]gradual_unfreezing(every=epoch)"


def status(count: int = 0, done: int = 10, **more: object) -> Status:
    rows = [ConfigurationStatus("baseline", 5, 5, 0, 0, 0.8, (0.79, 0.81))]
    rows += [ConfigurationStatus(f"{LONG}{i}", 5, 3, 1, i % 2, 0.5 + 0.01 * i, (0.5, 0.9)) for i in range(count)]
    return Status("accuracy", "compare", tuple(rows), done, 20, 60.0, **more)  # type: ignore[arg-type]


def shown(table: object, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("height", [8, 14, 30])
def test_the_table_fits_its_terminal_whatever_the_names(width: int, height: int) -> None:
    lines = shown(status_table(status(40), height), width).splitlines()
    assert len(lines) == height - 1  # but for the cursor's line
    assert max(map(len, lines)) <= width
    assert lines[3].startswith("  base")
    assert "0.8000 (0.7900 to 0.8100)" in lines[3]
    assert "10 of 20 cells done" in lines[-2]


def test_names_are_text_and_no_markup_and_the_interval_says_its_level() -> None:
    text = shown(status_table(status(1, alpha=0.1), 20), 140)
    assert LONG in text
    assert "mean accuracy (90 % interval)" in text
    assert "1 lost" in text
    assert "more configurations" not in text


def test_the_data_set_at_work_is_named() -> None:
    assert "comparing: trec: 10 of 20 cells done" in shown(status_table(status(data_set="trec"), 20))


def test_a_log_gets_a_line_when_cells_are_done_also_of_the_next_data_set() -> None:
    console = Console(width=100, file=io.StringIO())
    with watching(console) as show:
        for name in ("[one]", "two"):
            for done in (0, 0, 1, 2):  # a cell starts: nothing new is done
                show(status(done=done, data_set=name))
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        f"{name}: {done} of 20 cells done, about 60 s left" for name in ("[one]", "two") for done in (0, 1, 2)
    ]


def test_the_interval_is_students_of_the_mean_over_seeds() -> None:
    """.80, .84, .78: mean .80667, deviation .030551; t(.95, 2) = 2.91999, so +- 2.91999 * .030551 / sqrt(3)."""
    plan = manifest(["baseline", "stlr"], 3, alpha=0.1)
    values = [("baseline", 0, 0.80), ("baseline", 1, 0.84), ("baseline", 2, 0.78), ("stlr", 0, 0.9)]
    trials = {cell.key: cell for cell in (trial(*value) for value in values)}
    trials["stlr-1"] = trial("stlr", 1, None, status="diverged")
    running = CellOrder(key="stlr-2", configuration="stlr", factors={}, recipe={}, task="", origins={})
    found = StatusKeeper({}).now(plan, trials, [running])
    baseline, stlr = found.configurations
    assert (found.alpha, found.done, found.planned, found.phase) == (0.1, 5, 6, "compare")
    assert baseline.mean == pytest.approx(0.806667, abs=1e-6)
    assert baseline.interval == pytest.approx((0.755162, 0.858171), abs=1e-5)
    assert (stlr.finished, stlr.lost, stlr.running, stlr.interval) == (1, 1, 1, None)


def test_what_is_left_is_told_by_the_seconds_of_a_cell_however_many_end_at_once() -> None:
    """Two at a time: 4 left of 20 s are 40 s, 3 left of 25 s are 37.5 s. A cell of an earlier session tells nothing."""
    plan = manifest(["baseline", "stlr"], 3)
    orders = [
        CellOrder(key=f"stlr-{n}", configuration="stlr", factors={}, recipe={}, task="", origins={}) for n in (0, 1)
    ]
    found = {"baseline-0": replace(trial("baseline", 0, 0.8), seconds=500.0)}
    keeper = StatusKeeper(found)
    assert keeper.now(plan, found, orders).seconds_left is None
    found["stlr-0"] = replace(trial("stlr", 0, 0.8), seconds=20.0)
    assert keeper.now(plan, found, orders[1:]).seconds_left == pytest.approx(40.0)
    found["stlr-1"] = replace(trial("stlr", 1, 0.8), seconds=30.0)
    assert keeper.now(plan, found, []).seconds_left == pytest.approx(37.5)


def test_the_results_over_several_data_sets_stand_in_a_table() -> None:
    across = Across.of({"a": summary([0.10, 0.12, 0.14]), "b": summary([0.02, 0.04, 0.06])})
    text = " ".join(shown(results_table(across)).split())
    assert "accuracy, mean over 2 data sets" in text
    assert "stlr ▲ helps +0.0800 +0.0573 to +0.1027 3" in text
