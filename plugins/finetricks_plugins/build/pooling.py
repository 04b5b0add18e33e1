"""One vector of a row's token states. Padding, on whichever side, is left out.

The functions take states [rows, tokens, width] and the mask [rows, tokens] of real tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def first_token(states: Tensor, mask: Tensor) -> Tensor:
    """The state of the first real token ([CLS]): [rows, width]."""
    return states[torch.arange(len(states), device=states.device), mask.int().argmax(dim=1)]


def last_token(states: Tensor, mask: Tensor) -> Tensor:
    """The state of the last real token: [rows, width]."""
    last = mask.shape[1] - 1 - mask.int().flip(1).argmax(dim=1)
    return states[torch.arange(len(states), device=states.device), last]


def max_over_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """The greatest value of each dimension, zero in a row without tokens: [rows, width]."""
    greatest = states.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)
    return greatest.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)


def mean_over_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """The mean of each dimension, zero in a row without tokens: [rows, width]."""
    return states.masked_fill(~mask[..., None], 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def last_max_mean(states: Tensor, mask: Tensor) -> Tensor:
    """[last, max, mean] side by side: [rows, 3 * width]."""
    parts = [pool(states, mask) for pool in (last_token, max_over_tokens, mean_over_tokens)]
    return torch.cat(parts, dim=-1)


class Pooling(nn.Module):
    """Fits the slot `pooling` of a `Classifier`.

    Args:
        width: of the states.
        pool: gives the vectors.
        times: their width, in widths of the states.
    """

    def __init__(self, width: int, pool: Callable[[Tensor, Tensor], Tensor], times: int = 1) -> None:
        super().__init__()
        self.width = times * width
        self._pool = pool

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return self._pool(states, mask)

    def extra_repr(self) -> str:
        return self._pool.__name__
