"""What a design is."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from finetricks.settings import Settings
from finetricks.stack import Named
from finetricks.yaml_file import Loc
from finetricks_tuning.configurations import Configuration, LeftOut, without_conflicts
from finetricks_tuning.contrasts import Contrast, Levels
from finetricks_tuning.factors import Factor, label_of

if TYPE_CHECKING:
    from finetricks_tuning.strategies.base import Results

Mistake = tuple[Loc, str]
"""Where in the study file something is wrong, and what."""


class Design(Settings):
    """A way to choose configurations; its fields are the options that a study file may give it.

    Attributes:
        name: in study files.
        estimand: what the effect of a level is an effect of.
        varies: whether it has factors to vary.
        saves_models: whether the model of each cell is kept.
        adaptive: whether it chooses configurations from the results of others; those say nothing of single levels.
    """

    name: ClassVar[str]
    estimand: ClassVar[str]
    varies: ClassVar[bool] = True
    saves_models: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False

    @property
    def given(self) -> str | dict[str, Any]:
        """The design as a study file would write it, in plain JSON values."""
        options = self.options
        return {self.name: options} if options else self.name

    @property
    def options(self) -> dict[str, Any]:
        """The options that were given and are not the default."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def label(self) -> str:
        """`ablation`, `plackett_burman(fold_over=true)`."""
        return label_of(self.name, self.options)

    def mistakes(self, factors: Sequence[Factor]) -> Iterator[Mistake]:
        """Why this design cannot hold these factors; nothing when it can."""
        yield from ()

    @abstractmethod
    def combinations(self, factors: Sequence[Factor]) -> Iterable[Configuration]:
        """The configurations of the design, baseline first, whether or not their tricks can stand together."""

    def choose(
        self, factors: Sequence[Factor], base: Sequence[Named]
    ) -> tuple[tuple[Configuration, ...], tuple[LeftOut, ...]]:
        """The configurations to run, beside the tricks of `base`, and those that cannot be run.

        Raises:
            InputError: what is left is no such design.
        """
        return without_conflicts(self.combinations(factors), base)

    @abstractmethod
    def contrasts(self, levels: Mapping[str, Levels], there: Collection[str]) -> list[Contrast]:
        """The effect of each level as a contrast of configurations.

        Args:
            levels: of all configurations, by name, baseline first.
            there: the configurations that have finished cells.
        """

    def more(
        self, results: Results, tried: Sequence[Configuration], base: Sequence[Named]
    ) -> tuple[Configuration, ...]:
        """Further configurations, chosen from the results of those before; none when there are enough.

        A pure function, so that a study that is resumed comes to the same ones.

        Args:
            tried: those before, baseline first; all have results.
            base: the tricks of the recipe.
        """
        return ()

    @property
    def start(self) -> float:
        """The share of its steps after which every run is put down, before `kept` says which go on; 1 for none."""
        return 1.0

    def kept(self, started: Mapping[int, float], *, greater_is_better: bool) -> tuple[int, ...]:
        """The seeds to go on with.

        Args:
            started: the metric of each seed's run where it was put down.
        """
        return tuple(started)

    def winner(self, results: Results) -> str | None:
        """The configuration that the design has searched for; `None` where the verdicts on levels say what to use."""
        return None


def ranges(factors: Sequence[Factor]) -> Iterator[Mistake]:
    """A mistake for each factor that has values to search."""
    for index, factor in enumerate(factors):
        if any(level.ranges for level in factor.levels):
            yield ("factors", index), f"{factor.name} has a range of values, which only the design search can hold"


def combinations_of(factors: Sequence[Factor]) -> int:
    """How many combinations of levels there are."""
    return math.prod(1 + len(factor.levels) for factor in factors)


def parameters_of(factors: Sequence[Factor]) -> int:
    """How many numbers the main effects are: the mean, and one for each level beside off."""
    return 1 + sum(len(factor.levels) for factor in factors)


def several_levels(design: str, factors: Sequence[Factor]) -> Iterator[Mistake]:
    """A mistake for each factor that is more than off or on."""
    for index, factor in enumerate(factors):
        if len(factor.levels) > 1:
            labels = ", ".join(level.label for level in factor.levels)
            yield (
                ("factors", index),
                f"{factor.name} has {len(factor.levels)} levels beside off ({labels}), and {design} holds factors that "
                "are off or on: give it one level, or use orthogonal_array, ablation, factorial (`configurations: n` "
                "takes few of its combinations) or random",
            )
