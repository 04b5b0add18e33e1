"""Designs that change one factor at a time: from the baseline up, or from the full set down."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

from finetricks.errors import InputError
from finetricks.stack import Named
from finetricks_tuning.configurations import Configuration, LeftOut
from finetricks_tuning.contrasts import Contrast, Levels, contributed, paired
from finetricks_tuning.designs.base import Design, Mistake, several_levels
from finetricks_tuning.factors import Factor


class Ablation(Design):
    """The baseline, and each level of each factor added to it alone."""

    name: ClassVar[str] = "ablation"
    estimand: ClassVar[str] = "added to the baseline"

    def combinations(self, factors: Sequence[Factor]) -> list[Configuration]:
        baseline = tuple((factor, factor.off) for factor in factors)
        alone = [
            Configuration((*baseline[:index], (factor, level), *baseline[index + 1 :]))
            for index, factor in enumerate(factors)
            for level in factor.levels
        ]
        return [Configuration(baseline), *alone]

    def contrasts(self, levels: Mapping[str, Levels], there: Collection[str]) -> list[Contrast]:
        return paired(levels, there)


class LeaveOneOut(Design):
    """The baseline, the full set, and the full set without each factor."""

    name: ClassVar[str] = "leave_one_out"
    estimand: ClassVar[str] = "contribution to the full set"

    def mistakes(self, factors: Sequence[Factor]) -> Iterator[Mistake]:
        return several_levels(self.name, factors)

    def combinations(self, factors: Sequence[Factor]) -> list[Configuration]:
        full = tuple((factor, factor.levels[0]) for factor in factors)
        without = [
            Configuration((*full[:index], (factor, factor.off), *full[index + 1 :]))
            for index, factor in enumerate(factors)
        ]
        baseline = Configuration(tuple((factor, factor.off) for factor in factors))
        # Of a single factor, the full set without it is the baseline.
        return list({c.name: c for c in (baseline, Configuration(full), *without)}.values())

    def choose(
        self, factors: Sequence[Factor], base: Sequence[Named]
    ) -> tuple[tuple[Configuration, ...], tuple[LeftOut, ...]]:
        kept, left_out = super().choose(factors, base)
        full = self.combinations(factors)[1].name
        for entry in left_out:
            if entry.name == full:
                raise InputError(
                    f"the factors cannot all be on together ({entry.reason}), and leave_one_out takes each of them off "
                    "the full set; use ablation or factorial, or fewer factors"
                )
        return kept, left_out

    def contrasts(self, levels: Mapping[str, Levels], there: Collection[str]) -> list[Contrast]:
        return contributed(levels, there)
