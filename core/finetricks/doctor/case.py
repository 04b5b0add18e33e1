"""What the checks of training look at: a recipe's task, and sessions of its model that go their own way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn

from finetricks.lengths import token_counts
from finetricks.plan import Plan
from finetricks.progress import Stage
from finetricks.recipe import Recipe, with_training
from finetricks.runner import bound, task_of
from finetricks.session import Session

MOST_TOKENS = 1024
"""Of a batch on the CPU, where a core takes a second or two for so many of a small BERT."""

LEAST_EXAMPLES = 2


class Case:
    """A recipe to look at.

    It is trained in fp32, uncompiled, one batch a step, with nothing kept on disk; on the CPU with smaller batches,
    where texts are long.

    Attributes:
        given: the recipe as it was given.
        recipe: as it is trained here.
        task: loaded already.
        picture: where to draw the range test; nowhere by default.
        on_step: called with the steps done and their number, by checks that take many.

    Raises:
        InputError: the recipe, its data or its model cannot be used.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        picture: Path | None = None,
        trust_remote_code: bool = False,
        on_step: Callable[[int, int], None] = lambda done, of: None,
    ) -> None:
        self.given = recipe
        self.task = task_of(recipe, trust_remote_code)
        self.picture = picture
        self.on_step = on_step
        self.recipe = with_training(
            recipe,
            batch_size=self._batch_size(),
            accumulation=1,
            precision="fp32",
            compile=False,
            gradient_checkpointing=False,
            replay="off",
            streams="derived",
            nonfinite_patience=0,
        )
        self._weights: dict[str, torch.Tensor] | None = None

    def session(self) -> Session:
        """A session of a model as training begins with it. What `init` tricks do is done once, for the first."""
        _, _, session = bound(self.recipe, self.task, init=self._weights is None)
        if self._weights is None:
            self._weights = {name: value.clone() for name, value in session.model.state_dict().items()}
        else:
            session.model.load_state_dict(self._weights)
        return session

    @property
    def smaller(self) -> str:
        """What to say where the batches are not the recipe's; else the empty string."""
        here, there = self.recipe.training.batch_size, self.given.training.batch_size
        return "" if here == there else f" (with batches of {here}, for the time that {there} would take here)"

    def _batch_size(self) -> int:
        wanted = self.given.training.batch_size
        if torch.cuda.is_available():
            return wanted
        long = np.quantile(np.minimum(token_counts(self.task.splits["train"]), self.task.max_length), 0.9)
        return min(wanted, max(int(MOST_TOKENS // long), LEAST_EXAMPLES))


def fullest(plan: Plan) -> Stage:
    """The stage in which most parameters are trained; the first of several."""
    return max(plan.stages, key=lambda stage: len(trained_in(plan, stage)))


def trained_in(plan: Plan, stage: Stage) -> tuple[str, ...]:
    """The names of the parameters that a stage trains."""
    return tuple(name for group in plan.groups if group.layer not in stage.frozen for name in group.parameters)


def peak_rate(plan: Plan) -> float:
    """The highest base rate of a run, before the factors of its layers."""
    return plan.learning_rate * max(plan.schedule)


def with_rates(plan: Plan, rates: Sequence[float]) -> Plan:
    """A plan of as many steps as there are base rates, with the layers trained that are in its fullest stage."""
    schedule = tuple(rate / plan.learning_rate for rate in rates)
    return replace(plan, stages=(Stage(0, 0, len(rates), fullest(plan).frozen),), schedule=schedule)


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Within the block the model drops nothing, and so can also be trained."""
    model.eval()
    with torch.backends.cudnn.flags(enabled=False):  # cuDNN's LSTMs have no backward pass in evaluation mode
        yield


def first_batches(session: Session, count: int) -> Iterator[Any]:
    """The first batches of the run, or as many as an epoch has, on the model's device."""
    device = next(session.model.parameters()).device
    for batch in islice(session.order.epoch(0, 0), count):
        yield send_to_device(batch, device)
