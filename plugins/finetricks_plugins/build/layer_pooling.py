"""Which of the encoder's layers feed the head."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from finetricks import Choice, Context, InputError, Trick, hookimpl
from finetricks_plugins.build.pooling import Pooling, mean_over_tokens

NAME = "layer_pooling"
Layers = int | Literal["first_4", "last_4", "all"]
Combine = Literal["concat", "mean", "max"]


def chosen(layers: Layers, depth: int) -> list[int]:
    """Numbers, from 0, of the layers that are read among `depth`.

    Raises:
        InputError: there is no such layer.
    """
    if layers == "all":
        return list(range(depth))
    if isinstance(layers, int):
        if not -depth <= layers < depth:
            raise InputError(
                f"{NAME}: no layer {layers}; the encoder's {depth} layers are 0 to {depth - 1} from the bottom, "
                f"-1 to -{depth} from the top"
            )
        return [layers % depth]
    if depth < 4:
        raise InputError(f"{NAME}: {layers} needs 4 layers, and the encoder has {depth}; `layers: all` takes them all")
    return list(range(4) if layers == "first_4" else range(depth - 4, depth))


def combined(states: list[Tensor], combine: Combine) -> Tensor:
    """The states of several layers, [rows, tokens, width] each, as one."""
    if combine == "concat":
        return torch.cat(states, dim=-1)
    stacked = torch.stack(states)
    return stacked.mean(dim=0) if combine == "mean" else stacked.amax(dim=0)


class ChosenLayers(nn.Module):
    """Reads some of the encoder's layers; see `Reading` for the shapes."""

    def __init__(self, widths: tuple[int, ...], layers: Layers, combine: Combine) -> None:
        super().__init__()
        # The first of the states that a transformers model gives is the embeddings' output: layer 0 comes after it.
        self.places = [layer + 1 for layer in chosen(layers, depth=len(widths) - 1)]
        self.combine = combine
        read = [widths[place] for place in self.places]
        if combine != "concat" and len(set(read)) > 1:
            raise InputError(
                f"{NAME}: a {combine} over layers is taken dimension by dimension, and these layers have "
                f"{', '.join(map(str, read))} dimensions; `combine: concat` takes any"
            )
        self.width = sum(read) if combine == "concat" else read[0]

    def forward(self, states: tuple[Tensor, ...], mask: Tensor) -> Tensor:
        return combined([states[place] for place in self.places], self.combine)


class LayerPooling(Trick):
    """Feed the head from chosen layers of the encoder: one, the first or last four, or all, as one state.

    Lower layers hold more of the words, higher ones more of the task. The head reads the states themselves, without the
    model's pooler. Layers are combined first, token by token, and then the [CLS] token of the result is taken or the
    mean over tokens (a max over layers of means would be another thing than the mean of maxima, which this is). Blocks
    above the highest layer that is read still run, and get no gradient from the task: with DistributedDataParallel in a
    loop of your own, allow unused parameters.

    Traps: the authors' code numbers layers from 0 without the embeddings, as here, but where no layer is named it reads
    the pooled output (through a linear layer and tanh): so its default is not its last layer. Its mean and max are over
    layers, though its documentation says over the sequence.

    Source: Sun, Qiu, Xu & Huang 2019, How to Fine-Tune BERT for Text Classification? (arXiv 1905.05583), section 5.3.2,
    table 3 (IMDb, % error: layer 0 11.07, layer 11 5.42; last four by concat 5.43, mean 5.44, max 5.42; first four by
    concat 8.69; all twelve by concat 5.44).
    """

    conflicts: ClassVar[dict[str, str]] = {
        "feature_based": "both say which layers are read: layer_pooling chooses some of them, feature_based mixes all",
    }

    layers: Annotated[Layers, Choice("first_4", "last_4", "all")] = Field(
        default="last_4", description="Which are read: a number (0 is the lowest, -1 the top), or a run of them."
    )
    combine: Annotated[Combine, Choice("concat", "mean", "max")] = Field(
        default="max", description="How the states of several layers become one."
    )
    tokens: Annotated[Literal["cls", "mean"], Choice("cls", "mean")] = Field(
        default="cls",
        description="cls: the first token (a decoder's last), or as another trick pools; mean: over all tokens.",
    )

    @hookimpl
    def build(self, model: nn.Module, context: Context) -> nn.Module:
        from finetricks_plugins.build.classifier import classifier_of

        classifier = classifier_of(model, NAME)
        classifier.fill("reading", NAME, context, partial(ChosenLayers, layers=self.layers, combine=self.combine))
        if self.tokens == "mean":
            classifier.fill("pooling", NAME, context, partial(Pooling, pool=mean_over_tokens))
        return classifier
