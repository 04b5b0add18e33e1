"""What a study needs before its first cell: its tasks, the device, and what makes its cells with their keys."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from finetricks_tuning.cell import CellMaker, Keys, task_key
from finetricks_tuning.configurations import Configuration
from finetricks_tuning.tasks import task_for

if TYPE_CHECKING:
    from finetricks.recipe import Recipe
    from finetricks.tasks import Task
    from finetricks_tuning.study import Study


@dataclass(frozen=True)
class Prepared:
    """A study that is ready to run.

    Attributes:
        make: makes its cells.
        tasks: by `task_key`: one, unless the model or the length is a factor; those of several lengths share tokens.
        greater_is_better: of the study's metric.
        device: the kind of device that the cells run on: `cpu`, or a GPU's name.
        gpus: how many GPUs, or what share of one, a worker takes.
    """

    make: CellMaker
    tasks: Mapping[str, Task]
    greater_is_better: bool
    device: str
    gpus: float

    def task_of(self, recipe: Recipe) -> Task:
        return self.tasks[task_key(recipe)]


def prepare(study: Study, *, trust_remote_code: bool = False) -> Prepared:
    """Load the data of a study.

    Args:
        trust_remote_code: execute code that comes with the model.

    Raises:
        InputError: the data or the model cannot be used, or have no such metric.
    """
    from finetricks.tasks.metrics import greater_is_better

    tasks: dict[str, Task] = {}

    task = partial(task_for, tasks=tasks, trust_remote_code=trust_remote_code)
    better = greater_is_better(study.settings.metric, task(study.recipe).kind)
    device, gpus = _device(study)
    make = CellMaker(study, Keys(task, device, study.settings.workers_per_cell, study.settings.heads))
    for configuration in (*study.configurations, *_later(study)):
        make(configuration, study.settings.seeds[0])  # what any of them needs is read, and found wanting, now
    return Prepared(make, tasks, better, device, gpus)


def _later(study: Study) -> Iterator[Configuration]:
    """One for each task that an adaptive design may come to ask for."""
    own_task = ("model", "training.max_length")
    if study.design.adaptive and any(factor.name in own_task for factor in study.factors):
        options = [(f.off, *f.levels) if f.name in own_task else (f.off,) for f in study.factors]
        for levels in itertools.product(*options):
            yield Configuration(tuple(zip(study.factors, levels, strict=True)))


def _device(study: Study) -> tuple[str, float]:
    import torch

    there = torch.cuda.is_available()
    asked = study.settings.gpus_per_cell
    gpus = float(there) if asked is None else asked
    return (torch.cuda.get_device_name() if there else "cuda") if gpus else "cpu", gpus
