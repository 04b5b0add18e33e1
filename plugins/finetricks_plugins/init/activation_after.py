"""Which activation follows a layer, seen in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from finetricks_plugins.build.activations import kind_of

_CARRY_ON = frozenset(
    {"dropout", "alpha_dropout", "layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm"}
    | {"max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool2d"}
    | {"__getitem__", "contiguous", "flatten", "permute", "reshape", "squeeze", "to", "transpose", "unsqueeze", "view"}
)
"""What may stand between a layer and its activation."""


def activations_after(
    layers: Sequence[nn.Module], model: nn.Module, forward: Callable[[], Any]
) -> dict[nn.Module, str]:
    """The kind of activation (`relu`, `tanh`, ...) that the output of each of `layers` goes into.

    Through dropout, norms and changes of shape. Layers that none follows are left out: sums, products, the scores.
    """
    watch = _Watch()
    with watch.calls_of(model, layers), watch:
        forward()
    return watch.found


class _Watch(TorchFunctionMode):
    """Sees every function that is called on a tensor, and the calls of activation modules."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[nn.Module, str] = {}
        self._from: dict[int, tuple[Tensor, nn.Module]] = {}  # holds the tensors, so that no other takes their identity

    @contextmanager
    def calls_of(self, model: nn.Module, layers: Collection[nn.Module]) -> Iterator[None]:
        handles = [layer.register_forward_hook(self._left) for layer in layers]
        # A module may be made of several functions (GPT-2's GELU of a tanh and others).
        handles += [m.register_forward_pre_hook(self._entered) for m in model.modules() if kind_of(m) is not None]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        layer = self._layer_of(args)
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        if layer is not None and name in _CARRY_ON and isinstance(result, Tensor):
            self._from[id(result)] = (result, layer)
        elif layer is not None and (kind := kind_of(getattr(torch, name, function))):  # a method, as the function
            self.found.setdefault(layer, kind)
        return result

    def _left(self, layer: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            self._from[id(output)] = (output, layer)

    def _entered(self, activation: nn.Module, args: tuple[Any, ...]) -> None:
        if (layer := self._layer_of(args)) is not None and (kind := kind_of(activation)):
            self.found.setdefault(layer, kind)

    def _layer_of(self, args: tuple[Any, ...]) -> nn.Module | None:
        return self._from[id(args[0])][1] if args and id(args[0]) in self._from else None
