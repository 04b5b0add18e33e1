"""Glorot's normal initialisation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from finetricks import Context, Layers, Trick, hookimpl
from finetricks_plugins.init.fresh_modules import Which
from finetricks_plugins.init.matrices import Activation, draw_matrices

NAME = "glorot_normal"


class GlorotNormal(Trick):
    """Draw weight matrices from N(0, gain^2 * 2 / (fan_in + fan_out)).

    Keeps the variance of activations and of gradients alike from layer to layer, where the activation that follows is
    near linear at zero: tanh, sigmoid, or none (for the ReLU family: `kaiming`). The gain is that of the activation
    that follows each layer, seen in one forward pass, through dropout, norms and pooling, or the one named.

    By default only linear and convolutional layers that no checkpoint supplied: a new head, and what tricks built.
    `head` takes all of the head, `all` starts every layer anew; both throw pretrained weights away. What
    `further_pretraining` or `greedy_pretraining` teaches comes after the drawing, wherever they stand in the recipe.
    Biases are set to zero. Embeddings and output layers tied to them are left (see `embedding_uniform`), and so are
    recurrent networks (see `lstm_orthogonal`).

    Traps: BERT's pooler belongs to the head, and mostly came with the checkpoint: `head` draws it anew, `fresh` does
    not. torch keeps an attention's three projections in one matrix, with a fan_out three times too large; here each is
    drawn by itself.

    Source: Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks (AISTATS),
    section 4.2 (there as a uniform distribution of the same variance). Gains are torch's `calculate_gain`; where it has
    none (GELU, SiLU, ELU and others), ReLU's is a common default.
    """

    modules: Which = Field(
        default="fresh", description="Which layers: those that no checkpoint supplied, the head's, or all."
    )
    activation: Activation = Field(
        default="auto", description="The activation that follows, which sets the gain; auto looks, layer by layer."
    )
    gain: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Instead of the activation's gain."
    )

    @hookimpl
    def init(self, model: nn.Module, layers: Layers, context: Context) -> None:
        draw_matrices(
            nn.init.xavier_normal_,
            model,
            layers,
            context,
            modules=self.modules,
            activation=self.activation,
            gain=self.gain,
            trick=NAME,
        )
