"""Linear decay of the learning rate."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetricks import Choice, Progress, Trick, hookimpl


class LinearDecay(Trick):
    """The rate falls linearly over the run: factor = 1 - (1 - end) * t/T.

    The first step is at the base rate; the rate would reach `end` of it one step after the last. With `end` 0 it equals
    transformers' linear schedule without warm-up. Owns the schedule; `warmup` goes over it.

    Source: the common default of BERT fine-tuning (Devlin et al. 2019, arXiv 1810.04805, appendix A.3).
    """

    end: Annotated[float, Field(ge=0, le=1), Choice(0.0, 0.1)] = Field(
        default=0.0, description="Factor that the rate falls to."
    )

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        left = (progress.total_steps - progress.step) / progress.total_steps
        return self.end + (1 - self.end) * left
