"""The dropouts of a model: where their probabilities stand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from finetricks_plugins.build.own_modules import names_in_forward, own_modules

# `attention_dropout`, `dropout_p`, `attn_pdrop`, `drop`, but not `layerdrop` ...
_DROPOUT = re.compile(r"(^|_)(dropout|p?drop)(_|$)")
# ... nor `drop_path_rate`.
_OF_WHOLE_BRANCHES = re.compile(r"path|layer_drop(?!out)|drop_block")


@dataclass(frozen=True)
class Place:
    """Where a probability stands: an attribute of a module. `module` is the name of the one that tells the layer.

    A placeholder is an `nn.Identity` that stands where a dropout of probability 0 would.
    """

    owner: nn.Module
    attribute: str
    module: str
    placeholder: bool = False

    def put(self, p: float) -> None:
        """Set the probability."""
        if not self.placeholder:
            setattr(self.owner, self.attribute, p)
        elif p > 0:
            setattr(self.owner, self.attribute, nn.Dropout(p).train(self.owner.training))


def dropout_places(model: nn.Module) -> list[Place]:
    """Where the model's own dropouts have their probabilities: modules, and numbers by which a module drops.

    Stochastic depth (DropPath, LayerDrop), which drops whole branches of an example, is another thing and not among
    them.
    """
    # Outside of it an identity may be an empty place of a trick's.
    body = set(getattr(model, "base_model", model).modules())
    places = []
    for name, module in own_modules(model):
        if isinstance(module, _DropoutNd):
            if not _OF_WHOLE_BRANCHES.search(name.rpartition(".")[2]):
                places.append(Place(module, "p", name))
        elif not _is_without(module):
            numbers = [key for key, value in vars(module).items() if _is_of_dropout(key) and _is_probability(value)]
            places += [Place(module, key, name) for key in numbers]
            if module in body:
                places += [
                    Place(module, key, f"{name}.{key}".lstrip("."), placeholder=True)
                    for key, child in module.named_children()
                    if isinstance(child, nn.Identity) and _is_of_dropout(key)
                ]
    return places


def read_from_config(module: nn.Module) -> dict[str, Any]:
    """The probabilities that the module's forward pass takes from its configuration each time, by name.

    These cannot be set for one model without changing what it is saved with.
    """
    config = getattr(module, "config", None)
    return {
        name: getattr(config, name)
        for name in sorted(names_in_forward(module))
        if _is_of_dropout(name) and not hasattr(module, name) and _is_probability(getattr(config, name, None))
    }


def _is_of_dropout(name: str) -> bool:
    return bool(_DROPOUT.search(name)) and not _OF_WHOLE_BRANCHES.search(name)


def _is_probability(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_without(module: nn.Module) -> bool:
    """Whether its numbers are not of dropout: of stochastic depth, or between the layers of a single one."""
    name = type(module).__name__.lower()
    return (isinstance(module, nn.RNNBase) and module.num_layers == 1) or "droppath" in name or "dropblock" in name
