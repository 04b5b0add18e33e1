"""Orthogonal recurrent weights."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from finetricks import Choice, Context, InputError, Layers, Trick, hookimpl
from finetricks_plugins.init.fresh_modules import redraw, select
from finetricks_plugins.init.recurrent import RECURRENT, gates, of_each_layer

NAME = "lstm_orthogonal"


class LSTMOrthogonal(Trick):
    """Draw each gate's recurrent weights as an orthogonal matrix: W^T W = gain^2 * I.

    An orthogonal matrix keeps the length of what it is applied to, so that states and gradients neither fade nor grow
    over many steps for its sake. Each gate's H x H block by itself (four in an LSTM), in each layer and direction; the
    rule is the same for GRUs (three gates) and plain RNNs (one), and they are drawn too. An LSTM with a projection to P
    units has H x P blocks: their columns are orthonormal, or their rows where P is the greater. Input weights are drawn
    with `input_weights: glorot_uniform`, each gate's block by itself; biases are left (see `lstm_forget_bias`).

    By default only networks that no checkpoint supplied, such as those of `task_layers`; `all` throws pretrained ones
    away. A folder of `finetricks new-lstm` supplies weights too, if random ones: `all` is right there, and
    `further_pretraining` comes after it.

    Traps: on the stacked 4H x H matrix an orthogonal initialiser makes W^T W = I for all gates together, and each gate
    by itself is far from orthogonal (it shrinks lengths to about a half). That is what public code mostly does.

    Source: Saxe, McClelland & Ganguli 2014, Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks (arXiv 1312.6120). Gain 1, and Glorot's distribution for input weights, are common defaults.
    """

    gain: Annotated[float, Field(gt=0, allow_inf_nan=False), Choice(0.9, 1.0)] = Field(
        default=1.0, description="Factor on the orthogonal matrices."
    )
    input_weights: Annotated[Literal["unchanged", "glorot_uniform"], Choice("unchanged", "glorot_uniform")] = Field(
        default="unchanged", description="What becomes of the weights on a layer's input."
    )
    modules: Literal["fresh", "all"] = Field(
        default="fresh", description="Which networks: those that no checkpoint supplied, or all."
    )

    @hookimpl
    def init(self, model: nn.Module, layers: Layers, context: Context) -> None:
        what = "recurrent network (nn.LSTM, nn.GRU, nn.RNN)"
        found = select(model, RECURRENT, self.modules, layers, context, trick=NAME, what=what)
        generator = torch.Generator().manual_seed(context.seed)
        recurrent, inputs = (
            [gate for module in found for weight in of_each_layer(module, kind) for gate in gates(module, weight)]
            for kind in ("weight_hh", "weight_ih")
        )
        if not recurrent:
            raise InputError(
                f"{NAME}: the {what} of {type(model).__name__} has no recurrent weights of its own: they are computed "
                "from other parameters"
            )
        for gate in recurrent:
            redraw(gate, partial(nn.init.orthogonal_, gain=self.gain, generator=generator))
        if self.input_weights == "glorot_uniform":
            for gate in inputs:
                redraw(gate, partial(nn.init.xavier_uniform_, generator=generator))
