"""The habit of running several seeds and keeping the best, done so that one sees what it bought."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

from pydantic import Field, model_validator

from finetricks_tuning.configurations import Configuration
from finetricks_tuning.contrasts import Contrast, Levels
from finetricks_tuning.designs.base import Design, Mistake
from finetricks_tuning.factors import Factor


class SeedSearch(Design):
    """The recipe as it is on every seed; each model is kept. All may start, and only the best go on.

    A run that is put down early has followed the schedule of a whole run, and goes on from its checkpoint; so `keep`
    can be raised when the study is resumed.

    Source: Dodge et al. 2020, arXiv 2002.06305, section 5 (start many, stop early, continue some).
    """

    name: ClassVar[str] = "seed_search"
    estimand: ClassVar[str] = "none: there is one configuration"
    varies: ClassVar[bool] = False
    saves_models: ClassVar[bool] = True

    stop_at: float = Field(
        default=1.0, gt=0, le=1, description="The share of its steps after which each run is judged."
    )
    keep: int | None = Field(default=None, ge=1, description="How many of the runs that were judged go on to the end.")

    @model_validator(mode="after")
    def _together(self) -> SeedSearch:
        if (self.stop_at < 1) != (self.keep is not None):
            raise ValueError("`stop_at` below 1 and `keep` belong together: when runs are judged, and how many go on")
        return self

    def mistakes(self, factors: Sequence[Factor]) -> Iterator[Mistake]:
        if factors:
            yield ("factors",), "seed_search runs the recipe as it is: leave the factors out, or choose another design"

    def combinations(self, factors: Sequence[Factor]) -> list[Configuration]:
        return [Configuration(())]

    def contrasts(self, levels: Mapping[str, Levels], there: Collection[str]) -> list[Contrast]:
        return []

    @property
    def start(self) -> float:
        return self.stop_at

    def kept(self, started: Mapping[int, float], *, greater_is_better: bool) -> tuple[int, ...]:
        ordered = sorted(started, key=lambda seed: started[seed], reverse=greater_is_better)
        return tuple(sorted(ordered[: self.keep]))
