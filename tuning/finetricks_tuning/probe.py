"""What a cell costs, from a few steps of one that are timed in this process."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from finetricks.recipe import with_training

if TYPE_CHECKING:
    from finetricks.recipe import Recipe
    from finetricks.tasks import Task

STEPS = 6
"""Optimizer steps of a probe. The first, in which memory is claimed, does not count, nor does the last's evaluation."""


@dataclass(frozen=True)
class Cost:
    """Seconds of the parts of a run.

    Attributes:
        start: until the first step: the model, and what tricks do to it and to the data.
        example: a training example, forward and backward; a step costs in proportion to its examples.
        evaluation: of valid, once.
    """

    start: float
    example: float
    evaluation: float

    def of(self, recipe: Recipe, task: Task, done: float = 0.0) -> float:
        """Seconds of a run of `recipe` on `task`, of which a share is `done` already."""
        from finetricks.plan import total_steps

        training = recipe.training
        rows = {split: len(examples) for split, examples in task.splits.items()}
        batches = -(-rows["train"] // training.batch_size)
        per_epoch = -(-batches // training.accumulation)
        steps = total_steps(training.epochs, per_epoch)
        every = per_epoch if training.evaluate == "epoch" else training.evaluate
        evaluations = -(-steps // every) * (1 - done) + rows.get("test", 0) / rows["valid"]
        return self.start + (1 - done) * steps * _examples(recipe) * self.example + evaluations * self.evaluation


def probe(recipe: Recipe, task: Task) -> Cost:
    """Time the first steps of a run of `recipe`, and an evaluation. Nothing of it is kept."""
    from finetricks.runner import run

    ends: list[float] = []

    def step_ended(done: int, total: int, metrics: dict[str, float] | None) -> None:
        ends.append(time.perf_counter())
        if len(ends) == STEPS:
            raise _Enough

    with tempfile.TemporaryDirectory(prefix="finetricks-probe-") as folder:
        began = time.perf_counter()
        try:
            short = with_training(recipe, evaluate=STEPS, checkpoint="off")
            run(short, Path(folder) / "run", task=task, save_model=False, on_progress=step_ended)
        except _Enough:
            pass
        whole = time.perf_counter() - began
    between = [after - before for before, after in pairwise(ends)]
    if len(between) < 2:  # the run ended before its parts could be told from one another
        return Cost(whole, 0.0, 0.0)
    step = median(between[:-1])
    return Cost(max(ends[0] - began - step, 0.0), step / _examples(recipe), max(between[-1] - step, 0.0))


class _Enough(Exception):
    """The probe has seen what it needs."""


def _examples(recipe: Recipe) -> int:
    """Training examples of an optimizer step."""
    return recipe.training.batch_size * recipe.training.accumulation
