"""Which modules an initialiser draws anew, and how: from its own stream, on the CPU, the same on every device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from finetricks import Context, InputError, Layers
from finetricks_plugins.build.adapters import adapters

Which = Literal["fresh", "head", "all"]

Kinds = tuple[type[nn.Module], ...]

_HOW_TO_TAKE_MORE = "`modules: all` takes them all the same, and what they have learnt is lost"


def select(
    model: nn.Module, kinds: Kinds, which: Which, layers: Layers, context: Context, *, trick: str, what: str
) -> list[nn.Module]:
    """The modules of some kinds that are to be drawn anew, each once, in the order of registration.

    A module is fresh where a checkpoint supplied none of the parameters that are its own, and it belongs to the head
    where all of them do. Adapters are left: what they begin with is part of what they are.

    Args:
        kinds: classes; modules of them that own no parameters are passed over.
        trick: its name, for messages.
        what: the kinds in words, for messages.

    Raises:
        InputError: there are none.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    beside = {module for part in adapters(model) for module in part.modules()}
    found = {
        module: own
        for module in model.modules()
        if module not in beside
        and isinstance(module, kinds)
        and (own := {names[parameter] for parameter in _own(module)})
    }
    if not found:
        raise InputError(f"{trick}: {type(model).__name__} has no {what}")
    wanted: Collection[str] = {
        "fresh": context.fresh,
        "head": layers.parameters.get("head", ()),
        "all": set(names.values()),
    }[which]
    chosen = [module for module, own in found.items() if own.issubset(wanted)]
    if not chosen and which == "head":
        raise InputError(f"{trick}: the head of {type(model).__name__} has no {what}; {_HOW_TO_TAKE_MORE}")
    if not chosen:
        raise InputError(
            f"{trick}: no {what} of {type(model).__name__} is new: a checkpoint supplied them all; {_HOW_TO_TAKE_MORE}"
        )
    return chosen


def _own(module: nn.Module) -> Iterator[nn.Parameter]:
    yield from module.parameters(recurse=False)
    if parametrize.is_parametrized(module):
        yield from module.parametrizations.parameters()  # type: ignore[union-attr]


def stored(module: nn.Module, attribute: str) -> nn.Parameter | None:
    """The parameter behind a weight or a bias.

    Where torch's `parametrize` changes it at each use (weight drop), that is what is changed; where it is computed from
    several (weight norm), or is not there, `None`.
    """
    if parametrize.is_parametrized(module, attribute):
        return getattr(module.parametrizations[attribute], "original", None)  # type: ignore[index]
    value = getattr(module, attribute, None)
    return value if isinstance(value, nn.Parameter) else None


def redraw(weight: Tensor, fill: Callable[[Tensor], Any]) -> None:
    """Give `weight` (a parameter, or a view of one) the values with which `fill` fills a tensor on the CPU."""
    values = torch.empty(weight.shape)
    fill(values)
    with torch.no_grad():
        weight.copy_(values)
