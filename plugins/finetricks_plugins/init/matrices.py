"""The weight matrices of linear and convolutional layers, and the gain that each asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from finetricks import Context, InputError, Layers
from finetricks.layer_pass import first_rows, undisturbed
from finetricks_plugins.build.activations import Kind
from finetricks_plugins.init.activation_after import activations_after
from finetricks_plugins.init.forward import run
from finetricks_plugins.init.fresh_modules import Which, redraw, select, stored

Activation = Literal["auto", "linear"] | Kind

_SLOPES = {"leaky_relu": 0.01, "prelu": 0.25, "rrelu": (1 / 8 + 1 / 3) / 2}
"""What torch's leaky ReLUs multiply negative values with by default (RReLU: in the mean)."""


@dataclass(frozen=True)
class Matrix:
    """Views of a module's weight, [out, in] or [out, in, *kernel], and of its bias."""

    module: nn.Module
    weight: Tensor
    bias: Tensor | None


def gain_of(activation: str) -> float:
    """torch's gain for an activation; for those that torch has none for (GELU, SiLU, ELU, ...) ReLU's, as is common."""
    if activation in _SLOPES:
        return nn.init.calculate_gain("leaky_relu", _SLOPES[activation])
    known: dict[str, Any] = {name: name for name in ("linear", "sigmoid", "tanh", "selu")}
    return nn.init.calculate_gain(known.get(activation, "relu"))


def draw_matrices(
    fill: Callable[..., Any],
    model: nn.Module,
    layers: Layers,
    context: Context,
    *,
    modules: Which,
    activation: Activation,
    gain: float | None,
    trick: str,
) -> None:
    """Draw the matrices of the chosen modules anew, and set their biases to zero.

    Args:
        fill: called with a tensor to fill, `gain` and `generator`.
        modules: see `select`.
        activation: what follows the layers; `auto` looks, layer by layer.
        gain: instead of the activation's.
        trick: its name, for messages.

    Raises:
        InputError: there is nothing to draw, or nothing to look at.
    """
    found = matrices(model, layers, context, modules=modules, trick=trick)
    follows: dict[nn.Module, str] = {}
    if gain is None and activation == "auto":
        follows = _look([matrix.module for matrix in found], model, context, trick)
    generator = torch.Generator().manual_seed(context.seed)
    for matrix in found:
        kind = follows.get(matrix.module, "linear") if activation == "auto" else activation
        redraw(matrix.weight, partial(fill, gain=gain_of(kind) if gain is None else gain, generator=generator))
        if matrix.bias is not None:
            with torch.no_grad():
                matrix.bias.zero_()


def matrices(model: nn.Module, layers: Layers, context: Context, *, modules: Which, trick: str) -> list[Matrix]:
    """The matrices of the chosen modules, each once; output layers that are tied to an embedding table are left."""
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer: [in, out]

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D, nn.MultiheadAttention)
    seen = {stored(module, "weight") for module in model.modules() if isinstance(module, nn.Embedding)}
    found: list[Matrix] = []
    chosen = select(model, kinds, modules, layers, context, trick=trick, what="linear or convolutional layer")
    for module in chosen:
        if isinstance(module, nn.MultiheadAttention):
            found += _projections(module)
        elif (weight := stored(module, "weight")) is not None and weight not in seen:
            seen.add(weight)
            found.append(Matrix(module, weight.T if isinstance(module, Conv1D) else weight, stored(module, "bias")))
    if not found:
        raise InputError(
            f"{trick}: the linear layers of {type(model).__name__} that `modules: {modules}` means have no weights of "
            "their own: they are tied to embedding tables, or computed from other parameters"
        )
    return found


def _projections(attention: nn.MultiheadAttention) -> list[Matrix]:
    """Queries, keys and values, which torch may have stacked in one matrix."""
    stacked, bias = attention.in_proj_weight, attention.in_proj_bias
    weights: Sequence[Any] = (
        (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        if stacked is None
        else stacked.chunk(3)
    )
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    return [Matrix(attention, weight, own) for weight, own in zip(weights, biases, strict=True)]


def _look(found: Sequence[nn.Module], model: nn.Module, context: Context, trick: str) -> dict[nn.Module, str]:
    """The activation after each layer, from a pass on two rows of the first training batch."""
    batch = None if context.batches is None else next(iter(context.batches()), None)
    if batch is None:
        raise InputError(
            f"{trick}: which activation follows a layer is seen on a training batch, and none can be read before "
            "training; name the `activation`, or give a loader with a length instead of an iterator"
        )
    with undisturbed(model):
        return activations_after(found, model, lambda: run(model, first_rows(model, batch)))
