"""Two stages: the head alone, then everything at a smaller rate."""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from finetricks import Choice, Layers, Progress, Trick, hookimpl

EPOCHS = 1.0


class TwoStage(Trick):
    """First the head learns on a frozen body, then all of it at a smaller rate.

    A new head's first gradients are noise to a pretrained body; a head that has been fitted asks little of it. Stage 2
    multiplies the schedule by `lr_factor`: a wrapper, so any schedule can stand beside it. A run no longer than stage 1
    never thaws the body (you are told).

    Traps: LP-FT fits its head to convergence and tunes the rate of stage 2 apart; one rate for both
    is a common failure.

    Source: Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution
    (arXiv 2202.10054), section 3.4; Wang et al. 2019, How About the Best of Both Worlds? (arXiv 1907.05338).
    The papers state no epochs and no factor: 1 and 0.1 are common defaults.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"epochs": 0.0, "lr_factor": 1.0}

    epochs: Annotated[float, Field(ge=0), Choice(1.0, 2.0)] = Field(
        default=EPOCHS, description="Length of stage 1, in epochs."
    )
    fraction: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Length of stage 1 as a share of the run, instead of epochs."
    )
    lr_factor: Annotated[float, Field(gt=0), Choice(0.1, 0.3, 1.0)] = Field(
        default=0.1, description="Factor on the learning rate in stage 2."
    )

    @model_validator(mode="after")
    def _epochs_or_fraction(self) -> Self:
        # By value: a resolved recipe holds the defaults too, and is read again.
        if self.fraction is not None and self.epochs != EPOCHS:
            raise ValueError("epochs and fraction both set the length of stage 1; give one of them")
        return self

    def boundary(self, progress: Progress) -> int:
        """The first step of stage 2."""
        if self.fraction is not None:
            return round(self.fraction * progress.total_steps)
        return round(self.epochs * progress.steps_per_epoch)

    @hookimpl
    def freeze(self, progress: Progress, layers: Layers) -> tuple[str, ...]:
        return layers.names[:-1] if progress.step < self.boundary(progress) else ()

    @hookimpl(wrapper=True)
    def schedule(self, progress: Progress) -> Generator[None, float, float]:
        factor = yield
        return factor if progress.step < self.boundary(progress) else factor * self.lr_factor
