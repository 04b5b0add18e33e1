"""He's initialisation."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from finetricks import Choice, Context, Layers, Trick, hookimpl
from finetricks_plugins.init.fresh_modules import Which
from finetricks_plugins.init.matrices import Activation, draw_matrices

NAME = "kaiming"
Fan = Literal["fan_in", "fan_out"]
Distribution = Literal["normal", "uniform"]


def fill_kaiming(
    weight: Tensor, *, fan: Fan, distribution: Distribution, gain: float, generator: torch.Generator
) -> None:
    """Fill `weight` [out, in, *kernel] from a distribution of mean 0 and standard deviation gain / sqrt(fan)."""
    size = weight[0].numel() if fan == "fan_in" else weight.shape[0] * weight[0, 0].numel()
    std = gain / math.sqrt(size)
    if distribution == "normal":
        weight.normal_(0.0, std, generator=generator)
    else:
        weight.uniform_(-math.sqrt(3) * std, math.sqrt(3) * std, generator=generator)


class Kaiming(Trick):
    """Draw weight matrices with standard deviation gain / sqrt(fan_in), for the ReLU family.

    ReLU cuts half of what a layer gives; the gain sqrt(2) makes up for it, so that the variance is alike from layer to
    layer (`fan_out`: that of the gradients). For tanh and sigmoid, Glorot's form is the usual one (`glorot_normal`).
    The gain is that of the activation that follows each layer, seen in one forward pass, through dropout, norms and
    pooling, or the one named; 1 where none follows, as after the output layer.

    By default only linear and convolutional layers that no checkpoint supplied: a new head, and what tricks built.
    `head` takes all of the head, `all` starts every layer anew; both throw pretrained weights away. What
    `further_pretraining` or `greedy_pretraining` teaches comes after the drawing, wherever they stand in the recipe.
    Biases are set to zero. Embeddings and output layers tied to them are left (see `embedding_uniform`), and so are
    recurrent networks (see `lstm_orthogonal`).

    Traps: torch's own linear layers are drawn by `kaiming_uniform_` with a = sqrt(5), which is a gain of 0.58: fine for
    none, too small for deep ReLU networks. A leaky ReLU with a slope of your own (torch's are 0.01, PReLU's 0.25) asks
    for `gain`: sqrt(2 / (1 + slope^2)).

    Source: He, Zhang, Ren & Sun 2015, Delving Deep into Rectifiers (arXiv 1502.01852), section 2.2. Gains are torch's
    `calculate_gain`; where it has none (GELU, SiLU, ELU and others), ReLU's is a common default.
    """

    conflicts: ClassVar[dict[str, str]] = {
        "glorot_normal": "both draw the same weights anew, so that the later one would undo the work of the earlier"
    }

    modules: Which = Field(
        default="fresh", description="Which layers: those that no checkpoint supplied, the head's, or all."
    )
    activation: Activation = Field(
        default="auto", description="The activation that follows, which sets the gain; auto looks, layer by layer."
    )
    mode: Annotated[Fan, Choice("fan_in", "fan_out")] = Field(
        default="fan_in", description="Keep the variance of activations (fan_in) or of gradients (fan_out)."
    )
    distribution: Annotated[Distribution, Choice("normal", "uniform")] = Field(
        default="normal", description="Of the weights; both have the same variance."
    )
    gain: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Instead of the activation's gain."
    )

    @hookimpl
    def init(self, model: nn.Module, layers: Layers, context: Context) -> None:
        draw_matrices(
            partial(fill_kaiming, fan=self.mode, distribution=self.distribution),
            model,
            layers,
            context,
            modules=self.modules,
            activation=self.activation,
            gain=self.gain,
            trick=NAME,
        )
