"""Multi-step decay of the learning rate: a fixed factor at chosen moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from finetricks import Choice, Progress, Trick, hookimpl
from finetricks_plugins.schedule.ticks import By, ticks


def multistep_factor(t: int, milestones: Sequence[int], gamma: float) -> float:
    """Factor after `t` epochs or steps: `gamma` to the power of the milestones that have been reached."""
    return float(gamma ** sum(milestone <= t for milestone in milestones))


class MultiStepDecay(Trick):
    """The rate is multiplied by gamma at each milestone: factor = gamma^(milestones <= t).

    t counts epochs (or optimizer steps) from 0: milestone 2 lowers the rate after two epochs, for the third. The order
    of the milestones does not matter, and one that stands twice counts twice. Equal to
    `torch.optim.lr_scheduler.MultiStepLR` at every step. Owns the schedule; `warmup` goes over it. A milestone at or
    beyond the run's end is never reached; when all are, the rate never falls.

    Composes badly with `gradual_unfreezing`: what thaws late learns at a rate that has fallen already.

    Traps: milestones that were chosen for one length of run stay where they are when the run is made longer.

    Source: the schedule that PyTorch names MultiStepLR, its gamma; as in He et al. 2016, Deep Residual Learning for
    Image Recognition (arXiv 1512.03385), section 4.2. Milestones have no common default; 2 acts in a run of 3 epochs.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"gamma": 1.0}

    milestones: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = Field(
        default=[2], description="Epochs (or steps) after which the rate falls."
    )
    gamma: Annotated[float, Field(gt=0, le=1), Choice(0.1, 0.5)] = Field(
        default=0.1, description="Factor on the rate at each milestone."
    )
    by: By = Field(default="epoch", description="What the milestones count: epochs or optimizer steps.")

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        return multistep_factor(ticks(progress, self.by), self.milestones, self.gamma)
