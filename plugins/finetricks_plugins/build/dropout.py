"""The probability of dropout, throughout a model or by layer."""

from __future__ import annotations

import logging
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import nn

from finetricks import Choice, Context, InputError, Layers, Trick, hookimpl
from finetricks.errors import Problem, suggest
from finetricks_plugins.build.dropouts import Place, dropout_places, read_from_config
from finetricks_plugins.build.own_modules import layer_of_module, own_modules

NAME = "dropout"
Probability = Annotated[float, Field(ge=0, lt=1)]

log = logging.getLogger(__name__)


class Dropout(Trick):
    """Set the probability of dropout throughout the model or by layer; 0 switches it off: h = m / (1 - p) * h.

    m is 0 with probability p, drawn anew for each value. Sets all that the model has: of embeddings, states, attention,
    activations and the head, also where it is 0 now. `layers` says otherwise for some. Only training changes: weights,
    and what the model predicts, do not, and its configuration keeps the rates that it had.

    Stochastic depth (DropPath, LayerDrop) drops whole branches, weight drop an LSTM's recurrent weights: both are left
    alone. What other tricks put into the model
    has rates of its own, and the most particular value holds: `output_dropout` sets what stands before the output
    layer, `concat_pooling` and `task_layers` their own. A dropout that serves several layers belongs to the lowest:
    that of an LSTM between its layers to the first.

    Traps: many models drop nothing where they can (Llama, ViT, ModernBERT), so 0.1 throughout is more there than in
    BERT, which was pretrained with it; by a model's `config` alone the rates cannot be changed once it is built.

    Source: Srivastava et al. 2014, Dropout: A Simple Way to Prevent Neural Networks from Overfitting (JMLR 15), section
    4. BERT's 0.1 is the common value for fine-tuning.
    """

    neutral: ClassVar[dict[str, Any] | None] = {"p": None, "layers": {}}

    p: Annotated[Probability | None, Choice(0.0, 0.1, 0.3)] = Field(
        default=None, description="Probability that a value is dropped; null: leave it, where `layers` does not say."
    )
    layers: dict[str, Probability] = Field(
        default={}, description="Probabilities by layer instead, such as {head: 0.3, block.0: 0}."
    )

    @hookimpl
    def build(self, model: nn.Module, context: Context) -> None:
        if self.p is None and not self.layers:
            log.warning("%s: sets nothing; give p, or layers", NAME)
            return
        places = dropout_places(model)
        if not places:
            raise InputError(f"{NAME}: {type(model).__name__} has no dropout whose probability could be set")
        layers = context.find_layers(model) if self.layers else None
        if layers is not None:
            self._check(layers, places)
        for place in places:
            if (p := self._wanted(place.module, layers)) is not None:
                place.put(p)
        for name, module in own_modules(model):
            wanted = self._wanted(name, layers)
            for key, p in read_from_config(module).items():
                if wanted is not None and p != wanted:
                    log.warning(
                        "%s: %s (%s) reads %s from the model's configuration at each step, and keeps %s; change it "
                        "there, before the model is given to the recipe",
                        *(NAME, name or "the model", type(module).__name__, key, p),
                    )

    @hookimpl
    def finish(self) -> None:
        """Nothing is taken off: outside of training, and in what is saved, a model is the same at any probability."""

    def _wanted(self, module: str, layers: Layers | None) -> float | None:
        return self.p if layers is None else self.layers.get(layer_of_module(layers, module), self.p)

    def _check(self, layers: Layers, places: list[Place]) -> None:
        """Raise `InputError` for layers that the model does not have, or that drop nothing."""
        dropping = {layer_of_module(layers, place.module) for place in places}
        has = ", ".join(layers.names)
        can = ", ".join(name for name in layers.names if name in dropping)
        problems = []
        for name in self.layers:
            if name not in layers.names:
                near = suggest(name, layers.names)
                problems.append(Problem(f"{NAME}.layers", f"the model has no layer {name!r}{near}; it has {has}"))
            elif name not in dropping:
                problems.append(Problem(f"{NAME}.layers", f"{name} has no dropout of its own; these have: {can}"))
        if problems:
            raise InputError(problems)
