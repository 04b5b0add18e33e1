"""Two stages: the head alone, then everything at a smaller rate."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from finetricks import Choice, Context, Progress, Trick, hookimpl
from finetricks_plugins.evaluated.best import Mode, check_metric, goodness, improves

if TYPE_CHECKING:
    from finetricks import Layers

EPOCHS = 1.0
THAW = "two_stage: thaw the body"
"""The decision that ends stage 1."""


class TwoStage(Trick):
    """First the head learns on a frozen body, then all of it at a smaller rate.

    A new head's first gradients are noise to a pretrained body; a head that has been fitted asks little of it. Stage 1
    lasts some epochs, or a share of the run, or until a metric of a slice held out of train stops rising (`until`: then
    the plan shows stage 1 as long as it can last, and the run records where it ended). Stage 2 multiplies the schedule
    by `lr_factor`: a wrapper, so any schedule can stand beside it. A run no longer than stage 1 never thaws the body
    (you are told).

    Traps: LP-FT fits its head to convergence and tunes the rate of stage 2 apart; one rate for both
    is a common failure.

    Source: Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution
    (arXiv 2202.10054), section 3.4; Wang et al. 2019, How About the Best of Both Worlds? (arXiv 1907.05338).
    The papers state no epochs and no factor: 1 and 0.1 are common defaults.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"epochs": 0.0, "lr_factor": 1.0}
    plans_only: ClassVar[bool] = True

    epochs: Annotated[float, Field(ge=0), Choice(1.0, 2.0)] = Field(
        default=EPOCHS, description="Length of stage 1, in epochs."
    )
    fraction: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Length of stage 1 as a share of the run, instead of epochs; with until its longest."
    )
    until: str | None = Field(
        default=None,
        description="Stage 1 ends when this metric of the held-out slice stops improving, instead of after epochs.",
    )
    mode: Mode = Field(default="auto", description="Whether more of the metric is better; auto: less for losses.")
    patience: Annotated[int, Field(ge=1)] = Field(
        default=1, description="Evaluations without a better one that end stage 1; for until."
    )
    lr_factor: Annotated[float, Field(gt=0), Choice(0.1, 0.3, 1.0)] = Field(
        default=0.1, description="Factor on the learning rate in stage 2."
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        # By value: a resolved recipe holds the defaults too, and is read again.
        if self.epochs != EPOCHS and (self.fraction is not None or self.until is not None):
            other = "fraction" if self.fraction is not None else "until"
            raise ValueError(f"epochs and {other} both set the length of stage 1; give one of them")
        return self

    @property
    def decides(self) -> bool:
        return self.until is not None

    def in_stage_1(self, progress: Progress) -> bool:
        """Whether the body is still frozen at this step."""
        if self.until is not None and progress.decided(THAW):
            return False
        if self.fraction is not None:
            return progress.step < round(self.fraction * progress.total_steps)
        return self.until is not None or progress.step < round(self.epochs * progress.steps_per_epoch)

    @hookimpl
    def init(self, context: Context) -> None:
        check_metric("two_stage", self.until, context.metrics)

    @hookimpl
    def freeze(self, progress: Progress, layers: Layers) -> tuple[str, ...]:
        return layers.names[:-1] if self.in_stage_1(progress) else ()

    @hookimpl(wrapper=True)
    def schedule(self, progress: Progress) -> Generator[None, float, float]:
        factor = yield
        return factor if self.in_stage_1(progress) else factor * self.lr_factor

    @hookimpl
    def evaluated(self, metrics: Mapping[str, float], progress: Progress, state: dict[str, Any]) -> str | None:
        better = improves(goodness("two_stage", metrics, self.until, self.mode), state, min_delta=0.0)
        return THAW if not better and state["since"] >= self.patience and self.in_stage_1(progress) else None
