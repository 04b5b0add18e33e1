"""How examples become rows of the encoder, and rows one vector an example: a slot of the `Classifier`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Inputs = dict[str, Tensor]
Pooled = tuple[Tensor, tuple[Tensor, ...]]
"""A vector for each row [rows, width], and the states of the encoder's layers [rows, tokens, width] if asked for."""


class Arrangement(nn.Module):
    """Each example is one row. What is arranged otherwise overrides what differs.

    `fit` is told the width of the pooled vectors, makes the parts that need it, and gives the width of `vectors`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def fit(self, pooled: int) -> int:
        return pooled

    def rows(self, inputs: Inputs) -> Inputs:
        """The encoder's inputs, [rows, tokens] each, made of the examples', [examples, tokens] each."""
        return inputs

    def pooled(self, pool: Callable[[Inputs], Pooled], rows: Inputs) -> Pooled:
        """What `pool` gives of the rows: it encodes them and pools their tokens. Here all in one call."""
        return pool(rows)

    def tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token states, changed before they are pooled: [rows, tokens, width] to [rows, tokens, `width`]."""
        return tokens

    def vectors(self, pooled: Tensor, inputs: Inputs) -> Tensor:
        """One vector an example of the rows' pooled ones; `inputs` are the examples'."""
        return pooled

    def states(self, states: Tensor, inputs: Inputs) -> Tensor:
        """An encoder layer's states [rows, tokens, width] at the places of the examples' tokens."""
        return states


def padding_id(config: Any) -> int:
    """The token that a transformers model knows as padding; RoBERTa counts positions by it."""
    return getattr(config.get_text_config(), "pad_token_id", None) or 0


def cut_out(inputs: Inputs, example: Tensor, places: Tensor, real: Tensor, padding: int) -> Inputs:
    """Rows cut out of examples, padded on the right.

    Args:
        inputs: the examples', [examples, tokens] each.
        example: which example each row is cut out of, [rows].
        places: where each of a row's tokens stands there, [rows, tokens].
        real: which of them there are, [rows, tokens].
    """
    places = places.clamp(0, inputs["input_ids"].shape[1] - 1)
    rows = {name: value[example[:, None], places].masked_fill(~real, 0) for name, value in inputs.items()}
    return rows | {"input_ids": rows["input_ids"].masked_fill(~real, padding)}


def put_back(states: Tensor, rows: Tensor, columns: Tensor, real: Tensor) -> Tensor:
    """States [rows, tokens, width] at the examples' places: [examples, tokens, width], and zeros where not `real`.

    Args:
        rows: which row the state of each of the examples' tokens is in, [examples, tokens].
        columns: and where in that row.
        real: which of the examples' tokens have one.
    """
    rows, columns = rows.clamp(0, states.shape[0] - 1), columns.clamp(0, states.shape[1] - 1)
    return states[rows, columns].masked_fill(~real[..., None], 0)
