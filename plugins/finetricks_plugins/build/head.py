"""The head of a model: what stands outside its encoder."""

from __future__ import annotations

from typing import Any

from torch import nn


def is_carried(module: nn.Module) -> bool:
    """Whether a trick has put `module` beside a model's head, to stay with the model whatever becomes of the head."""
    return bool(getattr(module, "carried", False))


def head_modules(model: nn.Module) -> list[nn.Module]:
    """All modules outside the encoder, in the order of registration; in a model that names no encoder, all."""
    base = getattr(model, "base_model", model)
    apart: set[nn.Module] = set() if base is model else set(base.modules())
    for child in model.children():
        if is_carried(child):
            apart.update(child.modules())
    return [module for module in model.modules() if module not in apart]


def output_layer(model: nn.Module) -> nn.Linear | None:
    """The linear layer that gives the scores: the last of the head, with an output a label where labels are counted."""
    linears = [module for module in head_modules(model) if isinstance(module, nn.Linear)]
    config: Any = getattr(model, "config", None)
    labels = getattr(config, "num_labels", None)
    return next(reversed([linear for linear in linears if linear.out_features == labels] or linears), None)


def head_dropouts(model: nn.Module) -> list[nn.Dropout]:
    """The dropout modules of the head, in the order of registration."""
    return [module for module in head_modules(model) if isinstance(module, nn.Dropout)]
