"""The linear model with seeds as blocks, its contrasts, Holm's correction, and the verdicts that rest on them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection

import numpy as np
import pytest
from scipy import stats

from finetricks_tuning.contrasts import ContrastsOf, averaged, paired
from finetricks_tuning.effects import (
    EQUIVALENT,
    HELPS,
    Contest,
    Effect,
    Looked,
    configuration_effects,
    interaction_effects,
    level_effects,
)
from finetricks_tuning.on_data import Examples
from finetricks_tuning.power import seeds_needed
from finetricks_tuning.statistics import BlockModel, correct, holm

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


def ablation(
    values: dict[tuple[str, int], float], lost: Collection[tuple[str, int]] = (), greater: bool = True
) -> Contest:
    levels = {
        "base": {"a": "off", "b": "off"},
        "a": {"a": "a", "b": "off"},
        "b": {"a": "off", "b": "b"},
    }
    return Contest(levels, values, lost, greater, 0.05)


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
    first, second = level_effects(ablation(values, [("a", 0)]))
    assert (first.estimand, first.seeds, second.seeds) == ("added to the baseline", 4, 5)
    assert first.lost == 1
    assert "1 failed or diverged cell is not in the estimate" in first.note
    assert second.differences == pytest.approx({s: w - b for s, (w, b) in enumerate(zip(WITH, BASE, strict=True))})


def test_a_level_beside_a_baseline_that_lost_cells_is_not_said_to_hurt() -> None:
    values = cells(base=BASE, a=[v - 0.05 + e for v, e in zip(BASE, NOISE, strict=True)], b=BASE)
    assert level_effects(ablation(values))[0].verdict == "hurts"
    del values["base", 0]
    effect = level_effects(ablation(values, [("base", 0)]))[0]
    assert (effect.p_adjusted or 1) < 0.01
    assert (effect.verdict, effect.lost, effect.lost_without) == ("undecided", 0, 1)
    assert effect.note.endswith("1 cell without it failed or diverged, so it is not said to hurt")


def test_a_level_that_lost_cells_is_not_said_to_help() -> None:
    values = cells(base=BASE, a=[v + 0.05 + e for v, e in zip(BASE, NOISE, strict=True)], b=BASE)
    del values["a", 0]
    effect = level_effects(ablation(values, [("a", 0)]))[0]
    assert (effect.p_adjusted or 1) < 0.01
    assert effect.verdict == "undecided"
    assert "not said to help" in effect.note


def test_a_level_of_which_nothing_finished_has_a_row_that_says_so() -> None:
    effect = level_effects(ablation(cells(base=BASE, b=WITH), [("a", seed) for seed in range(5)]))[0]
    assert (effect.name, effect.estimate, effect.verdict) == ("a", None, "no verdict")
    assert "no cell of it finished" in effect.note


def test_counterparts_of_which_nothing_finished_are_counted() -> None:
    """Two settings of b; without b, the baseline of a has lost every cell."""
    lower = [v - 0.05 + e for v, e in zip(BASE, NOISE, strict=True)]
    values = cells(baseline=BASE, a=lower, b=BASE, **{"a + b": lower})
    levels = factorial("a", "b")
    assert level_effects(Contest(levels, values, [], True, 0.05))[0].verdict == "hurts"
    gone = [("baseline", seed) for seed in range(5)]
    left = {cell: value for cell, value in values.items() if cell not in gone}
    effect = level_effects(Contest(levels, left, gone, True, 0.05))[0]
    assert (effect.verdict, effect.lost, effect.lost_without) == ("undecided", 0, 5)
    assert (effect.p_adjusted or 1) < 0.05
    assert effect.note.endswith("5 cells without it failed or diverged, so it is not said to hurt")


@pytest.mark.parametrize("contrasts", [paired, averaged])
def test_a_trick_that_is_broken_withholds_only_its_own_verdict(contrasts: ContrastsOf) -> None:
    """In every cell with b its runs fail: with a and without it, so that the effect of a is measured where b is off."""
    higher = [v + 0.05 + e for v, e in zip(BASE, NOISE, strict=True)]
    lost = [(name, seed) for name in ("b", "a + b") for seed in range(5)]
    contest = Contest(factorial("a", "b"), cells(baseline=BASE, a=higher), lost, True, 0.05, contrasts)
    a, b = level_effects(contest)
    assert (a.verdict, a.lost, a.lost_without) == ("helps", 0, 0)
    assert (b.verdict, b.lost) == ("no verdict", 10)


def test_a_broken_trick_withholds_no_verdict_where_no_two_configurations_are_twins() -> None:
    """A quarter of three factors, and one more: c is lost wherever it is on."""
    levels = {
        name: {factor: factor if factor in name else "off" for factor in "abc"}
        for name in ("-", "ab", "ac", "bc", "a-")
    }
    higher = [v + 0.05 + e for v, e in zip(BASE, NOISE, strict=True)]
    values = cells(**{"-": BASE, "ab": higher, "a-": higher})
    lost = [(name, seed) for name in ("ac", "bc") for seed in range(5)]
    a, b, c = level_effects(Contest(levels, values, lost, True, 0.05, averaged))
    assert (a.verdict, a.lost, a.lost_without) == ("helps", 0, 0)
    assert (b.lost, b.lost_without) == (0, 0)
    assert c.lost == 10


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
    contest = Contest(levels, values, [], True, 0.05)
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
    effects = {effect.name: effect for effect in level_effects(Contest(levels, values, [], True, 0.05))}
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
        verdicts = {effect.verdict for effect in level_effects(Contest(levels, values, [], True, 0.05))}
        false += bool(verdicts & {"helps", "hurts"})
    assert 0.015 < false / 600 < 0.077


# -- what else a row says --------------------------------------------------------------------------------


def grid(effect: float, seeds: int, noise: float = 0.004) -> dict[tuple[str, int], float]:
    """A baseline, and a level with an effect; differences of effect +- noise in turn."""
    return {("baseline", seed): 0.5 + 0.1 * seed for seed in range(seeds)} | {
        ("a", seed): 0.5 + 0.1 * seed + effect + noise * (-1) ** seed for seed in range(seeds)
    }


def one(values: dict[tuple[str, int], float], **more: object) -> Effect:
    levels = {"baseline": {"a": "off"}, "a": {"a": "a"}}
    (row,) = level_effects(Contest(levels, values, [], True, 0.05, **more))  # type: ignore[arg-type]
    return row


def test_an_effect_within_the_region_makes_no_difference_that_matters() -> None:
    """Four differences .003, -.001, .003, -.001: .001 +- t(.95, 3) .0023094 / 2, so from -.00172 to .00372."""
    values = grid(0.001, 4, noise=0.002)
    assert one(values, equivalence=0.0038).verdict == EQUIVALENT
    assert one(values, equivalence=0.0036).verdict == one(values).verdict == "undecided"


def test_what_is_sure_but_too_small_to_matter_does_not_help() -> None:
    values = grid(0.01, 4, noise=0.001)
    assert one(values).verdict == HELPS
    assert one(values, equivalence=0.02).verdict == EQUIVALENT


def test_an_undecided_row_says_how_many_more_seeds_it_would_need() -> None:
    row = one(grid(0.004, 4))
    assert row.verdict == "undecided"
    assert row.seeds_needed == seeds_needed(0.004, row.standard_error or 0, 3, 4, alpha=0.05)
    assert one(grid(0.05, 4)).seeds_needed is None


def test_rows_whose_configurations_got_more_seeds_for_being_good_get_no_verdict() -> None:
    row = one(grid(0.05, 4), selected=True)
    assert row.verdict == "no verdict"
    assert row.ci is not None
    assert "no p-value holds" in row.note


def test_the_looks_of_a_strategy_replace_the_correction() -> None:
    assert one(grid(0.05, 4), looked={"a": Looked(0.2, equivalent=False)}).verdict == "undecided"
    assert one(grid(0.004, 4), looked={"a": Looked(0.01, equivalent=False)}).verdict == HELPS
    assert one(grid(0.004, 4), looked={"a": Looked(0.2, equivalent=True)}).verdict == EQUIVALENT


def test_a_row_carries_measures_of_its_differences() -> None:
    levels = {"baseline": {"a": "off"}, "a": {"a": "a"}}
    found, alone = (
        level_effects(Contest(levels, grid(0.05, seeds), [], True, 0.05), samples=True)[0].samples for seeds in (4, 1)
    )
    assert found is not None
    assert found.median == pytest.approx(0.05)
    assert found.smallest_p == 0.125
    assert alone is None


def test_a_verdict_on_data_needs_the_second_interval() -> None:
    def examples(spread: float) -> Examples:
        ends = np.array([-spread, spread] * 50)
        values = grid(0.05, 4)
        return Examples({place: value + (place[0] == "a") * ends for place, value in values.items()})

    sure, unsure = (one(grid(0.05, 4), examples=examples(spread)) for spread in (0.01, 1.0))
    assert sure.verdict == sure.verdict_on_data == unsure.verdict == HELPS
    assert unsure.verdict_on_data == "undecided"
    assert sure.ci == sure.ci_data
    assert unsure.ci_data == pytest.approx((0.05 - 0.2, 0.05 + 0.2), abs=0.003)  # t(.975, 99) = 1.984
    # The examples' mean squares: 4 seeds x 100 examples of +-1, over 99; no residual.
    assert unsure.standard_error_data == pytest.approx(math.hypot(unsure.standard_error or 0, math.sqrt(1 / 99)))
    assert one(grid(0.05, 4)).verdict_on_data == "no verdict"


def test_benjamini_and_hochberg_by_hand() -> None:
    """Sorted .01, .02, .04: .01 x 3 / 1, .02 x 3 / 2, .04 x 3 / 3, each no more than the next."""
    assert correct([0.04, 0.01, 0.02], "benjamini_hochberg") == pytest.approx([0.04, 0.03, 0.03])
    assert correct([0.04, 0.01, 0.02], "holm") == pytest.approx([0.04, 0.03, 0.04])
    assert correct([], "benjamini_hochberg") == []


# -- interactions ----------------------------------------------------------------------------------------


def factorial(*factors: str) -> dict[str, dict[str, str]]:
    """All combinations, by names such as `a + b`."""
    found = {}
    for on in itertools.product([False, True], repeat=len(factors)):
        chosen = [factor for factor, is_on in zip(factors, on, strict=True) if is_on]
        found[" + ".join(chosen) or "baseline"] = {f: f if f in chosen else "off" for f in factors}
    return found


def test_an_interaction_is_half_of_what_one_adds_to_the_effect_of_the_other() -> None:
    """Means 1, 3 (a), 2 (b), 8 (a + b): a gives 2 alone and 6 beside b; half the difference is 2."""
    means = {"baseline": 1.0, "a": 3.0, "b": 2.0, "a + b": 8.0}
    values = {
        (name, seed): mean + seed + 0.01 * (-1) ** (seed + len(name))
        for name, mean in means.items()
        for seed in range(4)
    }
    (row,) = interaction_effects(Contest(factorial("a", "b"), values, [], True, 0.05))
    assert row.name == "a x b"
    assert row.estimate == pytest.approx(2, abs=0.02)
    assert row.verdict == HELPS


def test_designs_that_do_not_hold_interactions_give_none() -> None:
    levels = {"baseline": {"a": "off", "b": "off"}, "a": {"a": "a", "b": "off"}, "b": {"a": "off", "b": "b"}}
    values = {(name, seed): float(seed) for name in levels for seed in range(3)}
    assert interaction_effects(Contest(levels, values, [], True, 0.05)) == []


def test_three_factors_in_all_combinations_hold_all_three_interactions() -> None:
    levels = factorial("a", "b", "c")
    values = {(name, seed): float(len(name)) + seed for name in levels for seed in range(3)}
    rows = interaction_effects(Contest(levels, values, [], True, 0.05))
    assert [row.name for row in rows] == ["a x b", "a x c", "b x c"]
