"""Several seeds of one recipe: all are kept, and where asked only the best early ones go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from finetricks.errors import RecipeError
from finetricks.recipe import Recipe
from finetricks.runner import run
from finetricks_tuning.expected_maximum import expected_maximum
from finetricks_tuning.study import Study
from finetricks_tuning.sweep import sweep

pytestmark = pytest.mark.waits

DROPPED = ["linear_decay", {"dropout": {"p": 0.3}}]


def recipe_of(task: Path) -> dict[str, Any]:
    return {
        "model": str(task / "model"),
        "data": {"train": str(task / "train.csv"), "valid": 0.5, "test": str(task / "test.csv")},
        "training": {"epochs": 4, "batch_size": 4, "learning_rate": 1e-2, "threads": 1},
        "tricks": DROPPED,
    }


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("task"))


def test_a_run_that_was_put_down_comes_to_what_one_in_one_go_does(task: Path, tmp_path: Path) -> None:
    recipe = Recipe(**recipe_of(task))
    whole = run(recipe, tmp_path / "whole")
    for share, steps in ((0.3, -(-whole.steps * 3 // 10)), (0.75, -(-whole.steps * 3 // 4))):
        part = run(recipe, tmp_path / "parts", resume=True, upto=share)
        assert part.steps == steps
        assert part.test is None
        assert not (tmp_path / "parts" / "result.json").exists()
    again = run(recipe, tmp_path / "parts", resume=True, upto=0.75)  # killed before it was recorded
    assert (again.steps, again.valid) == (part.steps, part.valid)
    parts = run(recipe, tmp_path / "parts", resume=True)
    assert (parts.valid, parts.test, parts.steps) == (whole.valid, whole.test, whole.steps)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


@pytest.mark.nightly
def test_every_seed_is_run_and_its_model_kept(task: Path, tmp_path: Path) -> None:
    summary = sweep(Study(recipe=recipe_of(task), design="seed_search", seeds=3), tmp_path)
    runs = summary.seed_runs
    assert [run.seed for run in runs] == [0, 1, 2]
    assert all((tmp_path / run.folder / "model" / "model.safetensors").is_file() for run in runs)
    alone = Recipe(**recipe_of(task) | {"training": recipe_of(task)["training"] | {"seed": 1}})
    result = run(alone, tmp_path / "alone")
    assert (runs[1].value, runs[1].test) == (result.valid["accuracy"], result.test["accuracy"] if result.test else 0)
    values = [run.value for run in runs if run.value is not None]
    assert summary.baseline.best_of == expected_maximum(values, greater_is_better=True)
    assert f"the best of 3 is expected at {summary.baseline.best_of[2]:.3f}" in summary.answer
    assert "best of several seeds was chosen on valid" in (tmp_path / "report.html").read_text()


def test_only_the_best_early_ones_go_on_and_more_of_them_later(task: Path, tmp_path: Path) -> None:
    def studied(keep: int) -> Study:
        design = {"seed_search": {"stop_at": 0.5, "keep": keep}}
        return Study(recipe=recipe_of(task), design=design, seeds=4)

    summary = sweep(studied(1), tmp_path)
    early = {run.seed: run.started for run in summary.seed_runs}
    assert len(early) == 4
    (kept,) = [run for run in summary.seed_runs if run.value is not None]
    assert kept.started == max(early.values(), key=lambda value: value or 0.0)
    assert summary.counts == {"planned": 5, "finished": 5, "not_run": 0}

    more = sweep(studied(3), tmp_path, resume=True)
    assert more.counts == {"planned": 7, "finished": 7, "not_run": 0}
    gone_on = [run for run in more.seed_runs if run.value is not None]
    assert len(gone_on) == 3
    for one in gone_on:
        given = recipe_of(task)
        result = run(
            Recipe(**given | {"training": given["training"] | {"seed": one.seed}}),
            tmp_path / f"whole{one.seed}",
        )
        assert result.valid["accuracy"] == one.value
        steps = [
            json.loads(line)["step"] for line in (tmp_path / one.folder / "metrics.jsonl").read_text().splitlines()
        ]
        assert steps == sorted(set(steps))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"design": {"seed_search": {"stop_at": 0.5}}}, "`stop_at` below 1 and `keep` belong together"),
        ({"design": {"seed_search": {"keep": 2}}}, "`stop_at` below 1 and `keep` belong together"),
        ({"design": "seed_search", "factors": ["stlr"]}, "seed_search runs the recipe as it is: leave the factors out"),
        ({"design": "ablation"}, "a list of at least one factor"),
    ],
)
def test_what_is_no_seed_search(task: Path, given: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Study(recipe=recipe_of(task) | {"tricks": ["linear_decay"]}, **given)
    assert told in str(refused.value)
