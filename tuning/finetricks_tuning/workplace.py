"""What a process that runs cells keeps from one to the next, so that the next one starts at once."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetricks.recipe import Recipe
from finetricks_tuning.hygiene import Flags, clean, settle
from finetricks_tuning.tasks import task_for

if TYPE_CHECKING:
    from finetricks.catalog import Catalog
    from finetricks.tasks import Task
    from finetricks_tuning.cell_run import CellOrder
    from finetricks_tuning.worker import Plugins


class Workplace:
    """The tricks, the tokenised data, and the global switches as they were before the first cell.

    Args:
        tasks: by `task_key`, loaded already; others are loaded when a cell needs them.
    """

    def __init__(self, plugins: Plugins, tasks: Mapping[str, Task]) -> None:
        self._plugins = plugins
        self._tasks = dict(tasks)
        self._trust = any(task.trust_remote_code for task in tasks.values())
        self._folder = tempfile.TemporaryDirectory()
        self._flags = Flags.now()
        self._cells = 0

    def tidy(self) -> None:
        """Make ready for a cell, whatever the one before has left behind."""
        self._cells += 1
        if self._cells == 2:  # the first cell has imported all that a run needs
            settle()
        clean(self._flags)

    def prepare(self, order: CellOrder) -> tuple[Recipe, Task]:
        """The recipe of a cell, and its task."""
        recipe = self.recipe(order.recipe)
        if order.task not in self._tasks:  # of a configuration that was chosen while the study ran
            self._tasks[order.task] = task_for(recipe, self._tasks, trust_remote_code=self._trust)
        return recipe, self._tasks[order.task]

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """A recipe of its JSON values, with the study's tricks."""
        return Recipe(**values, catalog=self._catalog)

    def close(self) -> None:
        self._folder.cleanup()

    @cached_property
    def _catalog(self) -> Catalog:
        return self._plugins.catalog(Path(self._folder.name))
