"""What a language model is given, and what it is to predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetricks import Context, InputError

IGNORED = -100
"""The target of a token that is not to be predicted."""


def neighbours(input_ids: Tensor, attention_mask: Tensor, offset: int = 1) -> Tensor:
    """Targets of causal language modelling, [rows, tokens]: for each token the next one (`offset` 1), or the one before
    (-1) for a model that reads from the end. -100 for padding, and where there is no such token.
    """
    targets = torch.full_like(input_ids, IGNORED)
    both = (attention_mask[:, 1:] * attention_mask[:, :-1]).bool()
    if offset == 1:
        targets[:, :-1] = input_ids[:, 1:].masked_fill(~both, IGNORED)
    else:
        targets[:, 1:] = input_ids[:, :-1].masked_fill(~both, IGNORED)
    return targets


def masked(
    input_ids: Tensor,
    maskable: Tensor,
    *,
    probability: float,
    mask_id: int,
    ordinary: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Inputs and targets of masked language modelling, both [rows, tokens].

    Each maskable token is chosen with `probability`; of the chosen ones 80 % become the mask token, 10 % one drawn
    from the tokens `ordinary` [tokens], 10 % stay. Targets are -100 elsewhere. Draws on the CPU from `generator`.
    (Devlin et al. 2019, section 3.1.)
    """

    def draw() -> Tensor:
        return torch.rand(input_ids.shape, generator=generator).to(input_ids.device)

    chosen = (draw() < probability) & maskable
    how = draw()
    random_ids = ordinary[torch.randint(len(ordinary), input_ids.shape, generator=generator)].to(input_ids)
    inputs = torch.where(chosen & (how < 0.8), mask_id, input_ids)
    inputs = torch.where(chosen & (how >= 0.9), random_ids, inputs)
    return inputs, input_ids.masked_fill(~chosen, IGNORED)


@dataclass(frozen=True)
class Masking:
    """How the tokens of one model and tokenizer are masked.

    Attributes:
        probability: share of tokens to predict.
        mask_id: of the mask token.
        special_ids: of tokens that are never masked, and never stand in for others.
        vocabulary: how many tokens there are.
    """

    probability: float
    mask_id: int
    special_ids: tuple[int, ...]
    vocabulary: int

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs and targets for tokens and the mask of real ones, all [rows, tokens]."""
        special = torch.tensor(self.special_ids, dtype=torch.long)
        ids = torch.arange(self.vocabulary)
        return masked(
            input_ids,
            attention_mask.bool() & ~torch.isin(input_ids, special.to(input_ids.device)),
            probability=self.probability,
            mask_id=self.mask_id,
            ordinary=ids[~torch.isin(ids, special)],
            generator=generator,
        )


def masking_of(
    model: nn.Module,
    embeddings: nn.Embedding,
    context: Context,
    *,
    probability: float,
    mask_token_id: int | None,
    trick: str,
) -> Masking:
    """How to mask for `model`, with its tokenizer's mask token or the one given.

    Raises:
        InputError: there is no mask token, or it has no embedding.
    """
    tokenizer, size = context.tokenizer, embeddings.num_embeddings
    mask_id = tokenizer.mask_token_id if mask_token_id is None and tokenizer is not None else mask_token_id
    if mask_id is None:
        raise InputError(
            f"{trick}: masked language modelling needs a mask token, and there is none (or no tokenizer): set "
            "mask_token_id, or objective: causal for a model that sees only what came before"
        )
    if mask_id >= size:
        raise InputError(
            f"{trick}: the mask token {mask_id} lies outside the {size} embeddings of {type(model).__name__}"
        )
    known = size if tokenizer is None else min(size, len(tokenizer))
    special = special_ids(getattr(model, "config", None), tokenizer)
    return Masking(probability, mask_id, tuple(sorted({mask_id, *special})), known)


def special_ids(config: Any, tokenizer: Any) -> tuple[int, ...]:
    """The special tokens: the tokenizer's, or without one those that the model's configuration names."""
    if tokenizer is not None:
        return tuple(tokenizer.all_special_ids)
    named = (
        getattr(config.get_text_config(), f"{name}_token_id", None) for name in ("pad", "bos", "eos", "cls", "sep")
    )
    listed = (value if isinstance(value, list) else [value] for value in named)  # Llama has several ends
    return tuple(token for tokens in listed for token in tokens if token is not None)
