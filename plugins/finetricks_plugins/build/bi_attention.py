"""Sentence pairs: each text read by itself, then attention between the two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from finetricks import Choice, Context, InputError, Trick, hookimpl
from finetricks_plugins.build.arrangement import Arrangement, Inputs, cut_out, padding_id, put_back
from finetricks_plugins.build.framing import frame_of

NAME = "bi_attention"
Combine = Literal["compare", "concat"]


def bi_attention(
    first: Tensor, second: Tensor, first_mask: Tensor, second_mask: Tensor, *, scaled: bool = False
) -> tuple[Tensor, Tensor]:
    """For each token of either text the other's tokens, weighted by likeness: e = a b^T, softmax over the other's.

    Args:
        first, second: token states [pairs, tokens, width]; the texts' numbers of tokens may differ.
        first_mask, second_mask: [pairs, tokens], which are real; the others are given no weight.
        scaled: divide e by the square root of the width.

    Returns:
        What the first text's tokens attend to, and the second's: shaped as `first` and `second`.
    """
    likeness = first @ second.transpose(1, 2)
    if scaled:
        likeness = likeness / math.sqrt(first.shape[-1])
    nothing = torch.finfo(likeness.dtype).min
    over_second = likeness.masked_fill(~second_mask[:, None, :], nothing).softmax(dim=2)
    over_first = likeness.masked_fill(~first_mask[:, :, None], nothing).softmax(dim=1)
    return over_second @ second, over_first.transpose(1, 2) @ first


def enriched(states: Tensor, attended: Tensor) -> Tensor:
    """[a; a~; a - a~; a * a~]: states with what they attend to, four times as wide."""
    return torch.cat([states, attended, states - attended, states * attended], dim=-1)


def combined(first: Tensor, second: Tensor, how: Combine) -> Tensor:
    """One vector of the two texts': [u; v], and to `compare` them |u - v| and u * v as well."""
    if how == "concat":
        return torch.cat([first, second], dim=-1)
    return torch.cat([first, second, (first - second).abs(), first * second], dim=-1)


@dataclass(frozen=True)
class PairForm:
    """How a pair is encoded: `opening` special tokens, a text, one or more separators, a text, `closing` tokens."""

    separator: int
    opening: int = 1
    closing: int = 1


@dataclass(frozen=True)
class Places:
    """Where in each example things stand, [examples] each; ends are exclusive.

    The first text stands from `begin` + opening to `separator`, the second from `second` to `closing`.
    """

    begin: Tensor
    separator: Tensor
    second: Tensor
    closing: Tensor
    end: Tensor


def places_of(input_ids: Tensor, mask: Tensor, form: PairForm) -> Places:
    """Find the two texts of each example [examples, tokens], with padding on either side.

    Raises:
        InputError: an example holds no separator between two texts.
    """
    place = torch.arange(mask.shape[1], device=mask.device)
    begin = mask.int().argmax(dim=1)
    end = begin + mask.sum(dim=1)
    closing = end - form.closing
    inside = (place >= (begin + form.opening)[:, None]) & (place < closing[:, None])
    separates = (input_ids == form.separator) & inside
    if not bool(separates.any(dim=1).all()):
        raise InputError(
            f"{NAME} compares two texts, and an example holds one: no separator (token {form.separator}) stands inside "
            "it. Name two text columns (text: [premise, hypothesis]), or tokenise pairs: tokenizer(first, second)"
        )
    separator = separates.int().argmax(dim=1)
    from_separator = place >= separator[:, None]
    in_run = from_separator & ((from_separator & ~separates).cumsum(dim=1) == 0)
    return Places(begin, separator, separator + in_run.sum(dim=1), closing, end)


class Pairs(Arrangement):
    """Two rows for each example: the first texts of all, then the second ones, each with its special tokens."""

    def __init__(
        self, width: int, *, form: PairForm, projection: int | None, combine: Combine, scaled: bool, padding: int
    ) -> None:
        super().__init__(4 * width if projection is None else projection)
        self.projection = None if projection is None else nn.Linear(4 * width, projection)
        self.form = form
        self.combine = combine
        self.scaled = scaled
        self.padding = padding

    def fit(self, pooled: int) -> int:
        return pooled * (2 if self.combine == "concat" else 4)

    def rows(self, inputs: Inputs) -> Inputs:
        found = self._places(inputs)
        opening = self.form.opening
        start = torch.cat([found.begin + opening, found.second])
        text = torch.cat([found.separator, found.closing]) - start
        begin, closing = found.begin.repeat(2), found.closing.repeat(2)
        tokens = opening + text + self.form.closing
        column = torch.arange(int(tokens.max()), device=tokens.device).expand(len(tokens), -1)
        in_text = column - opening
        after = in_text - text[:, None]
        places = torch.where(in_text < 0, begin[:, None] + column, start[:, None] + in_text)
        places = torch.where(after < 0, places, closing[:, None] + after)
        example = torch.arange(len(begin), device=begin.device) % len(found.begin)
        rows = cut_out(inputs, example, places, column < tokens[:, None], self.padding)
        if "token_type_ids" in rows:
            rows["token_type_ids"] = torch.zeros_like(rows["token_type_ids"])  # as of a text that stands alone
        return rows

    def tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        (first, second), (first_mask, second_mask) = tokens.chunk(2), mask.chunk(2)
        attended = bi_attention(first, second, first_mask, second_mask, scaled=self.scaled)
        states = enriched(tokens, torch.cat(attended))
        return states if self.projection is None else F.relu(self.projection(states))

    def vectors(self, pooled: Tensor, inputs: Inputs) -> Tensor:
        first, second = pooled.chunk(2)
        return combined(first, second, self.combine)

    def states(self, states: Tensor, inputs: Inputs) -> Tensor:
        found = self._places(inputs)
        mask = inputs["attention_mask"].bool()
        count, place = len(mask), torch.arange(mask.shape[1], device=mask.device)
        in_second = place >= found.second[:, None]
        # The first row's closing tokens stand where the separators do, as far as there are any.
        first_ends = torch.minimum(found.separator + self.form.closing, found.second)
        real = mask & (in_second | (place < first_ends[:, None]))
        rows = torch.arange(count, device=mask.device)[:, None] + in_second * count
        shift = torch.where(in_second, (found.second - self.form.opening)[:, None], found.begin[:, None])
        return put_back(states, rows, place - shift, real)

    def _places(self, inputs: Inputs) -> Places:
        return places_of(inputs["input_ids"], inputs["attention_mask"].bool(), self.form)


