"""The encoder as a fixed feature extractor, its layers mixed by learned weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from finetricks import Context, InputError, Layers, ParamOptions, Trick, hookimpl

NAME = "feature_based"


def scalar_mix(states: Sequence[Tensor], weights: Tensor, gamma: Tensor) -> Tensor:
    """gamma * sum_j softmax(weights)_j * states_j, of states of one shape."""
    mixed: Tensor = torch.tensordot(torch.softmax(weights, dim=0), torch.stack(tuple(states)), dims=1)
    return gamma * mixed


class ScalarMix(nn.Module):
    """Reads a mix of all layers, the embeddings' output included; see `Reading` for the shapes."""

    def __init__(self, widths: tuple[int, ...], layer_norm: bool) -> None:
        super().__init__()
        self.width = widths[-1]
        self.layer_norm = layer_norm
        if widths[0] not in (self.width, self.width / 2) or set(widths[1:]) != {self.width}:
            raise InputError(
                f"{NAME}: a mix of layers is a sum dimension by dimension, and the layers have "
                f"{', '.join(map(str, widths))} dimensions; `layer_pooling` reads one of them, or several side by side"
            )
        self.weights = nn.Parameter(torch.zeros(len(widths)))
        self.gamma = nn.Parameter(torch.ones(()))

    def forward(self, states: tuple[Tensor, ...], mask: Tensor) -> Tensor:
        return scalar_mix([self._alike(state.detach()) for state in states], self.weights, self.gamma)

    def _alike(self, state: Tensor) -> Tensor:
        if state.shape[-1] < self.width:  # embeddings that two directions share: once for each
            state = torch.cat([state, state], dim=-1)
        return F.layer_norm(state, (self.width,)) if self.layer_norm else state


def _encoder_in_eval(classifier: Any, given: tuple[Any, ...]) -> None:
    if any(module.training for module in classifier.encoder.modules()):  # to look is faster than to set them all
        classifier.encoder.eval()


class FeatureBased(Trick):
    """The encoder frozen; a learned mix of all its layers feeds the head: gamma * sum_j softmax(s)_j * h_j.

    h_0 is the embeddings' output, h_L the top layer's; s begins at 0 (the plain mean) and gamma at 1. The mix is read
    without the model's pooler. The whole encoder is in evaluation mode at every step, so that an example's features
    stay the same, and none of it trains, not even a final norm: it belongs to the layer `head`, and its rate is 0. What
    is left asks for a larger learning rate, and gains from more parameters above the encoder: `task_layers`,
    `concat_pooling`. Embeddings half as wide as the layers of two directions count once for each, as in ELMo.

    Traps: an encoder whose weights are frozen and whose dropout is not gives other features each time. `last_layer`
    freezes the same layers, and its head reads the top alone.

    Source: Peters, Ruder & Smith 2019, To Tune or Not to Tune? (arXiv 1903.05987), on feature extraction; the
    mix: Peters et al. 2018, Deep Contextualized Word Representations (arXiv 1802.05365), section 3.2.
    """

    conflicts: ClassVar[dict[str, str]] = {
        "chain_thaw": "chain_thaw trains each lower layer alone, feature_based never trains the encoder: nothing would",
        **{
            name: f"feature_based keeps frozen what {name} thaws, and {name} never freezes the head: "
            "their union is feature_based alone"
            for name in ("gradual_unfreezing", "sequential_unfreezing", "two_stage")
        },
    }

    layer_norm: bool = Field(
        default=False, description="Whether each layer's states are normalised (without gain or bias) before the mix."
    )

    @hookimpl
    def build(self, model: nn.Module, context: Context) -> nn.Module:
        from finetricks_plugins.build.classifier import classifier_of

        classifier = classifier_of(model, NAME)
        classifier.fill("reading", NAME, context, partial(ScalarMix, layer_norm=self.layer_norm))
        # Beyond what `freeze` holds there: a dropout that is called after the last block belongs to the head.
        classifier.register_forward_pre_hook(_encoder_in_eval)
        return classifier

    @hookimpl
    def freeze(self, layers: Layers) -> tuple[str, ...]:
        return layers.names[:-1]

    @hookimpl
    def param_groups(self, layers: Layers) -> dict[str, ParamOptions]:
        of_encoder = (name for name in layers.parameters[layers.names[-1]] if name.startswith("encoder."))
        return {name: ParamOptions(lr_factor=0.0) for name in of_encoder}
