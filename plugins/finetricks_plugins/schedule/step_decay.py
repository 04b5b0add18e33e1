"""Step decay of the learning rate: a fixed factor at fixed intervals."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from finetricks import Choice, Progress, Trick, hookimpl
from finetricks_plugins.schedule.ticks import By, ticks


def step_factor(t: int, step_size: int, gamma: float) -> float:
    """Factor after `t` epochs or steps: `gamma` to the power of the whole intervals of `step_size` that have passed."""
    return float(gamma ** (t // step_size))


class StepDecay(Trick):
    """The rate is multiplied by gamma every step_size epochs: factor = gamma^floor(t / step_size).

    t counts epochs (or optimizer steps) from 0; equal to `torch.optim.lr_scheduler.StepLR` at every step. Owns the
    schedule; `warmup` goes over it. In a run that is not longer than `step_size` the rate never falls.

    Composes badly with `gradual_unfreezing`: what thaws late learns at a rate that has fallen already.

    Traps: gamma 0.1 with intervals of 30 epochs is the habit of training image models from scratch; fine-tuning is over
    by then.

    Source: the schedule that PyTorch names StepLR, its gamma; intervals of 8 epochs stand in Szegedy et al. 2015, Going
    Deeper with Convolutions (arXiv 1409.4842), section 6. `step_size` has no common default; 2 acts in a run of 3
    epochs.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"gamma": 1.0}

    step_size: Annotated[int, Field(ge=1), Choice(1, 2)] = Field(
        default=2, description="Epochs (or steps) between two falls."
    )
    gamma: Annotated[float, Field(gt=0, le=1), Choice(0.1, 0.5)] = Field(
        default=0.1, description="Factor on the rate at each fall."
    )
    by: By = Field(default="epoch", description="What step_size counts: epochs or optimizer steps.")

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        return step_factor(ticks(progress, self.by), self.step_size, self.gamma)
