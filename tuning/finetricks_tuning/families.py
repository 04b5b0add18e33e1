"""Which cell may begin: one that goes on from another's work waits for it, as long as it is sure to come."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from finetricks_tuning.cell_run import CellOrder
from finetricks_tuning.sharing import FOLDER, MOST, TREE, Branch, family_folder, read_tree, start_folder

STEP_0 = "step-00000000"

LOOK = 512
"""So many cells that wait are looked at together."""


class Families:
    """The cells that have steps in common, in a study's folder.

    Nothing is known of them but by the files that their leaders and stems are. A cell waits while its family's leader
    works out where they part, and while the cell that it parts from is at work or comes before it. Where that one has
    ended without the stem, the family gets another leader.
    """

    def __init__(self, study: Path) -> None:
        self._study = study
        self._leaders: dict[str, str] = {}  # of each family, the key of the cell that has written its tree, or will
        self._trees: dict[str, dict[str, Branch]] = {}

    def next(self, waiting: Sequence[CellOrder], running: Iterable[CellOrder], slots: float) -> CellOrder | None:
        """The cell to run next; `None` where all have to wait."""
        at_work = {order.key: order for order in running}
        for start in range(0, len(waiting), LOOK):
            if found := self._next_of(waiting[start : start + LOOK], at_work, slots):
                return found
        return waiting[0] if waiting and not at_work else None  # none is left to wait for

    def told(self, order: CellOrder, waiting: Sequence[CellOrder]) -> CellOrder:
        """The order of a cell that begins now, with what it has to do for those that wait."""
        others = [other for other in waiting if other.family == order.family and other.key != order.key]
        if not order.family or not others:
            return order
        if self._tree(order.family) is None:
            self._forget(order.family)
            self._leaders[order.family] = order.key
            return replace(order, leads=tuple((other.key, other.recipe) for other in others[:MOST]))
        return replace(order, leaves=tuple(sorted(self._parting_from(order, others))))

    def awaited(self, waiting: Sequence[CellOrder]) -> list[str]:
        """Files in the study's folder, of which one that appears lets a cell begin."""
        found = []
        for order in waiting[:LOOK]:
            folder = family_folder(self._study, order.family)
            if order.start and not self._started(order):
                found.append(start_folder(self._study, order.start) / STEP_0)
            elif order.family and self._tree(order.family) is None:
                found.append(folder / TREE)
            elif (branch := self._branch(order)).parent:
                found.append(folder / branch.stem)
        return [path.relative_to(self._study).as_posix() for path in dict.fromkeys(found)]

    def tidy(self, left: Iterable[CellOrder]) -> None:
        """Remove the stems that none of the cells which are left goes on from."""
        folders = list((self._study / FOLDER).glob("*"))
        if not folders:
            return
        left = list(left)
        families = {family[:16]: orders for family, orders in _by_family(left).items() if family}
        starts = {start_folder(self._study, order.start).name for order in left if order.start}
        for folder in folders:
            if folder.name in starts:
                continue
            orders = families.get(folder.name)
            if orders is None:
                shutil.rmtree(folder, ignore_errors=True)
            elif self._tree(orders[0].family) is not None:
                needed = {Path(self._branch(order).stem).parent.name for order in orders}
                for stem in folder.glob("*-*"):
                    if stem.is_dir() and stem.name not in needed:
                        shutil.rmtree(stem, ignore_errors=True)
        with suppress(OSError):  # others are still in it
            (self._study / FOLDER).rmdir()

    def _next_of(
        self, waiting: Sequence[CellOrder], at_work: Mapping[str, CellOrder], slots: float
    ) -> CellOrder | None:
        families = _by_family(waiting)
        begun = {family for family in families if family in self._leaders}
        open_now = begun | {order.family for order in at_work.values()}

        def urgency(order: CellOrder) -> int:
            others = families[order.family]
            if order.family and len(others) > 1 and order.family not in begun and len(open_now) <= slots:
                return 0  # others wait for what it leaves; not too many at once, for that takes room
            return 1 if self._parting_from(order, others) else 2

        can_begin = [order for order in waiting if self._may_begin(order, families[order.family], at_work)]
        return min(can_begin, key=urgency, default=None)

    def _may_begin(self, order: CellOrder, family: list[CellOrder], at_work: Mapping[str, CellOrder]) -> bool:
        """Whether a cell waits for nothing. `family`: those of its own that have not begun."""
        if order.start and any(other.start == order.start for other in at_work.values()) and not self._started(order):
            return False
        if not order.family:
            return True
        branch = self._branch(order)
        there = not branch.parent or (family_folder(self._study, order.family) / branch.stem).is_dir()
        if not there and branch.parent not in at_work and all(other.key != branch.parent for other in family):
            self._forget(order.family)  # it has ended without
        if self._tree(order.family) is None:
            return self._leaders.get(order.family) not in at_work and family[0] == order
        return there

    def _parting_from(self, order: CellOrder, others: Iterable[CellOrder]) -> set[int]:
        """The steps at which others go on from a cell."""
        branches = (self._branch(other) for other in others) if order.family else ()
        return {branch.step for branch in branches if branch.parent == order.key}

    def _started(self, order: CellOrder) -> bool:
        """Whether the weights that a cell begins with are there."""
        return (start_folder(self._study, order.start) / STEP_0).is_dir()

    def _branch(self, order: CellOrder) -> Branch:
        return (self._tree(order.family) or {}).get(order.key, Branch())

    def _tree(self, family: str) -> dict[str, Branch] | None:
        """What is known of a family whose leader has begun."""
        if family not in self._trees and family in self._leaders:
            found = read_tree(family_folder(self._study, family))
            if found is not None:
                self._trees[family] = found
        return self._trees.get(family)

    def _forget(self, family: str) -> None:
        self._trees.pop(family, None)
        self._leaders.pop(family, None)
        with suppress(OSError):
            (family_folder(self._study, family) / TREE).unlink(missing_ok=True)


def _by_family(orders: Iterable[CellOrder]) -> dict[str, list[CellOrder]]:
    families: dict[str, list[CellOrder]] = defaultdict(list)
    for order in orders:
        families[order.family].append(order)
    return families
