"""The study file: factors, designs, configurations; every mistake at once, each with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
from pydantic import Field

from finetricks.catalog import Catalog
from finetricks.errors import RecipeError
from finetricks.hooks import hookimpl
from finetricks.progress import Progress
from finetricks.recipe import Recipe
from finetricks.trick import Trick
from finetricks_tuning.study import Study


class Stlr(Trick):
    """Owns the schedule."""

    ratio: Annotated[float, Field(gt=1)] = 32.0

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        return 1.0


class Cosine(Trick):
    """Owns the schedule too."""

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        return 0.5


class Decay(Trick):
    """Has a value to vary."""

    factor: Annotated[float, Field(ge=1)] = 2.6

    @hookimpl
    def freeze(self) -> list[str]:
        return []


class Needy(Trick):
    """Needs another."""

    requires: ClassVar[dict[str, str]] = {"decay": "it divides by its factor"}

    @hookimpl
    def freeze(self) -> list[str]:
        return []


CATALOG = Catalog({}).with_classes([Stlr, Cosine, Decay, Needy])
RECIPE = {"model": "minilm", "data": {"train": "stdlib_docstrings"}, "training": {"learning_rate": 2e-4}}
BASE_YAML = "model: minilm\ndata: {train: stdlib_docstrings}\ntraining:\n  learning_rate: 2.0e-4\n"
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a study file beside a base recipe."""
    (tmp_path / "base.yaml").write_text(BASE_YAML)

    def write(text: str) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return path

    return write


def study(factors: list[object], **settings: object) -> Study:
    return Study(recipe=RECIPE, factors=factors, catalog=CATALOG, **settings)  # type: ignore[arg-type]


def names(of: Study) -> list[str]:
    return [configuration.name for configuration in of.configurations]


def problems(of: Callable[[], object]) -> list[str]:
    with pytest.raises(RecipeError) as error:
        of()
    return [str(problem) for problem in error.value.problems]


# -- factors and designs ---------------------------------------------------------------------------------


def test_an_ablation_is_the_baseline_and_each_level_alone() -> None:
    found = study(["stlr", {"decay": {"factor": {"values": [1.3, 2.6]}}}])
    assert names(found) == ["baseline", "stlr", "decay(factor=1.3)", "decay(factor=2.6)"]
    assert found.configurations[0].levels == {"stlr": "off", "decay": "off"}
    assert found.configurations[3].levels == {"stlr": "off", "decay": "decay(factor=2.6)"}


def test_a_factorial_is_every_combination() -> None:
    found = study(["stlr", {"decay": {"factor": {"values": [1.3, 2.6]}}}], design="factorial")
    assert len(found.configurations) == 2 * 3
    assert names(found)[-1] == "stlr + decay(factor=2.6)"


def test_fixed_values_stand_in_the_name() -> None:
    found = study([{"stlr": {"ratio": 10}}])
    assert names(found) == ["baseline", "stlr(ratio=10)"]
    assert found.configurations[1].tricks == (("stlr", Stlr(ratio=10)),)


def test_one_of_is_one_factor_with_several_levels() -> None:
    found = study([{"one_of": ["stlr", "cosine"]}, "decay"], design="factorial")
    assert len(found.configurations) == 3 * 2
    assert found.left_out == ()
    assert found.factors[0].name == "stlr | cosine"


def test_conflicting_combinations_are_left_out_with_the_reason() -> None:
    found = study(["stlr", "cosine"], design="factorial")
    assert names(found) == ["baseline", "cosine", "stlr"]
    assert [(left.name, left.reason) for left in found.left_out] == [
        ("stlr + cosine", "cosine and stlr both own the 'schedule' hook; pick one")
    ]


def test_a_trick_that_needs_another_is_left_out_alone() -> None:
    found = study(["needy", "decay"], design="factorial")
    assert names(found) == ["baseline", "decay", "needy + decay"]
    assert found.left_out[0].reason == "needy needs decay: it divides by its factor"


def test_a_setting_is_off_at_the_recipes_own_value() -> None:
    found = study([{"training.learning_rate": {"values": [1e-4, 2e-4]}}])
    assert names(found) == ["baseline", "training.learning_rate=0.0001"]
    assert found.configurations[0].levels == {"training.learning_rate": "training.learning_rate=0.0002"}


def test_the_model_can_be_a_factor(tmp_path: Path, write: Write) -> None:
    (tmp_path / "other").mkdir()
    found = Study.load(write("recipe: base.yaml\nfactors:\n  - model: {values: [minilm, other]}\n"), catalog=CATALOG)
    assert found.configurations[1].recipe(found.recipe, 0).model == str(tmp_path / "other")


def test_a_configuration_makes_a_recipe_for_a_seed() -> None:
    found = study(["stlr", {"training.epochs": {"values": [5]}}], design="factorial")
    recipe = found.configurations[3].recipe(found.recipe, 7)
    assert [name for name, _ in recipe.tricks] == ["stlr"]
    assert (recipe.training.epochs, recipe.training.seed, recipe.training.learning_rate) == (5, 7, 2e-4)