class BiAttention(Trick):
    """Sentence pairs: encode each text by itself, let their tokens attend to one another, pool, compare, classify.

    With the states a of one text's tokens and b of the other's: e = a b^T, a~ = softmax_b(e) b, b~ likewise; each
    token becomes [a; a~; a - a~; a * a~], with `projection` ReLU(W [...]); the pooled u and v become
    [u; v; |u - v|; u * v]. Padding is not attended to. Special tokens are, and attend: [CLS] is what most encoders have
    pooled by default, and a token without a counterpart can look at [SEP]. The encoding of the pair,
    `[CLS] A [SEP] B [SEP]` or `<s> A </s></s> B </s>`, is cut within the forward pass into the two texts, each with
    special tokens of its own; both go through the encoder in one call. Single texts are refused.

    For language models that see one text at a time (ELMo, an LSTM). An encoder that reads both texts together compares
    them itself: to encode them separately hurts BERT. With a pooling of all tokens (`concat_pooling`) every
    token's comparison counts; with one state, only that token's.

    The paper names the attention, by reference to Chen et al. 2017, then "a pooling operation" and a softmax: the form
    of the states is Chen's (ESIM), which concatenates the pooled vectors (`combine: concat`); comparing them is a
    common default (InferSent).

    Traps: dot products of wide, normalised states are large, and their softmax is almost all on one token; in a
    transformer try `scaled: true`. No reference code exists.

    Source: Peters, Ruder & Smith 2019, To Tune or Not to Tune? (arXiv 1903.05987), section on fine-tuning, sentence
    pairs; Chen et al. 2017, Enhanced LSTM for Natural Language Inference (arXiv 1609.06038), sections 3.2 and 3.3.
    """

    combine: Annotated[Combine, Choice("compare", "concat")] = Field(
        default="compare", description="One vector of two: compare: [u; v; |u - v|; u * v]; concat: [u; v]."
    )
    projection: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Width to which the enriched states are brought, by a ReLU layer; none by default."
    )
    scaled: Annotated[bool, Choice(False, True)] = Field(
        default=False, description="Divide the dot products by the square root of the width."
    )
    separator_token_id: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="The token between the texts; the tokenizer's by default. Needed in a loop without a tokenizer, "
        "where one special token is taken to stand before the pair and one after.",
    )

    @hookimpl
    def build(self, model: nn.Module, context: Context) -> nn.Module:
        from finetricks_plugins.build.classifier import classifier_of

        # Who knows the metrics has described the task; otherwise the columns are not known, and the data decide.
        if context.metrics and len(context.text_columns) == 1:
            raise InputError(
                f"{NAME} compares two texts, and the task has one text column, {context.text_columns[0]!r}; "
                "name two (text: [premise, hypothesis])"
            )
        classifier = classifier_of(model, NAME)
        make = partial(
            Pairs,
            form=self._form(context),
            projection=self.projection,
            combine=self.combine,
            scaled=self.scaled,
            padding=padding_id(classifier.config),
        )
        classifier.fill("arrangement", NAME, context, make)
        return classifier

    @hookimpl
    def init(self, context: Context) -> None:
        # A text without a counterpart, a row of another task's say, is told of now and not in the middle of training.
        for batch in context.batches() if context.batches is not None else ():
            ids = batch["input_ids"]
            places_of(ids, batch.get("attention_mask", torch.ones_like(ids)).bool(), self._form(context))

    def _form(self, context: Context) -> PairForm:
        if context.tokenizer is None:
            if self.separator_token_id is None:
                raise InputError(f"{NAME} needs to know which token separates two texts; set separator_token_id")
            return PairForm(self.separator_token_id)
        frame = frame_of(context.tokenizer, 2, NAME)
        separator = self.separator_token_id if self.separator_token_id is not None else next(iter(frame.between), None)
        if separator is None:
            raise InputError(
                f"{NAME}: the tokenizer {type(context.tokenizer).__name__} puts no token between two texts, so nothing "
                "says where the second begins; put one there and name it as separator_token_id"
            )
        return PairForm(separator, len(frame.opening), len(frame.closing))
