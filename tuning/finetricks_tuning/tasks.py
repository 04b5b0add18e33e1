"""The tasks of a study's cells: texts are read and tokenised once, whatever lengths the cells cut them to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from finetricks_tuning.cell import task_key

if TYPE_CHECKING:
    from finetricks.recipe import Recipe
    from finetricks.tasks import Task


def task_for(recipe: Recipe, tasks: dict[str, Task], *, trust_remote_code: bool = False) -> Task:
    """The task of a recipe, from `tasks` (by `task_key`), to which it is added if it is missing there.

    Raises:
        InputError: the data or the model cannot be used.
    """
    from finetricks.runner import task_of

    key = task_key(recipe)
    if key not in tasks:
        twin = next((task for other, task in tasks.items() if _texts(other) == _texts(key)), None)
        length = recipe.training.max_length
        tasks[key] = twin.with_length(length, named=recipe.model) if twin else task_of(recipe, trust_remote_code)
    return tasks[key]


def _texts(key: str) -> list[object]:
    """Of a task's key what its tokens depend on: the model and the data."""
    model, data, _ = json.loads(key)
    return [model, data]
