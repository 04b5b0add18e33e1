"""Designs: which configurations of the factors a study runs. Pure functions; the baseline comes first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from finetricks_tuning.configurations import Configuration
from finetricks_tuning.factors import Factor

Design = Callable[[Sequence[Factor]], list[Configuration]]


def ablation(factors: Sequence[Factor]) -> list[Configuration]:
    """The baseline, and each level of each factor added to it alone."""
    baseline = tuple((factor, factor.off) for factor in factors)
    alone = [
        Configuration((*baseline[:index], (factor, level), *baseline[index + 1 :]))
        for index, factor in enumerate(factors)
        for level in factor.levels
    ]
    return [Configuration(baseline), *alone]


def factorial(factors: Sequence[Factor]) -> list[Configuration]:
    """Every combination of levels; the last factor varies fastest."""
    levels = [[(factor, level) for level in (factor.off, *factor.levels)] for factor in factors]
    return [Configuration(chosen) for chosen in itertools.product(*levels)]


DESIGNS: dict[str, Design] = {"ablation": ablation, "factorial": factorial}
