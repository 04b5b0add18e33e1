"""Which parameters are fresh: drawn at random, not supplied by a checkpoint.

The core's own loader declares what a checkpoint lacked. Of a transformers model that came from elsewhere, what lies
outside its base model counts as fresh, and of a language model nothing: its head was pretrained with the rest. Of any
other model it is the layer `head`. What `build` tricks add is fresh too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from finetricks.layers import Layers

_KEY = "_finetricks_fresh"


@dataclass(frozen=True)
class _Known:
    """Names of fresh parameters; not `whole` where the layer `head` comes to them."""

    names: frozenset[str]
    whole: bool


def declare_fresh(model: nn.Module, names: Iterable[str]) -> None:
    """Note on `model` that exactly the parameters `names` are fresh."""
    setattr(model, _KEY, _Known(frozenset(names), whole=True))


def fresh_parameters(model: nn.Module, layers: Layers) -> frozenset[str]:
    """The names, as `model.named_parameters()` gives them, of the parameters that no checkpoint supplied."""
    known = _known(model)
    names = known.names if known.whole else known.names | set(layers.parameters.get("head", ()))
    return names & {name for name, _ in model.named_parameters()}


class Rebuilding:
    """Keeps what is known while tricks change the structure: names change, parameters stay the same objects."""

    def __init__(self, model: nn.Module) -> None:
        self._known = _known(model)
        # Held, not only their identity: that of a parameter that is gone could be another's.
        self._supplied = [p for name, p in model.named_parameters() if name not in self._known.names]

    def fresh(self, model: nn.Module) -> frozenset[str]:
        """The names of the parameters of the model, as the tricks up to here made it, that are known to be fresh."""
        supplied = {id(parameter) for parameter in self._supplied}
        return frozenset(name for name, parameter in model.named_parameters() if id(parameter) not in supplied)

    def end(self, model: nn.Module) -> None:
        """Note on the model that the tricks gave which of its parameters are fresh."""
        setattr(model, _KEY, _Known(self.fresh(model), self._known.whole))


def _known(model: nn.Module) -> _Known:
    known = vars(model).get(_KEY)  # not `getattr`: a wrapper of peft's answers for what is in it, where names differ
    if isinstance(known, _Known):
        return known
    base = getattr(model, getattr(model, "base_model_prefix", "") or "_", None)
    if base is None or base is model:
        return _Known(frozenset(), whole=False)
    if _is_language_model(model):
        return _Known(frozenset(), whole=True)
    inside = {id(parameter) for parameter in base.parameters()}
    outside = (name for name, parameter in model.named_parameters() if id(parameter) not in inside)
    return _Known(frozenset(outside), whole=True)


def _is_language_model(model: nn.Module) -> bool:
    head = getattr(model, "get_output_embeddings", None)
    return head is not None and head() is not None
