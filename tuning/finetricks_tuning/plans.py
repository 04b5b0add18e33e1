"""The plan of each configuration as a picture, kept in the study's folder: a report is made without model and data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finetricks.errors import FinetricksError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from finetricks.tasks import Task
    from finetricks_tuning.configurations import Configuration
    from finetricks_tuning.study import Study

FOLDER = "plans"
MOST = 24
"""Configurations whose plan is drawn: each takes as long as loading the model."""


def draw_plans(
    study: Study,
    configurations: Iterable[Configuration],
    rates: Mapping[str, float],
    tasks: Mapping[str, Task],
    folder: Path,
) -> None:
    """Draw the plans that are not yet drawn. What cannot be drawn is left out: its cells say why.

    Args:
        rates: the learning rate of each configuration that has one of its own.
        tasks: by `task_key`.
    """
    from finetricks.picture import save_picture
    from finetricks.runner import plan_of
    from finetricks_tuning.cell import task_key

    for index, configuration in enumerate(configurations):
        path = plan_path(folder, index)
        if index >= MOST or path.exists():
            continue
        recipe = configuration.recipe(study.recipe, study.settings.seeds[0], rates.get(configuration.name))
        try:
            save_picture(plan_of(recipe, tasks[task_key(recipe)]), path)
        except (FinetricksError, OSError, ValueError, RuntimeError):
            continue


def plan_path(folder: Path, index: int) -> Path:
    """Where the plan of the configuration with this number is drawn."""
    return folder / FOLDER / f"{index}.svg"


def read_plan(folder: Path, index: int) -> bytes:
    """The picture; empty where there is none."""
    try:
        return plan_path(folder, index).read_bytes()
    except OSError:
        return b""
