"""Linear warm-up over any schedule."""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from finetricks import Choice, Progress, Trick, hookimpl

FRACTION = 0.1


class Warmup(Trick):
    """The first W steps rise linearly from 0: factor t/W on whatever the schedule gives.

    A wrapper: the owner (or the constant rate) keeps its own course below. As in transformers, the step t = 0 is at
    rate 0 and the step t = W is the first at full rate. With W beyond the run's end the full rate is never reached; a
    fraction of so short a run that it makes less than a step is no warm-up.

    Composes badly with `stlr`, which has a rise of its own.

    Traps: transformers' warm-up-then-decay schedules begin to decay only after W steps; here the owner has decayed
    since the first, so `linear_decay` with `warmup` lies below theirs by a factor of (T - W)/T at t = W.

    Source: Goyal et al. 2017, Accurate, Large Minibatch SGD (arXiv 1706.02677), section 2.2; for fine-tuning Devlin et
    al. 2019 (arXiv 1810.04805), appendix A.3. A tenth of the steps is the common default.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"steps": 0}

    steps: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="W, in optimizer steps, instead of fraction."
    )
    fraction: Annotated[float, Field(ge=0, le=1), Choice(0.05, 0.1, 0.2)] = Field(
        default=FRACTION, description="W as a share of the run, rounded down."
    )

    @model_validator(mode="after")
    def _steps_or_fraction(self) -> Self:
        # By value: a resolved recipe holds the defaults too, and is read again.
        if self.steps is not None and self.fraction != FRACTION:
            raise ValueError("steps and fraction both set the length of the warm-up; give one of them")
        return self

    @hookimpl(wrapper=True)
    def schedule(self, progress: Progress) -> Generator[None, float, float]:
        factor = yield
        steps = int(self.fraction * progress.total_steps) if self.steps is None else self.steps
        return factor * progress.step / steps if progress.step < steps else factor
