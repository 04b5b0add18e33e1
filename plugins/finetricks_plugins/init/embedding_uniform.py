"""Embedding tables from a uniform distribution."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import nn

from finetricks import Choice, Context, Layers, Trick, hookimpl
from finetricks_plugins.init.fresh_modules import redraw, select, stored

NAME = "embedding_uniform"


class EmbeddingUniform(Trick):
    """Draw embedding tables from U(-range, range); the padding row stays zero.

    By default only tables that no checkpoint supplied (one that another trick built); `all` draws every table, those of
    positions and segments too, and throws pretrained ones away. A table that stands in several places is drawn once,
    and an output layer that is tied to it follows.

    With `further_pretraining` or `greedy_pretraining` the tables are drawn first, wherever the tricks stand in the
    recipe; a pretrained body above tables that were drawn anew has to learn its words again.

    Traps: torch's in-place initialisers fill the padding row too, and the AWD-LSTM code of fastai leaves it so. torch's
    own tables are N(0, 1), ten times as wide as is customary.

    Source: the common defaults: 0.1 in AWD-LSTM (Merity et al. 2018, Regularizing and Optimizing LSTM Language Models,
    arXiv 1708.02182) and its code in fastai; 0.25 for words that word2vec does not know (Kim 2014, Convolutional Neural
    Networks for Sentence Classification, arXiv 1408.5882).
    """

    range: Annotated[float, Field(gt=0, allow_inf_nan=False), Choice(0.05, 0.1, 0.25)] = Field(
        default=0.1, description="The greatest size of a value."
    )
    modules: Literal["fresh", "all"] = Field(
        default="fresh", description="Which tables: those that no checkpoint supplied, or all."
    )

    @hookimpl
    def init(self, model: nn.Module, layers: Layers, context: Context) -> None:
        kinds = (nn.Embedding, nn.EmbeddingBag)
        found = select(model, kinds, self.modules, layers, context, trick=NAME, what="embedding table")
        padding: dict[nn.Parameter, set[int]] = {}
        for table in cast(list[Any], found):
            if (weight := stored(table, "weight")) is not None:
                rows = padding.setdefault(weight, set())
                rows.update(() if table.padding_idx is None else {table.padding_idx})
        generator = torch.Generator().manual_seed(context.seed)
        for weight, rows in padding.items():
            redraw(weight, partial(nn.init.uniform_, a=-self.range, b=self.range, generator=generator))
            with torch.no_grad():
                weight[sorted(rows)] = 0
