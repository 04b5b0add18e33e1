"""Who may write in a study's folder, and which cells the searcher gives out."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from finetricks.errors import InputError
from finetricks_tuning.budget import Budget
from finetricks_tuning.cell_run import CellOrder
from finetricks_tuning.folder import HOUR, check_folder, writing
from finetricks_tuning.ledger import Ledger, Trial
from finetricks_tuning.searcher import ORDER, TRIAL, CellSearcher
from finetricks_tuning.study import Study

RECIPE = {"model": "minilm", "data": {"train": "stdlib_docstrings"}}


def study(factors: tuple[str, ...] = ("stlr",), seeds: int = 2, **training: object) -> Study:
    return Study(recipe=RECIPE | {"training": training}, factors=factors, seeds=seeds)


@pytest.fixture
def holding(tmp_path: Path) -> Path:
    """A folder that holds a study."""
    with writing(tmp_path / "study", study(), overwrite=False):
        return tmp_path / "study"


def refusal(folder: Path, of: Study, **how: bool) -> str:
    with pytest.raises(InputError) as error:
        check_folder(folder, of, **{"resume": False, "overwrite": False, **how})
    return str(error.value)


def test_a_folder_that_holds_a_study_is_refused_unless_told_what_to_do(holding: Path) -> None:
    assert "--resume continues it, --overwrite replaces it" in refusal(holding, study())
    assert "exclude one another" in refusal(holding, study(), resume=True, overwrite=True)
    check_folder(holding, study(), resume=True, overwrite=False)
    check_folder(holding, study(), resume=False, overwrite=True)


def test_another_study_is_not_resumed(holding: Path) -> None:
    assert "what differs: recipe" in refusal(holding, study(epochs=9), resume=True)
    fewer = refusal(holding, study(seeds=1), resume=True)
    assert "its cell 'baseline', seed 1, is not in this one (what differs: seeds)" in fewer


def test_a_study_is_resumed_with_more_seeds_or_factors(holding: Path) -> None:
    check_folder(holding, study(("stlr", "weight_decay"), seeds=4), resume=True, overwrite=False)


def test_what_is_no_study_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "is not empty and holds no study" in refusal(tmp_path, study(), overwrite=True)
    assert "is a file" in refusal(tmp_path / "thesis.tex", study())


def test_overwrite_empties_the_folder_and_resume_does_not(holding: Path) -> None:
    (holding / "cells").mkdir()
    (holding / "trials.jsonl").write_text("")
    with writing(holding, study(), overwrite=False):
        assert (holding / "trials.jsonl").exists()
    with writing(holding, study(), overwrite=True):
        assert sorted(path.name for path in holding.iterdir()) == [".lock", "study.yaml"]


def test_a_kill_while_it_is_emptied_leaves_no_study_that_passes_for_whole(
    holding: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cells.json", "trials.jsonl"):
        (holding / name).touch()
    (holding / "cells").mkdir()
    monkeypatch.setattr(shutil, "rmtree", lambda path: os._exit(9))
    if not (child := os.fork()):
        with writing(holding, study(), overwrite=True):
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert sorted(path.name for path in holding.iterdir()) == [".lock", "cells", "study.yaml"]
    check_folder(holding, study(), resume=True, overwrite=False)


def test_what_a_watching_report_writes_is_left_alone_and_what_is_old_goes(
    holding: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age in (0, 2 * HOUR):
        path = holding / f".report{age:.0f}.html.partial"
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    monkeypatch.setattr(Path, "iterdir", lambda folder: map(folder.__truediv__, [*os.listdir(folder), ".x.partial"]))
    with writing(holding, study(), overwrite=False):  # .x.partial has got its name by now
        assert [name for name in os.listdir(holding) if name.endswith(".partial")] == [".report0.html.partial"]


def test_what_a_kill_leaves_before_there_is_a_study_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".study.yaml.partial").write_text("rec")
    check_folder(tmp_path, study(), resume=True, overwrite=False)


def test_two_sweeps_never_write_in_one_folder(holding: Path) -> None:
    with (
        writing(holding, study(), overwrite=False),
        pytest.raises(InputError, match="another sweep is at work"),
        writing(holding, study(), overwrite=True),
    ):
        pass


# -- the searcher ----------------------------------------------------------------------------------------


def order(key: str) -> CellOrder:
    recipe = {"tricks": [{"stlr": {"ratio": 32.0}}], "training": {"seed": 4}}
    return CellOrder(key, "stlr", {"stlr": "stlr"}, recipe, "task", {})


def trial(key: str, status: str = "finished") -> Trial:
    return Trial(key, "stlr", {"stlr": "stlr"}, {}, 4, status)


def given(searcher: CellSearcher, trial_id: str) -> str:
    suggested = searcher.suggest(trial_id)
    if isinstance(suggested, str):
        return suggested
    return "wait" if suggested[ORDER] is None else str(json.loads(suggested[ORDER])["key"])


def searcher_of(folder: Path, *rounds: str, **options: Any) -> CellSearcher:
    """Over the rounds, each written as its keys: `k1 k2`."""
    waiting = iter(rounds)

    def next_round(trials: Mapping[str, Trial]) -> list[CellOrder]:
        for keys in waiting:
            if missing := [order(key) for key in keys.split() if key not in trials]:
                return missing
        return []

    return CellSearcher(next_round, Ledger(folder / "trials.jsonl"), folder / ".hold", **options)


def recorded(folder: Path) -> dict[str, Trial]:
    return Ledger(folder / "trials.jsonl").read()[0]


def finish(searcher: CellSearcher, trial_id: str, key: str, seconds: float = 0.0) -> None:
    searcher.on_trial_complete(trial_id, {TRIAL: replace(trial(key), seconds=seconds).to_json()})


def test_cells_are_given_out_once_in_order_and_their_results_written_down(tmp_path: Path) -> None:
    searcher = searcher_of(tmp_path, "k1 k2")
    assert [given(searcher, "a"), given(searcher, "b")] == ["k1", "k2"]
    finish(searcher, "b", "k2")
    assert list(recorded(tmp_path)) == ["k2"]
    assert list(searcher.running) == ["a"]
    finish(searcher, "a", "k1")
    assert (given(searcher, "c"), searcher.ended) == ("FINISHED", "every cell has a result")


def test_a_round_begins_when_the_one_before_has_all_its_results_and_workers_are_held_till_then(tmp_path: Path) -> None:
    searcher = searcher_of(tmp_path, "k1 k2", "k3")
    assert [given(searcher, name) for name in "abcd"] == ["k1", "k2", "wait", "wait"]
    assert (tmp_path / ".hold").exists()
    finish(searcher, "a", "k1")
    assert given(searcher, "e") == "wait"
    finish(searcher, "b", "k2")
    assert not (tmp_path / ".hold").exists()
    searcher.on_trial_complete("c", {TRIAL: None})  # what was given nothing to do is no cell
    assert [given(searcher, name) for name in "fg"] == ["k3", "wait"]
    finish(searcher, "f", "k3")
    assert given(searcher, "h") == "FINISHED"
    assert sorted(recorded(tmp_path)) == ["k1", "k2", "k3"]


def test_cells_in_the_ledger_are_passed_over_and_failed_ones_run_again_only_on_request(tmp_path: Path) -> None:
    for key, status in (("k1", "finished"), ("k2", "failed"), ("k3", "diverged")):
        Ledger(tmp_path / "trials.jsonl").append(trial(key, status))
    assert given(searcher_of(tmp_path, "k1 k2", "k3 k4"), "a") == "k4"
    again = searcher_of(tmp_path, "k1 k2", "k3 k4", retry_failed=True)
    assert [given(again, "a"), given(again, "b")] == ["k2", "wait"]
    finish(again, "a", "k2")
    assert given(again, "c") == "k4"


def test_a_cell_whose_worker_was_lost_for_good_is_recorded_as_failed(tmp_path: Path) -> None:
    searcher = searcher_of(tmp_path, "k1")
    given(searcher, "a")
    searcher.on_trial_complete("a", error=True)
    record = recorded(tmp_path)["k1"]
    assert (record.status, record.seed, record.tricks) == ("failed", 4, {"stlr": {"ratio": 32.0}})
    assert "worker process was lost" in (record.error or "")


def test_after_a_stop_nothing_is_given_out_and_what_was_not_begun_is_not_recorded(tmp_path: Path) -> None:
    searcher = searcher_of(tmp_path, "k1 k2")
    given(searcher, "a")
    searcher.stop()
    assert given(searcher, "b") == "FINISHED"
    searcher.on_trial_complete("a", {TRIAL: None})
    assert recorded(tmp_path) == {}
    assert searcher.has_work()
    assert searcher.ended == ""


# -- budgets ---------------------------------------------------------------------------------------------


def within(budget: Budget, gpus: float = 0.0) -> dict[str, Any]:
    return {
        "exhausted": lambda trials, running, slots: budget.exhausted(trials.values(), running, slots=slots, gpus=gpus)
    }


def test_a_budget_of_cells_counts_those_that_ran_before(tmp_path: Path) -> None:
    Ledger(tmp_path / "trials.jsonl").append(trial("k1"))
    searcher = searcher_of(tmp_path, "k1 k2 k3 k4", **within(Budget(cells=3)))
    assert [given(searcher, name) for name in "abc"] == ["k2", "k3", "FINISHED"]
    assert searcher.ended == "the budget of 3 cells is used up"


@pytest.mark.parametrize(
    ("budget", "gpus", "slots", "cells"),
    [
        # Cells of half an hour: after the first, the next one is begun only if it is expected to end in time.
        (Budget(hours=1.0), 0.0, 1, 2),
        (Budget(hours=1.4), 0.0, 1, 2),
        (Budget(hours=1.5), 0.0, 1, 3),
        (Budget(hours=1.0), 0.0, 2, 4),
        (Budget(gpu_hours=4.0), 2.0, 2, 4),
    ],
)
def test_a_budget_of_hours_has_room_for_whole_cells(
    tmp_path: Path, budget: Budget, gpus: float, slots: int, cells: int
) -> None:
    searcher = searcher_of(tmp_path, "k1 k2 k3 k4 k5 k6", **within(budget, gpus))
    searcher.slots = slots
    done = 0
    while (key := given(searcher, "a")) != "FINISHED":
        finish(searcher, "a", key, seconds=1800.0)
        done += 1
    assert done == cells
    assert "has no room for another cell" in searcher.ended


@pytest.mark.parametrize("wrong", [{}, {"cells": 0}, {"hours": -1}, {"days": 3}])
def test_a_budget_is_a_positive_limit(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Budget(**wrong)
