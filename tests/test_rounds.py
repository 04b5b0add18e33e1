"""What a study runs, round by round, and what it recommends; with made-up results, no training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from finetricks.errors import RecipeError
from finetricks_tuning.cell import Cell
from finetricks_tuning.configurations import Configuration
from finetricks_tuning.ledger import Trial
from finetricks_tuning.manifest import Manifest
from finetricks_tuning.recommend import Recommendation, confirmed
from finetricks_tuning.rounds import Rounds
from finetricks_tuning.study import Study

RECIPE = {"model": "minilm", "data": {"train": "stdlib_docstrings"}, "training": {"learning_rate": 1e-4}}

Metric = Callable[[str, int, float], float | None]
"""The accuracy of a configuration with a seed and a learning rate; `None` where the cell diverges."""


def study(*factors: Any, **settings: Any) -> Study:
    return Study(recipe=RECIPE, factors=factors, **{"seeds": 3, "confirm": 2} | settings)


def make(configuration: Configuration, seed: int, rate: float | None = None) -> Cell:
    recipe = configuration.recipe(study("stlr").recipe, seed, rate)
    return Cell(configuration, seed, recipe, f"{configuration.name}/{seed}/{recipe.training.learning_rate:g}")


def run(of: Study, metric: Metric) -> tuple[Rounds, list[list[str]], dict[str, Trial]]:
    """Every round as the keys of its cells."""
    rounds = Rounds(of, make, greater_is_better=True)  # type: ignore[arg-type]
    trials: dict[str, Trial] = {}
    ran = []
    while cells := rounds.next(trials):
        ran.append([cell.key for cell in cells])
        for cell in cells:
            value = metric(cell.configuration.name, cell.seed, cell.recipe.training.learning_rate)
            metrics = {} if value is None else {"valid": {"accuracy": value}}
            status = "diverged" if value is None else "finished"
            trials[cell.key] = Trial(cell.key, cell.configuration.name, {}, {}, cell.seed, status, metrics)
    return rounds, ran, trials


def noise(seed: int) -> float:
    return 0.001 * ((seed * 7) % 5 - 2)


def helped_by(**effects: float) -> Metric:
    def metric(name: str, seed: int, rate: float) -> float:
        return 0.5 + sum(effect for trick, effect in effects.items() if trick in name) + noise(seed + len(name))

    return metric


def test_what_helps_is_combined_and_compared_with_the_baseline_on_fresh_seeds() -> None:
    of = study("stlr", "weight_decay", "label_smoothing")
    rounds, ran, _ = run(of, helped_by(stlr=0.1, label_smoothing=0.2))
    assert len(ran[0]) == 4 * 3
    both = "stlr + label_smoothing"
    assert ran[1:] == [[f"{name}/{seed}/0.0001" for seed in (20_000, 20_001) for name in ("baseline", both)]]
    assert rounds.recommendation is not None
    assert rounds.recommendation.configuration == both
    assert rounds.recommendation.seeds == (20_000, 20_001)
    assert [next(iter(trick)) for trick in rounds.recommendation.recipe["tricks"]] == ["stlr", "label_smoothing"]


def test_where_nothing_helps_nothing_is_recommended_or_confirmed() -> None:
    rounds, ran, _ = run(study("stlr", "weight_decay"), helped_by(stlr=-0.2))
    assert (len(ran), rounds.recommendation) == (1, None)


def test_without_confirmation_the_recommendation_stands_unconfirmed() -> None:
    rounds, ran, trials = run(study("stlr", confirm=0), helped_by(stlr=0.2))
    assert len(ran) == 1
    found = confirmed(manifest_of(rounds), trials)
    assert found is not None
    assert (found.configuration, found.seeds, found.effect) == ("stlr", (), None)


def test_of_levels_that_exclude_one_another_the_best_is_recommended() -> None:
    of = study({"one_of": ["stlr", "linear_decay"]}, {"weight_decay": {"value": {"values": [0.01, 0.1]}}})
    rounds, _, _ = run(of, helped_by(stlr=0.1, linear_decay=0.3, **{"value=0.1": 0.2, "value=0.01": 0.1}))
    assert rounds.recommendation is not None
    assert rounds.recommendation.configuration == "linear_decay + weight_decay(value=0.1)"


def test_of_tricks_that_cannot_stand_together_the_weaker_is_left_out() -> None:
    rounds, _, _ = run(study("stlr", "linear_decay", "weight_decay"), helped_by(stlr=0.1, linear_decay=0.3, weight=0.2))
    assert rounds.recommendation is not None
    assert rounds.recommendation.configuration == "linear_decay + weight_decay"


def manifest_of(rounds: Rounds) -> Manifest:
    return Manifest(
        study=rounds.study.to_dict(),
        configurations={c.name: c.levels for c in rounds.configurations},
        cells=tuple(rounds.planned),
        left_out=(),
        greater_is_better=True,
        valid_examples=100,
        recommendation=rounds.recommendation.to_dict() if rounds.recommendation else None,
    )


def test_the_confirmed_effect_is_that_of_the_fresh_seeds_alone() -> None:
    """0.2 on the seeds of the comparison; 0.05 and 0.03 on the fresh ones: 0.04 +- 0.01 * 12.706 (t, 1 df)."""

    def metric(name: str, seed: int, rate: float) -> float:
        fresh = {20_000: 0.05, 20_001: 0.03}
        return 0.5 + (fresh.get(seed, 0.2 + noise(seed)) if name == "stlr" else 0.0)

    rounds, _, trials = run(study("stlr"), metric)
    found = confirmed(manifest_of(rounds), trials)
    assert isinstance(found, Recommendation)
    assert found.effect is not None
    assert found.effect.estimate == pytest.approx(0.04)
    assert found.effect.ci == pytest.approx((0.04 - 0.12706, 0.04 + 0.12706), abs=1e-4)
    assert found.effect.verdict == "undecided"


def test_each_configuration_is_compared_at_the_rate_that_suits_it() -> None:
    def metric(name: str, seed: int, rate: float) -> float | None:
        if name == "stlr" and rate == 4e-4:
            return None if seed == 10_001 else 0.99  # a rate that loses a run is not chosen, however good the others
        best = {"baseline": 1e-4, "stlr": 2e-4}[name]
        return 0.6 - 1000 * abs(rate - best) + noise(seed)

    of = study("stlr", tune_learning_rate={"values": [1e-4, 2e-4, 4e-4], "seeds": 2}, seeds=[3, 4])
    rounds, ran, _ = run(of, metric)
    assert ran[0] == [
        f"{name}/{seed}/{rate}"
        for name in ("baseline", "stlr")
        for rate in ("0.0001", "0.0002", "0.0004")
        for seed in (10_000, 10_001)
    ]
    assert rounds.rates == {"baseline": 1e-4, "stlr": 2e-4}
    assert ran[1] == ["baseline/3/0.0001", "stlr/3/0.0002", "baseline/4/0.0001", "stlr/4/0.0002"]
    assert [cell.phase for cell in rounds.planned] == ["tune"] * 12 + ["compare"] * 4


def test_a_recommended_combination_is_tuned_before_it_is_confirmed() -> None:
    of = study("stlr", "weight_decay", tune_learning_rate={"values": [1e-4, 2e-4]}, seeds=3)
    rounds, ran, _ = run(of, helped_by(stlr=0.1, weight_decay=0.2))
    assert ran[2] == ["stlr + weight_decay/10000/0.0001", "stlr + weight_decay/10000/0.0002"]
    assert [cell.phase for cell in rounds.planned][-6:] == ["tune"] * 2 + ["confirm"] * 4
    assert rounds.recommendation is not None
    assert rounds.recommendation.recipe["training"]["learning_rate"] == rounds.rates["stlr + weight_decay"]


def test_a_resumed_study_comes_to_the_same_rounds_and_runs_only_what_is_missing() -> None:
    of = study("stlr", "weight_decay")
    metric = helped_by(stlr=0.1)
    first, ran, trials = run(of, metric)
    again = Rounds(of, make, greater_is_better=True)  # type: ignore[arg-type]
    missing = ran[1][-1]
    known = {key: trial for key, trial in trials.items() if key != missing}
    assert [cell.key for cell in again.next(known)] == [missing]
    assert again.next(trials) == []
    assert (again.planned, again.recommendation) == (first.planned, first.recommendation)


def test_a_study_all_of_whose_cells_are_lost_recommends_nothing() -> None:
    rounds, ran, _ = run(study("stlr"), lambda name, seed, rate: None)
    assert (len(ran), rounds.recommendation) == (1, None)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tune_learning_rate": {"values": [1e-4]}}, "tune_learning_rate.values"),
        ({"tune_learning_rate": {"values": [1e-4, 0]}}, "greater than 0"),
        ({"budget": {}}, "give cells, hours or gpu_hours"),
        ({"confirm": -1}, "confirm"),
        ({"strategy": "rac"}, "no such strategy"),
        ({"strategy": {"full": {"speed": 2}}}, "speed"),
        ({"correction": "none"}, "correction"),
        ({"equivalence": 0}, "equivalence"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_their_place(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        study("stlr", **settings)


def test_a_rate_is_either_a_factor_or_tuned() -> None:
    rates = {"values": [1e-4, 2e-4]}
    with pytest.raises(RecipeError, match="training.learning_rate is a factor too"):
        study("stlr", {"training.learning_rate": rates}, tune_learning_rate=rates)
