"""Cross-entropy, with a weight for each class if asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from finetricks import Step, Trick, hookimpl
from finetricks_plugins.loss.targets import ClassWeights, check_classes, class_weights, standard_loss, targets_of

NAME = "cross_entropy"


class CrossEntropy(Trick):
    """The field's standard loss of classes, -log p(label), with a weight for each class if asked for.

    Classes: softmax, mean of -w(y) log p(y) over examples, divided by the sum of their w(y). Several labels at once: a
    sigmoid each, mean over examples and labels of w(label) times the binary cross-entropy. Owns the loss. Without
    weights it is the loss that transformers' classifiers give themselves, bit for bit, and a name for the baseline
    beside `mse` and `label_smoothing`. A causal language model's labels are its own inputs: each position is scored
    against the next. Labels of -100 do not count.

    Traps: with weights the mean of a micro-batch is over its own weights, so that micro-batches with rare classes are
    not louder than others. For several labels `class_weights` weigh a label, present or absent; they do not weigh its
    presence against its absence. Weighted scores are no longer probabilities of the data as they are.

    Source: Goodfellow, Bengio & Courville 2016, Deep Learning, section 6.2.2; the weighted mean is torch's definition.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"class_weights": None}
    looks_ahead: ClassVar[bool] = False

    class_weights: ClassWeights | None = Field(
        default=None, description="A weight for each class, in the order of the model's outputs."
    )

    @hookimpl
    def init(self, model: nn.Module) -> None:
        check_classes(NAME, model, self.class_weights)

    @hookimpl
    def loss(self, outputs: Any, batch: Mapping[str, Any], step: Step) -> Tensor:
        targets = targets_of(outputs, batch, step.model, NAME)
        return standard_loss(targets, class_weights(NAME, targets, self.class_weights))
