"""What a trick sees of the micro-batch that is being computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from finetricks.streams import child

if TYPE_CHECKING:
    from finetricks.layers import Layers
    from finetricks.progress import Progress
    from finetricks.stack import Stack
    from finetricks.trick import Trick

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One micro-batch of one optimizer step.

    Attributes:
        progress: where training is.
        model: unwrapped; do not call it, call `forward`.
        forward: runs the model on a batch and gives its outputs, under the run's precision. May be called again.
        criterion: the owner's loss of `(outputs, batch)`, without the tricks that wrap it.
        layers: of the model.
        fresh: names of the parameters that no checkpoint supplied: a new head, and what `build` tricks added.
        seed: of this micro-batch's random stream: a pure function of (dropout seed, step, micro-batch, rank).
    """

    progress: Progress
    model: nn.Module
    forward: Callable[[Any], Any]
    criterion: Callable[[Any, Any], torch.Tensor]
    seed: int
    stack: Stack
    layers: Layers
    state: Mapping[str, dict[str, Any]]
    fresh: frozenset[str] = frozenset()
    derived: dict[str, Any] = field(default_factory=dict)

    def generator(self, trick: Trick) -> torch.Generator:
        """A CPU generator of the trick's own for this micro-batch; the global state is left alone."""
        name = self.stack.name_of(trick)
        return torch.Generator().manual_seed(child(self.seed, name))

    def state_of(self, trick: Trick) -> dict[str, Any]:
        """What the trick remembers (tensors and JSON values), empty at first. Checkpointed by the session."""
        return self.state[self.stack.name_of(trick)]

    def once(self, trick: Trick, make: Callable[[], T]) -> T:
        """What `make` gives, made at the trick's first call in a session, and the same at each later one.

        For what follows from the model's structure and would be looked up at every step. It is not saved.
        """
        name = self.stack.name_of(trick)
        if name not in self.derived:
            self.derived[name] = make()
        return self.derived[name]  # type: ignore[no-any-return]
