"""Several data sets in one study: the same comparison on each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from finetricks.errors import Problem, RecipeError, quoted
from finetricks.recipe import Recipe
from finetricks.yaml_file import Document

FOLDER = "data_sets"
"""Within a study's folder: a study's folder for each data set."""

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
"""A data set's name is a folder's name."""


def read_data_sets(given: Any, recipe: Recipe, document: Document, problems: list[Problem]) -> dict[str, Recipe]:
    """The recipe with each data set in turn; none where the study names none.

    Args:
        given: by name, the keys of the recipe's `data` that differ.
        document: the study, for places and relative paths.
        problems: where problems are noted.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or len(given) < 2:
        problems.append(Problem(document.place((FOLDER,)), f"at least two, as {{name: data}}; got {quoted(given)}"))
        return {}
    recipes = {}
    for name, data in given.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            told = f"a name of letters, digits, dots and dashes: it names a folder; got {quoted(name)}"
            problems.append(Problem(document.place((FOLDER, name)), told))
        elif not isinstance(data, Mapping):
            told = f"keys of a recipe's `data`, e.g. {{train: questions.csv}}; got {quoted(data)}"
            problems.append(Problem(document.place((FOLDER, name)), told))
        else:
            try:
                recipes[name] = _with_data(recipe, data, document)
            except RecipeError as error:
                for problem in error.problems:
                    key = tuple(problem.place.split(" ")[-1].split(".")[1:])
                    problems.append(Problem(document.place((FOLDER, name, *key)), problem.message))
    return recipes


def _with_data(recipe: Recipe, data: Mapping[str, Any], document: Document) -> Recipe:
    own = recipe.data.model_dump(exclude_unset=True) if recipe.data else {}
    given = {
        "model": recipe.model,
        "data": own | dict(data),
        "training": recipe.training.model_dump(),
        "tricks": [trick for _, trick in recipe.tricks],
        "layers": recipe.layers,
    }
    return Recipe.from_document(Document(given, document.path), recipe.catalog)
