"""Runs one cell and says what came of it. Knows nothing of Ray."""

from __future__ import annotations

import math
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetricks.errors import Diverged, FinetricksError
from finetricks.folder import versions
from finetricks.recipe import Recipe
from finetricks_tuning.cell import Cell, task_key
from finetricks_tuning.ledger import DIVERGED, FAILED, FINISHED, Trial

if TYPE_CHECKING:
    from finetricks.tasks import Task

CELLS = "cells"
FRAMES = 5


@dataclass(frozen=True)
class CellOrder:
    """What a worker is told to run, in plain JSON values: a cell without its live objects."""

    key: str
    configuration: str
    factors: Mapping[str, str]
    recipe: Mapping[str, Any]
    task: str
    origins: Mapping[str, str]

    @classmethod
    def of(cls, cell: Cell) -> CellOrder:
        recipe = cell.recipe
        return cls(
            key=cell.key,
            configuration=cell.configuration.name,
            factors=cell.configuration.levels,
            recipe=recipe.to_dict(),
            task=task_key(recipe),
            origins={name: recipe.catalog.origin_of(name) for name, _ in recipe.tricks},
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_cell(order: CellOrder, folder: Path, device: str, prepare: Callable[[CellOrder], tuple[Recipe, Task]]) -> Trial:
    """Run a cell, from its checkpoint if it was interrupted, and give its record.

    An error of its own (a bad value, a loss that is not finite, no memory) is part of the record; it is not raised.
    The cell's folder `folder/cells/<key>` keeps what a run's folder holds, without model and checkpoints.

    Args:
        prepare: gives the recipe and its task; what it raises is recorded too.
    """
    from finetricks.runner import run

    started = time.perf_counter()
    place = cell_folder(folder, order.key)
    trial = Trial(
        key=order.key,
        configuration=order.configuration,
        factors=order.factors,
        tricks={name: values for entry in order.recipe["tricks"] for name, values in entry.items()},
        seed=order.recipe["training"]["seed"],
        status=FAILED,
    )
    try:
        recipe, task = prepare(order)
        environment = versions(recipe) | {"tricks": order.origins, "device": device, "threads": recipe.training.threads}
        trial = replace(trial, environment=environment)
        result = run(recipe, place, resume=True, task=task, save_model=False)
    except Diverged as diverged:
        trial = replace(trial, status=DIVERGED, error=str(diverged), seconds=time.perf_counter() - started)
    except Exception as failure:
        trial = replace(trial, error=_told(failure), seconds=time.perf_counter() - started)
    else:
        metrics = {"valid": _finite(result.valid), "test": None if result.test is None else _finite(result.test)}
        warnings = tuple(note for note in result.notes if note not in task.notes)
        trial = replace(trial, status=FINISHED, metrics=metrics, seconds=result.seconds, warnings=warnings)
    shutil.rmtree(place / "checkpoints", ignore_errors=True)
    return trial


def cell_folder(folder: Path, key: str) -> Path:
    """Where a cell of the study in `folder` is run."""
    return folder / CELLS / key[:16]


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    # A metric can be undefined (the correlation of a constant); JSON has no word for that but null.
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _told(failure: Exception) -> str:
    notes = "".join(f"\n{note}" for note in getattr(failure, "__notes__", ()))
    if isinstance(failure, FinetricksError):
        return f"{failure}{notes}"
    frames = traceback.extract_tb(failure.__traceback__)[-FRAMES:]
    places = "".join(f"\n  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    return f"{type(failure).__name__}: {failure}{notes}{places}"
