"""Concatenated pooling, with ULMFiT's head."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from finetricks import Choice, Context, Trick, hookimpl
from finetricks_plugins.build.pooling import Pooling, last_max_mean

NAME = "concat_pooling"


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that takes a single row in training, too: by the running statistics, which it leaves."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class LinearBlocks(nn.Module):
    """ULMFiT's head without its last linear layer, which is the classifier's own: [rows, width] to [rows, hidden]."""

    def __init__(self, width: int, hidden: int, dropout: float, batch_norm: bool) -> None:
        super().__init__()
        self.width = hidden
        self.norm = BatchNorm(width) if batch_norm else nn.Identity()
        self.linear = nn.Linear(width, hidden)
        self.output_norm = BatchNorm(hidden) if batch_norm else nn.Identity()
        self.p = dropout

    def forward(self, vectors: Tensor) -> Tensor:
        dropped = F.dropout(self.norm(vectors), self.p, self.training)
        return self.output_norm(F.relu(self.linear(dropped)))  # type: ignore[no-any-return]


class ConcatPooling(Trick):
    """A head on [last, max, mean] of the token states: h_c = [h_T, max_t h_t, mean_t h_t].

    What tells the class of a long text may stand in a few words anywhere in it. Padding, on either side, is in none of
    the three; h_T is the state of the last real token (of an encoder, its closing special token; a decoder's has read
    the whole text). The head above is ULMFiT's two linear blocks: batch norm, dropout, linear, ReLU; batch norm,
    dropout, linear. The last linear layer and the dropout before it are the classifier's own (`output_dropout` sets
    that); `hidden: null` leaves only them. Replaces the model's own pooler and head.

    A micro-batch of one row has no variance: it is normalised by the running statistics. They move with each forward
    pass in training, also with one that another trick makes. With several processes each normalises by its own
    micro-batch, and the running statistics are those of the first.

    Traps: the authors' first code pools padding too and takes the last position for h_T, which is right for padding on
    the left alone; later versions mask the mean and the max, and still take the last position.

    Source: Howard & Ruder 2018, Universal Language Model Fine-tuning for Text Classification (arXiv 1801.06146),
    section 3.3. Hidden size 50 and dropout 0.4 are the paper's.
    """

    hidden: Annotated[int, Field(ge=1)] | None = Field(
        default=50, description="Width of the first linear block; null: none, the output layer reads the pooled states."
    )
    dropout: Annotated[float, Field(ge=0, lt=1), Choice(0.1, 0.4)] = Field(
        default=0.4, description="Probability with which the first block drops its input."
    )
    batch_norm: bool = Field(default=True, description="Whether each linear block begins with batch normalisation.")

    @hookimpl
    def build(self, model: nn.Module, context: Context) -> nn.Module:
        from finetricks_plugins.build.classifier import classifier_of

        classifier = classifier_of(model, NAME)
        classifier.fill("pooling", NAME, context, partial(Pooling, pool=last_max_mean, times=3))
        if self.hidden is not None:
            head = partial(LinearBlocks, hidden=self.hidden, dropout=self.dropout, batch_norm=self.batch_norm)
            classifier.fill("head", NAME, context, head)
        return classifier