def test_the_recipes_own_tricks_are_in_every_configuration() -> None:
    found = Study(recipe=RECIPE | {"tricks": [{"decay": {"factor": 2}}]}, factors=["stlr"], catalog=CATALOG)
    for configuration in found.configurations:
        assert ("decay", Decay(factor=2)) in configuration.recipe(found.recipe, 0).tricks


def test_a_trick_instance_is_a_factor() -> None:
    found = study([Stlr(ratio=10)])
    assert names(found) == ["baseline", "stlr(ratio=10)"]
    assert found.to_dict()["factors"] == [{"stlr": {"ratio": 10.0}}]


def test_an_instance_whose_class_no_catalog_knows_can_be_a_factor() -> None:
    found = Study(recipe=RECIPE, factors=[Stlr()], catalog=Catalog({}))
    assert found.catalog.get("stlr") is Stlr


def test_seeds_are_a_number_or_a_list() -> None:
    assert study(["stlr"], seeds=3).settings.seeds == (0, 1, 2)
    assert study(["stlr"], seeds=[7, 1]).settings.seeds == (7, 1)


def test_a_study_reads_back_from_its_own_yaml(write: Write) -> None:
    text = """\
recipe: base.yaml
factors:
  - stlr
  - decay: {factor: {values: [1.3, 2.6]}}
  - training.learning_rate: {values: [1.0e-4, 2.0e-4]}
design: factorial
seeds: 2
"""
    found = Study.load(write(text), catalog=CATALOG)
    again = Study.load(write(found.to_yaml()), catalog=CATALOG)
    assert again.to_dict() == found.to_dict()
    assert names(again) == names(found)


# -- overrides -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["base.yaml", "{model: minilm, data: {train: stdlib_docstrings}}"])
def test_overrides_reach_the_study_and_its_recipe(write: Write, recipe: str) -> None:
    path = write(f"recipe: {recipe}\nfactors: [stlr]\n")
    found = Study.load(path, ["seeds=2", "recipe.training.epochs=9", "factors.stlr.ratio=4"], CATALOG)
    assert found.settings.seeds == (0, 1)
    assert found.recipe.training.epochs == 9
    assert names(found) == ["baseline", "stlr(ratio=4)"]


