"""The plan of each configuration as a picture, kept in the study's folder: a report is made without model and data."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from finetricks.errors import in_words

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from finetricks.tasks import Task
    from finetricks_tuning.configurations import Configuration
    from finetricks_tuning.study import Study

logger = logging.getLogger(__name__)

FOLDER = "plans"
MOST = 24
"""Configurations whose plan is drawn: each takes as long as loading the model."""


def draw_plans(
    study: Study,
    configurations: Iterable[Configuration],
    rates: Mapping[str, float],
    tasks: Mapping[str, Task],
    folder: Path,
    *,
    finished: Collection[str],
) -> None:
    """Draw the plans that are not yet drawn. What cannot be drawn is left out: its cells say why.

    Args:
        finished: names of the configurations that have a finished cell. Others may hold a trick that ends the process
            or hangs, and it would be this one.
        rates: the learning rate of each configuration that has one of its own.
        tasks: by `task_key`.
    """
    from finetricks.picture import save_picture
    from finetricks.runner import plan_of
    from finetricks_tuning.cell import task_key

    for index, configuration in enumerate(configurations):
        path = plan_path(folder, index)
        if index >= MOST or path.exists() or configuration.name not in finished:
            continue
        recipe = configuration.recipe(study.recipe, study.settings.seeds[0], rates.get(configuration.name))
        try:
            save_picture(plan_of(recipe, tasks[task_key(recipe)]), path)
        except Exception as error:  # a trick may raise anything
            logger.warning("the plan of %s is not drawn: %s", configuration.name, in_words(error))


def plan_path(folder: Path, index: int) -> Path:
    """Where the plan of the configuration with this number is drawn."""
    return folder / FOLDER / f"{index}.svg"


def read_plan(folder: Path, index: int) -> bytes:
    """The picture; empty where there is none."""
    try:
        return plan_path(folder, index).read_bytes()
    except OSError:
        return b""
