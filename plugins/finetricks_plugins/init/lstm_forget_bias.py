"""The bias of an LSTM's forget gate."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from finetricks import Choice, Context, InputError, Layers, Trick, hookimpl
from finetricks_plugins.init.fresh_modules import select
from finetricks_plugins.init.recurrent import LSTMS, gates, of_each_layer

NAME = "lstm_forget_bias"
FORGET = 1
"""The forget gate's place among the gates: input, forget, cell, output."""


class LSTMForgetBias(Trick):
    """Begin with open forget gates: an LSTM's effective forget bias is 1.

    A cell keeps sigmoid(b_f) of its content each step: a half at b_f = 0, 0.73 at 1, so that gradients reach further
    back from the start. torch adds two biases, so b_ih is set to `value` and b_hh to 0 in the forget gate's H entries,
    in each layer and direction; the other gates' biases are left. GRUs have no forget gate.

    By default only LSTMs that no checkpoint supplied, such as those of `task_layers`; `all` changes pretrained ones. A
    folder of `finetricks new-lstm` supplies weights too, if random ones: `all` is right there, and
    `further_pretraining` comes after it.

    Traps: public code that fills both biases with 1 has an effective forget bias of 2.

    Source: Jozefowicz, Zaremba & Sutskever 2015, An Empirical Exploration of Recurrent Network Architectures (ICML). 1
    is a common default.
    """

    value: Annotated[float, Field(allow_inf_nan=False), Choice(1.0, 2.0)] = Field(
        default=1.0, description="The sum of the forget gate's two biases."
    )
    modules: Literal["fresh", "all"] = Field(
        default="fresh", description="Which LSTMs: those that no checkpoint supplied, or all."
    )

    @hookimpl
    def init(self, model: nn.Module, layers: Layers, context: Context) -> None:
        found = select(model, LSTMS, self.modules, layers, context, trick=NAME, what="LSTM (a GRU has no forget gate)")
        if without := [module for module in found if not of_each_layer(module, "bias_ih")]:
            owner = type(model).__name__
            names = [name for name, module in model.named_modules() if module in without]
            where = f"{', '.join(names)} in {owner}" if any(names) else owner  # the model itself has no name
            raise InputError(
                f"{NAME}: {where} has no biases, so its forget gate has none to set; build it with bias=True"
            )
        for module in found:
            for prefix, value in (("bias_ih", self.value), ("bias_hh", 0.0)):
                for bias in of_each_layer(module, prefix):
                    with torch.no_grad():
                        gates(module, bias)[FORGET].fill_(value)
