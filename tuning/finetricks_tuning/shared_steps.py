"""What a study's cells have in common, known before any of them is run: for `--dry-run`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetricks.prefix import Prefix
from finetricks_tuning.cell import Cell
from finetricks_tuning.sharing import MOST, tree

if TYPE_CHECKING:
    from finetricks.recipe import Recipe
    from finetricks.tasks import Task


@dataclass(frozen=True)
class Part:
    """What of a cell's steps is left to itself.

    Attributes:
        step: from which it does them; those before are the `parent`'s.
        total: the steps of the whole run; 0 where they are not known.
    """

    parent: Cell | None = None
    step: int = 0
    total: int = 0

    @property
    def share(self) -> float:
        """Of the run that others do."""
        return self.step / self.total if self.total else 0.0


def parts_of(cells: Iterable[Cell], task_of: Callable[[Recipe], Task]) -> dict[str, Part]:
    """By key, the parts of the cells that have others in their family.

    The plans are worked out for one seed, and hold for all. A family with a trick that cannot be compiled is left out:
    its cells will fail, or share what they can.
    """
    families: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.family:
            families[cell.family].append(cell)
    known: dict[tuple[str, ...], list[tuple[int | None, int, int]]] = {}
    found: dict[str, Part] = {}
    for family in families.values():
        members = family[: MOST + 1]
        kind = tuple(_without_seed(cell) for cell in members)
        if len(members) > 1 and kind not in known:
            known[kind] = _tree(members, task_of)
        for cell, (parent, step, total) in zip(members, known.get(kind, ()), strict=False):
            found[cell.key] = Part(None if parent is None else members[parent], step, total)
    return found


def _tree(cells: Sequence[Cell], task_of: Callable[[Recipe], Task]) -> list[tuple[int | None, int, int]]:
    from finetricks.runner import plans_of

    recipes = [cell.recipe for cell in cells]
    try:
        plans = plans_of(recipes, task_of(recipes[0]))
    except Exception:  # of a trick
        return []
    runs = [Prefix.of(recipe, plan) for recipe, plan in zip(recipes, plans, strict=True)]
    return [(parent, step, run.plan.total_steps) for run, (parent, step) in zip(runs, tree(runs), strict=True)]


def _without_seed(cell: Cell) -> str:
    return f"{cell.configuration.name} at {cell.recipe.training.learning_rate:g}"


def drawn(parts: Mapping[str, Part], cells: Iterable[Cell]) -> list[str]:
    """The trees of the first seed, a line a cell; each under the one that it goes on from."""
    shown = [cell for cell in cells if cell.key in parts]
    first = [cell for cell in shown if cell.seed == shown[0].seed]
    below: dict[str, list[Cell]] = defaultdict(list)
    for cell in first:
        parent = parts[cell.key].parent
        below["" if parent is None else parent.key].append(cell)

    def lines(cell: Cell, depth: int) -> list[str]:
        part = parts[cell.key]
        where = f"from step {part.step} of {part.total}" if depth else f"all {part.total} steps"
        own = f"{'  ' * depth}{cell.configuration.name}: {where}"
        return [own, *(line for child in below[cell.key] for line in lines(child, depth + 1))]

    return [line for cell in below[""] if below[cell.key] for line in lines(cell, 0)]
