"""Gradient checkpointing: activations are computed anew in the backward pass instead of being kept.

A block's dropout is drawn from the same random state both times, so the gradients are those of a run that keeps them.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from finetricks.errors import InputError


def enable(model: nn.Module) -> bool:
    """Switch gradient checkpointing on; gives whether it was off before.

    Raises:
        InputError: the model has none.
    """
    found: Any = model
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise InputError(
            f"gradient_checkpointing: {type(model).__name__} has none. Models of transformers have, where "
            "`supports_gradient_checkpointing` is true; of a model of your own compute the blocks by "
            "torch.utils.checkpoint in its forward pass, and leave the setting off"
        )
    if found.is_activation_checkpointing:
        return False
    # Reentrant checkpoints lose the gradients of a block whose inputs need none: where what is below it is frozen.
    found.activation_checkpointing_enable({"use_reentrant": False})
    found.disable_input_require_grads()  # or the backward pass goes through all that is frozen
    return True


def disable(model: nn.Module) -> None:
    """Switch gradient checkpointing off."""
    found: Any = model
    found.activation_checkpointing_disable()
