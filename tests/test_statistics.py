"""The linear model with seeds as blocks, its contrasts, Holm's correction, and the verdicts that rest on them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from finetricks_tuning.effects import Contest, configuration_effects, level_effects
from finetricks_tuning.statistics import BlockModel, holm

BASE = [0.80, 0.84, 0.79, 0.85, 0.81]
WITH = [0.83, 0.86, 0.83, 0.86, 0.84]


def cells(**columns: list[float]) -> dict[tuple[str, int], float]:
    return {(name, seed): value for name, values in columns.items() for seed, value in enumerate(values)}


def test_two_configurations_give_the_paired_t_test() -> None:
    found = BlockModel(cells(base=BASE, a=WITH)).contrast({"a": 1, "base": -1})
    reference = stats.ttest_rel(WITH, BASE)
    assert found is not None
    assert found.value == pytest.approx(np.mean(WITH) - np.mean(BASE))
    assert found.p == pytest.approx(reference.pvalue)
    assert found.interval == pytest.approx(tuple(reference.confidence_interval(0.95)))


def test_by_hand_with_the_residual_pooled_over_three_configurations() -> None:
    # Two seeds; columns base (1, 3), a (2, 4), b (4, 5). Row means 7/3 and 4, column means 2, 3, 4.5, grand mean 19/6.
    # Residuals: base -1/6, 1/6; a -1/6, 1/6; b 1/3, -1/3. Their squares sum to 1/3, over (3-1)(2-1) = 2 degrees.
    model = BlockModel(cells(base=[1, 3], a=[2, 4], b=[4, 5]))
    assert model.freedom == 2
    assert model.deviation == pytest.approx(math.sqrt(1 / 6))
    found = model.contrast({"b": 1, "base": -1})
    assert found is not None
    assert found.value == pytest.approx(2.5)
    assert found.standard_error == pytest.approx(math.sqrt(1 / 6 * 2 / 2))
    assert found.p == pytest.approx(2 * stats.t.sf(2.5 / math.sqrt(1 / 6), 2))


def test_incomplete_blocks_agree_with_ordinary_least_squares_of_statsmodels() -> None:
    formula = pytest.importorskip("statsmodels.formula.api")
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    given = {(name, seed): float(rng.normal(0.8, 0.03)) for name in ("base", "a", "b") for seed in range(5)}
    del given["a", 2], given["base", 4], given["b", 0]
    frame = pandas.DataFrame([(n, f"s{s}", v) for (n, s), v in given.items()], columns=["config", "seed", "value"])
    fit = formula.ols("value ~ C(config, Treatment('base')) + C(seed)", frame).fit()
    model = BlockModel(given)
    for name in ("a", "b"):
        term = f"C(config, Treatment('base'))[T.{name}]"
        found = model.contrast({name: 1, "base": -1})
        assert found is not None
        assert found.value == pytest.approx(fit.params[term])
        assert found.standard_error == pytest.approx(fit.bse[term])
        assert found.p == pytest.approx(fit.pvalues[term])
        assert found.interval == pytest.approx(tuple(fit.conf_int().loc[term]))


def test_a_contrast_that_the_cells_do_not_determine_is_none() -> None:
    # a and base share no seed, directly or through another configuration.
    model = BlockModel({("base", 0): 1.0, ("base", 1): 2.0, ("a", 2): 3.0, ("a", 3): 5.0})
    assert model.contrast({"a": 1, "base": -1}) is None
    assert model.contrast({"unknown": 1, "base": -1}) is None


def test_one_seed_gives_an_estimate_and_nothing_to_judge_it_by() -> None:
    found = BlockModel(cells(base=[0.8], a=[0.9])).contrast({"a": 1, "base": -1})
    assert found is not None
    assert found.value == pytest.approx(0.1)
    assert (found.standard_error, found.interval, found.p) == (None, None, None)


def test_differences_that_never_vary_claim_no_certainty() -> None:
    found = BlockModel(cells(base=BASE, a=[value + 0.02 for value in BASE])).contrast({"a": 1, "base": -1})
    assert found is not None
    assert found.value == pytest.approx(0.02)
    assert (found.interval, found.p) == (None, None)


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .04 .045, times 4 3 2 1: .04 .06 .08 .045; made monotone: .04 .06 .08 .08.
    assert holm([0.04, 0.01, 0.045, 0.02]) == pytest.approx([0.08, 0.04, 0.08, 0.06])
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def ablation(values: dict[tuple[str, int], float], lost: dict[str, int] | None = None, greater: bool = True) -> Contest:
    levels = {
        "base": {"a": "off", "b": "off"},
        "a": {"a": "a", "b": "off"},
        "b": {"a": "off", "b": "b"},
    }
    return Contest(levels, values, lost or {}, greater, 0.05)


NOISE = [0.001, -0.001, 0.0005, -0.0005, 0.0]


def test_verdicts_follow_the_direction_in_which_the_metric_is_better() -> None:
    values = cells(
        base=BASE,
        a=[v + 0.05 + e for v, e in zip(BASE, NOISE, strict=True)],
        b=[v - e for v, e in zip(BASE, NOISE, strict=True)],
    )
    assert [effect.verdict for effect in level_effects(ablation(values))] == ["helps", "undecided"]
    assert [effect.verdict for effect in level_effects(ablation(values, greater=False))] == ["hurts", "undecided"]


def test_rows_of_an_ablation_name_their_estimand_and_their_seeds() -> None:
    values = cells(base=BASE, a=WITH, b=WITH)
    del values["a", 0]
    first, second = level_effects(ablation(values, {"a": 1}))
    assert (first.estimand, first.seeds, second.seeds) == ("added to the baseline", 4, 5)
    assert first.lost == 1
    assert "1 failed or diverged cell is not in the estimate" in first.note
    assert second.differences == pytest.approx({s: w - b for s, (w, b) in enumerate(zip(WITH, BASE, strict=True))})


def test_a_level_that_lost_cells_is_not_said_to_help() -> None:
    values = cells(base=BASE, a=[v + 0.05 + e for v, e in zip(BASE, NOISE, strict=True)], b=BASE)
    del values["a", 0]
    effect = level_effects(ablation(values, {"a": 1}))[0]
    assert (effect.p_adjusted or 1) < 0.01
    assert effect.verdict == "undecided"
    assert "not said to help" in effect.note


def test_a_level_of_which_nothing_finished_has_a_row_that_says_so() -> None:
    effect = level_effects(ablation(cells(base=BASE, b=WITH), {"a": 5}))[0]
    assert (effect.name, effect.estimate, effect.verdict) == ("a", None, "no verdict")
    assert "no cell of it finished" in effect.note


def test_one_seed_is_said_plainly() -> None:
    effects = level_effects(ablation(cells(base=[0.8], a=[0.9], b=[0.7])))
    assert {effect.verdict for effect in effects} == {"no verdict"}
    assert {effect.note for effect in effects} == {"one seed gives no interval"}


def test_main_effects_of_a_factorial_average_over_the_other_factor() -> None:
    levels = {
        "base": {"a": "off", "b": "off"},
        "b": {"a": "off", "b": "b"},
        "a": {"a": "a", "b": "off"},
        "a + b": {"a": "a", "b": "b"},
    }
    # a adds 2 alone and 4 beside b: 3 on average; b adds 1 alone and 3 beside a: 2.
    means = {"base": 10.0, "b": 11.0, "a": 12.0, "a + b": 15.0}
    jitter = {("base", 0): 0.1, ("b", 1): 0.1, ("a", 2): 0.1}
    values = {(n, s): mean + s + jitter.get((n, s), 0.0) for n, mean in means.items() for s in range(3)}
    contest = Contest(levels, values, {}, True, 0.05)
    effects = {effect.name: effect for effect in level_effects(contest)}
    bump = 0.1 / 3  # the jitter in each of the three configurations' means
    assert effects["a"].estimate == pytest.approx(3.0 + (bump - 2 * bump) / 2)
    assert effects["b"].estimate == pytest.approx(2.0 + (bump - 2 * bump) / 2)
    assert effects["a"].estimand == "averaged over 2 settings of the other factors"
    against = {effect.name: effect for effect in configuration_effects(contest)}
    assert against["a + b"].estimate == pytest.approx(5.0 - bump)


def test_a_main_effect_uses_only_settings_that_were_run_with_and_without_the_level() -> None:
    # a + b cannot be run: a is compared at b off, and where b's other level c stands.
    levels = {
        "base": {"a": "off", "b": "off"},
        "b": {"a": "off", "b": "b"},
        "c": {"a": "off", "b": "c"},
        "a": {"a": "a", "b": "off"},
        "a + c": {"a": "a", "b": "c"},
    }
    values = cells(base=[1, 2.1], b=[5, 6], c=[2, 3.2]) | {("a", 0): 2, ("a", 1): 3, ("a + c", 0): 4, ("a + c", 1): 5}
    effects = {effect.name: effect for effect in level_effects(Contest(levels, values, {}, True, 0.05))}
    assert effects["a"].estimate == pytest.approx(((2.5 - 1.55) + (4.5 - 2.6)) / 2)
    assert effects["b"].estimand == "added to the baseline"


def test_the_family_wise_rate_of_false_verdicts_is_kept() -> None:
    # 600 studies of four tricks that do nothing, 5 seeds: at most 5 % should hold any verdict; 3 sigma of 600 is 2.7 %.
    rng = np.random.default_rng(7)
    names = ["base", "a", "b", "c", "d"]
    levels = {name: {f: (f if f == name else "off") for f in names[1:]} for name in names}
    false = 0
    for _ in range(600):
        blocks = rng.normal(0, 0.03, 5)
        values = {(n, s): float(0.8 + blocks[s] + rng.normal(0, 0.01)) for n in names for s in range(5)}
        verdicts = {effect.verdict for effect in level_effects(Contest(levels, values, {}, True, 0.05))}
        false += bool(verdicts & {"helps", "hurts"})
    assert 0.015 < false / 600 < 0.077
