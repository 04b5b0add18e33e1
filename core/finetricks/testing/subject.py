"""A trick that is being checked, and the runs that several checks look at."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from finetricks.catalog import installed, origin
from finetricks.errors import FinetricksError, TrickError
from finetricks.hooks import HOOKS
from finetricks.implementation import check_hooks, implementations
from finetricks.recipe import Recipe
from finetricks.session import Session
from finetricks.stack import Named, Stack
from finetricks.testing.bench import TRAINING, Bench, train, weights
from finetricks.trick import Trick


class CheckFailed(FinetricksError, AssertionError):
    """A trick does not hold what every trick must. Names the trick, the hook, the check and the mend."""


class Subject:
    """A trick on its bench.

    Args:
        trick: with values at which it acts; a class is tried at its defaults.

    Raises:
        TrickError: the class cannot be made without values.

    Attributes:
        name: by which recipes name it.
        hooks: that it implements.
        usable: whether its class can work as a plugin at all.
    """

    def __init__(self, trick: Trick | type[Trick], bench: Bench | None = None) -> None:
        self.bench = bench or Bench()
        self.trick = trick if isinstance(trick, Trick) else _made(trick)
        self.kind = type(self.trick)
        self.name = installed().name_of(self.kind)
        try:
            check_hooks(self.kind)
            self.usable = True
        except TrickError:
            self.usable = False
        self.hooks = frozenset(hook.hook for hook in implementations(self.kind)) & frozenset(HOOKS)

    @property
    def who(self) -> str:
        return f"trick {self.name!r} of {origin(self.kind)}"

    # -- with which values, beside what ------------------------------------------------------------------

    def with_values(self, **values: Any) -> Trick:
        """The trick with some other values."""
        return self.kind.model_validate(self.trick.model_dump() | values)

    @property
    def required(self) -> tuple[str, ...]:
        """The tricks that must stand beside it; at their defaults."""
        return tuple(self.kind.requires)

    def recipe(self, trick: Trick | None = None, **training: Any) -> Recipe:
        return Recipe(tricks=[*self.required, trick or self.trick], training={**TRAINING, **training})

    def stack(self) -> Stack:
        return self.recipe().stack()

    @property
    def named(self) -> Named:
        return self.name, self.trick

    def bound(self, trick: Trick | None = None, training: dict[str, Any] | None = None, **options: Any) -> Session:
        """A session of the trick on the bench; `options` are those of `Bench.bound`."""
        return self.bench.bound(self.recipe(trick, **(training or {})), **options)

    # -- runs that several checks look at ----------------------------------------------------------------

    @cached_property
    def whole(self) -> tuple[list[float], dict[str, Tensor]]:
        """The losses and the final weights of a whole run."""
        return run_of(self.bound)

    def untouched(self) -> dict[str, Tensor]:
        """The final weights of a run without the trick."""
        return _without(self.bench, self.required)


def run_of(bound: Callable[[], Session]) -> tuple[list[float], dict[str, Tensor]]:
    """Bind, train to the end: the losses and the final weights."""
    session = bound()
    return train(session), weights(session)


@lru_cache(maxsize=8)
def _without(bench: Bench, required: tuple[str, ...]) -> dict[str, Tensor]:
    return run_of(lambda: bench.bound(Recipe(tricks=required, training=TRAINING)))[1]


def _made(kind: type[Trick]) -> Trick:
    try:
        return kind()
    except ValidationError as error:
        needed = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise TrickError(
            f"{kind.__name__} cannot be made without values ({needed}): check an instance, {kind.__name__}(...)"
        ) from error


def finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())
