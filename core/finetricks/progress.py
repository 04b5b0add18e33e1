"""Where training is. Schedules and freezing are pure functions of this (rule 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Stage:
    """A stretch of steps over which the same layers are frozen: steps `start` to `end`, exclusive."""

    index: int
    start: int
    end: int
    frozen: frozenset[str] = field(default_factory=frozenset)

    @property
    def steps(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Progress:
    """One optimizer step within a run.

    `step` counts from 0 and stands before the step: `step == 0` is the first update.
    `stage` is known to `schedule` (which is compiled after `freeze`) and `None` in `freeze`.
    `decisions` are what tricks decided while training: the decision's name, and the first step at which it holds.
    """

    step: int
    total_steps: int
    steps_per_epoch: int
    stage: Stage | None = None
    decisions: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Tricks are given this one after another.
        object.__setattr__(self, "decisions", MappingProxyType(dict(self.decisions)))

    def __reduce__(self) -> tuple[Any, ...]:  # a mappingproxy can be neither pickled nor copied
        return type(self), (self.step, self.total_steps, self.steps_per_epoch, self.stage, dict(self.decisions))

    def decided(self, name: str) -> bool:
        """Whether the decision `name` holds at this step."""
        return name in self.decisions and self.step >= self.decisions[name]

    @property
    def epoch(self) -> int:
        """The epoch that this step belongs to, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def epochs(self) -> int:
        """How many epochs the run has, a last partial one counted."""
        return -(-self.total_steps // self.steps_per_epoch)

    @property
    def fraction(self) -> float:
        """The share of the run that lies behind, in [0, 1)."""
        return self.step / self.total_steps
