"""One activation for another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Self

from pydantic import Field, model_validator
from torch import nn

from finetricks import Choice, Context, InputError, Trick, hookimpl
from finetricks_plugins.build.activations import (
    MAKE,
    Kind,
    OtherKind,
    activation_places,
    called_inside,
    separate,
)
from finetricks_plugins.build.own_modules import layer_of_module, own_modules
from finetricks_plugins.regularize.penalised import LayerNames, check_layers

NAME = "activation"
SQUASHING = frozenset({"tanh", "sigmoid"})

log = logging.getLogger(__name__)


class Activation(Trick):
    """Swap one activation for another, everywhere or in some layers: h = to(W x + b).

    Finds activations that are modules (torch's own, transformers' `ACT2FN`) and functions that modules hold, also those
    that gate (Llama's MLP). GELU's approximations are one kind, as are SiLU and swish; what is of the wanted kind
    already stays. The new ones have torch's default shapes (leaky_relu: 0.01, elu and celu: 1, prelu: 0.25, learned by
    each place for itself, rrelu: drawn from [1/8, 1/3] in training, their mean in evaluation). Weights stay as they
    are. The model's structure changes for good.

    tanh and sigmoid squash, and most often stand in poolers (BERT's), gates or outputs; they are swapped only as
    `source`. The gates of an LSTM or a GRU are not touched, nor is what other tricks put into the model. An activation
    that a forward pass calls by itself is out of reach; you are told of those (DistilBERT's and DeBERTa's heads).

    Traps: a pretrained model computes something else afterwards, and must be trained in all layers to recover; on a
    few hundred examples it does not. `weight_decay` pulls a PReLU's slope to zero.

    Source: He et al. 2015, Delving Deep into Rectifiers (arXiv 1502.01852), section 2.1 (PReLU); Hendrycks & Gimpel
    2016, Gaussian Error Linear Units (arXiv 1606.08415), section 2. The others as in torch's documentation.
    """

    to: Annotated[Kind, Choice("relu", "gelu", "silu")] = Field(description="The new activation.")
    source: Kind | OtherKind | None = Field(
        default=None, description="Swap only activations of this kind; by default all but tanh and sigmoid."
    )
    layers: LayerNames | None = Field(
        default=None, description="Only in these layers, such as [block.0, head]; by default everywhere."
    )

    @model_validator(mode="after")
    def _two_kinds(self) -> Self:
        if self.source == self.to:
            raise ValueError(f"source and to are both {self.to}; give two kinds")
        return self

    @hookimpl
    def build(self, model: nn.Module, context: Context) -> None:
        separate(model)
        chosen = self._chooser(model, context)
        places = [place for place in activation_places(model) if chosen(place.module)]
        swapped = [place for place in places if self._wanted(place.kind)]
        out_of_reach = [
            f"{called} in {name or 'the model'} ({type(module).__name__})"
            for name, module in own_modules(model)
            if chosen(name)
            for called, kind in called_inside(module).items()
            if kind is None or self._wanted(kind)
        ]
        if not swapped and any(place.swapped for place in places):
            return  # it has been built before, and trained since
        if not swapped:
            raise InputError(self._nothing_to_swap(model, {place.kind for place in places}, out_of_reach))
        if out_of_reach:
            log.warning("%s: not swapped, since a forward pass calls it itself: %s", NAME, "; ".join(out_of_reach))
        for place in swapped:
            place.put(MAKE[self.to]())

    def _wanted(self, kind: Kind | OtherKind) -> bool:
        if self.source is not None:
            return kind == self.source
        return kind != self.to and kind not in SQUASHING

    def _chooser(self, model: nn.Module, context: Context) -> Callable[[str], bool]:
        """Whether the module of a name works for one of the layers asked for."""
        wanted = self.layers
        if wanted is None:
            return lambda name: True
        layers = context.find_layers(model)
        check_layers(NAME, wanted, layers)
        return lambda name: layer_of_module(layers, name) in wanted

    def _nothing_to_swap(self, model: nn.Module, found: set[Kind | OtherKind], out_of_reach: list[str]) -> str:
        what = f"no {self.source}" if self.source else f"nothing to swap for {self.to}"
        where = f" in {', '.join(self.layers)}" if self.layers else ""
        parts = [f"{NAME}: {what} found in {type(model).__name__}{where}"]
        if found:
            parts.append(f"there is {', '.join(sorted(found))} (`source` names what is swapped)")
        if out_of_reach:
            parts.append(f"a forward pass calls these itself, out of reach: {', '.join(out_of_reach)}")
        return "; ".join(parts)
