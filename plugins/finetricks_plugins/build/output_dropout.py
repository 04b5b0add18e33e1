"""Dropout directly before the output layer."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from finetricks import Choice, InputError, Trick, hookimpl
from finetricks_plugins.build.head import head_dropouts, output_layer

NAME = "output_dropout"


class InputDropout(nn.Module):
    """Drops what a linear layer is given, in the stead of a dropout that stands directly before it.

    "Directly" is told by the data: the layer is given the very tensor that the other dropout gave. So it is told of any
    model, also of one that uses a dropout in two places. A child of the layer, it stays with it wherever that goes.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._handles: list[RemovableHandle] = []
        self._last: tuple[Tensor, Tensor] | None = None  # what another dropout was given, and what it gave

    def attach(self, linear: nn.Linear, dropouts: list[nn.Dropout]) -> None:
        """Stand before `linear`, in the stead of whichever of `dropouts` does."""
        linear.add_module(NAME, self)
        # First of all that look at what the layer is given.
        self._handles = [linear.register_forward_pre_hook(self._drop, prepend=True)]
        for dropout in dropouts:
            dropout.inplace = False  # so that what it was given is still there
            self._handles.append(dropout.register_forward_hook(self._note))

    def detach(self, linear: nn.Linear) -> None:
        for handle in self._handles:
            handle.remove()
        delattr(linear, NAME)

    def forward(self, values: Tensor) -> Tensor:
        return F.dropout(values, self.p, self.training)

    def _note(self, dropout: nn.Module, given: tuple[Tensor, ...], gave: Tensor) -> None:
        self._last = (given[0], gave)

    def _drop(self, linear: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values, *more = given
        last, self._last = self._last, None
        if last is not None and values is last[1]:
            values = last[0]
        return (self(values), *more)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}  # a copy starts without another pass's tensors


class OutputDropout(Trick):
    """Set the dropout before the output layer, and no other: scores = W dropout_p(h) + b.

    A dropout that stands directly before the output layer already is replaced, not added to (BERT's, RoBERTa's; GPT-2
    and Llama have none); p = 0 switches it off. The output layer is the last linear layer of the head; in a model that
    counts its labels, the last with an output for each. Taken off when training ends.

    The most particular value holds: beside `dropout`, which sets all others, this p stands before the output layer,
    whichever is listed first.

    Traps: RoBERTa's head uses one dropout module twice, before its dense and before its output layer; setting that
    module's p changes both.

    Source: Srivastava et al. 2014, Dropout: A Simple Way to Prevent Neural Networks from Overfitting (JMLR 15), section
    4; 0.5 is a common default for the last hidden layer.
    """

    p: Annotated[float, Field(ge=0, lt=1), Choice(0.0, 0.1, 0.3, 0.5)] = Field(
        default=0.5, description="Probability that a value is dropped."
    )

    @hookimpl
    def build(self, model: nn.Module) -> None:
        linear = output_layer(model)
        if linear is None:
            raise InputError(f"{NAME}: {type(model).__name__} has no linear layer outside its encoder to stand before")
        _take_off(linear)
        InputDropout(self.p).attach(linear, head_dropouts(model))

    @hookimpl
    def finish(self, model: nn.Module) -> None:
        for module in list(model.modules()):
            _take_off(module)


def _take_off(module: nn.Module) -> None:
    dropout = getattr(module, NAME, None)
    if isinstance(module, nn.Linear) and isinstance(dropout, InputDropout):
        dropout.detach(module)
