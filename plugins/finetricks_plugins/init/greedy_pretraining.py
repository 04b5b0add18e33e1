"""Greedy layer-wise unsupervised pretraining with denoising auto-encoders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from finetricks import Choice, Context, InputError, Layers, Trick, hookimpl
from finetricks.layer_pass import undisturbed
from finetricks.streams import child
from finetricks_plugins.build.adapters import adapters, thawed
from finetricks_plugins.init.denoising import Calls, Corruption, Reconstruction, in_unit_interval, train
from finetricks_plugins.init.stack import Call, StackLayer, check, stack_of
from finetricks_plugins.regularize.penalised import LayerNames, check_layers

logger = logging.getLogger(__name__)

NAME = "greedy_pretraining"
Batches = Callable[[], Iterable[Any]]


class GreedyPretraining(Trick):
    """Pretrain layer by layer, bottom up, without labels: each restores what it is given from a spoilt copy.

    For l = 1 ... L: h is what the layers below, trained already, make of a clean input; h~ is h corrupted; the layer f
    and a linear decoder g are trained to minimise L(h, g(f(h~))), then g is dropped, f stays as it is, and the next
    layer follows. The corruption never passes from layer to layer, and fine-tuning has none. L is the squared error,
    or the cross-entropy of sigmoid(g) where all that a layer is given lies in [0, 1]; padding does not count.

    The layers are the blocks: linear layers with their activations (and norms) in an nn.Sequential, or transformer
    blocks, each over all tokens of a text. Embeddings and head stay. For models that begin from random weights, and
    more unlabelled than labelled data; the papers gain on deep MLPs that hardly train without it. Dropout is off; the
    batches are the run's, in the data's order; all states are computed anew for each batch, so that memory holds one
    batch. Adam instead of the papers' plain gradient descent, so that one rate does for layers of any scale.

    Traps: a pretrained encoder unlearns by this what its language model taught it. Reconstruction without corruption
    teaches a layer as wide as its input nothing but the identity. `further_pretraining`, listed after it,
    goes on from what it made; listed before it, it is unlearnt. Tricks that draw weights do so before either.

    Source: Vincent et al. 2010, Stacked Denoising Autoencoders (JMLR 11), section 3; Bengio et al. 2007, Greedy
    Layer-Wise Training of Deep Networks (NIPS). Theirs: masking of 0, 0.1, 0.25 or 0.4, Gaussian noise of 0.05 to 0.5,
    5 to 300 epochs a layer. The defaults are common ones.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"epochs": 0}
    learns: ClassVar[bool] = True

    epochs: Annotated[int, Field(ge=0), Choice(1, 5, 20)] = Field(
        default=5, description="Passes over the training batches for each layer; 0 for none."
    )
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False), Choice(1e-4, 1e-3)] = Field(
        default=1e-3, description="Adam's, constant."
    )
    corruption: Annotated[Corruption, Choice("masking", "gaussian")] = Field(
        default="masking", description="Values set to zero, or noise added to them."
    )
    strength: Annotated[float, Field(ge=0, allow_inf_nan=False), Choice(0.1, 0.25, 0.4)] = Field(
        default=0.25, description="Probability that a value is masked, or the noise's standard deviation."
    )
    reconstruction: Literal["auto"] | Reconstruction = Field(
        default="auto", description="The loss; auto: cross_entropy for layers that are given values in [0, 1]."
    )
    layers: LayerNames | None = Field(
        default=None, description="Which blocks are trained, such as [block.0, block.1]; all by default."
    )

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.corruption == "masking" and self.strength >= 1:
            raise ValueError(f"strength is the probability that a value is masked, below 1; got {self.strength}")
        return self

    @hookimpl
    def init(self, model: nn.Module, layers: Layers, context: Context) -> None:
        wanted = self._wanted(layers)
        if self.epochs == 0:
            return
        with thawed(model):
            self._pretrain(model, layers, wanted, context)

    def _pretrain(self, model: nn.Module, layers: Layers, wanted: Sequence[str], context: Context) -> None:
        stack = stack_of(model, layers, wanted)
        beside = {parameter for part in adapters(model) for parameter in part.parameters()}
        trained = {
            layer.name: [p for p in layer.parameters() if p.requires_grad and p not in beside] for layer in stack
        }
        if not any(trained.values()):
            raise InputError(f"{NAME}: nothing to train: all of {', '.join(wanted)} is frozen")
        batches = _batches(model, context)
        with undisturbed(model), _gradients_kept(model):
            first = next(iter(batches()))
            for layer in stack:
                check(layer, layer.reached(model, first), model)
            for layer in stack:
                if trained[layer.name]:
                    self._train(layer, trained[layer.name], model, batches, child(context.seed, layer.name))

    def _wanted(self, layers: Layers) -> Sequence[str]:
        check_layers(NAME, self.layers, layers)
        wanted = layers.blocks if self.layers is None else self.layers
        if others := [name for name in wanted if name not in layers.blocks]:
            raise InputError(f"{NAME}.layers: {others[0]} is no block; there are {', '.join(layers.blocks) or 'none'}")
        return wanted

    def _train(
        self, layer: StackLayer, parameters: Sequence[nn.Parameter], model: nn.Module, batches: Batches, seed: int
    ) -> None:
        def calls() -> Iterator[Call]:
            return (layer.reached(model, batch) for batch in batches())

        losses = train(
            layer,
            calls,
            parameters,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            corruption=self.corruption,
            strength=self.strength,
            reconstruction=self._reconstruction_for(layer, calls),
            seed=seed,
        )
        for epoch, loss in enumerate(losses):
            logger.info("%s: %s, epoch %d of %d, loss %.4f", NAME, layer.name, epoch + 1, self.epochs, loss)

    def _reconstruction_for(self, layer: StackLayer, calls: Calls) -> Reconstruction:
        if self.reconstruction == "squared_error":
            return "squared_error"
        if in_unit_interval(calls):
            return "cross_entropy"
        if self.reconstruction == "cross_entropy":
            raise InputError(
                f"{NAME}: cross_entropy restores values in [0, 1], and {layer.name} is given others; "
                "take squared_error, or auto"
            )
        return "squared_error"


def _batches(model: nn.Module, context: Context) -> Batches:
    """The training batches on the model's device. Raises `InputError` where they cannot be read before training."""
    from accelerate.utils import send_to_device

    given = context.batches
    if given is None:
        raise InputError(
            f"{NAME} reads the training batches once for each layer and epoch, before training: give a loader with a "
            "length instead of an iterator"
        )
    device = next(model.parameters()).device
    return lambda: (send_to_device(batch, device) for batch in given())


@contextmanager
def _gradients_kept(model: nn.Module) -> Iterator[None]:
    """Without gradients inside, and afterwards with those that were there."""
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in before:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient
