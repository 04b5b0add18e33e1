"""One pass of a model on a training batch, for what is done before training."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from finetricks import InputError


def run(model: nn.Module, batch: Any) -> Any:
    """Call `model` on a batch, as in training, without what its forward pass does not take.

    A mapping gives keyword arguments, a tuple or a list positional ones, anything else the only one.

    Raises:
        InputError: the call failed.
    """
    try:
        if isinstance(batch, Mapping):
            return model(**_named(model, batch))
        return model(*_positional(model, batch)) if isinstance(batch, tuple | list) else model(batch)
    except InputError:
        raise  # the model says itself what is wrong with its input
    except Exception as error:
        raise InputError(
            f"a pass of {type(model).__name__} on a training batch, before training, failed with "
            f"{type(error).__name__}: {error}. It is called with what its forward pass takes of a batch: of a "
            "mapping by name, of a tuple in order"
        ) from error


def _named(model: nn.Module, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    named = inspect.signature(type(model).forward).parameters
    known = {name: value for name, value in batch.items() if name in named}
    return known or batch  # one that names none of them takes what it is given


def _positional(model: nn.Module, batch: tuple[Any, ...] | list[Any]) -> list[Any]:
    parameters = list(inspect.signature(type(model).forward).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return list(batch)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return list(batch[: len(positional)])
