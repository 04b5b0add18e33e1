"""What a loss compares: scores and labels, side by side, and the kind of problem that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from finetricks import InputError

Problem = Literal["regression", "single_label_classification", "multi_label_classification"]
"""The kinds of problem, as a transformers configuration names them."""

IGNORED = -100
"""The class of a row or a token that no loss counts, as in torch and transformers."""

ClassWeights = Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1)]


@dataclass(frozen=True)
class Targets:
    """Scores and labels of a micro-batch.

    Attributes:
        logits: [..., outputs].
        labels: [...] long for classes, of which `IGNORED` ones do not count; for several labels and for values of the
            logits' type: [..., outputs], or [...] where there is one output.
    """

    problem: Problem
    logits: Tensor
    labels: Tensor


def targets_of(outputs: Any, batch: Mapping[str, Any], model: nn.Module, trick: str) -> Targets:
    """What `trick` compares. A causal language model's labels are its inputs: each position is scored on the next.

    Raises:
        InputError: there are no logits or no labels.
    """
    if not isinstance(outputs, Mapping) or outputs.get("logits") is None or batch.get("labels") is None:
        raise InputError(
            f"{trick} compares the model's `logits` with the batch's `labels`; outputs of {type(model).__name__}: "
            f"{', '.join(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__}, "
            f"batch: {', '.join(batch)}"
        )
    logits, labels = outputs["logits"], batch["labels"].to(outputs["logits"].device)
    problem = problem_of(model, logits, labels)
    if problem != "single_label_classification":
        return Targets(problem, logits, labels.to(logits.dtype))
    if predicts_the_next_token(model):
        labels = F.pad(labels, (0, 1), value=IGNORED)[..., 1:]
    return Targets(problem, logits.float() if logits.dim() > 2 else logits, labels)  # as transformers does, for tokens


def problem_of(model: nn.Module, logits: Tensor, labels: Tensor) -> Problem:
    """What the model's configuration says, or else what the shapes and the type of the labels do."""
    told: Problem | None = getattr(getattr(model, "config", None), "problem_type", None)
    if told is not None:
        return told
    values = labels.is_floating_point()
    if logits.shape[-1] == 1 or (values and labels.dim() < logits.dim()):
        return "regression"
    return "multi_label_classification" if values else "single_label_classification"


def predicts_the_next_token(model: nn.Module) -> bool:
    """Whether `model` is one of transformers' causal language models, whose labels stand one position late."""
    return type(model).__name__ in _causal_language_models()


@lru_cache(maxsize=1)
def _causal_language_models() -> frozenset[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())


def standard_loss(targets: Targets, weight: Tensor | None = None) -> Tensor:
    """The mean loss that transformers' models give themselves, to the bit: squared error, softmax or binary CE.

    Args:
        weight: [outputs], of each class; for several labels of each label. For classes the mean is weighted too.
    """
    logits, labels = targets.logits, targets.labels
    if targets.problem == "regression":
        return F.mse_loss(logits.reshape(labels.shape), labels)
    if targets.problem == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels, weight=weight)
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), weight=weight)


def check_classes(trick: str, model: nn.Module, weights: Sequence[float] | None) -> None:
    """Raise `InputError` where the configuration already says that `trick` cannot score the model's classes."""
    config: Any = getattr(model, "config", None)
    if getattr(config, "problem_type", None) == "regression":
        raise InputError(_no_classes(trick))
    if weights is not None and getattr(model, "loss_type", None) in (
        "ForSequenceClassification",
        "ForTokenClassification",
    ):
        _check_number(trick, weights, config.num_labels)


def class_weights(trick: str, targets: Targets, weights: Sequence[float] | None) -> Tensor | None:
    """The weight of each class as a tensor. Raises `InputError` for values of a regression, or the wrong number."""
    if targets.problem == "regression":
        raise InputError(_no_classes(trick))
    if weights is None:
        return None
    _check_number(trick, weights, targets.logits.shape[-1])
    return torch.tensor(weights).to(targets.logits)


def _no_classes(trick: str) -> str:
    return f"{trick} needs classes; these labels are values of a regression"


def _check_number(trick: str, weights: Sequence[float], classes: int) -> None:
    if len(weights) != classes:
        raise InputError(f"{trick}.class_weights has {len(weights)} weights for {classes} classes; give one for each")
