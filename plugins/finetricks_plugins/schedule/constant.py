"""A constant learning rate, if wanted a smaller one at the beginning."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from finetricks import Choice, Progress, Trick, hookimpl
from finetricks_plugins.schedule.ticks import By, ticks


class Constant(Trick):
    """The base rate throughout, or factor times it for the first total_iters epochs.

    Factor = `factor` for t < total_iters, then 1; t counts epochs (or optimizer steps) from 0. Equal to
    `torch.optim.lr_scheduler.ConstantLR` at every step, but with factor 1 by default: the base rate from first to last,
    as without a schedule, so that a constant rate can be a choice among schedules. A run that is not longer than
    total_iters never comes to the base rate. Owns the schedule; `warmup` goes over it.

    Traps: as a baseline it flatters every decay, which helps almost any run.

    Source: the schedule that PyTorch names ConstantLR, its total_iters; a smaller constant rate at the beginning is the
    constant warm-up of Goyal et al. 2017, Accurate, Large Minibatch SGD (arXiv 1706.02677), section 2.2.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"factor": 1.0}

    factor: Annotated[float, Field(gt=0, le=1), Choice(0.1, 1.0)] = Field(
        default=1.0, description="Factor on the rate until total_iters."
    )
    total_iters: Annotated[int, Field(ge=1)] = Field(
        default=5, description="Epochs (or steps) at factor, before the base rate."
    )
    by: By = Field(default="epoch", description="What total_iters counts: epochs or optimizer steps.")

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        return self.factor if ticks(progress, self.by) < self.total_iters else 1.0
