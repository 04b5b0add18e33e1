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

    The parameter stays the raw weight; in evaluation it is used as it is.

    Source: Merity, Keskar & Socher 2018, Regularizing and Optimizing LSTM Language Models (arXiv 1708.02182), section 2
    (DropConnect on the recurrent matrices).
    """

    def __init__(self, input_size: int, hidden_size: int, weight_drop: float) -> None:
        super().__init__(input_size, hidden_size, batch_first=True)
        self.weight_drop = weight_drop

    def read(self, inputs: Tensor) -> Tensor:
        """States [rows, tokens, hidden] of inputs [rows, tokens, width], from the first token to the last."""
        if not self.training or self.weight_drop == 0:
            return self(inputs)[0]  # type: ignore[no-any-return]
        raw = self._flat_weights
        # torch reads the weights from this list; the dropped one stands there for this pass alone, for what stays on a
        # module between passes is copied and pickled with it.
        self._flat_weights = [
            F.dropout(weight, self.weight_drop) if weight is not None and name.startswith("weight_hh") else weight
            for name, weight in zip(self._flat_weights_names, raw, strict=True)
        ]
        try:
            return self(inputs)[0]  # type: ignore[no-any-return]
        finally:
            self._flat_weights = raw
