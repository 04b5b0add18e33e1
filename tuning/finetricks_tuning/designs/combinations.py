"""Designs that take combinations of levels: all, a well-balanced part, or some at random. They hold any factors."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from random import Random as RandomState
from typing import ClassVar

from pydantic import Field

from finetricks.errors import InputError
from finetricks.stack import Named
from finetricks_tuning.configurations import MOST, Configuration, LeftOut, without_conflicts
from finetricks_tuning.contrasts import Contrast, Levels, averaged, level_matrix, paired
from finetricks_tuning.designs.base import Design, Mistake, combinations_of, parameters_of
from finetricks_tuning.designs.d_optimal import d_optimal
from finetricks_tuning.factors import Factor


class Factorial(Design):
    """Every combination of levels; with `configurations: n`, the n of them that tell the main effects apart best."""

    name: ClassVar[str] = "factorial"
    estimand: ClassVar[str] = "averaged over the settings of the other factors"

    configurations: int | None = Field(
        default=None, ge=2, description="Run only this many, the baseline among them, chosen to be D-optimal."
    )

    def mistakes(self, factors: Sequence[Factor]) -> Iterator[Mistake]:
        there = combinations_of(factors)
        if self.configurations is not None:
            yield from _wrong_number(self, self.configurations, factors)
        if there > MOST:
            yield (
                ("design",),
                f"these factors have {there} combinations, and a factorial lists at most {MOST}; use plackett_burman, "
                "fractional_factorial or random",
            )

    def combinations(self, factors: Sequence[Factor]) -> Iterator[Configuration]:
        return (_combination(factors, index) for index in range(combinations_of(factors)))

    def choose(
        self, factors: Sequence[Factor], base: Sequence[Named]
    ) -> tuple[tuple[Configuration, ...], tuple[LeftOut, ...]]:
        kept, left_out = super().choose(factors, base)
        if self.configurations is None:
            return kept, left_out
        if len(kept) < self.configurations:
            raise InputError(_too_few(len(kept), self.configurations))
        _, matrix = level_matrix({configuration.name: configuration.levels for configuration in kept})
        return tuple(kept[row] for row in d_optimal(matrix, self.configurations)), left_out

    def contrasts(self, levels: Mapping[str, Levels], there: Collection[str]) -> list[Contrast]:
        return (paired if self.configurations is None else averaged)(levels, there)


class Random(Design):
    """The baseline and other combinations, each drawn once, all alike. One that cannot be run is drawn anew."""

    name: ClassVar[str] = "random"
    estimand: ClassVar[str] = "averaged over the settings of the other factors"

    configurations: int = Field(ge=2, description="How many to run, the baseline among them.")
    seed: int = Field(default=0, ge=0, description="Draws the configurations; the runs' own seeds are others.")

    def mistakes(self, factors: Sequence[Factor]) -> Iterator[Mistake]:
        return _wrong_number(self, self.configurations, factors)

    def combinations(self, factors: Sequence[Factor]) -> Iterator[Configuration]:
        drawn = _drawn(combinations_of(factors), self.seed)
        others = (index for index in drawn if index != 0)
        return (_combination(factors, index) for index in itertools.chain([0], others))

    def choose(
        self, factors: Sequence[Factor], base: Sequence[Named]
    ) -> tuple[tuple[Configuration, ...], tuple[LeftOut, ...]]:
        kept, left_out = without_conflicts(self.combinations(factors), base, enough=self.configurations)
        if len(kept) < self.configurations:
            raise InputError(_too_few(len(kept), self.configurations))
        return kept, left_out

    def contrasts(self, levels: Mapping[str, Levels], there: Collection[str]) -> list[Contrast]:
        return averaged(levels, there)


def _wrong_number(design: Design, configurations: int, factors: Sequence[Factor]) -> Iterator[Mistake]:
    place = ("design", design.name, "configurations")
    there, needed = combinations_of(factors), parameters_of(factors)
    if configurations > there:
        yield place, f"these factors have {there} combinations, got {configurations}"
    elif configurations < needed:
        yield (
            place,
            f"at least {needed}: with fewer, the mean and the effects of {needed - 1} levels cannot be told apart, "
            f"got {configurations}",
        )


def _too_few(kept: int, wanted: int) -> str:
    return f"only {kept} combinations of the factors can be run, and {wanted} configurations were asked for"


def _combination(factors: Sequence[Factor], index: int) -> Configuration:
    """The combination of this number, 0 the baseline; the last factor varies fastest."""
    chosen = []
    for factor in reversed(factors):
        index, level = divmod(index, 1 + len(factor.levels))
        chosen.append((factor, (factor.off, *factor.levels)[level]))
    return Configuration(tuple(reversed(chosen)))


def _drawn(total: int, seed: int) -> Iterator[int]:
    """Numbers below `total`, each once, in random order; of many, only the first."""
    state = RandomState(seed)
    if total <= MOST:
        yield from state.sample(range(total), total)
    else:
        yield from dict.fromkeys(state.randrange(total) for _ in range(MOST))
