"""Studies with `heads: together`: groups, ledger, resume."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny
from finetricks import RecipeError
from finetricks.recipe import with_training
from finetricks.runner import run
from finetricks_tuning.cell_run import CellOrder, cell_folder
from finetricks_tuning.dry_run import dry_run
from finetricks_tuning.heads import Heads, order_of
from finetricks_tuning.ledger import Ledger, Trial
from finetricks_tuning.prepare import prepare
from finetricks_tuning.searcher import ORDER, CellSearcher
from finetricks_tuning.study import Study
from finetricks_tuning.summary import LEDGER
from finetricks_tuning.sweep import sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def study(
    folder: Path, *factors: Any, tricks: tuple[Any, ...] = ("last_layer",), batch_size: int = 8, **settings: Any
) -> Study:
    recipe = {
        "model": str(folder / "model"),
        "data": {"train": str(folder / "train.csv"), "valid": 0.3},
        "training": {"epochs": 2, "batch_size": batch_size, "learning_rate": 1e-3},
        "tricks": list(tricks),
    }
    given = {"heads": "together", "seeds": 3, "confirm": 0} | settings
    return Study(recipe=recipe, factors=factors, **given)


def trials(folder: Path) -> dict[tuple[str, int], Trial]:
    found, problems = Ledger(folder / LEDGER).read()
    assert not problems
    return {(trial.configuration, trial.seed): trial for trial in found.values()}


def test_a_study_is_recorded_as_its_cells_are_and_resumed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    asked = study(folder, "linear_decay", "concat_pooling", seeds=2)
    sweep(asked, out)
    found = trials(out)
    assert len(found) == 6
    assert {trial.status for trial in found.values()} == {"finished"}
    for (name, seed), trial in found.items():
        told = found["baseline" if name == "linear_decay" else name, 0].key
        assert trial.together == told  # two heads, and so two groups: the schedule makes no third
        if seed:
            continue
        (configuration,) = (c for c in asked.configurations if c.name == name)
        alone = run(configuration.recipe(with_training(asked.recipe, threads=1), seed), tmp_path / name)
        assert trial.metrics["valid"] == pytest.approx(alone.valid, abs=1e-6)
        place = cell_folder(out, trial.key)
        kept = {path.name for path in alone.folder.rglob("*")} - {"model"} - set(_names(alone.folder / "model"))
        assert {path.name for path in place.rglob("*")} == kept - {"checkpoints"}

    # Only what is not in the ledger is done again, together with what else is not.
    lines = (out / LEDGER).read_text().splitlines(keepends=True)
    (out / LEDGER).write_text("".join(line for line in lines if json.loads(line)["seed"] == 0))
    for (_, seed), trial in found.items():
        if seed == 1:
            shutil.rmtree(cell_folder(out, trial.key))
    sweep(asked, out, resume=True)
    again = trials(out)
    assert again.keys() == found.keys()
    assert {place: again[place] for place in again if place[1] == 0} == {p: found[p] for p in found if p[1] == 0}
    assert again["linear_decay", 1].together == again["baseline", 1].key
    for place, trial in again.items():
        assert trial.metrics["valid"] == pytest.approx(found[place].metrics["valid"], abs=1e-6)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*")]


def test_the_key_says_together(folder: Path) -> None:
    keys = [
        prepare(one).make(one.configurations[0], 0).key
        for one in (study(folder, "stlr"), study(folder, "stlr", heads="apart"))
    ]
    assert keys[0] != keys[1]


@pytest.mark.nightly
def test_what_cannot_be_trained_together_is_trained_apart_and_says_why(folder: Path, tmp_path: Path) -> None:
    asked = study(folder, "task_layers", seeds=2)
    sweep(asked, tmp_path / "study")
    found = trials(tmp_path / "study")
    assert {trial.status for trial in found.values()} == {"finished"}
    for (name, _), trial in found.items():
        alone = name != "baseline"
        assert (trial.together is None) == alone
        assert any(warning.startswith("trained apart: ") for warning in trial.warnings) == alone


def of_both_kinds(folder: Path) -> Study:
    """Heads that are trained together, and cells that are trained apart and begin alike."""
    rates = {"two_stage": {"epochs": 1, "lr_factor": {"values": [0.1, 0.5]}}}
    return study(folder, {"one_of": ["last_layer", rates]}, tricks=(), batch_size=4, seeds=2)


RATES = {f"two_stage(epochs=1, lr_factor={rate})" for rate in (0.1, 0.5)}


def test_cells_of_a_group_share_no_steps_and_others_may(folder: Path) -> None:
    asked = of_both_kinds(folder)
    found = dry_run(asked)
    cells = [cell for cell, _ in found.cells]
    names = [{cells[place].configuration.name for place in group} for group in found.together if len(group) > 1]
    assert names == [{"last_layer"}]
    assert {name for name, part in ((c.configuration.name, found.parts.get(c.key)) for c in cells) if part} == {
        "baseline",
        *RATES,
    }
    assert found.steps[1] == 2 * 11  # a seed: the first stage of two, 42 rows by 4
    group = [cell for cell in cells if cell.configuration.name == "last_layer"]
    assert all(cell.family for cell in group)
    told = order_of(group, save_model=False)
    assert [(each.key, each.family, each.start) for each in told.cells] == [(cell.key, "", "") for cell in group]
    assert order_of(cells[:1], save_model=False) == CellOrder.of(cells[0])


@pytest.mark.nightly
def test_a_study_of_groups_and_of_cells_that_share_steps(folder: Path, tmp_path: Path) -> None:
    sweep(of_both_kinds(folder), tmp_path / "study")
    found = trials(tmp_path / "study")
    assert {trial.status for trial in found.values()} == {"finished"}
    assert {name for (name, _), trial in found.items() if trial.together} == {"last_layer"}
    went_on = [(name, seed) for (name, seed), trial in found.items() if trial.branched]
    assert {name for name, _ in went_on} < RATES
    assert sorted(seed for _, seed in went_on) == [0, 1]
    assert not (tmp_path / "study" / "stems").exists()


def test_dry_run_shows_the_groups(folder: Path) -> None:
    asked = study(folder, "linear_decay", {"one_of": ["concat_pooling", "task_layers"]}, seeds=2)
    found = dry_run(asked)
    assert sorted(map(len, found.together)) == [2, 2, 4]
    assert found.to_dict()["together"] == [list(group) for group in found.together]
    assert found.apart == ()


def test_groups_are_bounded_and_what_thaws_is_in_none(folder: Path) -> None:
    asked = study(folder, "linear_decay", seeds=4)
    prepared = prepare(asked)
    heads = Heads(prepared.task_of)
    cells = [prepared.make(c, seed) for seed in range(4) for c in asked.configurations]
    assert [len(group) for group in heads.groups(cells)] == [8]
    assert [len(group) for group in heads.groups(cells, at_most=3)] == [3, 3, 2]
    thaws = study(folder, "gradual_unfreezing", tricks=(), seeds=2)
    prepared = prepare(thaws)
    heads = Heads(prepared.task_of)
    assert len(heads.groups([prepared.make(c, seed) for seed in range(2) for c in thaws.configurations])) == 4
    assert any("gradual_unfreezing is trained apart: what is frozen changes" in told for told in heads.told())
    assert any("baseline is trained apart: no trick freezes the body" in told for told in heads.told())


def test_a_group_that_loses_its_worker_is_tried_cell_by_cell(tmp_path: Path) -> None:
    cells = [CellOrder(key, "c", {}, {"tricks": [], "training": {"seed": 0}}, "", {}) for key in ("a" * 16, "b" * 16)]
    group = replace(cells[0], together=(cells[1].to_dict(),))
    searcher = CellSearcher(lambda trials: [] if trials else [group], Ledger(tmp_path / LEDGER), None)
    assert json.loads(searcher.suggest("t")[ORDER])["together"]  # type: ignore[index, call-overload]
    searcher.on_trial_complete("t", error=True)
    for key in ("a", "b"):
        order = CellOrder(**json.loads(searcher.suggest(key)[ORDER]))  # type: ignore[index, call-overload]
        assert order.key == key * 16
        assert not order.cells[1:]


def test_one_worker_trains_heads_together(folder: Path) -> None:
    with pytest.raises(RecipeError, match="heads: together, and workers_per_cell is more than 1"):
        study(folder, "linear_decay", workers_per_cell=2)
