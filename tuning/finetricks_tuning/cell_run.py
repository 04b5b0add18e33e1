"""Runs one cell and says what came of it. Knows nothing of Ray."""

from __future__ import annotations

import math
import shutil
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetricks.catalog import Catalog
from finetricks.errors import Diverged, FinetricksError
from finetricks.folder import versions
from finetricks.recipe import Recipe
from finetricks_tuning.cell import Cell
from finetricks_tuning.ledger import DIVERGED, FAILED, FINISHED, Trial

if TYPE_CHECKING:
    from finetricks.tasks import Task

CELLS = "cells"
ERROR_LINES = 12


@dataclass(frozen=True)
class CellOrder:
    """What a worker is told to run, in plain JSON values: a cell without its live objects."""

    key: str
    configuration: str
    factors: Mapping[str, str]
    recipe: Mapping[str, Any]
    task: str
    explain: bool

    @classmethod
    def of(cls, cell: Cell, task: str, *, explain: bool) -> CellOrder:
        """`explain`: also record what the plan warns of (it is the same for every seed)."""
        configuration = cell.configuration
        return cls(cell.key, configuration.name, configuration.levels, cell.recipe.to_dict(), task, explain)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_cell(order: CellOrder, folder: Path, catalog: Catalog, task: Task, device: str) -> Trial:
    """Run a cell, from its checkpoint if it was interrupted, and give its record.

    An error of its own (a bad value, a loss that is not finite, no memory) is part of the record; it is not raised.
    The cell's folder `folder/cells/<key>` keeps what a run's folder holds, without model and checkpoints.
    """
    from finetricks.run import plan_of, run

    started = time.perf_counter()
    place = cell_folder(folder, order.key)
    recipe = Recipe(**order.recipe, catalog=catalog)
    status, metrics, seconds, error = FAILED, {}, None, None
    warnings: list[str] = []
    try:
        if order.explain:
            warnings = plan_of(recipe, task).warnings()
        result = run(recipe, place, resume=True, task=task, save_model=False)
        status, seconds = FINISHED, result.seconds
        metrics = {"valid": _finite(result.valid), "test": result.test and _finite(result.test)}
    except Diverged as diverged:
        status, error = DIVERGED, str(diverged)
    except Exception as failure:
        error = _told(failure)
    shutil.rmtree(place / "checkpoints", ignore_errors=True)
    return Trial(
        key=order.key,
        configuration=order.configuration,
        factors=order.factors,
        tricks={name: trick.model_dump(mode="json") for name, trick in recipe.tricks},
        seed=recipe.training.seed,
        status=status,
        metrics=metrics,
        seconds=time.perf_counter() - started if seconds is None else seconds,
        error=error,
        warnings=tuple(warnings),
        environment={**versions(recipe), "device": device, "threads": recipe.training.threads},
    )


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
    lines = "".join(traceback.format_exception(failure)).strip().splitlines()
    return "\n".join([f"{type(failure).__name__}: {failure}{notes}", *lines[-ERROR_LINES:]])
