"""The dropouts of AWD-LSTM: of whole words, of the same units at every token, of recurrent weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LockedDropout(nn.Dropout):
    """Drop the same units at every token of a text: one mask [rows, 1, width] for states [rows, tokens, width].

    Source: Gal & Ghahramani 2016, A Theoretically Grounded Application of Dropout in Recurrent Neural Networks (arXiv
    1512.05287), section 4 (there called variational).
    """

    def forward(self, states: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return states
        return states * F.dropout(torch.ones_like(states[:, :1]), self.p)


class WordEmbedding(nn.Embedding):
    """An embedding that drops whole words of the vocabulary: wherever a dropped one stands its vector is zero.

    Source: Gal & Ghahramani 2016, section 4.2; Merity et al. 2018 (arXiv 1708.02182), section 4.3.
    """

    dropout: float = 0.0

    def forward(self, ids: Tensor) -> Tensor:
        embedded = super().forward(ids)
        if not self.training or self.dropout == 0:
            return embedded
        words = F.dropout(torch.ones_like(self.weight[:, :1]), self.dropout)
        return embedded * F.embedding(ids, words)


class WeightDropLSTM(nn.LSTM):
    """One layer in one direction, whose hidden-to-hidden weights are dropped, once for a whole forward pass.

    The parameter stays the raw weight; in evaluation it is used as it is. On a GPU torch may warn that the weights are
    not one chunk of memory: the dropped ones are new at each pass.

    Source: Merity, Keskar & Socher 2018, Regularizing and Optimizing LSTM Language Models (arXiv 1708.02182), section 2
    (DropConnect on the recurrent matrices).
    """

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, input_size: int, hidden_size: int, weight_drop: float) -> None:
        super().__init__(input_size, hidden_size, batch_first=True)
        self.weight_drop = weight_drop

    def forward(  # type: ignore[override]
        self, inputs: Tensor, start: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `nn.LSTM`, of [rows, tokens, width]."""
        if not self.training or self.weight_drop == 0:
            return super().forward(inputs, start)
        if start is None:
            zeros = inputs.new_zeros(1, len(inputs), self.hidden_size)
            start = (zeros, zeros)
        # Not through the list of weights that nn.LSTM keeps: it is made anew, without what was put there, whenever the
        # parameters have been exchanged (torch.func.functional_call).
        dropped = F.dropout(self.weight_hh_l0, self.weight_drop)
        weights = [self.weight_ih_l0, dropped, self.bias_ih_l0, self.bias_hh_l0]
        states, hidden, cell = torch.lstm(
            inputs,
            start,
            weights,
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=True,
            bidirectional=False,
            batch_first=True,
        )
        return states, (hidden, cell)
