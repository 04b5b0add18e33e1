"""What a hook must leave as it is: weights and modules, the batch, the process's switches and random state.

Too dear to look at in each call, so it is looked at where a hook is called for the first time, and then at an epoch's
start, at most once in about a thousand steps.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from finetricks.streams import kept

if TYPE_CHECKING:
    import torch
    from torch import nn

VALUES = 4096
"""Of each weight so many values are compared: what writes to `weight.data` leaves no other trace."""


class Untouched:
    """Notes how things are; `disturbed` says what has changed since.

    Args:
        model: its parameters, modules and what is trainable.
        weights: whether the values of the parameters are part of it.
        batch: a mapping of tensors.
        draws: whether torch's global random state is part of it; where a hook runs in a stream of its own it is not.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        weights: bool = True,
        batch: Any = None,
        draws: bool = True,
    ) -> None:
        self._model = model
        self._weights = weights
        self._batch = batch if isinstance(batch, Mapping) else None
        self._switches = _Switches()
        self._random = _random_state(draws)
        self._draws = draws
        self._parameters = _parameters(model, weights) if model is not None else {}
        self._modules = {name: id(module) for name, module in model.named_modules()} if model is not None else {}
        self._columns = _columns(self._batch)

    def disturbed(self) -> str:
        """What has changed, in words; empty where nothing has. The process's switches and random state are put back."""
        changed = self._switches.put_back()
        if library := _put_back(self._random, _random_state(self._draws)):
            changed.append(f"drew from, or seeded, the global random state of {library}; use the trick's own generator")
        if self._model is not None:
            changed += self._of_model(self._model)
        columns = _columns(self._batch)
        if touched := sorted({*columns, *self._columns} - {k for k in columns if columns[k] == self._columns.get(k)}):
            changed.append(f"changed {touched[0]!r} of the batch that it was given; change a copy")
        return "; ".join(changed)

    def _of_model(self, model: nn.Module) -> list[str]:
        now = _parameters(model, self._weights)
        modules = {name: id(module) for name, module in model.named_modules()}
        if now.keys() != self._parameters.keys() or modules != self._modules:
            different = {*self._modules.items()} ^ {*modules.items()}
            name = min((name for name, _ in different), default="") or min(now.keys() ^ self._parameters.keys())
            return [f"added, removed or replaced {name!r} in the model; that is for `build`"]
        for name, (identity, trainable, values) in now.items():
            was, was_trainable, had = self._parameters[name]
            if identity != was:
                return [f"replaced the parameter {name!r}; that is for `build`"]
            if trainable != was_trainable:
                return [f"set requires_grad of {name!r}; that is for `freeze`"]
            if values != had:
                if values[1:] == had[1:]:
                    return [f"wrote to the weight {name!r}, even if it was put back; use torch.func.functional_call"]
                return [f"changed the weight {name!r}; that is for `init`"]
        return []


@contextmanager
def isolated(seed: int | None = None) -> Iterator[None]:
    """Put the process's switches and random state back after the block, for a hook that may need others.

    Args:
        seed: of the random state in the block, of torch, numpy and Python alike; the caller's by default.
    """
    import torch

    switches = _Switches()
    with kept():
        if seed is not None:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
        try:
            yield
        finally:
            switches.put_back()


class _Switches:
    """torch's global switches that change what the code of others computes."""

    def __init__(self) -> None:
        import torch

        self._dtype = torch.get_default_dtype()
        self._threads = torch.get_num_threads()
        self._grad = torch.is_grad_enabled()
        self._deterministic = torch.are_deterministic_algorithms_enabled()

    def put_back(self) -> list[str]:
        """Set them as they were; gives what had been changed."""
        import torch

        changed = []
        if torch.get_default_dtype() != self._dtype:
            torch.set_default_dtype(self._dtype)
            changed.append("set torch's default dtype")
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
            changed.append("set torch's number of threads")
        if torch.is_grad_enabled() != self._grad:
            torch.set_grad_enabled(self._grad)
            changed.append("switched torch's gradients on or off")
        if torch.are_deterministic_algorithms_enabled() != self._deterministic:
            torch.use_deterministic_algorithms(self._deterministic)
            changed.append("switched torch's deterministic algorithms on or off")
        return changed


def _random_state(draws: bool) -> dict[str, Any]:
    import torch

    state = {"Python": random.getstate(), "numpy": np.random.get_state(legacy=False)}
    return state | ({"torch": torch.get_rng_state()} if draws else {})


def _put_back(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Set the random states as they were; gives the first library whose state was not."""
    import torch

    found = ""
    if before["Python"] != now["Python"]:
        random.setstate(before["Python"])
        found = "Python"
    if not _same_state(before["numpy"], now["numpy"]):
        np.random.set_state(before["numpy"])
        found = found or "numpy"
    if "torch" in before and not torch.equal(before["torch"], now["torch"]):
        torch.set_rng_state(before["torch"])
        found = found or "torch"
    return found


def _same_state(one: Any, other: Any) -> bool:
    if one["bit_generator"] != other["bit_generator"] or one.get("gauss") != other.get("gauss"):
        return False
    mine, theirs = one["state"], other["state"]
    return bool(np.array_equal(mine["key"], theirs["key"]) and mine["pos"] == theirs["pos"])


def _parameters(model: nn.Module, weights: bool) -> dict[str, tuple[int, bool, Any]]:
    found = dict(model.named_parameters())
    values = _values(list(found.values())) if weights else [None] * len(found)
    return {
        name: (id(parameter), parameter.requires_grad, value)
        for (name, parameter), value in zip(found.items(), values, strict=True)
    }


def _values(parameters: Sequence[torch.Tensor]) -> list[Any]:
    """Of each parameter how often it was written to, where it lies, and the sum of its first values, as text."""
    import torch

    traces = [(_version(p), None if p.is_meta else p.data_ptr()) for p in parameters]
    sums = [
        torch.zeros(()) if p.is_meta else (part.float() if p.device.type == "mps" else part.double()).sum()
        for p in parameters
        for part in [p.detach().flatten()[:VALUES]]
    ]
    # As text, so that what is no number equals itself; in one tensor, to wait for a GPU once.
    told = torch.stack([value.to(sums[0].device) for value in sums]).tolist() if sums else []
    return [(*trace, repr(value)) for trace, value in zip(traces, told, strict=True)]


def _columns(batch: Any) -> dict[str, tuple[int, Any]]:
    return {str(key): (id(value), _version(value)) for key, value in (batch or {}).items()}


def _version(value: Any) -> int | None:
    """How often a tensor was written to; not counted for one that was made in `torch.inference_mode`."""
    if getattr(value, "is_inference", lambda: False)():
        return None
    return getattr(value, "_version", None)
