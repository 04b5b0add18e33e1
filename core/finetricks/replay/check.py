"""Is a replayed pass the same as a whole one? Both are computed from one state, and compared bit by bit."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from finetricks.layer_pass import tensors


class Before:
    """What a pass may change, as it is now: random states, buffers, and what tricks remember.

    Args:
        remembered: by the tricks, by name; changed in place by them.
    """

    def __init__(self, model: nn.Module, remembered: dict[str, dict[str, Any]]) -> None:
        self._remembered = remembered
        self._copies = copy.deepcopy(remembered)
        self._buffers = [
            (module, name, buffer.clone())
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self._random = random_state()

    @contextmanager
    def again(self) -> Iterator[None]:
        """The block in which all is as it was; what it does to that is undone."""
        after = random_state()
        kept = dict(self._remembered)
        buffers = [(module, name, module._buffers[name]) for module, name, _ in self._buffers]
        _set_random_state(self._random)
        self._remembered.update(self._copies)
        for module, name, buffer in self._buffers:
            module._buffers[name] = buffer
        try:
            yield
        finally:
            for module, name, own in buffers:
                module._buffers[name] = own
            self._remembered.clear()
            self._remembered.update(kept)
            _set_random_state(after)


def random_state() -> list[torch.Tensor]:
    """Torch's global random states, of the CPU and of the present GPU."""
    state = [torch.get_rng_state()]
    return state + ([torch.cuda.get_rng_state()] if _has_gpu() else [])


def _set_random_state(state: list[torch.Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1])


def _has_gpu() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def difference(one: Any, other: Any, mask: torch.Tensor | None = None) -> float:
    """The largest difference between the numbers in two results of one kind; infinite where their shapes differ.

    Args:
        mask: [rows, tokens]: what stands at other places of [rows, tokens, ...] is not looked at.
    """
    pairs = list(zip(_numbers(one), _numbers(other), strict=False))
    if len(pairs) != len(_numbers(other)) or len(pairs) != len(_numbers(one)):
        return math.inf
    return max((_apart(a, b, mask) for a, b in pairs), default=0.0)


def _numbers(result: Any) -> list[torch.Tensor]:
    if isinstance(result, Mapping):  # a cache, which a replayed pass does not make, is no tensor
        result = {name: value for name, value in result.items() if name != "past_key_values"}
    return [tensor for tensor in tensors(result) if tensor.is_floating_point()]


def _apart(one: torch.Tensor, other: torch.Tensor, mask: torch.Tensor | None) -> float:
    if one.shape != other.shape:
        return math.inf
    one, other = one.detach(), other.detach()
    if mask is not None and one.shape[: mask.ndim] == mask.shape:
        one, other = one[mask.bool()], other[mask.bool()]
    if torch.allclose(one, other, rtol=0, atol=0, equal_nan=True):
        return 0.0
    apart = (one.double() - other.double()).abs().max().item()
    return apart if math.isfinite(apart) else math.inf
