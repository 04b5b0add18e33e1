"""What a study would run, and how long that would take, without running it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetricks.recipe import with_training
from finetricks_tuning.address import check_address
from finetricks_tuning.cell import Cell, task_key
from finetricks_tuning.configurations import LeftOut
from finetricks_tuning.design_facts import DesignFacts, facts_of
from finetricks_tuning.folder import check_folder
from finetricks_tuning.heads import Heads
from finetricks_tuning.ledger import FAILED, Ledger
from finetricks_tuning.loopback import keep_to_this_machine
from finetricks_tuning.prepare import Prepared, prepare
from finetricks_tuning.probe import probe
from finetricks_tuning.rounds import at_most
from finetricks_tuning.shared_steps import Part, parts_of
from finetricks_tuning.summary import LEDGER

if TYPE_CHECKING:
    from finetricks_tuning.study import Study


@dataclass(frozen=True)
class DryRun:
    """What a study would run, before it has decided anything on the way.

    Attributes:
        cells: those without a result, in the order in which they are run, each with the seconds that it is expected
            to take. A strategy may leave some out; an adaptive design, and the confirmation of what a study recommends,
            add others.
        done: how many cells have a result already.
        slots: how many cells run at once.
        parts: by the key of a cell that has others in its family, what of its steps is left to itself.
        together: with `heads: together` the cells of each group, as their places among `cells`; those that are run
            alone are groups of one.
        apart: which configurations are run alone in such a study, and why, a sentence each.
    """

    design: DesignFacts
    cells: tuple[tuple[Cell, float], ...]
    left_out: tuple[LeftOut, ...]
    done: int
    slots: int
    parts: Mapping[str, Part] = field(default_factory=dict)
    together: tuple[tuple[int, ...], ...] = ()
    apart: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[int, int]:
        """The steps of the cells that have others in their family, and how many of them are done by others."""
        return sum(part.total for part in self.parts.values()), sum(part.step for part in self.parts.values())

    @property
    def seconds(self) -> float:
        """The expected time from the first cell to the end of the last."""
        alone = tuple((place,) for place in range(len(self.cells)))
        return makespan([sum(self.cells[i][1] for i in group) for group in self.together or alone], self.slots)

    def to_dict(self) -> dict[str, Any]:
        """What `finetricks sweep --dry-run --json` prints."""
        return {
            "design": self.design.to_dict(),
            "cells": [
                {
                    "configuration": cell.configuration.name,
                    "tricks": {name: trick.model_dump(mode="json") for name, trick in cell.recipe.tricks},
                    "seed": cell.seed,
                    "seconds": seconds,
                    **self._branch(cell),
                }
                for cell, seconds in self.cells
            ],
            "left_out": [left_out.to_dict() for left_out in self.left_out],
            "done": self.done,
            "slots": self.slots,
            "seconds": self.seconds,
            "shared": dict(zip(("steps", "saved"), self.steps, strict=True)),
            **(
                {"together": [list(group) for group in self.together], "apart": list(self.apart)}
                if self.together
                else {}
            ),
        }

    def _branch(self, cell: Cell) -> dict[str, Any]:
        part = self.parts.get(cell.key, Part())
        if part.parent is None:
            return {}
        return {"branches": {"from": part.parent.configuration.name, "step": part.step, "of": part.total}}


def dry_run(
    study: Study,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    address: str | None = None,
    trust_remote_code: bool = False,
) -> DryRun:
    """Say what `sweep` would run with the same arguments. Writes nothing.

    The time rests on a few steps of the baseline, in this process: a cell with more or larger steps counts for more; a
    trick that makes a step dearer or cheaper is not seen.

    Args:
        out: the study's folder; cells that have a result there are not counted.

    Raises:
        InputError: the study, its data, its model, the folder or the address cannot be used.
    """
    folder = None if out is None else Path(out).absolute()
    if folder is not None:
        check_folder(folder, study, resume=not overwrite, overwrite=overwrite)
    if address is None:
        keep_to_this_machine()
    else:
        check_address(address)
    from finetricks_tuning.engine import Resources, count_slots

    prepared = prepare(study, trust_remote_code=trust_remote_code)
    recorded = set() if folder is None or overwrite else _recorded(folder, retry_failed)
    planned = at_most(study, prepared.make)
    cells = [cell for cell in planned if cell.key not in recorded]
    levels = {configuration.name: configuration.levels for configuration in study.configurations}
    heads = Heads(prepared.task_of)
    groups = heads.groups(cells) if study.settings.heads == "together" else [[cell] for cell in cells]
    places = {cell.key: place for place, cell in enumerate(cells)}
    parts = parts_of([group[0] for group in groups if len(group) == 1], prepared.task_of)
    together = tuple(tuple(places[cell.key] for cell in group) for group in groups)
    return DryRun(
        design=facts_of(study.design, levels, len(study.left_out)),
        cells=tuple(zip(cells, _seconds(planned, cells, prepared, parts, groups), strict=True)),
        left_out=study.left_out,
        done=len(planned) - len(cells),
        slots=count_slots(Resources.of(study, prepared.gpus), address),
        parts=parts,
        together=together if study.settings.heads == "together" else (),
        apart=tuple(heads.told()),
    )


def makespan(seconds: Iterable[float], slots: int) -> float:
    """When the last cell ends, if each in turn takes the slot that is free first."""
    free = [0.0] * slots
    for cost in seconds:
        heapq.heapreplace(free, free[0] + cost)
    return max(free)


def _recorded(folder: Path, retry_failed: bool) -> set[str]:
    trials, _ = Ledger(folder / LEDGER).read()
    return {key for key, trial in trials.items() if not (retry_failed and trial.status == FAILED)}


def _seconds(
    planned: Sequence[Cell],
    cells: Sequence[Cell],
    prepared: Prepared,
    parts: Mapping[str, Part],
    groups: Sequence[Sequence[Cell]],
) -> list[float]:
    """The cost of each cell, from a probe of the first configuration with each model and length.

    Those of a group pass the body once between them; of what is left of each, its start is taken to be the most.
    """
    first = {task_key(cell.recipe): cell.recipe for cell in reversed(planned)}
    needed = dict.fromkeys(task_key(cell.recipe) for cell in cells)
    costs = {key: probe(first[key], prepared.tasks[key]) for key in needed}
    sizes = {cell.key: len(group) for group in groups for cell in group}

    def seconds(cell: Cell) -> float:
        cost, task, size = costs[task_key(cell.recipe)], prepared.task_of(cell.recipe), sizes[cell.key]
        if size == 1:
            return cost.of(cell.recipe, task, parts[cell.key].share if cell.key in parts else 0.0)
        return cost.start + (cost.of(with_training(cell.recipe, epochs=1), task) - cost.start) / size

    return [seconds(cell) for cell in cells]
