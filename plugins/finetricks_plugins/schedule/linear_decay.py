"""Linear decay of the learning rate."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from finetricks import Choice, Progress, Trick, hookimpl
from finetricks_plugins.schedule.ticks import By, ticks


def linear_factor(t: int, total: int, start: float, end: float) -> float:
    """Factor after `t` epochs or steps: a line from `start` to `end`, which is reached after `total` of them."""
    left = max(total - t, 0) / total
    return end + (start - end) * left


class LinearDecay(Trick):
    """The rate falls linearly, by default to zero over the run: factor = 1 - t/T.

    In general factor = start_factor + (end_factor - start_factor) * min(t, total_iters)/total_iters. Without
    `total_iters` the line spans the run, and the rate moves at each optimizer step, the usual schedule of fine-tuning:
    the first step is at the base rate, and the rate would be zero one step after the last. That equals transformers'
    linear schedule without warm-up. With `total_iters` it equals `torch.optim.lr_scheduler.LinearLR` at every step; it
    counts epochs then, as torch's schedulers are commonly stepped, unless `by` says otherwise. Total_iters beyond the
    run's end leaves the line unfinished. Owns the schedule; `warmup` goes over it.

    Composes badly with `gradual_unfreezing`: what thaws late learns at a rate that has nearly gone.

    Traps: torch's LinearLR rises by default (from 1/3 to 1 in 5 steps); this one falls.

    Source: the common default of BERT fine-tuning (Devlin et al. 2019, arXiv 1810.04805, appendix A.3).
    """

    neutral: ClassVar[dict[str, Any] | None] = {"start_factor": 1.0, "end_factor": 1.0}

    start_factor: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="Factor on the rate at the beginning."
    )
    end_factor: Annotated[float, Field(ge=0, le=1), Choice(0.0, 0.1)] = Field(
        default=0.0, description="Factor on the rate at the end of the line, and after it."
    )
    total_iters: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Epochs (or steps) from start_factor to end_factor; the run's length by default."
    )
    by: By | None = Field(
        default=None,
        description="When the rate moves, and what total_iters counts: by default epochs with total_iters, else steps.",
    )

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        by = self.by or ("step" if self.total_iters is None else "epoch")
        run = progress.epochs if by == "epoch" else progress.total_steps
        return linear_factor(ticks(progress, by), self.total_iters or run, self.start_factor, self.end_factor)
