"""Slanted triangular learning rates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetricks import Choice, Progress, Trick, hookimpl


def slanted_triangle(step: int, steps: int, cut_frac: float, ratio: float) -> float:
    """Factor on the peak rate at `step` (from 0) of `steps`: a short rise from 1/ratio to 1, a long fall back.

    The paper falls over cut * (1/cut_frac - 1) steps; where steps * cut_frac is no integer that ends before the run
    does, and the rate turns negative (steps = 19: -0.0083 of 0.01). This one falls over the steps that are left.
    """
    cut = max(int(steps * cut_frac), 1)
    share = step / cut if step < cut else 1 - (step - cut) / max(steps - cut, 1)
    return (1 + share * (ratio - 1)) / ratio


class SlantedTriangular(Trick):
    """A short linear warm-up, then a long linear decay: the slanted triangle of ULMFiT.

    With cut = max(floor(T * cut_frac), 1): p = t/cut for t < cut, else 1 - (t - cut)/(T - cut);
    factor = (1 + p * (ratio - 1)) / ratio. The peak is the base rate, the ends are 1/ratio of it. Owns the schedule.

    Composes badly with `warmup`, which rises a second time over the triangle's own rise.

    Traps: the equation as printed goes negative near the end, and divides by zero for T < 1/cut_frac; the fall here is
    over the steps that are left, as in the authors' code. Their classifier does not run one triangle but a new one at
    each unfreezing, with ratio 8 and cut 1/8 (1/3 in the first stages): `restart: per_stage`. A stage of one step is
    at 1/ratio of the base rate. fastai's later `fit_one_cycle` is another schedule (25 and 0.3, along cosines).

    Source: Howard & Ruder 2018, Universal Language Model Fine-tuning for Text Classification (arXiv 1801.06146),
    section 3.2; cut_frac 0.1 and ratio 32 are the paper's.
    """

    cut_frac: Annotated[float, Field(gt=0, lt=1), Choice(0.05, 0.1, 0.3)] = Field(
        default=0.1, description="Share of the steps in which the rate rises."
    )
    ratio: Annotated[float, Field(gt=1, allow_inf_nan=False), Choice(8.0, 32.0)] = Field(
        default=32.0, description="The peak rate over the lowest."
    )
    restart: Literal["never", "per_stage"] = Field(
        default="never", description="per_stage: a new triangle for each stretch with the same frozen layers."
    )

    @hookimpl
    def schedule(self, progress: Progress) -> float:
        if self.restart == "per_stage" and progress.stage is not None:
            stage = progress.stage
            return slanted_triangle(progress.step - stage.start, stage.steps, self.cut_frac, self.ratio)
        return slanted_triangle(progress.step, progress.total_steps, self.cut_frac, self.ratio)
