"""Cosine annealing with warm restarts (SGDR)."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from finetricks import Choice, Progress, Trick, hookimpl
from finetricks_plugins.schedule.ticks import ticks


def cosine_factor(t: int, first: int, growth: int, lowest: float) -> float:
    """Factor after `t` epochs or steps: half a cosine from 1 to `lowest` in each cycle.

    The first cycle has length `first`, each later one `growth` times the length of the one before.
    """
    length = first
    if growth == 1:
        t %= length
    else:
        while t >= length:
            t -= length
            length *= growth
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * t / length)) / 2


class CosineRestarts(Trick):
    """The rate falls along half a cosine, jumps back to the base rate, and falls again: SGDR.

    With T_cur since the last restart and T_i the length of the cycle (T_0, then T_mult times the one before):
    factor = eta_min + (1 - eta_min) * (1 + cos(pi * T_cur / T_i)) / 2. Equal to
    `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts` at every step. Owns the schedule; `warmup` goes over it. A
    run that is not longer than T_0 never restarts.

    Composes badly with `gradual_unfreezing`, unless a cycle begins where a layer thaws: what thaws late in a cycle
    hardly learns until the next.

    Traps: stepped once an epoch, a cycle of T_0 epochs has only T_0 different rates, the lowest of which is above
    eta_min; with T_0 1 and T_mult 1 the rate never falls. The paper lets T_cur grow with every batch: `by: fraction`
    (torch's `step(epoch + i / steps_per_epoch)`). Torch's eta_min is a rate, this one a share of the base rate.

    Source: Loshchilov & Hutter 2017, SGDR: Stochastic Gradient Descent with Warm Restarts (arXiv 1608.03983),
    section 3. The paper tries several T_0; 2 is none of its values, and restarts within a run of 3 epochs.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"eta_min": 1.0}

    T_0: Annotated[int, Field(ge=1), Choice(2, 5)] = Field(
        default=2, description="Length of the first cycle, in epochs (or steps)."
    )
    T_mult: Annotated[int, Field(ge=1), Choice(1, 2)] = Field(
        default=1, description="Length of a cycle over that of the one before."
    )
    eta_min: Annotated[float, Field(ge=0, le=1), Choice(0.0, 0.1)] = Field(
        default=0.0, description="Lowest rate, as a share of the base rate."
    )
    by: Literal["epoch", "step", "fraction"] = Field(
        default="epoch",
        description="What T_0 counts, and when the rate moves: each epoch; each step; fraction: epochs, at each step.",
    )

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        if self.by == "fraction":
            first = self.T_0 * progress.steps_per_epoch
            return cosine_factor(progress.step, first, self.T_mult, self.eta_min)
        return cosine_factor(ticks(progress, self.by), self.T_0, self.T_mult, self.eta_min)
