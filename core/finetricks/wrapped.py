"""Run a function inside a wrapped model's one forward pass.

DistributedDataParallel synchronises what happens between one forward pass and its backward pass. A trick that runs the
model twice must therefore do both passes inside one call of the wrapper (rule 9).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

T = TypeVar("T")


def inside_forward(model: nn.Module, wrapper: nn.Module, function: Callable[[Any], T], batch: Any) -> T:
    """Give `function(batch)`, computed within one forward pass of `wrapper`, which wraps `model`.

    Within `function`, calling `model` runs its own forward pass as usual.
    """
    if wrapper is model:
        return function(batch)
    own = model.__dict__.get("forward")  # an instance's own: autocast, for example

    def restore() -> None:
        model.__dict__.pop("forward", None)
        if own is not None:
            model.__dict__["forward"] = own

    def whole(batch: Any) -> T:
        restore()
        return function(batch)

    model.__dict__["forward"] = whole
    try:
        return wrapper(batch)  # type: ignore[no-any-return]
    finally:
        restore()
