"""Examples that are longer than a row of the encoder: their fractions as rows, and one vector of the fractions'."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from finetricks import InputError
from finetricks_plugins.build.arrangement import Arrangement, Inputs, Pooled, cut_out, put_back

if TYPE_CHECKING:
    from finetricks_plugins.build.hierarchical import Combine


def mean_of(vectors: Tensor, there: Tensor) -> Tensor:
    """The mean of the vectors [examples, fractions, width] that are `there` [examples, fractions]; the others are 0."""
    return vectors.sum(dim=1) / there.sum(dim=1, keepdim=True)


def max_of(vectors: Tensor, there: Tensor) -> Tensor:
    """The greatest value at each place of the vectors that are `there`; shapes as in `mean_of`."""
    return vectors.masked_fill(~there[..., None], float("-inf")).max(dim=1).values


class SelfAttention(nn.Module):
    """The mean of an example's vectors, weighted by softmax(q . tanh(W h + b)) over its fractions; W, b, q learned."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.query = nn.Linear(width, 1, bias=False)

    def forward(self, vectors: Tensor, there: Tensor) -> Tensor:
        """[examples, fractions, width], and which are there, to [examples, width]."""
        scores = self.query(torch.tanh(self.dense(vectors))).squeeze(-1)
        weights = scores.masked_fill(~there, float("-inf")).softmax(dim=1)
        attended: Tensor = (weights[..., None] * vectors).sum(dim=1)
        return attended


# torch cannot compile a checkpoint around what reads more than its arguments; what is in it is compiled.
_checkpoint = torch.compiler.disable(checkpoint, recursive=False)


class Fractions(Arrangement):
    """A row for each fraction of `length` tokens of an example, and their pooled vectors combined.

    Args:
        opening: what every fraction begins with; empty where that is not known.
        at_once: how many rows are encoded at a time.
    """

    def __init__(
        self, width: int, *, length: int, combine: Combine, at_once: int, opening: tuple[int, ...], padding: int
    ) -> None:
        super().__init__(width)
        self.length = length
        self.combine = combine
        self.at_once = at_once
        self.opening = opening
        self.padding = padding

    def fit(self, pooled: int) -> int:
        self.attention = SelfAttention(pooled) if self.combine == "self_attention" else None
        return pooled

    def rows(self, inputs: Inputs) -> Inputs:
        mask = inputs["attention_mask"].bool()
        first, tokens = mask.int().argmax(dim=1), mask.sum(dim=1)
        example, fraction = self._fractions(mask)
        width = min(self.length, int(tokens.max()))
        places = fraction[:, None] * self.length + torch.arange(width, device=mask.device)
        real = places < tokens[example, None]
        rows = cut_out(inputs, example, first[example, None] + places, real, self.padding)
        self._check(rows["input_ids"][fraction > 0])
        return rows

    def pooled(self, pool: Callable[[Inputs], Pooled], rows: Inputs) -> Pooled:
        count = len(rows["input_ids"])
        if count <= self.at_once:
            return pool(rows)
        # With gradients each part keeps only its results and is run again, dropout and all, when its turn comes.
        run = partial(_checkpoint, pool, use_reentrant=False) if torch.is_grad_enabled() else pool
        starts = range(0, count, self.at_once)
        parts = [run({name: value[at : at + self.at_once] for name, value in rows.items()}) for at in starts]
        vectors, states = zip(*parts, strict=True)
        return torch.cat(vectors), tuple(torch.cat(layer) for layer in zip(*states, strict=True))

    def vectors(self, pooled: Tensor, inputs: Inputs) -> Tensor:
        example, fraction = self._fractions(inputs["attention_mask"].bool())
        shape = (len(inputs["input_ids"]), int(fraction.max()) + 1)
        vectors = pooled.new_zeros(*shape, pooled.shape[-1])
        vectors[example, fraction] = pooled
        there = torch.zeros(shape, dtype=torch.bool, device=pooled.device)
        there[example, fraction] = True
        if self.attention is None:
            return mean_of(vectors, there) if self.combine == "mean" else max_of(vectors, there)
        return self.attention(vectors, there)  # type: ignore[no-any-return]

    def states(self, states: Tensor, inputs: Inputs) -> Tensor:
        mask = inputs["attention_mask"].bool()
        counts = self._counts(mask)
        place = torch.arange(mask.shape[1], device=mask.device) - mask.int().argmax(dim=1)[:, None]
        rows = (counts.cumsum(0) - counts)[:, None] + place // self.length
        return put_back(states, rows, place % self.length, mask)

    def _counts(self, mask: Tensor) -> Tensor:
        """How many fractions each example has, [examples]."""
        return (mask.sum(dim=1) + self.length - 1).div(self.length, rounding_mode="floor").clamp(min=1)

    def _fractions(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """For each row its example, and which of its fractions it is, [rows] each."""
        counts = self._counts(mask)
        example = torch.arange(len(mask), device=mask.device).repeat_interleave(counts)
        fraction = torch.arange(len(example), device=mask.device) - (counts.cumsum(0) - counts)[example]
        return example, fraction

    def _check(self, later: Tensor) -> None:
        """Raise `InputError` where fractions after the first do not begin as a fraction does."""
        opening = torch.tensor(self.opening, dtype=later.dtype, device=later.device)
        if len(opening) and bool((later[:, : len(opening)] != opening).any()):
            raise InputError(
                f"hierarchical: an example of more than {self.length} tokens was not split into fractions of that "
                "length; give the examples to the trick's `data` hook first, not truncated, with the same length "
                "(`run` and `TrickTrainer` do)"
            )
