"""Glorot's normal initialisation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from finetricks import Context, InputError, Layers, Trick, hookimpl

Activation = Literal["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class GlorotNormal(Trick):
    """Draw weight matrices from N(0, gain^2 * 2 / (fan_in + fan_out)).

    Keeps the variance of activations and of gradients alike from layer to layer, for an activation that is near
    linear at zero (tanh, sigmoid). By default only the head's linear layers, which are new; `all` starts every linear
    and convolutional layer anew, and throws pretrained weights away. Biases are set to zero, embeddings are left.

    Traps: for ReLU a gain of sqrt(2) makes up for the half that is cut, but He's form (fan_in alone) is the usual one.

    Source: Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks (AISTATS),
    section 4.2 (there as a uniform distribution of the same variance). Gains are torch's `calculate_gain`.
    """

    modules: Literal["head", "all"] = Field(default="head", description="What is drawn anew.")
    activation: Activation = Field(default="linear", description="The activation that follows; sets the gain.")
    gain: Annotated[float, Field(gt=0)] | None = Field(default=None, description="Instead of the activation's gain.")

    @hookimpl
    def init(self, model: nn.Module, layers: Layers, context: Context) -> None:
        generator = torch.Generator().manual_seed(context.seed)
        gain = nn.init.calculate_gain(self.activation) if self.gain is None else self.gain
        chosen = [
            module
            for name, module in model.named_modules()
            if isinstance(module, _MATRICES) and self._is_chosen(f"{name}.weight".lstrip("."), layers)
        ]
        if not chosen:
            raise InputError(
                "glorot_normal: the head has no linear layer to draw; `modules: all` draws the whole model"
            )
        for module in chosen:
            draw = torch.empty(module.weight.shape)
            nn.init.xavier_normal_(draw, gain=gain, generator=generator)
            with torch.no_grad():
                module.weight.copy_(draw)
                if module.bias is not None:
                    module.bias.zero_()

    def _is_chosen(self, weight: str, layers: Layers) -> bool:
        if self.modules == "all":
            return True
        head: Any = layers.parameters.get("head", ())
        return weight in head
