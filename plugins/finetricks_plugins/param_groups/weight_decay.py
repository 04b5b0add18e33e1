"""Decoupled weight decay, by default none on biases and norms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from finetricks import Choice, ParamOptions, Trick, hookimpl

if TYPE_CHECKING:
    from torch import nn


def biases_and_norms(model: nn.Module) -> set[str]:
    """Names of the parameters that are biases, or belong to a normalisation layer (any class named `...Norm...`).

    A bias is known by its name: `bias`, `bias_ih_l0` (recurrent layers), `in_proj_bias` (attention).
    """
    names = set()
    for name, _ in model.named_parameters():
        own = name.rpartition(".")[2]
        if own.startswith("bias") or own.endswith("bias"):
            names.add(name)
    for prefix, module in model.named_modules():
        if "norm" in type(module).__name__.lower():
            names |= {f"{prefix}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)}
    return names


class WeightDecay(Trick):
    """Weights shrink by lr x value at each step, apart from biases and norms.

    Decoupled from the gradient as in AdamW: w <- w - lr * value * w, with the layer's own rate, so that layers that
    learn slowly decay slowly too. With plain SGD it is the classical L2 term in the gradient. Embeddings decay.

    Traps: lists of names that spare `gamma` and `beta` spare nothing in today's models (`LayerNorm.weight`).

    Source: Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization (arXiv 1711.05101), section 2. Sparing
    biases and norms, and 0.01, are the common defaults of BERT fine-tuning.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"value": 0.0}

    value: Annotated[float, Field(ge=0), Choice(0.001, 0.01, 0.1)] = Field(
        default=0.01, description="Share of a weight taken off at each step at learning rate 1."
    )
    exempt: Literal["bias_and_norm", "none"] = Field(default="bias_and_norm", description="What does not decay.")

    @hookimpl
    def param_groups(self, model: nn.Module) -> dict[str, ParamOptions]:
        if self.value == 0:
            return {}
        spared = biases_and_norms(model) if self.exempt == "bias_and_norm" else set()
        return {
            name: ParamOptions(weight_decay=0.0 if name in spared else self.value)
            for name, _ in model.named_parameters()
        }
