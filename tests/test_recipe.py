"""Recipes: YAML and Python equal in power, checked as a whole, every error with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from finetricks import InputFile, Progress, Recipe, RecipeError, Trick, hookimpl, installed
from finetricks.streams import Streams
from finetricks.trick import input_files
from finetricks.yaml_file import parse_yaml


class Flat(Trick):
    """A constant factor."""

    factor: Annotated[float, Field(gt=0, le=1)] = 0.5

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        return self.factor


class Steep(Flat):
    """Another owner of the schedule."""


CATALOG = installed().with_classes([Flat, Steep])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.csv").write_text("text,label\na,1\nb,2\n")
    return tmp_path


def load(folder: Path, text: str, *overrides: str) -> Recipe:
    (folder / "recipe.yaml").write_text(text)
    return Recipe.load(folder / "recipe.yaml", overrides, CATALOG)


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as error:
        load(folder, text, *overrides)
    return [str(problem) for problem in error.value.problems]


def test_yaml_and_python_say_the_same(folder: Path) -> None:
    from_yaml = load(
        folder,
        "model: minilm\ndata: {train: train.csv, valid: 0.2}\ntraining: {epochs: 2, learning_rate: 2e-4}\n"
        "tricks:\n  - flat: {factor: 0.25}\n",
    )
    in_python = Recipe(
        model="minilm",
        data={"train": str(folder / "train.csv"), "valid": 0.2},
        training={"epochs": 2, "learning_rate": 2e-4},
        tricks=[Flat(factor=0.25)],
        catalog=CATALOG,
    )
    assert from_yaml == in_python
    assert from_yaml.fingerprint == in_python.fingerprint
    assert from_yaml.training.learning_rate == 2e-4
    assert from_yaml.tricks == (("flat", Flat(factor=0.25)),)


def test_the_resolved_recipe_reads_back_as_itself(folder: Path) -> None:
    recipe = load(folder, "model: minilm\ndata: {train: train.csv}\ntricks: [flat]\n")
    again = Recipe.from_document(parse_yaml(recipe.to_yaml()), CATALOG)
    assert again == recipe
    assert recipe.to_dict()["data"]["train"] == str(folder / "train.csv")
    assert recipe.to_dict()["tricks"] == [{"flat": {"factor": 0.5}}]


def test_all_errors_are_shown_at_once_each_with_its_place(folder: Path) -> None:
    found = problems(
        folder,
        "model: ./nowhere\n"
        "data:\n"
        "  train: absent.csv\n"
        "  valid: 1.5\n"
        "training:\n"
        "  epoch: 3\n"
        "  batch_size: -1\n"
        "  optimizer: adamx\n"
        "tricks:\n"
        "  - flatt\n"
        "  - flat: {factor: 2}\n"
        "  - steep: {facto: 0.1}\n"
        "trick: []\n",
    )
    assert found == [
        "recipe.yaml:13 trick: unknown key 'trick' (did you mean 'tricks'?); "
        "the keys are model, data, training, tricks, layers",
        f"recipe.yaml:1 model: no such folder: {folder / 'nowhere'}",
        f"recipe.yaml:3 data.train: no such file: {folder / 'absent.csv'}",
        "recipe.yaml:4 data.valid: input should be a valid string or input should be less than 1, got 1.5",
        "recipe.yaml:6 training.epoch: unknown key 'epoch' (did you mean 'epochs'?); the keys are "
        + ", ".join(type(Recipe().training).model_fields),
        "recipe.yaml:7 training.batch_size: input should be greater than 0, got -1",
        "recipe.yaml:8 training.optimizer: input should be 'adamw' or 'sgd', got 'adamx'",
        "recipe.yaml:10 tricks.0.flatt: unknown trick 'flatt' (did you mean 'flat'?); "
        "`finetricks list` shows what is installed",
        "recipe.yaml:11 tricks.1.flat.factor: input should be less than or equal to 1, got 2",
        "recipe.yaml:12 tricks.2.steep.facto: unknown key 'facto' (did you mean 'factor'?); the keys are factor",
    ]


def test_a_missing_file_and_a_missing_key_are_named(folder: Path) -> None:
    assert problems(folder, "data:\n  train: absent.csv\n") == [
        f"recipe.yaml:2 data.train: no such file: {folder / 'absent.csv'}"
    ]
    (missing,) = problems(folder, "model: minilm\ndata:\n  valid: 0.1\n")
    assert missing.startswith("recipe.yaml:2 data.train: is missing: A file (.csv")


def test_two_owners_are_refused_before_anything_is_loaded(folder: Path) -> None:
    assert problems(folder, "tricks: [flat, steep]\n") == [
        "recipe.yaml:1 tricks: flat and steep both own the 'schedule' hook; pick one"
    ]
    assert "stands twice" in problems(folder, "tricks: [flat, flat]\n")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "a recipe is a mapping with the keys"),
        ("tricks: flat", "a list such as"),
        ("tricks: [{flat: 1}]", "a trick's name, or one name with its values"),
        ("tricks: [{flat: {}, steep: {}}]", "a trick's name, or one name with its values"),
        ("training: 3", "a mapping with the keys epochs"),
        ("model: 3", "a Hub name, a local folder"),
        ("layers: [a]", "layer names, each with a list of module names"),
    ],
)
def test_wrong_shapes_are_explained(folder: Path, text: str, message: str) -> None:
    assert any(message in problem for problem in problems(folder, text))


def test_paths_are_relative_to_what_names_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "other.csv").write_text("text,label\n")
    monkeypatch.chdir(elsewhere)
    assert load(folder, "data: {train: train.csv}").data.train == str(folder / "train.csv")
    assert load(folder, "data: {train: train.csv}", "data.train=other.csv").data.train == str(elsewhere / "other.csv")
    assert load(folder, "data: {train: imdb}").data.train == "imdb"  # a data set's name


def test_an_override_out_of_range_is_placed_on_the_command_line(folder: Path) -> None:
    assert problems(folder, "training: {epochs: 1}\n", "training.epochs=0") == [
        "--set training.epochs: input should be greater than 0, got 0"
    ]


def test_the_fingerprint_is_of_what_determines_the_result() -> None:
    base = Recipe(tricks=[Flat()], catalog=CATALOG)
    assert base.fingerprint == Recipe(tricks=["flat"], training={"checkpoint": 10}, catalog=CATALOG).fingerprint
    assert base.fingerprint != Recipe(tricks=[Flat(factor=0.1)], catalog=CATALOG).fingerprint
    assert base.fingerprint != Recipe(tricks=[Flat()], training={"seed": 1}, catalog=CATALOG).fingerprint


def test_the_fingerprint_of_a_set_does_not_depend_on_its_order() -> None:
    # The order in which a set is gone through is drawn anew in each process; of numbers it is that of insertion.
    class Chosen(Trick):
        """Names layers, in no order."""

        layers: frozenset[int]

        @hookimpl
        def freeze(self) -> tuple[str, ...]:
            return ()

    one, other = (Recipe(tricks=[Chosen(layers=frozenset(order))]) for order in ([0, 8], [8, 0]))
    assert list(one.tricks[0][1].layers) != list(other.tricks[0][1].layers)
    assert one.fingerprint == other.fingerprint


def test_streams_can_be_set_one_by_one() -> None:
    assert Recipe(training={"seed": 3}).streams == Streams.derive(3)
    changed = Recipe(training={"seed": 3, "data_seed": 4}).streams
    assert changed.init == Streams.derive(3).init
    assert changed.dropout == Streams.derive(3).dropout
    assert changed.data == Streams.derive(4).data


class Corpus(Trick):
    """Names a file."""

    corpus: InputFile | None = None

    @hookimpl
    def finish(self, model: Any) -> None:
        pass


def test_a_file_that_a_trick_names_is_relative_to_the_recipe(tmp_path: Path) -> None:
    catalog = installed().with_classes([Corpus])
    path = tmp_path / "recipe.yaml"
    path.write_text("model: minilm\ndata: {train: stdlib_docstrings}\ntricks: [{corpus: {corpus: text.txt}}]\n")
    with pytest.raises(RecipeError, match=r"recipe.yaml:3 .*no such file: .*text\.txt"):
        Recipe.load(path, catalog=catalog)
    (tmp_path / "text.txt").write_text("a line\n")
    resolved = Recipe.load(path, catalog=catalog).to_dict()
    assert resolved["tricks"] == [{"corpus": {"corpus": str(tmp_path / "text.txt")}}]
    assert input_files(Recipe.load(path, catalog=catalog).tricks[0][1]) == [str(tmp_path / "text.txt")]
    (tmp_path / "text.txt").unlink()
    assert Recipe(tricks=resolved["tricks"], catalog=catalog).tricks  # read again to load a run: it may be gone


def test_a_file_on_the_command_line_is_relative_to_where_the_command_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = installed().with_classes([Corpus])
    (tmp_path / "there").mkdir()
    (tmp_path / "text.txt").write_text("a line\n")
    path = tmp_path / "there" / "recipe.yaml"
    path.write_text("model: minilm\ndata: {train: stdlib_docstrings}\ntricks: [{corpus: {corpus: text.txt}}]\n")
    monkeypatch.chdir(tmp_path)
    ((_, trick),) = Recipe.load(path, ["tricks.corpus.corpus=text.txt"], catalog=catalog).tricks
    assert input_files(trick) == [str(tmp_path / "text.txt")]
    with pytest.raises(RecipeError, match="no such file: .*there/text.txt"):
        Recipe.load(path, catalog=catalog)


def test_groups_of_like_length_have_an_order_of_their_own() -> None:
    with pytest.raises(RecipeError, match="training.group_by_length.*not with streams: none.*use streams: derived"):
        Recipe(training={"group_by_length": True, "streams": "none"})
    for grouped, strategy in ((True, "group_by_length"), (False, "random")):
        recipe = Recipe(training={"group_by_length": grouped})
        assert recipe.training_arguments("out", use_cpu=True).train_sampling_strategy == strategy
