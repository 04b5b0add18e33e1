"""The parameters of recurrent networks, gate by gate.

torch stacks the gates of a layer in one matrix (an LSTM's: input, forget, cell, output), each with as many rows as
there are hidden units, and keeps a matrix for each layer and direction: `weight_hh_l0`, `weight_hh_l0_reverse`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from finetricks_plugins.init.fresh_modules import stored

LSTMS = (nn.LSTM, nn.LSTMCell)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def of_each_layer(module: Any, kind: str) -> list[nn.Parameter]:
    """The weights or biases of a kind (`weight_hh`, ...) of a recurrent module: one for each layer and direction."""
    directions = ("", "_reverse") if getattr(module, "bidirectional", False) else ("",)
    layers = [f"_l{layer}" for layer in range(module.num_layers)] if isinstance(module, nn.RNNBase) else [""]
    found = [stored(module, f"{kind}{layer}{direction}") for layer in layers for direction in directions]
    return [parameter for parameter in found if parameter is not None]


def gates(module: Any, stacked: Tensor) -> tuple[Tensor, ...]:
    """Views of the gates in a stacked weight or bias."""
    return stacked.split(module.hidden_size)  # type: ignore[no-any-return]
