"""Label smoothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from finetricks import Choice, Step, Trick, hookimpl
from finetricks_plugins.loss.targets import ClassWeights, check_classes, class_weights, targets_of

NAME = "label_smoothing"


def smooth_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of `logits` [..., classes] against `labels` [...] (long, -100 ignored), smoothed evenly."""
    return F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), weight=weight, label_smoothing=smoothing
    )


def smooth_binary_cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float, weight: Tensor | None = None
) -> Tensor:
    """Mean binary cross-entropy of `logits` against 0/1 `labels` (both [examples, labels]), each moved toward 1/2."""
    return F.binary_cross_entropy_with_logits(logits, labels * (1 - smoothing) + smoothing / 2, weight=weight)


class LabelSmoothing(Trick):
    """The target is 1 - s on the label and s spread over all classes: the model is kept from certainty.

    Loss = (1 - s) * CE + s * mean over classes of -log p. For several labels at once each 0/1 target moves toward 1/2.
    Owns the loss. `class_weights` weigh both terms, as torch does: with q the smoothed target, the sum over examples
    and classes of -w q log p, divided by the sum of the labels' weights (for several labels at once the plain mean). A
    causal language model's labels are its own inputs: each position is scored against the next.

    Traps: implementations that put s/(K - 1) on the wrong classes differ from this one by a rescaled s. Smoothing
    lowers the model's confidence, so a log loss or a threshold tuned without it no longer fits.

    Source: Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision (arXiv 1512.00567), section
    7; s = 0.1 is the paper's.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"smoothing": 0.0}
    looks_ahead: ClassVar[bool] = False

    smoothing: Annotated[float, Field(ge=0, lt=1), Choice(0.05, 0.1, 0.2)] = Field(
        default=0.1, description="s, the probability mass that is spread over all classes."
    )
    class_weights: ClassWeights | None = Field(
        default=None, description="A weight for each class, in the order of the model's outputs."
    )

    @property
    def _is_off(self) -> bool:
        return self.smoothing == 0 and self.class_weights is None

    @hookimpl
    def init(self, model: nn.Module) -> None:
        if not self._is_off:
            check_classes(NAME, model, self.class_weights)

    @hookimpl
    def loss(self, outputs: Any, batch: Mapping[str, Any], step: Step) -> Tensor:
        if self._is_off and isinstance(outputs, Mapping) and outputs.get("loss") is not None:
            own: Tensor = outputs["loss"]
            return own
        targets = targets_of(outputs, batch, step.model, NAME)
        weight = class_weights(NAME, targets, self.class_weights)
        several = targets.problem == "multi_label_classification"
        smoothed = smooth_binary_cross_entropy if several else smooth_cross_entropy
        return smoothed(targets.logits, targets.labels, self.smoothing, weight)
