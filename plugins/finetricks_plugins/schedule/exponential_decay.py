"""Exponential decay of the learning rate."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from finetricks import Choice, Progress, Trick, hookimpl
from finetricks_plugins.schedule.ticks import By, ticks


class ExponentialDecay(Trick):
    """The rate is multiplied by gamma after every epoch: factor = gamma^t.

    t counts epochs (or optimizer steps) from 0; equal to `torch.optim.lr_scheduler.ExponentialLR` at every step. Owns
    the schedule; `warmup` goes over it. A run of one epoch keeps the base rate.

    Composes badly with `gradual_unfreezing`: what thaws late learns at a rate that has fallen already.

    Traps: the same gamma means another schedule when it is counted in steps; to fall to a share s over T steps, give
    s^(1/T) (a tenth over 1000 steps: 0.9977), and give it anew when the run's length changes.

    Source: the schedule that PyTorch names ExponentialLR. Gamma has no common default; 0.5 halves the rate each epoch.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"gamma": 1.0}

    gamma: Annotated[float, Field(gt=0, le=1), Choice(0.3, 0.5, 0.9)] = Field(
        default=0.5, description="Factor on the rate after each epoch (or step)."
    )
    by: By = Field(default="epoch", description="After what the rate falls: each epoch or each optimizer step.")

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        return float(self.gamma ** ticks(progress, self.by))
