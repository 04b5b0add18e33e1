"""Studies with `heads: together`: groups, ledger, resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tiny
from finetricks import RecipeError

from finetricks_tuning.cell_run import cell_folder
from finetricks_tuning.dry_run import dry_run
from finetricks_tuning.ledger import Ledger, Trial
from finetricks_tuning.study import Study
from finetricks_tuning.summary import LEDGER
from finetricks_tuning.sweep import sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def study(folder: Path, *factors: Any, tricks: tuple[Any, ...] = ("last_layer",), **settings: Any) -> Study:
    recipe = {
        "model": str(folder / "model"),
        "data": {"train": str(folder / "train.csv"), "valid": 0.3},
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3},
        "tricks": list(tricks),
    }
    given = {"heads": "together", "seeds": 3, "confirm": 0} | settings
    return Study(recipe=recipe, factors=factors, **given)


def trials(folder: Path) -> dict[tuple[str, int], Trial]:
    found, problems = Ledger(folder / LEDGER).read()
    assert not problems
    return {(trial.configuration, trial.seed): trial for trial in found.values()}


def test_a_study_comes_to_the_same_together_and_apart(folder: Path, tmp_path: Path) -> None:
    asked = study(folder, "linear_decay", "concat_pooling")
    sweep(asked, tmp_path / "together")
    sweep(study(folder, "linear_decay", "concat_pooling", heads="apart"), tmp_path / "apart")
    together, apart = trials(tmp_path / "together"), trials(tmp_path / "apart")
    assert together.keys() == apart.keys() and len(together) == 9
    for place, trial in together.items():
        alone = apart[place]
        assert trial.key != alone.key
        assert trial.status == alone.status == "finished"
        assert trial.metrics["valid"] == pytest.approx(alone.metrics["valid"], abs=1e-6)
        assert trial.environment == alone.environment and trial.warnings == alone.warnings
        mine, own = (cell_folder(tmp_path / where, t.key) for where, t in (("together", trial), ("apart", alone)))
        names = [sorted(str(path.relative_to(f)) for path in f.rglob("*")) for f in (mine, own)]
        assert names[0] == names[1]
    groups = {trial.together for trial in together.values()}
    assert len(groups) == 2 and None not in groups  # two heads; the schedule makes no third
    assert all(trial.together is None for trial in apart.values())

    # Only what is not in the ledger is done again, with what of its group is missing.
    lines = (tmp_path / "together" / LEDGER).read_text().splitlines(keepends=True)
    kept = [line for line in lines if not (json.loads(line)["seed"] == 2 and not json.loads(line)["factors"].get("x"))]
    (tmp_path / "together" / LEDGER).write_text("".join(kept))
    for line in set(lines) - set(kept):
        shutil.rmtree(cell_folder(tmp_path / "together", json.loads(line)["key"]))
    sweep(asked, tmp_path / "together", resume=True)
    again = trials(tmp_path / "together")
    assert again.keys() == together.keys()
    for place, trial in again.items():
        if place[1] != 2:
            assert trial == together[place]
        assert trial.metrics["valid"] == pytest.approx(apart[place].metrics["valid"], abs=1e-6)


def test_what_cannot_be_trained_together_is_trained_apart_and_says_why(folder: Path, tmp_path: Path) -> None:
    asked = study(folder, "task_layers", seeds=2)
    sweep(asked, tmp_path / "study")
    found = trials(tmp_path / "study")
    assert {trial.status for trial in found.values()} == {"finished"}
    for (name, _), trial in found.items():
        alone = name != "baseline"
        assert (trial.together is None) == alone
        assert any(warning.startswith("trained apart: ") for warning in trial.warnings) == alone


def test_dry_run_shows_the_groups(folder: Path) -> None:
    found = dry_run(study(folder, "linear_decay", seeds=4))
    assert [len(group) for group in found.together] == [8]
    assert found.apart == ()
    assert "together" not in dry_run(study(folder, "linear_decay", heads="apart")).to_dict()
    thaws = dry_run(study(folder, "gradual_unfreezing", tricks=(), seeds=2))
    assert [len(group) for group in thaws.together] == [1] * 4
    assert any("gradual_unfreezing is trained apart: what is frozen changes" in told for told in thaws.apart)
    assert any("baseline is trained apart: no trick freezes the body" in told for told in thaws.apart)


def test_one_worker_trains_heads_together(folder: Path) -> None:
    with pytest.raises(RecipeError, match="heads: together, and workers_per_cell is more than 1"):
        study(folder, "linear_decay", workers_per_cell=2)
