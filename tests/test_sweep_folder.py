"""Who may write in a study's folder, and which cells the searcher gives out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetricks.errors import InputError
from finetricks_tuning.cell_run import CellOrder
from finetricks_tuning.folder import check_folder, writing
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
    return suggested if isinstance(suggested, str) else json.loads(suggested[ORDER])["key"]


def test_cells_are_given_out_once_in_order_and_their_results_written_down(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "trials.jsonl")
    searcher = CellSearcher([order("k1"), order("k2")], ledger)
    assert [given(searcher, "a"), given(searcher, "b"), given(searcher, "c")] == ["k1", "k2", "FINISHED"]
    searcher.on_trial_complete("b", {TRIAL: trial("k2").to_json()})
    assert list(ledger.read()[0]) == ["k2"]
    assert list(searcher.running) == ["a"]


def test_cells_in_the_ledger_are_passed_over_and_failed_ones_run_again_only_on_request(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "trials.jsonl")
    for key, status in (("k1", "finished"), ("k2", "failed"), ("k3", "diverged")):
        ledger.append(trial(key, status))
    orders = [order(f"k{number}") for number in range(1, 5)]
    assert given(CellSearcher(orders, ledger), "a") == "k4"
    again = CellSearcher(orders, ledger, retry_failed=True)
    assert [given(again, "a"), given(again, "b"), given(again, "c")] == ["k2", "k4", "FINISHED"]


def test_a_cell_whose_worker_was_lost_for_good_is_recorded_as_failed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "trials.jsonl")
    searcher = CellSearcher([order("k1")], ledger)
    given(searcher, "a")
    searcher.on_trial_complete("a", error=True)
    record = ledger.read()[0]["k1"]
    assert (record.status, record.seed, record.tricks) == ("failed", 4, {"stlr": {"ratio": 32.0}})
    assert "worker process was lost" in (record.error or "")


def test_after_a_stop_nothing_is_given_out_and_what_was_not_begun_is_not_recorded(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "trials.jsonl")
    searcher = CellSearcher([order("k1"), order("k2")], ledger)
    given(searcher, "a")
    searcher.stop()
    assert given(searcher, "b") == "FINISHED"
    searcher.on_trial_complete("a", {TRIAL: None})
    assert ledger.read()[0] == {}
    assert searcher.has_work
