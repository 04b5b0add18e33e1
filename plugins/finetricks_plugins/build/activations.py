"""The activations of a model: what they are, and where they stand."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any, Literal

from torch import nn

from finetricks_plugins.build.own_modules import names_in_forward, own_modules

Kind = Literal[
    "relu", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "softplus", "tanh", "sigmoid"
]
OtherKind = Literal["relu2", "relu6", "hardswish", "mish"]
"""Activations that pretrained models have, and that can only be swapped for another."""

MAKE: dict[Kind, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "rrelu": nn.RReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}

# The names of classes and functions, without underscores and "Activation": torch's, transformers', and customary ones.
_KINDS: dict[str, Kind | OtherKind] = {
    **{kind.replace("_", ""): kind for kind in MAKE},
    "swish": "silu",
    "relusquared": "relu2",
    "relu6": "relu6",
    "hardswish": "hardswish",
    "mish": "mish",
    "accurategelu": "gelu",
    "clippedgelu": "gelu",
    "fastgelu": "gelu",
    "gelufast": "gelu",
    "gelunew": "gelu",
    "gelutanh": "gelu",
    "newgelu": "gelu",
    "pytorchgelutanh": "gelu",
    "quickgelu": "gelu",
}
_LOOKED_UP = frozenset({"ACT2FN", "get_activation"})
"""How transformers models look up an activation by the name that their configuration has for it."""
_MARK = "_finetricks_swapped"


@dataclass(frozen=True)
class Place:
    """Where an activation stands: an attribute of a module. `module` is the one that tells the layer.

    That is the activation itself, or, where the attribute holds a function, the module that owns it.
    """

    owner: nn.Module
    attribute: str
    kind: Kind | OtherKind
    module: str

    @property
    def swapped(self) -> bool:
        """Whether an activation stands there that was put there before."""
        return hasattr(getattr(self.owner, self.attribute), _MARK)

    def put(self, activation: nn.Module) -> None:
        """Let another activation stand there."""
        setattr(activation, _MARK, True)
        if (like := next(self.owner.parameters(), None)) is not None:
            activation.to(like)
        setattr(self.owner, self.attribute, activation.train(self.owner.training))
        if isinstance(self.owner, nn.TransformerEncoderLayer):
            # Its fast path in evaluation has ReLU and GELU built in, and goes by this number; 0 is for neither.
            self.owner.activation_relu_or_gelu = 0


def kind_of(value: Any) -> Kind | OtherKind | None:
    """What activation a module or a function is; `None` where it is none that is known."""
    if isinstance(value, partial):
        value = value.func
    if isinstance(value, FunctionType | BuiltinFunctionType):
        return _named(value.__name__)
    if isinstance(value, nn.Module) and next(value.children(), None) is None:
        return _named(type(value).__name__)
    return None


def _named(name: str) -> Kind | OtherKind | None:
    return _KINDS.get(re.sub("_|activation", "", name.lower()))


def separate(model: nn.Module) -> None:
    """Give each place an activation of its own where one module without parameters stands in several."""
    seen: set[nn.Module] = set()
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if kind_of(module) is not None and next(module.parameters(), None) is None:
            if module in seen:
                parent, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(parent), attribute, copy.deepcopy(module))
            seen.add(module)


def activation_places(model: nn.Module) -> list[Place]:
    """Where the model's own activations stand: modules, and functions that modules hold as attributes."""
    names = {module: name for name, module in model.named_modules()}
    places = []
    for name, owner in own_modules(model):
        if kind_of(owner) is not None:
            continue  # an activation's own attributes are no places
        for attribute, child in owner._modules.items():  # each place where a shared one stands
            if child is not None and (kind := kind_of(child)) is not None:
                places.append(Place(owner, attribute, kind, names[child]))
        for attribute, value in vars(owner).items():
            if not isinstance(value, nn.Module) and (kind := kind_of(value)) is not None:
                places.append(Place(owner, attribute, kind, name))
    return places


def called_inside(module: nn.Module) -> dict[str, Kind | OtherKind | None]:
    """The activations that the code of a module's forward pass calls itself, and what they are, as far as it tells.

    These cannot be swapped from outside. What it looks up by its configuration is of no known kind.
    """
    if kind_of(module) is not None:
        return {}
    called = {name: _named(name) for name in sorted(names_in_forward(module))}
    return {
        name: kind
        for name, kind in called.items()
        # A name that the module has is an attribute of its own: a place, or a method.
        if (kind is not None or name in _LOOKED_UP) and not hasattr(module, name)
    }
