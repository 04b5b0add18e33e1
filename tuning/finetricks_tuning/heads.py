"""Which cells of a study are trained together: those of which only the head is trained, and which differ in its rates,
its first weights and their seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from finetricks.errors import FinetricksError
from finetricks_tuning.cell import Cell, task_key
from finetricks_tuning.cell_run import CellOrder

if TYPE_CHECKING:
    from finetricks.recipe import Recipe
    from finetricks.tasks import Task

MOST = 32
"""Cells of a group: the features of the batches of all are gathered at each step."""


class Heads:
    """Finds the groups. What decides is looked at once for each configuration.

    Args:
        task: gives the task of a recipe.
    """

    def __init__(self, task: Callable[[Recipe], Task]) -> None:
        self._task = task
        self._apart: dict[tuple[str, float], str] = {}

    def groups(self, cells: Sequence[Cell], at_most: int = MOST) -> list[list[Cell]]:
        """The cells in groups, in the order in which the first of each stands; those that are run alone are groups of
        one.

        Args:
            at_most: cells of a group.
        """
        from finetricks.heads.members import group_key

        found: dict[str, list[Cell]] = {}
        groups: list[list[Cell]] = []
        for cell in cells:
            if self.reason(cell):
                groups.append([cell])
                continue
            key = task_key(cell.recipe) + group_key(cell.recipe)
            if key not in found or len(found[key]) >= max(min(at_most, MOST), 1):
                found[key] = []
                groups.append(found[key])
            found[key].append(cell)
        return groups

    def reason(self, cell: Cell) -> str:
        """Why a cell is run alone; empty where it need not be."""
        from finetricks.heads import reason_apart
        from finetricks.heads.apart import reason_of_settings
        from finetricks.runner import plan_of

        place = (cell.configuration.name, cell.upto)
        if place not in self._apart:
            reason = "it is put down before its end" if cell.upto < 1 else reason_of_settings(cell.recipe)
            try:
                self._apart[place] = reason or reason_apart(cell.recipe, plan_of(cell.recipe, self._task(cell.recipe)))
            except FinetricksError as error:  # the cell itself will tell
                self._apart[place] = f"its plan cannot be made: {str(error).splitlines()[0]}"
        return self._apart[place]

    def told(self) -> list[str]:
        """What is run alone, and why, a sentence each."""
        reasons = {name: reason for (name, _), reason in self._apart.items() if reason}
        return [f"heads: together, but {name} is trained apart: {reason}" for name, reason in reasons.items()]


def order_of(group: Sequence[Cell], *, save_model: bool) -> CellOrder:
    """What a worker is told to run. Cells that are trained together share no steps with any other."""
    orders = [CellOrder.of(cell, save_model=save_model) for cell in group]
    if len(orders) == 1:
        return orders[0]
    first, *others = (replace(order, family="", start="") for order in orders)
    return replace(first, together=tuple(other.to_dict() for other in others))
