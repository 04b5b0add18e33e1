"""What a strategy is: it says which cells of a design come next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetricks.settings import Settings
from finetricks_tuning.contrasts import ContrastsOf, Levels
from finetricks_tuning.effects import Contest, Looked
from finetricks_tuning.factors import label_of

if TYPE_CHECKING:
    from finetricks_tuning.on_data import Examples


@dataclass(frozen=True)
class Results:
    """What is known when a round has ended.

    Attributes:
        levels: of every configuration known so far, by name, baseline first.
        values: the metric of each finished cell, by (configuration, seed).
        lost: the cells that failed or diverged: their status.
        greater_is_better: of the metric.
        alpha: the rate of false verdicts.
        equivalence: half the width of the region of practical equivalence, in units of the metric.
        correction: for the family: `holm` or `benjamini_hochberg`.
        contrasts: the design's: what the effect of a level is computed from.
    """

    levels: Mapping[str, Levels]
    values: Mapping[tuple[str, int], float]
    lost: Mapping[tuple[str, int], str]
    greater_is_better: bool
    alpha: float
    equivalence: float | None
    correction: str
    contrasts: ContrastsOf


@dataclass(frozen=True)
class Round:
    """Cells that are run before anything else is decided.

    Attributes:
        cells: (configuration, seed), in the order in which they are run; none when there is no more to do.
        decisions: what was decided before this round, a sentence each.
    """

    cells: tuple[tuple[str, int], ...]
    decisions: tuple[str, ...] = ()


class Strategy(Settings):
    """A way to spend cells; its fields are the options that a study file may give it."""

    name: ClassVar[str]
    picks_winner: ClassVar[bool] = False
    """Whether it runs the better configurations on more seeds: their p-values confirm nothing then."""

    @property
    def given(self) -> str | dict[str, Any]:
        """The strategy as a study file would write it, in plain JSON values."""
        options = self.model_dump(mode="json", exclude_defaults=True)
        return {self.name: options} if options else self.name

    @property
    def label(self) -> str:
        """`full`, `race(first=3)`."""
        return label_of(self.name, self.model_dump(mode="json", exclude_defaults=True))

    @abstractmethod
    def next_round(self, results: Results, seeds: Sequence[int]) -> Round:
        """The cells to run next. A pure function.

        Args:
            seeds: the study's, in order: the most that any configuration gets.
        """

    def looked(self, results: Results, seeds: Sequence[int]) -> Mapping[str, Looked]:
        """By row, what several looks at the results came to.

        Empty where the strategy looks once: the study's own correction holds.
        """
        return {}

    def contest(self, results: Results, seeds: Sequence[int], examples: Examples | None = None) -> Contest:
        """The results as effects are computed from them; with intervals over examples where these are given."""
        return Contest(
            levels=results.levels,
            values=results.values,
            lost=results.lost.keys(),
            greater_is_better=results.greater_is_better,
            alpha=results.alpha,
            contrasts=results.contrasts,
            equivalence=results.equivalence,
            correction=results.correction,
            looked=self.looked(results, seeds),
            selected=self.picks_winner,
            examples=examples,
        )

    def winner(self, results: Results) -> str | None:
        """The configuration that the strategy has picked; `None` where the verdicts on levels say what to use."""
        return None
