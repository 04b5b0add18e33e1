"""Gradual unfreezing: thaw from the top."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from finetricks import Choice, Progress, Trick, hookimpl
from finetricks_plugins.freeze.stages import stage_of_run

if TYPE_CHECKING:
    from finetricks import Layers


class GradualUnfreezing(Trick):
    """Thaw from the top: first the head alone, then one layer more each epoch.

    Thawed layers stay thawed. The rest of a run after the last thaw trains everything. A run with fewer epochs than
    layers never thaws the lowest (you are told); `over: run` spreads the stages evenly over the run instead, so that
    even a short run ends with everything thawed (one of fewer steps than stages leaves out the first stages).

    Composes badly with schedules that fall over the run: the lowest layers thaw when the rate is nearly gone;
    `stlr: {restart: per_stage}` begins anew with each stage.

    Traps: the authors' code does not go layer by layer: it trains the head, then one group more, then everything, in
    three stages of an epoch each and the rest: `stages: [1, 2]`.

    Source: Howard & Ruder 2018, Universal Language Model Fine-tuning for Text Classification (arXiv 1801.06146),
    section 3.3; one layer an epoch is the paper's.
    """

    layers_per_stage: Annotated[int, Field(ge=1), Choice(1, 2)] = Field(
        default=1, description="Layers that thaw together."
    )
    stages: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = Field(
        default=None,
        description="Layers that train in each stage, counted from the top (at most all); after them all do.",
    )
    over: Literal["epochs", "run"] = Field(
        default="epochs", description="A stage lasts an epoch, or an even part of the run."
    )

    @model_validator(mode="after")
    def _stages_thaw_only(self) -> Self:
        if self.stages is not None and self.layers_per_stage != 1:
            raise ValueError("layers_per_stage and stages both say what thaws when; give one of them")
        if self.stages is not None and self.stages != sorted(self.stages):
            raise ValueError(f"stages must not fall, for thawed layers stay thawed; got {self.stages}")
        return self

    @hookimpl
    def freeze(self, progress: Progress, layers: Layers) -> tuple[str, ...]:
        counts = self.trainable(len(layers.names))
        stage = progress.epoch if self.over == "epochs" else stage_of_run(progress, len(counts))
        return layers.names[: len(layers.names) - counts[min(stage, len(counts) - 1)]]

    def trainable(self, layers: int) -> list[int]:
        """How many layers, counted from the top, train in each stage of a model of `layers` layers."""
        if self.stages is not None:
            return [*(min(count, layers) for count in self.stages), layers]
        return [*range(1, layers, self.layers_per_stage), layers]
