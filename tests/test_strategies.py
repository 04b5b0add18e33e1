"""Which cells come next, and when a comparison has seen enough: on results that are made up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from finetricks_tuning.contrasts import paired
from finetricks_tuning.power import seeds_needed
from finetricks_tuning.strategies import STRATEGIES, Results, Round, Strategy
from finetricks_tuning.strategies.full import Full
from finetricks_tuning.strategies.halving import Halving
from finetricks_tuning.strategies.looks import looks_at, shares
from finetricks_tuning.strategies.race import Race, best
from finetricks_tuning.strategies.sequential import Sequential

Metric = Callable[[str, int], float | None]


def ablation(*tricks: str) -> dict[str, Mapping[str, str]]:
    off = dict.fromkeys(tricks, "off")
    return {"baseline": off} | {trick: {**off, trick: trick} for trick in tricks}


def results(
    levels: Mapping[str, Mapping[str, str]], cells: Mapping[tuple[str, int], float | None], **more: Any
) -> Results:
    return Results(
        levels=levels,
        values={cell: value for cell, value in cells.items() if value is not None},
        lost={cell: "diverged" for cell, value in cells.items() if value is None},
        **{"greater_is_better": True, "alpha": 0.05, "equivalence": None, "correction": "holm", "contrasts": paired}
        | more,
    )


def played(
    strategy: Strategy, levels: Mapping[str, Mapping[str, str]], metric: Metric, seeds: int, **more: Any
) -> tuple[list[Round], Results]:
    """All rounds of a study, and its results; each round is asked for twice, since a strategy is a pure function."""
    cells: dict[tuple[str, int], float | None] = {}
    rounds = []
    while True:
        known = results(levels, cells, **more)
        following = strategy.next_round(known, range(seeds))
        assert strategy.next_round(known, range(seeds)) == following
        rounds.append(following)
        if not following.cells:
            return rounds, known
        assert not set(following.cells) & set(cells), "a cell is run once"
        cells |= {cell: metric(*cell) for cell in following.cells}


def wobble(name: str, seed: int) -> float:
    """Small, different in every cell, and always the same."""
    return 0.001 * float(np.random.default_rng([seed, *name.encode()]).standard_normal())


def by_name(**means: float) -> Metric:
    return lambda name, seed: means.get(name, 0.5) + 0.05 * (seed % 3) + wobble(name, seed)


LEVELS = ablation("good", "bad", "idle")


# -- full ------------------------------------------------------------------------------------------------


def test_full_runs_everything_at_once_seed_by_seed() -> None:
    rounds, _ = played(Full(), ablation("stlr"), by_name(), seeds=2)
    assert [r.cells for r in rounds] == [(("baseline", 0), ("stlr", 0), ("baseline", 1), ("stlr", 1)), ()]


# -- looks -----------------------------------------------------------------------------------------------


def test_the_shares_of_alpha_are_those_of_the_spending_function_and_add_up() -> None:
    """2 - 2 Phi(1.95996 / sqrt(t)) at t = 1/4, 1/2, 3/4, 1: .0000885, .0055746, .0236253, .05."""
    found = shares(0.05, 4)
    assert np.cumsum(found) == pytest.approx([0.0000885, 0.0055746, 0.0236253, 0.05], abs=1e-6)
    assert shares(0.05, 1) == pytest.approx((0.05,))


def test_the_adjusted_p_is_holms_at_the_looks_share_and_the_smallest_so_far() -> None:
    """Two arms are a paired t: differences .1, .2, .3 have t = 2 sqrt(3), 2 df, p = .07418; share 1 of 1."""
    cells = {("baseline", s): 0.5 for s in range(3)} | {("stlr", s): 0.6 + 0.1 * s for s in range(3)}
    (look,) = looks_at(results(ablation("stlr"), cells), range(3), first=3)
    assert look.rows["stlr"].p == pytest.approx(0.074180, abs=1e-6)
    first, second = looks_at(results(ablation("stlr"), cells), range(3), first=2)
    # After two seeds t = 3, 1 df, p = .20483 at a share of .00557 in .05.
    assert first.rows["stlr"].p == pytest.approx(1.0)
    assert second.rows["stlr"].p == pytest.approx(0.074180 * 0.05 / (0.05 - 0.0055746), abs=1e-5)


def test_an_effect_is_equivalent_to_none_when_its_interval_lies_in_the_region() -> None:
    """Differences of .001, .002, .003: .002 +- 2.920 (t(.95, 2)) * .001 / sqrt(3) = .002 +- .001686."""
    cells = {("baseline", s): 0.5 for s in range(3)} | {("stlr", s): 0.501 + 0.001 * s for s in range(3)}

    def equivalent(region: float) -> bool:
        (look,) = looks_at(results(ablation("stlr"), cells, equivalence=region), range(3), first=3)
        return look.rows["stlr"].equivalent

    assert equivalent(0.0037)
    assert not equivalent(0.0036)


# -- sequential ------------------------------------------------------------------------------------------


def test_what_is_decided_gets_no_more_seeds() -> None:
    """`big` is clear at once; `idle` never, up to the cap; the baseline goes on since `idle` rests on it."""
    rounds, found = played(Sequential(), ablation("big", "idle"), by_name(big=0.9), seeds=6)
    count = {name: sum(n == name for n, _ in found.values) for name in found.levels}
    assert count["idle"] == count["baseline"] == 6
    assert 2 <= count["big"] < 6
    decisions = [text for r in rounds for text in r.decisions]
    assert sum("big is decided (p = " in text for text in decisions) == 1
    assert any("idle is undecided" in text and "more would tell" in text for text in decisions)


def test_a_study_ends_when_all_is_decided() -> None:
    rounds, found = played(Sequential(), ablation("big", "bad"), by_name(big=0.9, bad=0.1), seeds=20)
    assert len({seed for _, seed in found.values}) < 6
    assert rounds[-1].cells == ()


def test_an_effect_that_does_not_matter_ends_a_comparison_too() -> None:
    rounds, found = played(Sequential(), ablation("idle"), by_name(), seeds=20, equivalence=0.01)
    assert len({seed for _, seed in found.values}) < 8
    assert any("makes no difference that matters" in text for r in rounds for text in r.decisions)


def test_lost_cells_and_results_without_noise_end_too() -> None:
    lost = played(Sequential(), LEVELS, lambda name, seed: None if name == "bad" else by_name()(name, seed), seeds=4)[1]
    assert {seed for name, seed in lost.lost} <= set(range(4))
    still = played(Sequential(), LEVELS, lambda name, seed: 0.5, seeds=4)[1]
    assert len(still.values) == 16


def test_the_final_p_values_are_those_of_the_looks() -> None:
    _, found = played(Sequential(), ablation("big", "idle"), by_name(big=0.9), seeds=4)
    looked = Sequential().looked(found, range(4))
    assert looked["big"].p <= 0.05 < looked["idle"].p
    assert Full().looked(found, range(4)) == {}


@pytest.mark.parametrize("interaction", [0.0, 0.02])
def test_false_verdicts_stay_at_the_stated_rate_over_all_looks(interaction: float) -> None:
    """400 studies of four tricks without effects, looked at after 2, 3, 4 and 5 seeds: at most .05 + 2.6 sd of 400."""
    generator = np.random.default_rng(0)
    levels = ablation("a", "b", "c", "d")
    false = 0
    for _ in range(400):
        blocks, noise = generator.normal(0, 0.05, 5), generator.normal(0, 0.01 + interaction, (5, 5))
        cells = {(name, s): 0.5 + blocks[s] + noise[i, s] for i, name in enumerate(levels) for s in range(5)}
        looks = looks_at(results(levels, cells), range(5), first=2)
        false += any(row.p is not None and row.p <= 0.05 for row in looks[-1].rows.values())
    assert false / 400 <= 0.05 + 2.6 * (0.05 * 0.95 / 400) ** 0.5
    assert false > 0


# -- race ------------------------------------------------------------------------------------------------


def test_the_clearly_worse_drop_out_of_a_race_and_the_baseline_stays() -> None:
    rounds, found = played(Race(), LEVELS, by_name(good=0.7, bad=0.1, idle=0.699), seeds=6)
    count = {name: sum(n == name for n, _ in found.values) for name in found.levels}
    assert count["bad"] < 6
    assert count["good"] == count["baseline"] == 6
    assert any("bad drops out (p = " in text and "against good" in text for r in rounds for text in r.decisions)
    assert Race().winner(found) == "good"


def test_less_can_win() -> None:
    _, found = played(Race(), LEVELS, by_name(good=0.1, bad=0.9), seeds=4, greater_is_better=False)
    assert Race().winner(found) == "good"


def test_a_configuration_that_never_finishes_drops_out() -> None:
    _, found = played(Race(), LEVELS, lambda name, seed: None if name == "bad" else by_name()(name, seed), seeds=6)
    assert len([cell for cell in found.lost if cell[0] == "bad"]) == 3
    _, nothing = played(Race(), LEVELS, lambda name, seed: None, seeds=4)
    assert Race().winner(nothing) is None


def test_with_fewer_seeds_than_a_race_needs_everything_is_run() -> None:
    _, found = played(Race(), LEVELS, by_name(bad=0.1), seeds=2)
    assert len(found.values) == 8


# -- halving ---------------------------------------------------------------------------------------------


def test_the_better_half_goes_on_to_twice_the_seeds() -> None:
    means = {f"t{number}": 0.5 + 0.1 * number for number in range(4)}
    rounds, found = played(Halving(), ablation(*means), by_name(**means), seeds=4)
    count = {name: sum(n == name for n, _ in found.values) for name in found.levels}
    assert count == {"baseline": 4, "t0": 1, "t1": 1, "t2": 2, "t3": 4}
    assert rounds[1].decisions == ("After 1 seed 2 of 4 go on: t2, t3.",)
    assert Halving().winner(found) == "t3"


def test_halving_passes_over_what_is_lost() -> None:
    _, found = played(Halving(), LEVELS, lambda n, s: None if n == "good" else by_name(idle=0.6)(n, s), seeds=4)
    assert Halving().winner(found) == "idle"


# -- how many seeds --------------------------------------------------------------------------------------


def test_seeds_needed_are_those_of_the_t_test() -> None:
    """An effect of one standard deviation in a paired t test at .05: 10 pairs give a power of .803 (Cohen's tables)."""
    assert seeds_needed(1.0, 1 / 5**0.5, 4, 5, alpha=0.05) == 5
    assert seeds_needed(1e-9, 1.0, 4, 5, alpha=0.05) is None


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_ends_with_one_configuration_beside_the_baseline_and_one_seed(name: str) -> None:
    _, found = played(STRATEGIES[name](), ablation("stlr"), by_name(), seeds=1)
    assert len(found.values) == 2


def test_a_configuration_that_lost_a_cell_comes_after_those_that_lost_none() -> None:
    found = results(
        ablation("a", "b"),
        {("baseline", 0): 0.5, ("baseline", 1): 0.5, ("a", 0): 0.9, ("a", 1): None, ("b", 0): 0.6, ("b", 1): 0.6},
    )
    assert best(list(found.levels), found) == "b"
    assert best(list(found.levels), found, [0]) == "a"
