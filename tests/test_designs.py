"""The designs: their configurations, what they can hold, what they cannot see, and the effects that they estimate."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pytest
from pydantic import Field

from finetricks.catalog import Catalog
from finetricks.errors import RecipeError
from finetricks.hooks import hookimpl
from finetricks.trick import Trick
from finetricks_tuning.check import check
from finetricks_tuning.contrasts import Levels, level_matrix
from finetricks_tuning.design_facts import DesignFacts, alias_text, facts_of
from finetricks_tuning.designs.d_optimal import d_optimal
from finetricks_tuning.designs.fraction import fraction
from finetricks_tuning.designs.orthogonal_array import array_for
from finetricks_tuning.designs.reader import design_of
from finetricks_tuning.designs.two_level import FractionalFactorial, PlackettBurman, plackett_burman_runs
from finetricks_tuning.effects import Contest, Effect, level_effects
from finetricks_tuning.study import Study

LETTERS = "abcdefghijkl"
RECIPE = {"model": "minilm", "data": {"train": "stdlib_docstrings"}}


class _Idle(Trick):
    x: Annotated[int, Field(ge=0)] = 0

    @hookimpl
    def freeze(self) -> list[str]:
        return []


class Owner(Trick):
    """Owns the schedule."""

    @hookimpl
    def schedule(self) -> float:
        return 1.0


class Rival(Trick):
    """Owns the schedule too."""

    @hookimpl
    def schedule(self) -> float:
        return 0.5


class Needy(Trick):
    """Needs another."""

    requires: ClassVar[dict[str, str]] = {"a": "it builds on it"}

    @hookimpl
    def freeze(self) -> list[str]:
        return []


IDLE = [type(letter.upper(), (_Idle,), {"__doc__": "Does nothing."}) for letter in LETTERS]
CATALOG = Catalog({}).with_classes([*IDLE, Owner, Rival, Needy])


def study(factors: Sequence[object], design: object, **settings: object) -> Study:
    return Study(recipe=RECIPE, factors=factors, design=design, catalog=CATALOG, **settings)  # type: ignore[arg-type]


def names(of: Study) -> list[str]:
    return [configuration.name for configuration in of.configurations]


def levels(of: Study) -> dict[str, Levels]:
    return {configuration.name: configuration.levels for configuration in of.configurations}


def facts(of: Study) -> DesignFacts:
    return facts_of(of.design, levels(of), len(of.left_out))


def signs(of: Study) -> np.ndarray:
    """Configurations x factors: 1 on, -1 off."""
    return 2 * level_matrix(levels(of))[1][:, 1:] - 1


def problems(factors: Sequence[object], design: object) -> str:
    with pytest.raises(RecipeError) as error:
        study(factors, design)
    return str(error.value)


# -- the configurations ----------------------------------------------------------------------------------


def test_leave_one_out_is_the_baseline_the_full_set_and_the_full_set_without_each() -> None:
    assert names(study("abc", "leave_one_out")) == ["baseline", "a + b + c", "b + c", "a + c", "a + b"]
    assert names(study("a", "leave_one_out")) == ["baseline", "a"]


@pytest.mark.parametrize(("factors", "runs"), [(2, 4), (3, 4), (4, 8), (7, 8), (8, 12), (11, 12), (12, 16), (19, 20)])
def test_a_plackett_burman_design_takes_the_next_multiple_of_four(factors: int, runs: int) -> None:
    assert plackett_burman_runs(factors) == runs
    assert len(PlackettBurman().signs(factors)) == runs


def test_where_the_library_has_no_matrix_the_next_larger_one_is_taken() -> None:
    assert [plackett_burman_runs(factors) for factors in (24, 27, 31, 32)] == [32, 32, 32, 40]


@pytest.mark.parametrize("fold_over", [False, True])
@pytest.mark.parametrize("factors", range(1, 13))
def test_a_plackett_burman_design_is_orthogonal_and_holds_the_baseline(factors: int, fold_over: bool) -> None:
    of = study(LETTERS[:factors], {"plackett_burman": {"fold_over": fold_over}})
    assert names(of)[0] == "baseline"
    matrix = np.column_stack([np.ones(len(of.configurations)), signs(of)])
    assert (matrix.T @ matrix == len(matrix) * np.eye(factors + 1)).all()


@pytest.mark.parametrize(
    ("factors", "resolution", "runs", "reached"),
    # Montgomery, Design and Analysis of Experiments, table 8.14: the runs of the smallest fractions.
    [
        *((3, 3, 4, 3), (5, 3, 8, 3), (7, 3, 8, 3), (15, 3, 16, 3), (4, 4, 8, 4), (8, 4, 16, 4), (9, 4, 32, 4)),
        *((5, 5, 16, 5), (6, 5, 32, 6), (7, 5, 64, 7), (8, 5, 64, 5), (11, 5, 128, 5)),
    ],
)
def test_a_fraction_is_as_small_as_the_tables_and_keeps_its_resolution(
    factors: int, resolution: int, runs: int, reached: int
) -> None:
    found = fraction(factors, resolution, most_runs=1024)
    assert (found.runs, found.resolution) == (runs, reached)
    matrix = FractionalFactorial(resolution=resolution).signs(factors)
    assert len(np.unique(matrix, axis=0)) == runs
    assert (matrix == -1).all(axis=1).any()
    words = [
        size
        for size in range(1, reached + 1)
        for columns in itertools.combinations(matrix.T, size)
        if abs(np.prod(columns, axis=0).sum()) == runs
    ]
    assert min(words) == reached


def test_a_half_fraction_by_hand() -> None:
    # d = a x b x c: of the eight settings of a, b and c, d is on where one or all of them are.
    assert set(names(study("abcd", "fractional_factorial"))) == {
        *("baseline", "a + d", "b + d", "c + d", "a + b", "a + c", "b + c", "a + b + c + d")
    }


def test_random_configurations_are_drawn_once_each_by_their_own_seed() -> None:
    drawn = [names(study("abcdef", {"random": {"configurations": 20, "seed": seed}})) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) != set(drawn[2])
    assert [len(set(some)) for some in drawn] == [20, 20, 20]
    assert {some[0] for some in drawn} == {"baseline"}


def test_random_can_draw_every_combination_and_from_more_than_can_be_listed() -> None:
    every = study([*"ab", {"c": {"x": {"values": [1, 2]}}}], {"random": {"configurations": 12}})
    assert set(names(every)) == set(names(study([*"ab", {"c": {"x": {"values": [1, 2]}}}], "factorial")))
    many = [{letter: {"x": {"values": [1, 2, 3, 4]}}} for letter in LETTERS]  # 5^12 combinations
    assert len(study(many, {"random": {"configurations": 60}}).configurations) == 60


def test_a_random_configuration_that_cannot_stand_is_drawn_anew() -> None:
    of = study(["owner", "rival", "a", "b"], {"random": {"configurations": 12}})  # 16 less the 4 with both
    assert len(of.configurations) == 12
    assert all("owner + rival" in left.name for left in of.left_out)


def test_a_capped_factorial_finds_the_orthogonal_half() -> None:
    of = study("abcd", {"factorial": {"configurations": 8}})
    assert names(of)[0] == "baseline"
    assert (signs(of).T @ signs(of) == 8 * np.eye(4)).all()


def test_a_capped_factorial_balances_factors_with_several_levels() -> None:
    # The orthogonal array of nine runs: each pair of levels of two factors stands once.
    factors = [{letter: {"x": {"values": [1, 2]}}} for letter in "abc"]
    of = study(factors, {"factorial": {"configurations": 9}})
    for one, other in itertools.combinations("abc", 2):
        assert len({(c.levels[one], c.levels[other]) for c in of.configurations}) == 9


def test_an_orthogonal_array_holds_factors_of_several_levels_in_few_runs() -> None:
    # L18: one factor off or on and six of three levels, of 2 * 3^6 = 1,458 combinations.
    factors = ["a", *({letter: {"x": {"values": [1, 2]}}} for letter in "bcdefg")]
    of = study(factors, "orthogonal_array")
    assert len(of.configurations) == 18
    assert names(of)[0] == "baseline"
    for one, other in itertools.combinations("abcdefg", 2):
        met = Counter((c.levels[one], c.levels[other]) for c in of.configurations)
        assert set(met.values()) == ({3} if one == "a" else {2})
        assert len(met) == (6 if one == "a" else 9)
    assert facts(of).correlations == ()


def test_tricks_that_exclude_one_another_are_a_level_each_of_an_orthogonal_array() -> None:
    of = study(["a", "b", "c", "d", TWO], "orthogonal_array")
    assert of.left_out == ()
    # Three levels stand in a column of four, in which off stands twice.
    assert Counter(c.levels["owner | rival"] for c in of.configurations) == {"off": 4, "owner": 2, "rival": 2}
    found = effects(
        of, {c.name: 0.05 * (c.levels["a"] != "off") - 0.02 * ("rival" in c.name) for c in of.configurations}
    )
    assert {name: round(effect.estimate, 9) for name, effect in found.items()} == {
        "a": 0.05,
        "b": 0.0,
        "c": 0.0,
        "d": 0.0,
        "owner": 0.0,
        "rival": -0.02,
    }


@pytest.mark.parametrize(
    ("sizes", "runs"),
    [([2] * 3, 4), ([3] * 4, 9), ([2] * 11, 12), ([4] * 5, 16), ([6] + [3] * 6, 18), ([2] * 63, None)],
)
def test_the_smallest_array_that_fits_is_taken(sizes: list[int], runs: int | None) -> None:
    array = array_for(sizes)
    assert (None if array is None else len(array)) == runs


def test_a_capped_factorial_chooses_among_what_can_stand() -> None:
    of = study(["owner", "rival", *"abc"], {"factorial": {"configurations": 12}})
    assert len(of.configurations) == 12
    assert len(of.left_out) == 8
    assert np.linalg.matrix_rank(level_matrix(levels(of))[1]) == 6


def test_d_optimal_runs_are_better_than_any_exchange_of_one() -> None:
    candidates = np.array([[1, *row] for row in itertools.product([-1, 1], repeat=4)], dtype=float)

    def information(rows: list[int]) -> float:
        return float(np.linalg.det(candidates[rows].T @ candidates[rows]))

    found = d_optimal(candidates, 6)
    assert found[0] == 0
    assert len(set(found)) == 6
    for place, row in itertools.product(range(1, 6), range(16)):
        if row not in found:
            assert information([*found[:place], row, *found[place + 1 :]]) <= information(found) * (1 + 1e-6)


# -- how a study file names them -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "written", "label"),
    [
        ("plackett_burman", "plackett_burman", "plackett_burman"),
        ({"plackett_burman": None}, "plackett_burman", "plackett_burman"),
        ({"plackett_burman": {"fold_over": True}}, None, "plackett_burman(fold_over=true)"),
        ({"random": {"configurations": 6, "seed": 3}}, None, "random(configurations=6, seed=3)"),
        ({"factorial": {"configurations": 6}}, None, "factorial(configurations=6)"),
        ({"fractional_factorial": {"resolution": 3}}, None, "fractional_factorial(resolution=3)"),
    ],
)
def test_a_design_reads_back_from_its_own_yaml(tmp_path: Path, given: object, written: object, label: str) -> None:
    of = study("abcd", given)
    assert of.to_dict()["design"] == (given if written is None else written)
    assert of.design.label == label
    (tmp_path / "study.yaml").write_text(of.to_yaml())
    assert names(Study.load(tmp_path / "study.yaml", catalog=CATALOG)) == names(of)


def test_check_says_what_a_design_estimates_and_what_it_cannot_see(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(study("abc", "plackett_burman").to_yaml())
    said = check(tmp_path / "study.yaml", [], CATALOG)
    assert said["design"] == "plackett_burman"
    assert said["estimates"].startswith("each level's effect, averaged over the other factors on and off.")
    assert "`fold_over: true` frees them" in said["estimates"]
    assert said["cells"] == "20 (4 configurations x 5 seeds)"


# -- mistakes --------------------------------------------------------------------------------------------

TWO = {"one_of": ["owner", "rival"]}


@pytest.mark.parametrize(
    ("factors", "design", "message"),
    [
        ("abc", "placket_burman", "design: no such design (did you mean 'plackett_burman'?); give ablation, "),
        ("abc", 3, "design: no such design; give ablation"),
        ("abc", {"random": {}, "factorial": {}}, "design: no such design; give ablation"),
        ("abc", {"random": 20}, "design.random: options by name, got 20"),
        ("abc", "random", "design.random.configurations: is missing: How many to run"),
        ("abc", {"ablation": {"seed": 1}}, "design.ablation.seed: unknown key 'seed'; it takes no values"),
        ("abc", {"random": {"configuration": 9}}, "unknown key 'configuration' (did you mean 'configurations'?)"),
        ("abc", {"random": {"configurations": 9}}, "design.random.configurations: these factors have 8 combinations"),
        ("abc", {"factorial": {"configurations": 9}}, "these factors have 8 combinations, got 9"),
        ("abc", {"random": {"configurations": 3}}, "at least 4: with fewer, the mean and the effects of 3 levels"),
        ("abc", {"factorial": {"configurations": 1}}, "greater than or equal to 2, got 1"),
        ("abc", {"fractional_factorial": {"resolution": 2}}, "greater than or equal to 3, got 2"),
        ("abc", "fractional_factorial", "a fraction of 3 factors has at most resolution 3; factorial runs all their"),
        ("ab", {"fractional_factorial": {"resolution": 3}}, "a fraction of 2 factors has no resolution"),
        ("abcd", {"fractional_factorial": {"fold_over": True}}, "at resolution 4 they are free already"),
        (["a", TWO], "plackett_burman", "factors.1: owner | rival has 2 levels beside off (owner, rival), and plack"),
        (["a", TWO], "leave_one_out", "leave_one_out holds factors that are off or on: give it one level, or use"),
        (
            [{"a": {"x": {"values": [1, 2]}}}, "b", "c"],
            {"fractional_factorial": {"resolution": 3}},
            "factors.0: a has 2",
        ),
        (["owner", "rival"], "leave_one_out", "design: the factors cannot all be on together (owner and rival both"),
        (["owner", "rival", "a"], {"random": {"configurations": 7}}, "only 6 combinations of the factors can be run"),
        (["owner", "rival", "a"], {"factorial": {"configurations": 7}}, "only 6 combinations of the factors can be"),
        ([], "plackett_burman", "a list of at least one factor"),
        (
            [{letter: {"x": {"values": list(range(1, 8))}}} for letter in "ab"],
            "orthogonal_array",
            "no orthogonal array holds these numbers of levels, off among them: 8 of a, 8 of b; use factorial",
        ),
    ],
)
def test_designs_that_cannot_be(factors: Sequence[object], design: object, message: str) -> None:
    assert message in problems(factors, design)


def test_more_combinations_than_anyone_trains_are_refused_before_they_are_listed() -> None:
    many = [{letter: {"x": {"values": [1, 2, 3, 4]}}} for letter in LETTERS]
    assert f"these factors have {5**12} combinations" in problems(many, "factorial")
    settings = [{f"training.{name}": {"values": [5]}} for name in ("epochs", "batch_size", "accumulation")]
    found = problems([*LETTERS, *settings], {"fractional_factorial": {"resolution": 15}})
    assert "resolution 15 of 15 factors takes more than 10000 runs; lower it, got 15" in found


def test_mistakes_name_their_line(tmp_path: Path) -> None:
    text = "recipe: {model: minilm, data: {train: stdlib_docstrings}}\nfactors:\n  - a\n  - one_of: [owner, rival]\n"
    path = tmp_path / "study.yaml"
    path.write_text(text + "design: plackett_burman\n")
    with pytest.raises(RecipeError, match=r"study\.yaml:4 factors\.1: owner \| rival has 2 levels"):
        Study.load(path, catalog=CATALOG)
    path.write_text(text + "design:\n  random:\n    configurations: 90\n")
    with pytest.raises(RecipeError, match=r"study\.yaml:7 design\.random\.configurations: these factors have 6"):
        Study.load(path, catalog=CATALOG)


# -- what a design cannot see ----------------------------------------------------------------------------


def test_aliases_of_four_runs_by_hand() -> None:
    # Runs: none, a b, a c, b c. The effect of a is (ab + ac) / 2 - (none + bc) / 2: of bc alone it has -1 of the
    # interaction of b and c, which is half the difference of b's effect with and without c.
    found = facts(study("abc", "plackett_burman"))
    assert found.aliases == {
        "a": {"b x c": pytest.approx(-1)},
        "b": {"a x c": pytest.approx(-1)},
        "c": {"a x b": pytest.approx(-1)},
    }
    assert found.correlations == ()
    assert "the most: a with -1 b x c" in found.notes[0]


def test_twelve_runs_share_each_interaction_out_in_thirds() -> None:
    found = facts(study(LETTERS[:11], "plackett_burman"))
    weights = [abs(weight) for aliases in found.aliases.values() for weight in aliases.values()]
    assert len(weights) == 11 * 45  # each effect holds those of the ten other factors
    assert weights == pytest.approx([1 / 3] * 495)
    assert alias_text(found.aliases["a"], most=1).endswith("and 44 more")


@pytest.mark.parametrize(
    "design",
    [
        {"plackett_burman": {"fold_over": True}},
        {"fractional_factorial": {"resolution": 3, "fold_over": True}},
        "fractional_factorial",
        "factorial",
    ],
)
def test_designs_whose_main_effects_are_free_of_interactions(design: object) -> None:
    found = facts(study("abcde", design))
    assert (found.aliases, found.correlations) == ({}, ())
    assert found.notes == ("Main effects are free of interactions of two.",)


def test_a_full_factorial_of_several_levels_is_free_of_interactions_and_a_part_of_it_does_not_say() -> None:
    factors = [*"ab", {"c": {"x": {"values": [1, 2]}}}]
    assert facts(study(factors, "factorial")).notes == ("Main effects are free of interactions of two.",)
    assert "is not computed" in facts(study(factors, {"factorial": {"configurations": 6}})).notes[-1]


def test_generators_and_resolution_are_reported() -> None:
    found = facts(study("abcde", {"fractional_factorial": {"resolution": 3}}))
    assert (found.resolution, found.generators) == (3, ("d = -a x b", "e = -a x c"))
    assert set(found.aliases["d"]) == {"a x b"}
    assert found.aliases["d"]["a x b"] == pytest.approx(-1)
    folded = facts(study("abcde", {"fractional_factorial": {"resolution": 3, "fold_over": True}}))
    assert (folded.resolution, folded.configurations) == (4, 16)


def test_what_left_out_combinations_cost_is_said() -> None:
    # Of the four settings of owner and rival three are left: the columns (0,0,1) and (0,1,0) correlate by -1/2.
    of = study(["owner", "rival"], "factorial")
    found = facts(of)
    assert [(c.levels, c.correlation) for c in found.correlations] == [(("owner", "rival"), pytest.approx(-0.5))]
    assert found.notes[0].startswith("1 combination cannot be run, and the effects are not estimated independently")
    assert found.aliases == {"owner": {"owner x rival": -1.0}, "rival": {"owner x rival": -1.0}}


def test_factors_that_the_kept_configurations_cannot_tell_apart_are_named() -> None:
    # needy is on only beside a, and only with it: of none, a needy, a b and needy b the last is left out.
    of = study(["a", "needy", "b"], "plackett_burman")
    assert names(of) == ["baseline", "a + needy", "a + b"]
    notes = facts(of).notes
    assert notes[0].startswith("There is no estimate for a: the configurations that were run do not tell it apart")
    assert not any("free of interactions" in note for note in notes)
    alone = study(["needy", "b"], "plackett_burman")
    assert facts(alone).notes[0] == "needy is on in no configuration that can be run: nothing is said of it."


def test_facts_are_plain_json() -> None:
    of = study(["owner", "rival", "a"], "factorial")
    given = json.loads(json.dumps(facts(of).to_dict()))
    assert given["left_out"] == 2
    assert given["correlations"][0] == {"levels": ["owner", "rival"], "correlation": pytest.approx(-0.5)}
    assert facts_of(design_of(of.to_dict()), levels(of), 2) == facts(of)


# -- the effects -----------------------------------------------------------------------------------------


def effects(of: Study, means: Mapping[str, float], noise: float = 0.0, seeds: int = 4) -> dict[str, Effect]:
    rng = np.random.default_rng(0)
    blocks = rng.normal(0, 0.03, seeds)
    values = {(name, s): mean + blocks[s] + noise * rng.normal() for name, mean in means.items() for s in range(seeds)}
    contest = Contest(levels(of), values, [], True, 0.05, of.design.contrasts)
    return {effect.name: effect for effect in level_effects(contest)}


TRUE = {"a": 0.05, "b": -0.03, "c": 0.0, "d": 0.02, "e": -0.01}


def additive(of: Study) -> dict[str, float]:
    return {
        c.name: 0.8 + sum(TRUE[factor] for factor, label in c.levels.items() if label != "off")
        for c in of.configurations
    }


@pytest.mark.parametrize(
    "design",
    [
        "leave_one_out",
        "plackett_burman",
        "orthogonal_array",
        {"plackett_burman": {"fold_over": True}},
        {"fractional_factorial": {"resolution": 3}},
        {"fractional_factorial": {"resolution": 5}},
        {"random": {"configurations": 9}},
        {"factorial": {"configurations": 10}},
        "factorial",
    ],
)
def test_additive_effects_are_found_exactly_without_noise(design: object) -> None:
    of = study("abcde", design)
    found = effects(of, additive(of))
    assert {name: effect.estimate for name, effect in found.items()} == pytest.approx(TRUE)


def test_effects_agree_with_ordinary_least_squares_of_statsmodels() -> None:
    # The estimates are those of main effects and blocks alone; the residual is what varies from seed to seed, so its
    # standard error is that of the model with a parameter for each configuration.
    formula = pytest.importorskip("statsmodels.formula.api")
    pandas = pytest.importorskip("pandas")
    of = study("abcde", {"random": {"configurations": 9}})
    rng = np.random.default_rng(3)
    means = {name: mean + rng.normal(0, 0.01) for name, mean in additive(of).items()}  # and they are not additive
    values = {(name, seed): means[name] + 0.02 * seed + rng.normal(0, 0.01) for name in means for seed in range(3)}
    found = {
        effect.name: effect
        for effect in level_effects(Contest(levels(of), values, [], True, 0.05, of.design.contrasts))
    }
    rows = [
        {"value": value, "seed": f"s{seed}", "cell": name} | {f: float(x != "off") for f, x in levels(of)[name].items()}
        for (name, seed), value in values.items()
    ]
    frame = pandas.DataFrame(rows)
    main = formula.ols("value ~ a + b + c + d + e + C(seed)", frame).fit()
    saturated = formula.ols("value ~ C(cell) + C(seed)", frame).fit()
    for name, effect in found.items():
        assert effect.estimate == pytest.approx(main.params[name])
        scale = np.sqrt(saturated.mse_resid / main.mse_resid)
        assert effect.standard_error == pytest.approx(main.bse[name] * scale)


def test_intervals_of_a_plackett_burman_design_hold_the_true_effects() -> None:
    # 400 studies of five effects: 95 % of the intervals; within a study they share a residual, so 3 sigma is about 2 %.
    of = study("abcde", "plackett_burman")
    means, names = additive(of), list(levels(of))
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        blocks = rng.normal(0, 0.03, 3)
        values = {(name, s): means[name] + blocks[s] + rng.normal(0, 0.01) for name in names for s in range(3)}
        for effect in level_effects(Contest(levels(of), values, [], True, 0.05, of.design.contrasts)):
            assert effect.ci is not None
            held += effect.ci[0] <= TRUE[effect.name] <= effect.ci[1]
    assert held / 2000 == pytest.approx(0.95, abs=0.02)


def test_an_interaction_fools_a_plackett_burman_design_by_its_alias_and_not_its_fold_over() -> None:
    # a and b together gain 0.04: half of that is their interaction, and c holds -1 of it in four runs.
    for fold_over, expected in ((False, -0.02), (True, 0.0)):
        of = study("abc", {"plackett_burman": {"fold_over": fold_over}})
        means = {name: 0.8 + 0.04 * (of_it["a"] != "off" and of_it["b"] != "off") for name, of_it in levels(of).items()}
        found = effects(of, means)
        assert found["c"].estimate == pytest.approx(expected)
        assert found["a"].estimate == pytest.approx(0.02)  # 0 without b, 0.04 with it


def test_twelve_runs_tell_eleven_effects_far_more_precisely_than_an_ablation_does() -> None:
    # 12 configurations each: 2 / sqrt(12) of a cell's deviation against sqrt(2).
    errors = []
    for design in ("plackett_burman", "ablation"):
        of = study(LETTERS[:11], design)
        weights = of.design.contrasts(levels(of), levels(of))[0].weights
        assert len(of.configurations) == 12
        errors.append(np.linalg.norm(list(weights.values())))
    assert errors == pytest.approx([2 / np.sqrt(12), np.sqrt(2)])


def test_leave_one_out_estimates_the_contribution_to_the_full_set() -> None:
    of = study("ab", "leave_one_out")  # with two factors, the full set without b is a alone
    means = {"baseline": 0.5, "a": 0.6, "b": 0.7, "a + b": 0.75}
    found = effects(of, means)
    assert {name: effect.estimate for name, effect in found.items()} == pytest.approx({"a": 0.05, "b": 0.15})
    assert {effect.estimand for effect in found.values()} == {"contribution to the full set"}


def test_a_configuration_that_never_finished_is_fitted_around_and_said() -> None:
    of = study("abc", {"plackett_burman": {"fold_over": True}})
    means = additive(of)
    del means["a + b"]
    found = effects(of, means)
    assert found["b"].estimate == pytest.approx(TRUE["b"])
    assert found["b"].note.startswith("1 of 8 configurations have no finished cell and are not in it")


def test_effects_that_cannot_be_told_apart_have_no_estimate() -> None:
    # Of none, a b, a c and b c without the last two: a and b are always on together, c never.
    of = study("abc", "plackett_burman")
    means = additive(of)
    found = effects(of, {name: means[name] for name in ("baseline", "a + b")})
    assert [effect.estimate for effect in found.values()] == [None, None, None]
    assert "do not tell it apart from the other factors" in found["a"].note
    assert "no cell of it finished" in found["c"].note


def test_a_trick_that_needs_another_is_estimated_from_what_is_left() -> None:
    of = study(["a", "needy", "b"], {"plackett_burman": {"fold_over": True}})
    assert len(of.left_out) == 2
    rows = {name: 0.8 + 0.1 * (x["a"] != "off") + 0.02 * (x["needy"] != "off") for name, x in levels(of).items()}
    found = effects(of, rows)
    assert {name: effect.estimate for name, effect in found.items()} == pytest.approx({"a": 0.1, "needy": 0.02, "b": 0})
