"""The design that searches: on results that are made up, then a whole study, and what Optuna is given of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

import tiny
from finetricks.errors import InputError, RecipeError
from finetricks_tuning.configurations import Configuration
from finetricks_tuning.designs import DESIGNS
from finetricks_tuning.designs.search import trial_of
from finetricks_tuning.optuna_export import export_to_optuna
from finetricks_tuning.strategies import Results
from finetricks_tuning.study import Study
from finetricks_tuning.sweep import sweep

pytestmark = pytest.mark.waits

RECIPE = {"model": "minilm", "data": {"train": "stdlib_docstrings"}, "training": {"learning_rate": 1e-4}}
RATE = {"training.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}
RATIO = {"stlr": {"ratio": {"low": 2.0, "high": 64.0, "log": True}}}


def study(*factors: Any, **options: Any) -> Study:
    design = {"search": {"configurations": 40, "seed": 3} | options}
    return Study(recipe=RECIPE, factors=list(factors), design=design, seeds=2)


def search(of: Study, metric: Callable[[Configuration], float | None]) -> list[Configuration]:
    """All configurations of a search, with the metric that each would come to on every seed."""
    tried = list(of.configurations)
    while more := of.design.more(results(tried, metric), tried, of.recipe.tricks):
        tried += more
    return tried


def results(tried: list[Configuration], metric: Callable[[Configuration], float | None]) -> Results:
    values = {(c.name, seed): metric(c) for c in tried for seed in (0, 1)}
    return Results(
        levels={c.name: c.levels for c in tried},
        values={place: value for place, value in values.items() if value is not None},
        lost={place: "diverged" for place, value in values.items() if value is None},
        greater_is_better=True,
        alpha=0.05,
        equivalence=None,
        correction="holm",
        contrasts=DESIGNS["search"].contrasts,  # type: ignore[arg-type]
    )


def rate(of: Configuration) -> float:
    return float(of.recipe(Study(recipe=RECIPE, factors=["stlr"]).recipe, 0).training.learning_rate)


def test_configurations_are_proposed_where_those_before_did_well() -> None:
    def best_near_one_in_a_thousand(of: Configuration) -> float:
        return 1 - abs(math.log10(rate(of)) + 3) + 0.5 * ("label_smoothing" in of.name) - 0.5 * ("stlr" in of.name)

    of = study(RATIO, "label_smoothing", RATE)
    tried = search(of, best_near_one_in_a_thousand)
    assert len(tried) == len({c.name for c in tried}) == 40
    assert tried[0].name == "baseline"
    late = tried[-12:]
    assert sum("label_smoothing" in c.name for c in late) >= 8  # at random, 6
    assert sum("stlr" in c.name for c in late) < 6
    assert sum(3e-4 < rate(c) < 3e-3 for c in late) >= 8  # at random, 4
    winner = of.design.winner(results(tried, best_near_one_in_a_thousand))
    best = max(tried, key=best_near_one_in_a_thousand)
    assert winner == best.name
    assert "label_smoothing" in best.name


def test_proposals_follow_from_the_results_alone() -> None:
    def metric(of: Configuration) -> float:
        return 0.5 + 0.1 * ("stlr" in of.name) + rate(of)

    names = [c.name for c in search(study(RATIO, RATE), metric)]
    assert [c.name for c in search(study(RATIO, RATE), metric)] == names
    assert [c.name for c in search(study(RATIO, RATE, seed=4), metric)] != names


def test_values_lie_in_their_ranges_and_whole_numbers_stay_whole() -> None:
    whole = {"training.batch_size": {"low": 8, "high": 64}}
    for configuration in search(study(RATIO, RATE, whole), lambda of: 0.5)[1:]:
        recipe = configuration.recipe(study(RATIO).recipe, 0)
        assert 1e-5 <= recipe.training.learning_rate <= 1e-2
        assert isinstance(recipe.training.batch_size, int)
        assert 8 <= recipe.training.batch_size <= 64
        ratios = [getattr(trick, "ratio", None) for _, trick in configuration.tricks]
        assert all(2.0 <= ratio <= 64.0 for ratio in ratios)
        assert all(f"stlr(ratio={ratio:g})" in configuration.name for ratio in ratios)


def test_what_cannot_be_run_is_never_proposed_and_a_small_space_is_searched_once() -> None:
    of = study("stlr", "linear_decay", "weight_decay", configurations=8)  # two schedules exclude one another
    names = {c.name for c in search(of, lambda _: 0.5)}
    assert len(names) == 6
    assert not any("stlr" in name and "linear_decay" in name for name in names)


def test_a_configuration_that_lost_a_cell_is_no_winner_and_is_kept_away_from() -> None:
    def metric(of: Configuration) -> float | None:
        return None if rate(of) > 1e-3 else 1 - abs(math.log10(rate(of)) + 4)

    of = study(RATE)
    tried = search(of, metric)
    best = min(tried, key=lambda c: abs(math.log10(rate(c)) + 4))
    assert of.design.winner(results(tried, metric)) == best.name
    assert sum(rate(c) > 1e-3 for c in tried[-12:]) <= 2  # at random, 4


def test_a_configuration_as_a_trial() -> None:
    tried = search(study(RATIO, RATE), lambda _: 0.5)
    found = trial_of(next(c for c in tried if "stlr" in c.name), 0.75)
    assert found.value == 0.75
    assert set(found.params) == {"stlr", "stlr(ratio=2..64).ratio", "training.learning_rate"}
    assert found.distributions["training.learning_rate"] == optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True)
    assert found.distributions["stlr"] == optuna.distributions.CategoricalDistribution(("off", "stlr(ratio=2..64)"))
    assert trial_of(tried[0], None).state == optuna.trial.TrialState.PRUNED
    assert trial_of(tried[0], 0.5).params == {"stlr": "off", "training.learning_rate": 1e-4}


@pytest.mark.parametrize(
    ("factor", "told"),
    [
        ({"stlr": {"ratio": {"low": 64, "high": 2}}}, "`low` is below `high`, got 64 and 2"),
        ({"stlr": {"ratio": {"low": 0, "high": 2, "log": True}}}, "on a logarithmic scale `low` is above 0, got 0"),
        ({"stlr": {"ratio": {"low": 2, "hihg": 4}}}, "ratio.high"),
        ({"stlr": {"ratio": {"low": 0.1, "high": 4}}}, "ratio"),
        ({"training.learning_rate": {"low": -1.0, "high": 1.0}}, "training.learning_rate.low"),
        ({"training.max_length": {"low": 16, "high": 64}}, "training.max_length is listed"),
    ],
)
def test_a_range_that_is_none(factor: Any, told: str) -> None:
    with pytest.raises(RecipeError) as refused:
        study(factor)
    assert told in str(refused.value)


def test_a_range_is_for_the_search_alone_and_a_search_for_no_other_strategy() -> None:
    with pytest.raises(RecipeError, match=r"stlr has a range of values, which only the design search can hold"):
        Study(recipe=RECIPE, factors=[RATIO], design="ablation")
    with pytest.raises(RecipeError, match=r"search decides what is run: leave `strategy` out"):
        Study(recipe=RECIPE, factors=[RATIO], design={"search": {"configurations": 4}}, strategy="race")
    with pytest.raises(RecipeError, match=r"these factors have 4 combinations, got 5"):
        study("stlr", "weight_decay", configurations=5)


def test_a_search_from_end_to_end(tmp_path: Path) -> None:
    task = tiny.write_task(tmp_path)
    recipe = {
        "model": str(task / "model"),
        "data": {"train": str(task / "train.csv"), "valid": 0.5},
        "training": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2},
    }
    given = {
        "recipe": recipe,
        "factors": [RATIO, "label_smoothing", RATE],
        "design": {"search": {"configurations": 5, "at_once": 2, "startup": 2}},
        "seeds": 2,
        "confirm": 0,
    }
    out = tmp_path / "out"
    summary = sweep(Study(**given), out)
    assert (summary.complete, summary.counts["finished"], len(summary.configurations)) == (True, 10, 5)
    assert not summary.rows
    assert summary.answer.startswith("5 configurations tried on 2 seeds each")
    assert (out / "report.html").is_file()

    again = sweep(Study(**given), out, resume=True)
    assert again.counts["finished"] == 10
    assert [c.name for c in again.configurations] == [c.name for c in summary.configurations]

    storage = f"sqlite:///{tmp_path / 'study.db'}"
    assert export_to_optuna(out, storage, "mine") == 5
    exported = optuna.load_study(study_name="mine", storage=storage)
    assert [t.user_attrs["configuration"] for t in exported.trials] == [c.name for c in summary.configurations]
    assert [t.value for t in exported.trials] == [pytest.approx(c.mean) for c in summary.configurations]
    searched = [t.params for t in exported.trials[1:]]
    assert all(1e-5 <= params["training.learning_rate"] <= 1e-2 for params in searched)
    with pytest.raises(InputError, match="holds a study 'mine' already"):
        export_to_optuna(out, storage, "mine")
