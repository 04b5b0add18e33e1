"""Where the tokens of padded texts stand, and in which order a direction reads them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Alignment:
    """The real tokens of texts brought to the left, read from the beginning or the end; padding may stand anywhere.

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
    number = mask.cumsum(dim=1)  # of a real token in its text, from 1
    forward = (number - 1).clamp(min=0)
    backward = (number[:, -1:] - number).clamp(min=0)
    padding = (~mask).int()
    from_begin = padding.argsort(dim=1, stable=True)
    from_end = mask.shape[1] - 1 - padding.flip(1).argsort(dim=1, stable=True)
    return Alignment(from_begin, forward, mask), Alignment(from_end, backward, mask)
