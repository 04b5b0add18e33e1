"""Which cells go on from which: the tree of what they have in common, and what a worker does about it.

The cells of a family agree in all that acts outside the plan. The one that begins first, its leader, has the model at
hand, works out the plans of the others, and notes in the family's folder where each parts from which; every cell leaves
a stem where others part from it. A stem bears the name of all that it depends on: a cell that begins takes the one that
is furthest on among those that are its own past, whoever has left it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetricks.atomic import write_atomically
from finetricks.prefix import Prefix
from finetricks.stems import Sharing, Stems

if TYPE_CHECKING:
    from finetricks.recipe import Recipe
    from finetricks_tuning.cell_run import CellOrder

FOLDER = "stems"
TREE, ASKING = "tree.json", ".asking"

LEAST_SHARE, LEAST_STEPS = 10, 8
"""Cells share a stretch of at least a tenth of the shorter one's steps, and of 8: a checkpoint that is written and read
costs a few steps."""

MOST = 200
"""Cells whose plans a leader works out; what a family has beyond them is run without the others."""


@dataclass(frozen=True)
class Branch:
    """Where a cell goes on from another's work.

    Attributes:
        parent: the other cell's key; empty where it does all of its steps itself.
        step: the steps that are done by then.
        stem: the place of the state, in the family's folder.
    """

    parent: str = ""
    step: int = 0
    stem: str = ""


def tree(
    runs: Sequence[Prefix], begun: int = 0, there: Callable[[Prefix, int], bool] = lambda prefix, step: False
) -> list[tuple[int | None, int]]:
    """For each run the index of the earlier one that it parts from last, and the step; `(None, 0)` for none.

    Agreement up to a step is an equivalence, so what is left to all of them is what counting each common stretch once
    gives, but for stretches that are not worth a checkpoint.

    Args:
        begun: the step that the first run begins at: what it has done before it cannot leave any more, unless a stem is
            `there`.
    """
    found: list[tuple[int | None, int]] = []
    for index, run in enumerate(runs):
        best: tuple[int | None, int] = (None, 0)
        for earlier, other in enumerate(runs[:index]):
            step = other.shared(run)
            if earlier == 0 and step <= begun and not there(run, step):
                continue
            if is_worth(step - best[1], run, other):
                best = earlier, step
        found.append(best)
    return found


def is_worth(steps: int, one: Prefix, other: Prefix) -> bool:
    """Whether so many common steps are worth a checkpoint."""
    shorter = min(one.plan.total_steps, other.plan.total_steps)
    return steps >= LEAST_STEPS and steps * LEAST_SHARE >= shorter


def family_folder(study: Path, family: str) -> Path:
    """Where the stems of a family lie."""
    return study / FOLDER / family[:16]


def start_folder(study: Path, start: str) -> Path:
    """Where the weights before the first step lie, of the cells that begin with the same."""
    return study / FOLDER / f"start-{start[:16]}"


def read_tree(folder: Path) -> dict[str, Branch] | None:
    """A family's tree by the cells' keys; `None` while it is not known. One that cannot be read shares nothing."""
    try:
        text = (folder / TREE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError:
        return {}
    try:
        return {key: Branch(**branch) for key, branch in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def sharing_of(order: CellOrder, study: Path, recipe_of: Callable[[Mapping[str, Any]], Recipe]) -> Sharing | None:
    """What the cell of an order has in common with others; `None` for nothing.

    Args:
        recipe_of: makes a recipe of its JSON values.
    """
    folder = family_folder(study, order.family)
    shares = bool(order.family) and bool(order.leads or order.leaves or folder.is_dir())
    if not shares and not order.start:
        return None

    def branches(prefix: Prefix, prefix_of: Callable[[Recipe], Prefix], begun: int) -> Collection[int]:
        if not order.leads:
            return order.leaves
        return _lead(order, folder, prefix, lambda values: prefix_of(recipe_of(values)), begun)

    start = start_folder(study, order.start) if order.start else None
    return Sharing(folder if shares else None, order.key, order.family, branches, start, order.start)


def _lead(
    order: CellOrder, folder: Path, prefix: Prefix, prefix_of: Callable[[Mapping[str, Any]], Prefix], begun: int
) -> Collection[int]:
    """Write the family's tree, and give the steps at which others part from this cell, its leader."""
    folder.mkdir(parents=True, exist_ok=True)
    keys, runs = [order.key], [prefix]
    for key, values in order.leads:
        # Their tricks may end this process, or hang: whoever comes next is to know that it was not this cell's fault.
        _asking(order, folder).write_text(key, encoding="utf-8")
        with suppress(Exception, SystemExit):  # it does all of its steps itself, and fails by itself
            runs.append(prefix_of(values))
            keys.append(key)
    stems = Stems(folder)
    branches = {key: Branch() for key, _ in order.leads}
    found = tree(runs, begun, lambda run, step: stems.place(run, step).is_dir())
    for key, run, (parent, step) in list(zip(keys, runs, found, strict=True))[1:]:
        if parent is not None:
            place = stems.place(run, step).relative_to(folder)
            branches[key] = Branch(keys[parent], step, place.as_posix())
    write_atomically(folder / TREE, json.dumps({key: asdict(branch) for key, branch in branches.items()}) + "\n")
    _asking(order, folder).unlink(missing_ok=True)
    return {branch.step for branch in branches.values() if branch.parent == order.key}


def was_lost_asking(order: CellOrder, study: Path) -> bool:
    """Whether a worker was lost while it asked the tricks of other cells on behalf of this one. It is forgotten."""
    if not order.leads:
        return False
    folder = family_folder(study, order.family)
    lost = _asking(order, folder).exists()
    if lost:
        write_atomically(folder / TREE, "{}\n")  # none waits for what they have in common
        _asking(order, folder).unlink(missing_ok=True)
    return lost


def _asking(order: CellOrder, folder: Path) -> Path:
    return folder / f"{ASKING}-{order.key[:16]}"
