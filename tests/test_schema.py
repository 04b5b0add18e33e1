"""The JSON Schema of recipes and steps: it accepts and refuses what they do, and knows anyone's tricks."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field

from finetricks import Recipe, RecipeError, Trick, hookimpl
from finetricks.catalog import Catalog, Entry, installed
from finetricks.pipeline import Pipeline
from finetricks.schema import recipe_schema, summary

EXAMPLES = Path(__file__).parent.parent / "examples" / "literature"
LITERATURE = [file for file in sorted(EXAMPLES.glob("*.yaml")) if "factors" not in yaml.safe_load(file.read_text())]


class Warm(BaseModel):
    model_config = ConfigDict(extra="forbid")
    steps: int = 3


class Slope(Trick):
    """Falls from the first step on.

    Source: this test.
    """

    floor: Annotated[float, Field(ge=0, lt=1, description="Where it ends.")] = 0.0
    warm: Warm = Warm()

    @hookimpl
    def schedule(self) -> float:
        return 1.0


class Needs(Trick):
    """Cannot do without a value."""

    value: int

    @hookimpl
    def freeze(self) -> list[str]:
        return []


class Odd:
    """Of no use to JSON Schema."""


class Strange(Trick):
    """Has a field of a type that no schema describes."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    odd: Odd | None = None

    @hookimpl
    def build(self) -> None:
        return None


CATALOG = Catalog({"bad": Entry("bad", "their-tricks", "1", "no_such_module:Bad")}).with_classes(
    [Slope, Needs, Strange]
)


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return recipe_schema(CATALOG)


def test_it_is_a_schema(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"model": "minilm", "data": {"train": "stdlib_docstrings"}},
        {"data": {"train": "x", "valid": 0.2, "text": ["a", "b"], "label": ["l1", "l2"]}},
        {"training": {"epochs": 0.5, "evaluate": 10, "max_length": None, "betas": [0.9, 0.99]}},
        {"tricks": ["slope", "strange", {"needs": {"value": 3}}]},
        {"tricks": [{"slope": None}]},
        {"tricks": [{"slope": {"floor": 0.5, "warm": {"steps": 4}}}]},
        {"layers": {"embeddings": ["bert.embeddings"], "head": ["classifier"]}},
    ],
)
def test_what_a_recipe_accepts_it_accepts(recipe: dict[str, Any], schema: dict[str, Any]) -> None:
    Recipe(**recipe, catalog=CATALOG)
    Draft202012Validator(schema).validate(recipe)


@pytest.mark.parametrize(
    "recipe",
    [
        {"trick": []},
        {"data": {}},
        {"data": {"train": "x", "valid": 1.5}},
        {"training": {"epochs": 0}},
        {"training": {"optimizer": "lion"}},
        {"tricks": ["slop"]},
        {"tricks": ["bad"]},
        {"tricks": ["needs"]},
        {"tricks": [{"slope": {"floor": 1.0}}]},
        {"tricks": [{"slope": {"warm": {"step": 4}}}]},
        {"tricks": [{"slope": None, "needs": {"value": 1}}]},
        {"layers": {"head": "classifier"}},
    ],
)
def test_what_a_recipe_refuses_it_refuses(recipe: dict[str, Any], schema: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        Recipe(**recipe, catalog=CATALOG) if "trick" not in recipe else Recipe.from_document(_document(recipe), CATALOG)
    assert not Draft202012Validator(schema).is_valid(recipe)


LSTM = {"new_lstm": {"corpus": "corpus.txt", "layers": 2}}


@pytest.mark.parametrize(
    ("steps", "fits"),
    [
        ({"lstm": LSTM, "first": {"model": {"step": "lstm"}, "data": {"train": "x"}, "tricks": ["slope"]}}, True),
        ({"first": {"model": "minilm", "data": {"train": "x"}}}, True),
        ({}, False),
        ({"first": {"model": {"stop": "lstm"}}}, False),
        ({"first": {"model": "minilm", "tricks": ["slop"]}}, False),
        ({"lstm": {"new_lstm": {"layers": 2}}}, False),
        ({"lstm": LSTM | {"model": "minilm"}}, False),
    ],
)
def test_it_knows_a_file_of_steps(steps: dict[str, Any], fits: bool, schema: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a text\n")
    file = tmp_path / "steps.yaml"
    file.write_text(yaml.safe_dump({"steps": steps}, sort_keys=False))
    with nullcontext() if fits else pytest.raises(RecipeError):
        Pipeline.load(file, catalog=CATALOG)
    assert Draft202012Validator(schema).is_valid({"steps": steps}) == fits


def test_steps_stand_alone(schema: dict[str, Any]) -> None:
    assert not Draft202012Validator(schema).is_valid({"steps": {"lstm": LSTM}, "model": "minilm"})


@pytest.mark.parametrize("file", LITERATURE, ids=lambda file: file.stem)
def test_a_file_of_the_literature_fits(file: Path) -> None:
    Draft202012Validator(recipe_schema(installed())).validate(yaml.safe_load(file.read_text()))


def _document(data: dict[str, Any]) -> Any:
    from finetricks.yaml_file import Document

    return Document(data)


def test_editors_find_the_words_to_show(schema: dict[str, Any]) -> None:
    (_, with_values) = schema["properties"]["tricks"]["items"]["anyOf"]
    assert with_values["properties"]["slope"]["description"] == "Falls from the first step on."
    floor = schema["$defs"]["tricks.slope"]["properties"]["floor"]
    assert floor["description"] == "Where it ends."
    assert (floor["minimum"], floor["exclusiveMaximum"], floor["default"]) == (0, 1, 0.0)
    assert "epochs" in schema["$defs"]["training"]["properties"]


def test_the_summary_is_the_first_line() -> None:
    assert summary(Slope) == "Falls from the first step on."
