"""Layer normalisation of what the head reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from finetricks import Context, InputError, Trick, hookimpl

if TYPE_CHECKING:
    from finetricks_plugins.build.classifier import Classifier

NAME = "output_layer_norm"


class StatesNorm(nn.LayerNorm):
    """Normalises each token's state; fits the slot `norm` of a `Classifier`."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.width = width

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(input)


class OutputNorm(StatesNorm):
    """Stands between a transformers model's encoder and the head that the model has."""

    carried = True  # into a `Classifier`, where a slot is for it

    def __init__(self, width: int, seed: int) -> None:
        super().__init__(width)
        self._seed = seed
        self._handles: list[RemovableHandle] = []

    def attach(self, encoder: Any) -> None:
        """Normalise what `encoder` gives, and what its pooler reads."""
        self._handles = [encoder.register_forward_hook(self._after)]
        if getattr(encoder, "pooler", None) is not None:
            self._handles.append(encoder.pooler.register_forward_pre_hook(self._before))

    def join(self, classifier: Classifier) -> None:
        for handle in self._handles:
            handle.remove()
        classifier.fill("norm", NAME, Context(self._seed), StatesNorm)

    def _before(self, pooler: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states, *more = given
        return (self(states), *more)

    def _after(self, encoder: nn.Module, given: tuple[Any, ...], gave: Any) -> Any:
        if isinstance(gave, tuple):
            return (self(gave[0]), *gave[1:])
        gave.last_hidden_state = self(gave.last_hidden_state)
        return gave


class InputNorm(StatesNorm):
    """Stands before a linear layer, as a child of it."""

    def attach(self, linear: nn.Linear) -> None:
        linear.add_module(NAME, self)
        linear.register_forward_pre_hook(self._before)  # after `output_dropout`, which comes first of all

    def _before(self, linear: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (self(given[0]),)


class OutputLayerNorm(Trick):
    """A learned layer norm between the encoder and the head: the head reads LN(h) for each token's state h.

    Scale and mean of the states differ between encoders, and grow with depth where there is no final norm; the head
    then sees them alike. The model keeps its head, and the norm stands before all of it (before BERT's pooler, too);
    with tricks that replace the head, it normalises what they read of the layers. Gain begins at 1 and bias at 0; both
    belong to the layer `head`. In a model that is no transformers model of text it stands before the first linear layer
    of the head.

    Traps: most encoders end in a norm of their own, and until the gain has moved away from 1 another changes little but
    to undo that one's gain and bias.

    Source: Ba, Kiros & Hinton 2016, Layer Normalization (arXiv 1607.06450), section 3.
    """

    @hookimpl
    def build(self, model: nn.Module, context: Context) -> None:
        from finetricks_plugins.build.classifier import Classifier, is_text_classifier, layer_widths

        if any(isinstance(module, OutputNorm | InputNorm) for module in model.modules()):
            return  # it has been built before, and trained since
        if isinstance(model, Classifier):
            model.fill("norm", NAME, context, StatesNorm)
        elif is_text_classifier(model):
            encoder: Any = model.base_model
            norm = OutputNorm(layer_widths(model.config)[-1], context.seed)
            norm.attach(encoder)
            model.add_module(NAME, norm.to(encoder.device, encoder.dtype))
        else:
            linear = _first_of_head(model, context)
            InputNorm(linear.in_features).to(linear.weight).attach(linear)


def _first_of_head(model: nn.Module, context: Context) -> nn.Linear:
    head = context.find_layers(model).parameters.get("head", ())
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and f"{name}.weight" in head:
            return module
    raise InputError(f"{NAME}: the head of {type(model).__name__} has no linear layer to stand before")
