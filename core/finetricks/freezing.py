"""Freezing layers of a live model.

Frozen means (rule 3): parameters without `requires_grad` and with `grad=None` (AdamW moves a frozen parameter that
keeps a stale gradient), modules in eval mode whatever the training loop calls. `apply` converges the model to the
wanted state from whatever state it is in, so it can be called at any time and there is nothing to checkpoint. What the
user had frozen stays frozen when its layer thaws.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from types import MethodType
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from finetricks.layers import Layers


class Freezing:
    """Freezes and thaws the layers of `model`; takes what is trainable now as what the user wants trainable."""

    def __init__(self, model: nn.Module, layers: Layers) -> None:
        self._model = model
        self._layers = layers
        self._modules = dict(model.named_modules())
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.frozen: frozenset[str] = frozenset()

    @property
    def trainable(self) -> frozenset[str]:
        """The layers that have a weight which the user wants trainable."""
        return frozenset(
            layer for layer, names in self._layers.parameters.items() if self._parameters.keys() & set(names)
        )

    def apply(self, frozen: AbstractSet[str]) -> None:
        """Bring the model to the state in which exactly the layers `frozen` are frozen."""
        for layer, names in self._layers.parameters.items():
            for name in names:
                if (parameter := self._parameters.get(name)) is not None:
                    parameter.requires_grad_(layer not in frozen)
                    if layer in frozen:
                        parameter.grad = None
        for name, module in self._modules.items():
            works_for = self._layers.modules.get(name)
            if works_for and works_for <= frozen:
                _hold_in_eval(module)
            elif _is_held(module):
                _release(module, self._model.training)
        self.frozen = frozenset(frozen)


def _is_held(module: nn.Module) -> bool:
    return getattr(module.__dict__.get("train"), "__func__", None) is _train


def _train(self: nn.Module, mode: bool = True) -> nn.Module:
    """Stand in for `nn.Module.train` on a frozen module: it, and what is in it, stays in eval mode."""
    return nn.Module.train(self, False)


# A bound method is pickled and copied by its name; under this name a copy gets the class's own method.
_train.__name__ = "train"


def _hold_in_eval(module: nn.Module) -> None:
    module.__dict__["train"] = MethodType(_train, module)
    module.training = False


def _release(module: nn.Module, mode: bool) -> None:
    del module.__dict__["train"]
    module.train(mode)
