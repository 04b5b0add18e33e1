"""A stack of layers, each of which can be called by itself on what it is given in a pass of the model."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetricks import InputError, Layers
from finetricks_plugins.init.forward import run

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_LISTS = (nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Call:
    """How a layer is called in a pass of the model.

    Attributes:
        place: of the hidden states among the arguments: a position or a keyword.
        mask: of real tokens, [rows, tokens]; `None` where the model was given none.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    place: int | str
    mask: Tensor | None

    @property
    def states(self) -> Tensor:
        """What the layer is given, [rows, features] or [rows, tokens, width]."""
        states: Tensor = self.args[self.place] if isinstance(self.place, int) else self.kwargs[self.place]
        return states

    @property
    def counted(self) -> Tensor | None:
        """Which positions of the states are real, as booleans; `None` for all."""
        fits = self.mask is not None and self.mask.shape == self.states.shape[:-1]
        return self.mask.bool() if self.mask is not None and fits else None


@dataclass(frozen=True)
class StackLayer:
    """One layer of a stack: the modules that are called one after the other, of which the first has a `path`."""

    name: str
    path: str
    modules: tuple[nn.Module, ...]

    def __call__(self, call: Call, states: Tensor) -> Tensor:
        """What the layer makes of `states`, called otherwise as in `call`."""
        args, kwargs = list(call.args), dict(call.kwargs)
        if isinstance(call.place, int):
            args[call.place] = states
        else:
            kwargs[call.place] = states
        output = self.modules[0](*args, **kwargs)
        for module in self.modules[1:]:
            output = module(output)
        return output if isinstance(output, Tensor) else output[0]

    def parameters(self) -> list[nn.Parameter]:
        return list(dict.fromkeys(p for module in self.modules for p in module.parameters()))

    def reached(self, model: nn.Module, batch: Any) -> Call:
        """How the layer is called in a pass of `model` on a batch. What comes after it is not computed."""
        with torch.no_grad(), _watched(model, self.path) as seen:
            try:
                run(model, batch)
            except _Reached as reached:
                args, kwargs = reached.args
                return Call(args, kwargs, _place_of_states(args, kwargs), seen[-1] if seen else None)
        raise InputError(f"{self.name} ({self.path}) is not called in a pass of {type(model).__name__}")


def stack_of(model: nn.Module, layers: Layers, wanted: Collection[str]) -> list[StackLayer]:
    """The layers `wanted` of a model's stack, from the bottom up.

    Raises:
        InputError: they are no stack: there are none, or one is convolutional, recurrent or has no module of its own.
    """
    if not layers.blocks:
        raise unfit(model, f"there is none: its layers are {', '.join(layers.names)}")
    return [_layer(model, layers, name) for name in layers.blocks if name in wanted]


def check(layer: StackLayer, call: Call, model: nn.Module) -> None:
    """Raise `InputError` where a layer does not make hidden states of hidden states."""
    with torch.no_grad():
        given, gave = list(call.states.shape), list(layer(call, call.states).shape)
    if len(given) not in (2, 3) or gave[:-1] != given[:-1]:
        raise unfit(model, f"{layer.name} ({layer.path}) makes {gave} of {given}")


def unfit(model: nn.Module, why: str) -> InputError:
    return InputError(
        "greedy_pretraining needs a stack of layers, each of which makes hidden states [rows, features] or [rows, "
        "tokens, width] of hidden states: linear layers with their activations in an nn.Sequential, or transformer "
        f"blocks. In {type(model).__name__}, {why}"
    )


class _Reached(BaseException):
    """Ends a pass of the model where a layer is called. Carries the arguments. No error, so that none handles it."""


@contextmanager
def _watched(model: nn.Module, path: str) -> Iterator[list[Tensor]]:
    """Watch for the call of a module, and for the masks that the modules around it are given, the innermost last."""
    masks: list[Tensor] = []

    def pass_by(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2:
            masks.append(mask)

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(args, kwargs)

    parts = path.split(".")
    around = [model.get_submodule(".".join(parts[:end])) for end in range(len(parts))]
    handles = [module.register_forward_pre_hook(pass_by, with_kwargs=True) for module in around]
    handles.append(model.get_submodule(path).register_forward_pre_hook(stop, with_kwargs=True))
    try:
        yield masks
    finally:
        for handle in handles:
            handle.remove()


def _place_of_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | str:
    given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for place, value in given:
        if isinstance(value, Tensor) and value.is_floating_point():
            return place
    raise InputError("a layer of the stack is given no hidden states")


def _layer(model: nn.Module, layers: Layers, name: str) -> StackLayer:
    own = {model.get_parameter(parameter) for parameter in layers.parameters[name]}
    path = _path(model, own)
    if not path:
        raise unfit(model, f"{name} ({layers.parameters[name][0]}, ...) has no module of its own")
    modules: tuple[nn.Module, ...] = (model.get_submodule(path),)
    around, _, _ = path.rpartition(".")
    in_sequence = isinstance(model.get_submodule(around), nn.Sequential)
    if in_sequence:
        path, modules = _items(model.get_submodule(around), around, own)
    found = f"{name} ({path}, {type(modules[0]).__name__})"
    inside = [part for module in modules for part in module.modules()]
    if any(isinstance(part, _RECURRENT) for part in inside):
        raise unfit(model, f"{found} is recurrent")
    if any(isinstance(part, _CONVOLUTIONS) for part in inside) and not any(isinstance(p, nn.Linear) for p in inside):
        raise unfit(model, f"{found} is convolutional")
    if isinstance(modules[0], nn.Linear) and not in_sequence:
        raise unfit(model, f"{found} stands outside an nn.Sequential, and which activation follows is not known")
    return StackLayer(name, path, modules)


def _path(model: nn.Module, own: Collection[nn.Parameter]) -> str:
    """The module that holds most of `own` and no other parameters; of several, the outermost. Empty for none.

    What belongs to a layer and stands beside this module (the norm at the end of T5's encoder) is no part of a stack.
    """
    held = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in model.named_modules()
        if name and not isinstance(module, _LISTS) and set(own).issuperset(module.parameters())
    }
    path = max(held, key=held.__getitem__, default="")
    return path if path and held[path] else ""


def _items(container: nn.Module, path: str, own: Collection[nn.Parameter]) -> tuple[str, tuple[nn.Module, ...]]:
    """The items of an nn.Sequential from the first that holds `own` parameters to the next that holds others."""
    items: list[nn.Module] = []
    first = ""
    for name, item in container.named_children():
        held = set(item.parameters())
        if held and not held & set(own):
            if items:
                break
        elif held or items:
            first = first or f"{path}.{name}".lstrip(".")
            items.append(item)
    return first, tuple(items)