def test_a_path_in_an_override_is_relative_to_where_the_command_is_run(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.csv").write_text("text,label\n")
    monkeypatch.chdir(tmp_path / "here")
    found = Study.load(write("recipe: base.yaml\nfactors: [stlr]\n"), ["recipe.data.train=mine.csv"], CATALOG)
    assert found.recipe.data is not None
    assert found.recipe.data.train == str(tmp_path / "here" / "mine.csv")


# -- mistakes --------------------------------------------------------------------------------------------


def test_every_mistake_is_shown_at_once_with_its_line(write: Write) -> None:
    path = write("""\
recipe: base.yaml
factors:
  - stlrr
  - decay: {factor: {values: [1.3, 0.6]}}
  - cosine: {x: 1}
  - training.learning_rat: {values: [1.0e-4]}
  - training.epochs: {values: [-1]}
design: factoral
sees: 2
seeds: 0
metric: acuracy
""")
    found = problems(lambda: Study.load(path, ["recipe.training.batch_size=none"], CATALOG))
    expected = [
        ("--set recipe.training.batch_size", "got 'none'"),
        ("study.yaml:3 factors.0.stlrr", "unknown trick 'stlrr' (did you mean 'stlr'?)"),
        ("study.yaml:4 factors.1.decay.factor.values.1", "greater than or equal to 1, got 0.6"),
        ("study.yaml:5 factors.2.cosine.x", "unknown key 'x'"),
        ("study.yaml:6 factors.3", "(did you mean 'training.learning_rate'?)"),
        ("study.yaml:8 design", "did you mean 'factorial'?"),
        ("study.yaml:9 sees", "unknown key 'sees' (did you mean 'seeds'?)"),
        ("study.yaml:10 seeds", "a number of seeds, at least 1, or a list of them, got 0"),
        ("study.yaml:11 metric", "did you mean 'accuracy'?"),
    ]
    assert len(found) == len(expected)
    for line, (place, message) in zip(found, expected, strict=True):
        assert line.startswith(place)
        assert message in line


def test_a_setting_out_of_range_names_its_value(write: Write) -> None:
    path = write("recipe: base.yaml\nfactors:\n  - training.epochs: {values: [2, -1]}\n")
    (found,) = problems(lambda: Study.load(path, catalog=CATALOG))
    assert found == "study.yaml:3 factors.0.training.epochs.values.1: input should be greater than 0, got -1"


def test_a_factor_that_the_recipe_contains_is_an_error() -> None:
    recipe = RECIPE | {"tricks": ["stlr"]}
    (found,) = problems(lambda: Study(recipe=recipe, factors=["stlr"], catalog=CATALOG))
    assert "stlr is in the recipe already, so it is in every configuration" in found


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (["stlr", "stlr"], "stlr is a factor twice: here and as factor 1"),
        (["stlr", {"one_of": ["cosine", "stlr"]}], "stlr is a factor twice"),
        ([{"decay": {"factor": {"values": [2, 2.0]}}}], "are the same; a level stands once"),
        ([{"decay": {"factor": {"values": []}}}], "`values` is a list of at least one value"),
        ([{"one_of": ["stlr"]}], "a list of at least two tricks"),
        ([{"one_of": ["stlr", {"training.epochs": {"values": [1]}}]}], "one_of is for tricks"),
        ([{"training.learning_rate": {"values": [2e-4]}}], "the only value is the recipe's own, 0.0002"),
        ([{"training.learning_rate": 2e-4}], "write it as training.learning_rate: {values: [...]}"),
        ([{"training.seed": {"values": [1]}}], "the study's own `seeds` vary it"),
        ([{"data.rows": {"values": [1]}}], "'data.rows' cannot be a factor"),
        ([3], "a trick's name"),
        ([], "a list of at least one factor"),
        (["needy"], "only the baseline can be run"),
    ],
)
def test_factors_that_cannot_be(factors: list[object], message: str) -> None:
    assert message in "\n".join(problems(lambda: study(factors)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": [1, 1]}, "a seed stands twice"),
        ({"seeds": []}, "a number of seeds, at least 1"),
        ({"seeds": [-1]}, "whole numbers of at least 0"),
        ({"seeds": "three"}, "a number of seeds, at least 1"),
        ({"alpha": 1.5}, "less than 1"),
        ({"cpus_per_cell": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    assert message in "\n".join(problems(lambda: study(["stlr"], **settings)))


def test_seeds_that_change_nothing_are_an_error() -> None:
    fixed = RECIPE | {"training": {"init_seed": 1, "data_seed": 1, "dropout_seed": 1}}
    (found,) = problems(lambda: Study(recipe=fixed, factors=["stlr"], catalog=CATALOG))
    assert "all seeds would be the same run" in found


def test_the_seed_of_one_stream_is_a_factor_while_the_seeds_vary_the_others() -> None:
    recipe = RECIPE | {"training": {"init_seed": 0, "dropout_seed": 0}}
    factors = [{"training.init_seed": {"values": [0, 1]}}]
    found = Study(recipe=recipe, factors=factors, seeds=2, catalog=CATALOG)
    assert names(found) == ["baseline", "training.init_seed=1"]
    streams = [c.recipe(found.recipe, seed).streams for c in found.configurations for seed in (0, 1)]
    assert [len({stream.init for stream in pair}) for pair in (streams[:2], streams[2:], streams[::2])] == [1, 1, 2]
    assert [len({stream.data for stream in pair}) for pair in (streams[:2], streams[2:], streams[::2])] == [2, 2, 1]
    assert len({stream.dropout for stream in streams}) == 1


def test_a_factor_that_leaves_the_seeds_nothing_to_vary_is_an_error() -> None:
    recipe = RECIPE | {"training": {"data_seed": 1, "dropout_seed": 1}}
    factors = [{"training.init_seed": {"values": [0, 1]}}]
    (found,) = problems(lambda: Study(recipe=recipe, factors=factors, catalog=CATALOG))
    assert "all seeds would be the same run" in found


def test_threads_are_given_once() -> None:
    recipe = RECIPE | {"training": {"threads": 2}}
    assert Study(recipe=recipe, factors=["stlr"], catalog=CATALOG).threads == 2
    (found,) = problems(lambda: Study(recipe=recipe, factors=["stlr"], cpus_per_cell=1, catalog=CATALOG))
    assert "give one of them" in found


def test_a_recipe_file_that_is_missing(write: Write) -> None:
    (found,) = problems(lambda: Study.load(write("recipe: bas.yaml\nfactors: [stlr]\n"), catalog=CATALOG))
    assert found.startswith("study.yaml:1 recipe: cannot read")
    assert "bas.yaml" in found


def test_a_recipe_without_model_or_data_is_no_study() -> None:
    found = problems(lambda: Study(recipe={}, factors=["stlr"], catalog=CATALOG))
    assert found == [
        "recipe: a study needs `model` in its recipe",
        "recipe: a study needs `data` in its recipe, or several under `data_sets`",
    ]


def test_a_study_without_recipe_or_factors(write: Write) -> None:
    found = problems(lambda: Study.load(write("design: ablation\n"), catalog=CATALOG))
    assert [line.split(" is missing")[0] for line in found] == ["study.yaml:1 factors:", "study.yaml:1 recipe:"]
    assert "a study is a mapping" in problems(lambda: Study.load(write("- stlr\n"), catalog=CATALOG))[0]


def test_the_recipes_own_mistakes_name_the_recipes_file(write: Write, tmp_path: Path) -> None:
    path = write("recipe: base.yaml\nfactors: [stlr]\n")
    (tmp_path / "base.yaml").write_text(BASE_YAML + "  epochs: none\n")
    (found,) = problems(lambda: Study.load(path, catalog=CATALOG))
    assert found.startswith("base.yaml:5 training.epochs")


def test_a_recipe_object_is_taken_as_it_is() -> None:
    recipe = Recipe(**RECIPE, catalog=CATALOG)  # type: ignore[arg-type]
    assert Study(recipe=recipe, factors=["stlr"], catalog=CATALOG).recipe is recipe
