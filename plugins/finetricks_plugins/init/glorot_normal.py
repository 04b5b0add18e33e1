"""Glorot's normal initialisation."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from finetricks import Context, InputError, Layers, Trick, hookimpl

Activation = Literal["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]


class GlorotNormal(Trick):
    """Draw weight matrices from N(0, gain^2 * 2 / (fan_in + fan_out)).

    Keeps the variance of activations and of gradients alike from layer to layer, for an activation that is near
    linear at zero (tanh, sigmoid). By default only the linear layers of the head; `all` starts every linear and
    convolutional layer anew, and throws pretrained weights away. Biases are set to zero; embeddings and the output
    layers tied to them are left.

    Traps: BERT's pooler belongs to the head, so a pretrained one is drawn anew with the classifier. For ReLU a gain of
    sqrt(2) makes up for the half that is cut, but He's form (fan_in alone) is the usual one.

    Source: Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks (AISTATS),
    section 4.2 (there as a uniform distribution of the same variance). Gains are torch's `calculate_gain`.
    """

    modules: Literal["head", "all"] = Field(default="head", description="What is drawn anew.")
    activation: Activation = Field(default="linear", description="The activation that follows; sets the gain.")
    gain: Annotated[float, Field(gt=0)] | None = Field(default=None, description="Instead of the activation's gain.")

    @hookimpl
    def init(self, model: nn.Module, layers: Layers, context: Context) -> None:
        from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

        matrices = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)
        generator = torch.Generator().manual_seed(context.seed)
        gain = nn.init.calculate_gain(self.activation) if self.gain is None else self.gain
        tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        head = layers.parameters.get("head", ())
        chosen = [
            module
            for name, module in model.named_modules()
            if isinstance(module, matrices)
            and id(module.weight) not in tables
            and (self.modules == "all" or f"{name}.weight".lstrip(".") in head)
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
