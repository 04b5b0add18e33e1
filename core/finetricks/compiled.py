"""A model's forward pass, compiled by torch.compile.

Only the forward pass is: the tricks' part of a loss is Python, and stays what it is. The compiled code stands in the
model only while it is called, so that the model is saved, copied and evaluated as the module that it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from finetricks.errors import InputError

Options = dict[str, Any]

CODES = 64
"""How many codes of one forward pass are kept: one for each set of frozen layers, and for each kind of batch."""


def options_of(setting: bool | str) -> Options | None:
    """The options of torch.compile that the setting `compile` means; `None` where nothing is compiled."""
    if setting is False:
        return None
    return {"backend": "inductor" if setting is True else setting, "dynamic": True}


def refuse_compiled(model: nn.Module) -> None:
    """Raise `InputError` for what torch.compile gave: its parameters have other names, also when it is saved."""
    if "_orig_mod" in model._modules:
        raise InputError(
            "this model is compiled already, with the names of its parameters changed to `_orig_mod.…`; give the model "
            "itself, and say `compile: true` in the recipe's training settings (to a Trainer torch_compile=True)"
        )


def uncompiled(model: nn.Module) -> nn.Module:
    """What torch.compile wrapped, or the model itself."""
    inner = model._modules.get("_orig_mod")  # by its name: to import the class takes a second
    return model if inner is None else inner


@contextmanager
def fresh_compiler(used: bool) -> Iterator[None]:
    """A run's block, without what other runs compiled: it could give other bits, and takes memory."""
    if used:
        torch._dynamo.reset()
    try:
        yield
    finally:
        if used:
            torch._dynamo.reset()


@contextmanager
def many_codes() -> Iterator[None]:
    """The block in which compiled code is called. torch gives up after eight codes, and runs the rest as it is."""
    with torch._dynamo.config.patch(recompile_limit=CODES):
        yield


class CompiledForward:
    """The forward pass of `model`, compiled when it is first called.

    Args:
        options: of torch.compile.
    """

    def __init__(self, model: nn.Module, options: Options) -> None:
        self._model = model
        self._options = options
        self._compiled: Callable[..., Any] | None = None

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The block in which calling the model runs the compiled code."""
        own = self._model.__dict__.get("forward")  # an instance's own: autocast, for example
        if self._compiled is None:
            self._compiled = torch.compile(self._model.forward, **self._options)
        self._model.__dict__["forward"] = self._compiled
        try:
            with many_codes():
                yield
        finally:
            del self._model.__dict__["forward"]
            if own is not None:
                self._model.__dict__["forward"] = own
