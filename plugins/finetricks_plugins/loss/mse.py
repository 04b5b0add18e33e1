"""Mean squared error, for classes too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from finetricks import Choice, Step, Trick, hookimpl
from finetricks_plugins.loss.targets import IGNORED, Targets, standard_loss, targets_of

Compare = Literal["logits", "probabilities"]


def squared_error(targets: Targets, compare: Compare = "logits") -> Tensor:
    """Mean over examples and outputs of (score - target)^2; the target of a class is its one-hot vector.

    Args:
        compare: the scores that are compared: raw, or after a softmax (for several labels a sigmoid each).
    """
    if targets.problem == "regression":
        return standard_loss(targets)
    logits, labels = targets.logits, targets.labels
    several = targets.problem == "multi_label_classification"
    if not several:
        counted = labels != IGNORED
        logits = logits[counted]
        labels = F.one_hot(labels[counted], logits.shape[-1]).to(logits.dtype)
    if compare == "probabilities":
        logits = logits.sigmoid() if several else logits.softmax(dim=-1)
    return F.mse_loss(logits, labels)


class MSE(Trick):
    """Mean squared error of the scores against the one-hot labels, instead of cross-entropy.

    L = mean over examples and classes of (score - target)^2, target 1 for the label and 0 for the others; for several
    labels at once their 0/1 values, in a regression the values as they are. Owns the loss. The scores are the raw
    logits: with the square loss the paper takes the softmax off, because it gets in the way of training.
    `compare: probabilities` puts it back (the Brier score, divided by the number of classes). Labels of -100 do not
    count; a causal language model's position is scored against the next token.

    Traps: with raw logits the scores reported as probabilities (a softmax of values near 0 and 1) are far from certain,
    so a log loss or a threshold means something else; the accuracy does not suffer. On probabilities a class that is
    wrong with certainty has no gradient left. With 42 and more classes the paper enlarges target and weight of the
    label; it is not done here. The gradient is smaller than that of cross-entropy: the learning rate wants its own
    search.

    Source: Hui & Belkin 2021, Evaluation of Neural Architectures Trained with Square Loss vs Cross-Entropy in
    Classification Tasks (arXiv 2006.07322).
    """

    looks_ahead: ClassVar[bool] = False

    compare: Annotated[Compare, Choice("logits", "probabilities")] = Field(
        default="logits", description="What is compared with the one-hot labels: raw logits, or probabilities."
    )

    @hookimpl
    def loss(self, outputs: Any, batch: Mapping[str, Any], step: Step) -> Tensor:
        return squared_error(targets_of(outputs, batch, step.model, "mse"), self.compare)
