"""Texts longer than the model's length, read in fractions."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from finetricks import Choice, Context, InputError, Trick, hookimpl
from finetricks_plugins.build.framing import frame_of

if TYPE_CHECKING:
    import datasets
    from torch import nn

logger = logging.getLogger(__name__)

NAME = "hierarchical"
Combine = Literal["mean", "max", "self_attention"]
TOKENS = ("input_ids", "attention_mask", "token_type_ids")
NO_LENGTH = 10**20
"""Tokenizers without a length of their own have one beyond this."""


def fraction_positions(tokens: int, opening: int, closing: int, length: int, at_most: int) -> list[int]:
    """Which of an example's tokens stand where in its fractions, one after the other.

    The first `opening` and the last `closing` of its `tokens` are special ones, which each fraction repeats. Each holds
    `length` tokens, the last what is left; text beyond `at_most` fractions is cut.
    """
    text = range(opening, tokens - closing)
    room = length - opening - closing
    parts = [text[start : start + room] for start in range(0, len(text), room)][:at_most]
    return [place for part in parts for place in (*range(opening), *part, *range(tokens - closing, tokens))]


class Hierarchical(Trick):
    """Split a text longer than the model's length into fractions, encode each, combine their pooled vectors.

    A text of L tokens is k = L / 510 fractions for a model of 512, each with special tokens of its own; their pooled
    vectors (by default [CLS] of the last layer) are combined by mean, max or self-attention, and classified. A text
    that fits is one fraction. Time grows with the number of fractions; memory does not: `fractions_at_once` rows are
    encoded at a time, and in training, where there are more, each part is computed once more in the backward pass. Text
    beyond `max_fractions` is cut. Only for single texts: of a pair, a fraction would hold parts of either text.

    In the paper no way to combine them beats head + tail (`head_tail`) on the error of IMDb / Sogou: 5.42 / 2.43, mean
    5.89 / 2.83, max 5.71 / 2.47, self-attention 5.49 / 2.65 (one run each). It does not say what its self-attention is;
    here a learned query over tanh(W h + b), as in hierarchical attention networks (Yang et al. 2016).

    Traps: the authors' repository contains no code for fractions; what is called attention there goes over layers.
    `TrickTrainer` needs tokenised examples that are not truncated yet, with a tokenizer as `processing_class`; in a
    loop of your own the examples go through the `data` hook first (`recipe.stack().data`). With `auxiliary_lm` the
    states of all fractions are kept.

    Source: Sun, Qiu, Xu & Huang 2019, How to Fine-Tune BERT for Text Classification? (arXiv 1905.05583), section 5.3.1.
    """

    bounds_length: ClassVar[bool] = True
    conflicts: ClassVar[dict[str, str]] = {
        "head_tail": "it leaves no text longer than one fraction, so there is nothing to split",
        "bi_attention": "both say what one row of the encoder holds, a fraction of a text or one text of a pair; a "
        "fraction of a pair would hold parts of both",
    }

    combine: Annotated[Combine, Choice("mean", "max", "self_attention")] = Field(
        default="max", description="How the fractions' vectors become one."
    )
    fraction_length: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Tokens of a fraction, special ones included; the model's length by default."
    )
    max_fractions: Annotated[int, Field(ge=2), Choice(2, 4, 8)] = Field(
        default=8, description="Fractions of a text at most; what lies beyond is cut."
    )
    fractions_at_once: Annotated[int, Field(ge=1)] = Field(
        default=16, description="Rows that the encoder is given at a time."
    )

    @hookimpl
    def data(self, dataset: datasets.Dataset, split: str, context: Context) -> datasets.Dataset:
        length = self._length(context)
        if context.tokenizer is None:
            raise InputError(f"{NAME} needs the tokenizer to know the special tokens of a fraction; there is none")
        frame = frame_of(context.tokenizer, 1, NAME)
        opening, closing = len(frame.opening), len(frame.closing)
        if length <= opening + closing:
            raise InputError(
                f"{NAME}: a fraction of {length} tokens has no room beside its {opening + closing} special ones"
            )
        columns = dataset.with_format(None)[:]
        if len(context.text_columns) > 1 or any(1 in types for types in columns.get("token_type_ids", [])):
            raise InputError(f"{NAME} splits single texts, and the examples of {split} are pairs; head_tail cuts pairs")
        long = [row for row, ids in enumerate(columns["input_ids"]) if len(ids) > length]
        cut = 0
        for row in long:
            ids = columns["input_ids"][row]
            if (*ids[:opening], *ids[len(ids) - closing :]) != (*frame.opening, *frame.closing):
                raise InputError(
                    f"{NAME}: row {row} of {split} does not begin and end with the tokenizer's special tokens; "
                    "tokenise with them, and without truncation"
                )
            positions = fraction_positions(len(ids), opening, closing, length, self.max_fractions)
            cut += len(set(positions)) < len(ids)
            for name in TOKENS:
                if name in columns:
                    columns[name][row] = [columns[name][row][position] for position in positions]
        if cut:
            logger.warning(
                f"{NAME}: {cut} of {len(dataset)} texts of {split} are cut after {self.max_fractions} fractions of "
                f"{length} tokens"
            )
        return dataset.from_dict(columns, features=dataset.features) if long else dataset

    @hookimpl
    def build(self, model: nn.Module, context: Context) -> nn.Module:
        from finetricks.tasks.models import max_positions
        from finetricks_plugins.build.arrangement import padding_id
        from finetricks_plugins.build.classifier import classifier_of
        from finetricks_plugins.build.fractions import Fractions

        length = self._length(context)
        classifier = classifier_of(model, NAME)
        positions = max_positions(classifier)
        if positions is not None and length > positions:
            raise InputError(
                f"{NAME}: the model has positions for {positions} tokens, and a fraction holds {length}; "
                f"set fraction_length to {positions} or less"
            )
        opening = () if context.tokenizer is None else frame_of(context.tokenizer, 1, NAME).opening
        make = partial(
            Fractions,
            length=length,
            combine=self.combine,
            at_once=self.fractions_at_once,
            opening=opening,
            padding=padding_id(classifier.config),
        )
        classifier.fill("arrangement", NAME, context, make)
        return classifier

    def _length(self, context: Context) -> int:
        length = context.max_length if self.fraction_length is None else self.fraction_length
        if length is None or length >= NO_LENGTH:
            raise InputError(f"{NAME} needs the model's length to know where to split; set fraction_length")
        return length
