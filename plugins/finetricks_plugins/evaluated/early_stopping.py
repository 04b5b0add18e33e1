"""Early stopping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from finetricks import Choice, Context, Progress, Trick, hookimpl
from finetricks_plugins.evaluated.best import Mode, check_metric, goodness, improves

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "weights:"
"""Begins the names under which the best weights are remembered."""


class EarlyStopping(Trick):
    """Stop when the metric has not improved for some evaluations, and go back to the best weights.

    Stops after the evaluation at which the best lies `patience` evaluations back; the best weights return then, or at
    the run's end. Decides on a slice held out of train (`training.held_out`, a tenth of it, stratified), never on valid
    or test: on the split that scores a comparison it would always seem to help. What the slice costs in training
    examples is part of the trick. An evaluation is what `training.evaluate` says: an epoch, or so many steps. Its
    decisions and the best weights stand in the checkpoint.

    Composes badly with schedules that need their whole length: a run that stops early never sees the end of the decay,
    and the plan, compiled for all steps, does not know. With `gradual_unfreezing` a plateau of the first stages can end
    the run before the lower layers thaw: give a patience longer than a stage.

    Traps: the callbacks of public trainers stop, and select the best checkpoint, on the split whose score is then
    reported. Where several metrics are evaluated the best of one is not the best of another: name it.

    Source: Prechelt 1998, Early Stopping - But When? (Neural Networks: Tricks of the Trade), criterion UP_s, with the
    metric in place of the error; the comparisons of Howard & Ruder 2018 (arXiv 1801.06146), section 4, use it. Three
    evaluations are a common default.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"patience": None, "restore_best": False}

    metric: str | None = Field(
        default=None, description="Metric of the held-out slice; the task's first (accuracy, say) by default."
    )
    mode: Mode = Field(default="auto", description="Whether more is better; auto: less for losses and errors.")
    patience: Annotated[Annotated[int, Field(ge=1)] | None, Choice(1, 2, 3)] = Field(
        default=3, description="Evaluations without a better one after which the run stops; null never stops."
    )
    min_delta: Annotated[float, Field(ge=0)] = Field(default=0.0, description="What counts as better, at the least.")
    restore_best: bool = Field(default=True, description="Go back to the weights of the best evaluation.")

    @property
    def decides(self) -> bool:
        return self.patience is not None or self.restore_best

    @hookimpl
    def init(self, context: Context) -> None:
        check_metric("early_stopping", self.metric, context.metrics)

    @hookimpl
    def evaluated(
        self, metrics: Mapping[str, float], progress: Progress, model: nn.Module, state: dict[str, Any]
    ) -> str | None:
        import torch

        value = goodness("early_stopping", metrics, self.metric, self.mode)
        if improves(value, state, self.min_delta) and self.restore_best:
            state |= {WEIGHTS + name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        stop = self.patience is not None and state["since"] >= self.patience
        if self.restore_best and (stop or progress.step >= progress.total_steps):
            with torch.no_grad():
                for name, tensor in model.state_dict().items():
                    tensor.copy_(state[WEIGHTS + name])
        return "stop" if stop else None
