"""Runs one cell and says what came of it. Knows nothing of Ray."""

from __future__ import annotations

import math
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetricks.distributed import describe
from finetricks.errors import CheckpointError, Diverged, FinetricksError, InputError, in_words
from finetricks.folder import RunFolder, versions
from finetricks.recipe import Recipe
from finetricks.storage import StorageError, storage_problem
from finetricks_tuning.cell import Cell, task_key
from finetricks_tuning.ledger import DIVERGED, FAILED, FINISHED, Trial
from finetricks_tuning.redact import redacted

if TYPE_CHECKING:
    from finetricks.runner import Result
    from finetricks.stems import Sharing
    from finetricks.tasks import Task

Run = Callable[..., "Result"]
"""Trains a cell, as `finetricks.runner.run` does: `run(recipe, folder, task=..., resume=...)`."""

CELLS = "cells"
FRAMES = 5


class WorkerLost(FinetricksError):
    """A process that the cell was trained with is gone. No fault of the cell's: it is tried again."""


@dataclass(frozen=True)
class CellOrder:
    """What a worker is told to run, in plain JSON values: a cell without its live objects.

    Attributes:
        leads: keys and recipes of the cells of its family for which it works out where they part.
        leaves: where that is known already, the steps at which others part from this cell.
        together: the orders of other cells whose heads are trained together with this one's.
    """

    key: str
    configuration: str
    factors: Mapping[str, str]
    recipe: Mapping[str, Any]
    task: str
    origins: Mapping[str, str]
    place: str = ""
    upto: float = 1.0
    save_model: bool = False
    family: str = ""
    start: str = ""
    leads: Sequence[tuple[str, Mapping[str, Any]]] = ()
    leaves: Sequence[int] = ()
    together: tuple[Mapping[str, Any], ...] = ()

    @property
    def cells(self) -> list[CellOrder]:
        """The order of each cell: this one's, and those of the cells that are trained together with it."""
        return [replace(self, together=()), *(CellOrder(**other) for other in self.together)]

    @classmethod
    def of(cls, cell: Cell, *, save_model: bool = False) -> CellOrder:
        recipe = cell.recipe
        return cls(
            key=cell.key,
            configuration=cell.configuration.name,
            factors=cell.configuration.levels,
            recipe=recipe.to_dict(),
            task=task_key(recipe),
            origins={name: recipe.catalog.origin_of(name) for name, _ in recipe.tricks},
            place=cell.place,
            upto=cell.upto,
            save_model=save_model,
            family=cell.family,
            start=cell.start,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_cell(
    order: CellOrder,
    folder: Path,
    device: str,
    prepare: Callable[[CellOrder], tuple[Recipe, Task]],
    run: Run | None = None,
    *,
    sharing: Sharing | None = None,
) -> Trial:
    """Run a cell, from its checkpoint if it was interrupted, and give its record.

    An error of its own (a bad value, a loss that is not finite, no memory) is part of the record; it is not raised.
    That of a disk is none of its own.

    The cell's folder `folder/cells/<key>` keeps what a run's folder holds: without checkpoints where the cell is run to
    its end, without the model unless it is to be kept.

    Args:
        prepare: gives the recipe and its task; what it raises is recorded too.
        run: trains it; in this process by default.
        sharing: what it has in common with other cells.

    Raises:
        WorkerLost: from `run`; what the cell has saved so far is kept.
        StorageError: nothing can be written; what the cell has saved so far is kept.
    """
    started = time.perf_counter()
    place = cell_folder(folder, order.place or order.key)
    trial = lost(order, "")
    try:
        recipe, task = prepare(order)
        trial = replace(trial, environment=_environment(order, recipe, task, device))
        result = _run(order, recipe, place, task, run, sharing=sharing)
    except Diverged as diverged:
        told = describe(diverged)
        seconds = time.perf_counter() - started
        trial = replace(trial, status=DIVERGED, error=told, seconds=seconds, diverged_at=diverged.step)
    except WorkerLost:
        raise
    except Exception as failure:
        if reason := storage_problem(failure, place):
            raise StorageError(folder, reason) from failure
        trial = replace(trial, error=redacted(_told(failure)), seconds=time.perf_counter() - started)
    else:
        trial = _finished(trial, result, task)
    if trial.status != FINISHED or order.upto >= 1:
        shutil.rmtree(place / "checkpoints", ignore_errors=True)
    return trial


def run_group(
    order: CellOrder, folder: Path, device: str, prepare: Callable[[CellOrder], tuple[Recipe, Task]]
) -> list[Trial]:
    """Train the heads of several cells together, and give their records. Arguments and errors as of `run_cell`.

    A cell that cannot be trained with the others is run alone, and its record says why. One that had ended before, but
    is not in the ledger, is given as it is.
    """
    from finetricks.heads import run_together

    alone: dict[str, str] = {}
    ready: list[tuple[CellOrder, Recipe, Task]] = []
    trials: list[Trial] = []
    try:
        for each in order.cells:
            if RunFolder(cell_folder(folder, each.place or each.key)).result() is None:
                ready.append((each, *prepare(each)))
        recipes, outs = [recipe for _, recipe, _ in ready], [cell_folder(folder, each.key) for each, _, _ in ready]
        results = run_together(recipes, outs, task=ready[0][2], save_model=order.save_model) if ready else []
    except StorageError:
        raise
    except Exception as failure:
        if reason := storage_problem(failure, folder):
            raise StorageError(folder, reason) from failure
        results, alone = [], {each.key: redacted(in_words(failure)) for each, _, _ in ready}
    done: dict[str, Trial] = {}
    for (each, recipe, task), result in zip(ready, results, strict=bool(results)):
        if isinstance(result, FinetricksError):
            alone[each.key] = "; ".join([str(result), *getattr(result, "__notes__", ())])
            continue
        trial = replace(lost(each, ""), environment=_environment(each, recipe, task, device), together=order.key)
        done[each.key] = _finished(trial, result, task)
    for each in order.cells:
        if each.key in done:
            trials.append(done[each.key])
            continue
        trial = run_cell(each, folder, device, prepare)
        told = (f"trained apart: {alone[each.key]}",) if each.key in alone else ()
        trials.append(replace(trial, warnings=(*trial.warnings, *told)))
    return trials


def _environment(order: CellOrder, recipe: Recipe, task: Task, device: str) -> dict[str, Any]:
    more = {"tricks": order.origins, "device": device, "threads": recipe.training.threads, "data": task.fingerprint}
    return versions(recipe) | more


def _finished(trial: Trial, result: Result, task: Task) -> Trial:
    metrics = {"valid": _finite(result.valid), "test": None if result.test is None else _finite(result.test)}
    warnings = tuple(note for note in result.notes if note not in task.notes)
    trial = replace(trial, status=FINISHED, error=None, metrics=metrics, seconds=result.seconds, warnings=warnings)
    return replace(trial, branched=result.branched)


def _run(
    order: CellOrder, recipe: Recipe, place: Path, task: Task, run: Run | None, *, sharing: Sharing | None
) -> Result:
    if run is None:
        from finetricks.runner import run as in_this_process

        run = in_this_process
    run = partial(run, save_model=order.save_model, upto=order.upto, sharing=sharing)
    try:
        return run(recipe, place, resume=True, task=task)
    except CheckpointError:  # damaged, or the study was moved: the key is the same, and there is nothing to go on from
        RunFolder(place).clear()
        return run(recipe, place, task=task, sharing=None)


def cell_folder(folder: Path, key: str) -> Path:
    """Where a cell of the study in `folder` is run.

    Raises:
        InputError: the key, which may be from a file that somebody sent, is none, and could lead out of the folder.
    """
    name = key[:16]
    if not name or name in (".", "..") or any(letter in "/\\\0" for letter in name):
        raise InputError(f"{key!r} is no key of a cell: it names no folder of its own")
    return folder / CELLS / name


def study_of(cell: Path) -> Path:
    """The folder of the study that a cell's folder lies in."""
    return cell.parent.parent


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    # A metric can be undefined (the correlation of a constant); JSON has no word for that but null.
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def lost(order: CellOrder, error: str) -> Trial:
    """The record of a cell that ended without one."""
    return Trial(
        key=order.key,
        configuration=order.configuration,
        factors=order.factors,
        tricks={name: values for entry in order.recipe["tricks"] for name, values in entry.items()},
        seed=order.recipe["training"]["seed"],
        status=FAILED,
        error=error,
    )


def _told(failure: Exception) -> str:
    notes = "".join(f"\n{note}" for note in getattr(failure, "__notes__", ()))
    if isinstance(failure, FinetricksError):
        return f"{failure}{notes}"
    frames = traceback.extract_tb(failure.__traceback__)[-FRAMES:]
    places = "".join(f"\n  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    return f"{in_words(failure)}{notes}{places}"
