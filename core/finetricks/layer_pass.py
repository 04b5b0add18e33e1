"""One forward pass on a few rows that leaves no mark on the model."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from finetricks.streams import kept

ROWS = 2
"""How many rows of the batch are enough: two, so that no axis of size one is mistaken for another."""


def default_forward(model: nn.Module, batch: Any) -> Any:
    """Call a model the usual way: a mapping as keywords, a tuple or list as positions, anything else alone."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def without(added: Collection[str], model: nn.Module, batch: Any) -> Any:
    """Call a model on a batch without the columns that tricks added, save those that its forward pass names."""
    return default_forward(model, taken(added, model, batch))


def taken(added: Collection[str], model: nn.Module, batch: Any) -> Any:
    """A batch without the columns that tricks added, save those that the model's forward pass names."""
    if not added or not isinstance(batch, Mapping):
        return batch
    named = inspect.signature(type(model).forward).parameters
    return {name: value for name, value in batch.items() if name not in added or name in named}


def first_rows(model: nn.Module, batch: Any) -> Any:
    """The first rows of a batch, on the model's device. The batch's size is that of its first tensor."""
    size = next((tensor.shape[0] for tensor in tensors(batch) if tensor.ndim), 0)
    device = next((parameter.device for parameter in model.parameters() if not parameter.is_meta), torch.device("cpu"))

    def rows(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor[:ROWS] if tensor.ndim and tensor.shape[0] == size else tensor).to(device)

    return _map_tensors(batch, rows)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested mappings, sequences and dataclasses."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif dataclasses.is_dataclass(value):
        yield from tensors(vars(value))


def _map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`value` with its tensors changed, in containers of the same kind; anything that is no container stays."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, MutableMapping):
        changed = copy.copy(value)
        changed.update({key: _map_tensors(item, change) for key, item in value.items()})
        return changed
    if type(value) in (tuple, list):
        return type(value)(_map_tensors(item, change) for item in value)
    return value


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with a gradient for every weight, and afterwards everything as it was."""
    training = [(module, module.training) for module in model.modules()]
    required = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    caching = _configs_with_cache(model)
    with kept(), torch.enable_grad():
        try:
            for module, _ in training:
                module.training = False  # not `eval()`, which some models override to do more, or less
            for parameter, _ in required:
                parameter.requires_grad_(parameter.is_floating_point())
            for config in caching:
                config.use_cache = False
            yield
        finally:
            for module, mode in training:
                module.training = mode
            for parameter, flag in required:
                parameter.requires_grad_(flag)
            for config in caching:
                config.use_cache = True
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


def _configs_with_cache(model: nn.Module) -> list[Any]:
    """The configurations (of transformers) that ask for a cache of keys and values: the trace has no use for one."""
    configs = {
        id(config): config for module in model.modules() if (config := getattr(module, "config", None)) is not None
    }
    return [config for config in configs.values() if getattr(config, "use_cache", None) is True]
