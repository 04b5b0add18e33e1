"""Where the tokens of padded texts stand, and in which order a direction reads them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Alignment:
    """Texts brought to the left, read from the beginning or from the end; padding may stand on either side before.

    A direction that reads [rows, tokens] from the left never meets padding before a real token, so that no state of a
    real token depends on padding.

    Attributes:
        order: the place of the t-th token that is read, [rows, tokens]; beyond a text's end any place.
        back: which step read the token at a place, [rows, tokens]; for padding any step.
        mask: [rows, tokens], the places of real tokens.
    """

    order: Tensor
    back: Tensor
    mask: Tensor

    def read(self, values: Tensor) -> Tensor:
        """Values at the places of the tokens, [rows, tokens, width], in the order of reading."""
        return values.gather(1, self.order[..., None].expand_as(values))

    def put_back(self, states: Tensor) -> Tensor:
        """States in the order of reading, at the places of their tokens; zero at padding."""
        placed = states.gather(1, self.back[..., None].expand_as(states))
        return placed * self.mask[..., None]


def alignments(mask: Tensor) -> tuple[Alignment, Alignment]:
    """How texts whose real tokens `mask` [rows, tokens] marks are read from the beginning, and from the end."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    begin = mask.int().argmax(dim=1, keepdim=True)
    end = begin + mask.sum(dim=1, keepdim=True)
    longest = mask.shape[1] - 1
    forward = Alignment((begin + steps).clamp(max=longest), (steps - begin).clamp(min=0), mask)
    backward = Alignment((end - 1 - steps).clamp(min=0), (end - 1 - steps).clamp(min=0), mask)
    return forward, backward
