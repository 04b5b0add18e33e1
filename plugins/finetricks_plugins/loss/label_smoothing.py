"""Label smoothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from finetricks import Choice, InputError, Step, Trick, hookimpl


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


def predicts_the_next_token(model: nn.Module) -> bool:
    """Whether `model` is one of transformers' causal language models, whose labels stand one position late."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


class LabelSmoothing(Trick):
    """The target is 1 - s on the label and s spread over all classes: the model is kept from certainty.

    Loss = (1 - s) * CE + s * mean over classes of -log p. For several labels at once each 0/1 target moves toward 1/2.
    Owns the loss. `class_weights` weigh both terms, as torch does. A causal language model's labels are its own inputs:
    each position is scored against the next.

    Traps: implementations that put s/(K - 1) on the wrong classes differ from this one by a rescaled s. Smoothing
    lowers the model's confidence, so a log loss or a threshold tuned without it no longer fits.

    Source: Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision (arXiv 1512.00567), section
    7; s = 0.1 is the paper's.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"smoothing": 0.0}

    smoothing: Annotated[float, Field(ge=0, lt=1), Choice(0.05, 0.1, 0.2)] = Field(
        default=0.1, description="s, the probability mass that is spread over all classes."
    )
    class_weights: list[Annotated[float, Field(ge=0)]] | None = Field(
        default=None, description="A weight for each class, in the order of the model's outputs."
    )

    @hookimpl
    def loss(self, outputs: Any, batch: Mapping[str, Any], step: Step) -> Tensor:
        own: Tensor | None = outputs.get("loss")
        if self.smoothing == 0 and self.class_weights is None and own is not None:
            return own
        logits, labels = outputs["logits"], batch["labels"]
        problem = getattr(getattr(step.model, "config", None), "problem_type", None)
        values = labels.is_floating_point() and labels.dim() < 2
        if values or logits.shape[-1] == 1 or problem == "regression":
            raise InputError("label_smoothing needs classes; these labels are values of a regression")
        if self.class_weights is not None and len(self.class_weights) != logits.shape[-1]:
            raise InputError(
                f"label_smoothing.class_weights has {len(self.class_weights)} weights for {logits.shape[-1]} classes"
            )
        if predicts_the_next_token(step.model):
            logits, labels = logits[..., :-1, :], labels[..., 1:]
        weight = None if self.class_weights is None else torch.tensor(self.class_weights).to(logits)
        smoothed = smooth_binary_cross_entropy if labels.is_floating_point() else smooth_cross_entropy
        return smoothed(logits, labels, self.smoothing, weight)
