"""Every trick, and random recipes of several: a run that is killed and resumed equals one that was left alone."""

from __future__ import annotations

import functools
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import every
import killing
from every import CASES
from finetricks import Recipe, installed
from finetricks.stack import conflicts

INERT = {"full"}
"""What says no more than the default does."""
KILLS = 2
RECIPES, RECIPES_AT_NIGHT = 16, 240

Record = Callable[[str, object], None]


def recipe(*names: str) -> Recipe:
    return every.recipe(*names, evaluate=2, checkpoint=2)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    killing.warm_up()


@functools.cache
def untouched(names: tuple[str, ...]) -> dict[str, object]:
    """What is left of a run without tricks on the model and the data of these."""
    with tempfile.TemporaryDirectory() as folder:
        killing.whole(recipe(), names, Path(folder) / "run")
        return killing.state(Path(folder) / "run")


def left_alone(names: tuple[str, ...], folder: Path) -> tuple[list[killing.Place], dict[str, object]]:
    """The places that a run passes and what it leaves, once it is sure that its tricks changed something."""
    places = killing.whole(recipe(*names), names, folder)
    expected = killing.state(folder)
    if not set(names) <= INERT:
        assert expected["model"] != untouched(names)["model"], "its tricks changed nothing"
    return places, expected


def ends_as(expected: dict[str, object], names: tuple[str, ...], folder: Path) -> None:
    """Go on with what is in `folder`: the end is that of the run that was left alone, bit for bit."""
    killing.resumed(recipe(*names), names, folder)
    assert killing.differences(killing.state(folder), expected) == []


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_trick_survives_a_kill_in_each_of_its_stages(name: str, tmp_path: Path, record_property: Record) -> None:
    places, expected = left_alone((name,), tmp_path / "whole")
    draw = random.Random(name)
    kinds = sorted(set(places), key=lambda place: (place.what, place.stage))
    for number, kind in enumerate(kinds):
        at = draw.choice([index for index, place in enumerate(places) if place == kind])
        assert killing.killed(recipe(name), (name,), tmp_path / str(number), at)
        ends_as(expected, (name,), tmp_path / str(number))
    record_property("survived kills", len(kinds))
    record_property("recipes killed", 1)


def random_recipe(draw: random.Random) -> tuple[str, ...]:
    while True:
        names = tuple(draw.sample(sorted(CASES), draw.randint(2, 5)))
        models = set.intersection(*(set(CASES[name].models) for name in names))
        tricks = [(name, installed().get(name)(**every.values_of(name, *names))) for name in names]
        if models and not conflicts(tricks):
            return names


NUMBERS = [
    pytest.param(number, marks=[pytest.mark.nightly] if number >= RECIPES else []) for number in range(RECIPES_AT_NIGHT)
]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_random_recipe_survives_kills_one_after_another(number: int, tmp_path: Path, record_property: Record) -> None:
    draw = random.Random(number)
    names = random_recipe(draw)
    places, expected = left_alone(names, tmp_path / "whole")
    at = [killing.chosen(places, draw) for _ in range(KILLS)]
    kills = [killing.killed(recipe(*names), names, tmp_path / "killed", place) for place in at]
    ends_as(expected, names, tmp_path / "killed")
    record_property("survived kills", sum(kills))
    record_property("recipes killed", 1)
