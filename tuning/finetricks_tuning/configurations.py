"""What a study compares: configurations, each one level of every factor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from finetricks.recipe import Recipe
from finetricks.stack import Named, conflicts
from finetricks_tuning.factors import Factor, Level

BASELINE = "baseline"

MOST = 10_000
"""Configurations that a design may list. More are a slip: no study trains them."""


@dataclass(frozen=True)
class Configuration:
    """One level of each factor, in the study's order of factors."""

    chosen: tuple[tuple[Factor, Level], ...]

    @property
    def name(self) -> str:
        """`baseline`, `stlr`, `discriminative_lr(decay=2.6) + stlr`: what differs from the recipe."""
        return " + ".join(level.label for factor, level in self.chosen if level != factor.off) or BASELINE

    @property
    def levels(self) -> dict[str, str]:
        """The label of the level of each factor: the configuration in canonical form."""
        return {factor.name: level.label for factor, level in self.chosen}

    @property
    def searched(self) -> dict[str, dict[str, float]]:
        """The values that a search chose, by factor."""
        return {factor.name: dict(level.searched) for factor, level in self.chosen if level.searched}

    @property
    def tricks(self) -> tuple[Named, ...]:
        """The tricks that are added to the recipe, in the order of the factors."""
        return tuple(named for _, level in self.chosen for named in level.tricks)

    def recipe(self, base: Recipe, seed: int, rate: float | None = None) -> Recipe:
        """The recipe of one cell: `base` with this configuration's tricks and settings, the seed, and a tuned rate."""
        model, training = base.model, base.training.model_dump() | {"seed": seed}
        for _, level in self.chosen:
            for path, value in level.settings.items():
                if path == "model":
                    model = value
                else:
                    training[path.removeprefix("training.")] = value
        if rate is not None:
            training["learning_rate"] = rate
        tricks = [trick for _, trick in (*base.tricks, *self.tricks)]
        return Recipe(
            model=model, data=base.data, training=training, tricks=tricks, layers=base.layers, catalog=base.catalog
        )


@dataclass(frozen=True)
class LeftOut:
    """A configuration that cannot be run, and why."""

    name: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return vars(self).copy()


def without_conflicts(
    configurations: Iterable[Configuration], base: Sequence[Named], *, enough: int | None = None
) -> tuple[tuple[Configuration, ...], tuple[LeftOut, ...]]:
    """Part the configurations whose tricks can stand beside those of `base` from those whose cannot.

    Of the configurations no more are looked at when `enough` of them can stand.
    """
    kept: list[Configuration] = []
    left_out: list[LeftOut] = []
    for configuration in configurations:
        if len(kept) == enough:
            break
        if problems := conflicts((*base, *configuration.tricks)):
            left_out.append(LeftOut(configuration.name, "; ".join(str(problem) for problem in problems)))
        else:
            kept.append(configuration)
    return tuple(kept), tuple(left_out)
