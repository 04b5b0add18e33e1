"""The modules of a model that are its own, for tricks that act throughout it.

What other tricks put into a model has settings of its own, and so have adapters. It is left out here, so that the order
of the tricks in a recipe changes nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import CodeType

from torch import nn

from finetricks import Layers
from finetricks_plugins.build.adapters import adapters
from finetricks_plugins.build.head import is_carried


def own_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and modules of `model`, each once, without those that tricks added."""
    added = {module for part in _added(model) for module in part.modules()}
    return [(name, module) for name, module in model.named_modules() if module not in added]


def _added(model: nn.Module) -> list[nn.Module]:
    from finetricks_plugins.build.classifier import SLOTS, Classifier

    slots = [getattr(model, slot) for slot in SLOTS] if isinstance(model, Classifier) else []
    return [*slots, *adapters(model), *(module for module in model.modules() if is_carried(module))]


def layer_of_module(layers: Layers, name: str) -> str:
    """The layer of the module `name`; of several that it works for the lowest, where it acts first.

    So the dropout of an encoder that stands before its blocks, or that of a recurrent network between its layers.
    """
    return min(layers.modules[name], key=layers.names.index)


def names_in_forward(module: nn.Module) -> frozenset[str]:
    """The names that the code of the module's forward pass uses: functions, classes, attributes."""
    owner = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    names: set[str] = set()
    for name, member in vars(owner).items():
        if not name.startswith("__") and "init" not in name:
            code = getattr(inspect.unwrap(getattr(member, "__func__", member)), "__code__", None)
            names.update(*(part.co_names for part in _parts(code)))
    return frozenset(names)


def _parts(code: object) -> Iterator[CodeType]:
    """A function's code, and that of the functions inside it."""
    if isinstance(code, CodeType):
        yield code
        for constant in code.co_consts:
            yield from _parts(constant)
