"""A language-model head that borrows the input embeddings as its output matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetricks import InputError
from finetricks_plugins.language_model.targets import IGNORED, neighbours


class TiedHead(nn.Module):
    """Hidden states to scores over the vocabulary, with the input embeddings as the output matrix.

    The embeddings are borrowed at each call, not owned: they are registered, saved and trained once, where they are.
    """

    def __init__(self, hidden: int, embedding: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, embedding)
        self.norm = nn.LayerNorm(embedding)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """`states` [tokens, hidden] and `embeddings` [vocabulary, embedding] to scores [tokens, vocabulary]."""
        return F.linear(self.norm(F.gelu(self.dense(states))), embeddings, self.bias)

    def loss(self, states: Tensor, targets: Tensor, embeddings: Tensor) -> Tensor:
        """Mean cross-entropy over the targets [rows, tokens] that are not -100; 0 where all are.

        Raises:
            InputError: `states` are not one for each token, of the width that the head was made for.
        """
        expected = (*targets.shape, self.dense.in_features)
        if states.shape != expected:
            raise InputError(
                f"a language model needs a state for each token, {list(expected)} here, and the model gives "
                f"{list(states.shape)}: it pools its tokens, or its configuration says another width"
            )
        wanted = targets != IGNORED
        scores = self(states[wanted], embeddings)
        return F.cross_entropy(scores, targets[wanted], reduction="sum") / wanted.sum().clamp(min=1)

    def causal_loss(
        self, states: Tensor, input_ids: Tensor, attention_mask: Tensor, embeddings: Tensor, *, both: bool
    ) -> Tensor:
        """Mean cross-entropy of the next tokens.

        With `both`, the first half of each state has read from the beginning and the second half from the end: the
        one predicts the token that follows, the other the one before, and the mean is over both.
        """
        after = neighbours(input_ids, attention_mask)
        if not both:
            return self.loss(states, after, embeddings)
        before = neighbours(input_ids, attention_mask, offset=-1)
        forward, backward = states.chunk(2, dim=-1)
        return (self.loss(forward, after, embeddings) + self.loss(backward, before, embeddings)) / 2


def input_embeddings(model: nn.Module, trick: str) -> nn.Embedding:
    """The input embeddings of a transformers model. Raises `InputError` for a model that has none to tie to."""
    get: Any = getattr(model, "get_input_embeddings", lambda: None)
    try:
        found = get()
    except NotImplementedError:
        found = None
    if not isinstance(found, nn.Embedding) or not hasattr(model, "config"):
        raise InputError(
            f"{trick}: {type(model).__name__} has no input embeddings to tie a language-model head to; "
            "it needs a transformers model of text"
        )
    return found
