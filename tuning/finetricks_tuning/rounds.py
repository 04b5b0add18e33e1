"""What a study runs, round by round: rates are tuned, configurations compared, and the recommended one confirmed.

Every cell of a round has a result before the next round is decided. So each decision is a pure function of results, and
a study that is resumed comes to the same ones by going through its ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from finetricks_tuning.cell import Cell, CellMaker
from finetricks_tuning.configurations import Configuration
from finetricks_tuning.effects import level_effects
from finetricks_tuning.ledger import Trial
from finetricks_tuning.manifest import COMPARE, CONFIRM, START, TUNE, PlannedCell
from finetricks_tuning.recommend import Recommendation, recommendation_of, recommended
from finetricks_tuning.strategies.base import Results

if TYPE_CHECKING:
    from finetricks_tuning.study import Study


class Rounds:
    """The rounds of a study.

    Args:
        make: makes the cells.
        greater_is_better: of the study's metric.

    Attributes:
        configurations: those that are compared, baseline first; an adaptive design adds to them.
        planned: the cells of all rounds so far.
        decisions: what was decided so far, a sentence each.
        rates: the learning rate of each configuration, where the study tunes it.
        recommendation: what the results speak for, once all comparisons are made; `None` where it is the baseline.
    """

    def __init__(self, study: Study, make: CellMaker, *, greater_is_better: bool) -> None:
        self.study = study
        self.configurations = list(study.configurations)
        self.planned: list[PlannedCell] = []
        self.decisions: list[str] = []
        self.rates: dict[str, float] = {}
        self.recommendation: Recommendation | None = None
        self._seeds = study.settings.seeds
        self._make = make
        self._greater_is_better = greater_is_better
        self._trials: Mapping[str, Trial] = {}
        self._rounds = self._all()

    def next(self, trials: Mapping[str, Trial]) -> list[Cell]:
        """The cells without a result of the next round that has any; none when the study has come to its end.

        Args:
            trials: by key; all cells of the rounds that were given out before are among them.
        """
        self._trials = trials
        for cells in self._rounds:
            if missing := [cell for cell in cells if cell.key not in trials]:
                return missing
        return []

    def _all(self) -> Iterator[list[Cell]]:
        yield from self._tune(self.configurations)
        yield from self._start()
        while True:
            yield from self._compare()
            more = self.study.design.more(self._results(), self.configurations, self.study.recipe.tricks)
            if not more:
                break
            self.configurations += more
            yield from self._tune(more)
        best = self._recommended()
        if best is None:
            return
        yield from self._tune([best])
        self.recommendation = recommendation_of(best, self.study, self.rates.get(best.name))
        pair = (self.configurations[0], best)
        yield self._planned(CONFIRM, self._cells((c, seed) for seed in self.study.fresh_seeds for c in pair))

    def _start(self) -> Iterator[list[Cell]]:
        """Run every seed for a part of its steps, and keep those that the design would go on with."""
        design, (baseline, *_) = self.study.design, self.configurations
        if design.start >= 1:
            return
        cells = [self._make(baseline, seed, self.rates.get(baseline.name), design.start) for seed in self._seeds]
        yield self._planned(START, cells)
        metrics = {cell.seed: self._trials[cell.key].value(self.study.settings.metric) for cell in cells}
        known = {seed: value for seed, value in metrics.items() if value is not None}
        self._seeds = design.kept(known, greater_is_better=self._greater_is_better)
        kept = ", ".join(map(str, self._seeds)) or "none"
        self.decisions.append(f"Of {len(cells)} seeds, after {100 * design.start:g} % of the steps, go on: {kept}.")

    def _compare(self) -> Iterator[list[Cell]]:
        named = {configuration.name: configuration for configuration in self.configurations}
        while True:
            following = self.study.strategy.next_round(self._results(), self._seeds)
            self.decisions += following.decisions
            if not following.cells:
                return
            yield self._planned(COMPARE, self._cells((named[name], seed) for name, seed in following.cells))

    def _tune(self, configurations: Iterable[Configuration]) -> Iterator[list[Cell]]:
        """Run configurations at each rate on seeds of their own, and keep the rate that did best."""
        tuning = self.study.settings.tune_learning_rate
        todo = [c for c in configurations if c.name not in self.rates]
        if tuning is None or not todo:
            return
        seeds = self.study.tuning_seeds
        tried = {(c.name, rate): [self._make(c, s, rate) for s in seeds] for c in todo for rate in tuning.values}
        self.planned += [
            PlannedCell(cell.key, cell.configuration.name, cell.seed, TUNE)
            for cells in tried.values()
            for cell in cells
        ]
        yield [cell for cells in tried.values() for cell in cells]
        for c in todo:
            means = {rate: self._mean(tried[c.name, rate]) for rate in tuning.values}
            known = {rate: mean for rate, mean in means.items() if mean is not None}
            sign = 1 if self._greater_is_better else -1
            self.rates[c.name] = max(known, key=lambda rate: sign * known[rate]) if known else tuning.values[0]

    def _cells(self, chosen: Iterable[tuple[Configuration, int]]) -> list[Cell]:
        return [self._make(c, seed, self.rates.get(c.name)) for c, seed in chosen]

    def _planned(self, phase: str, cells: list[Cell]) -> list[Cell]:
        self.planned += [PlannedCell(cell.key, cell.configuration.name, cell.seed, phase) for cell in cells]
        return cells

    def _mean(self, cells: Iterable[Cell]) -> float | None:
        """Of the cells' metric; `None` when one of them has none: a rate that loses runs is not chosen."""
        values = [self._trials[cell.key].value(self.study.settings.metric) for cell in cells]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    def _results(self) -> Results:
        compared = {(c.configuration, c.seed): self._trials[c.key] for c in self.planned if c.phase == COMPARE}
        settings = self.study.settings
        values = {place: trial.value(settings.metric) for place, trial in compared.items()}
        return Results(
            levels={configuration.name: configuration.levels for configuration in self.configurations},
            values={place: value for place, value in values.items() if value is not None},
            lost={place: compared[place].status for place, value in values.items() if value is None},
            greater_is_better=self._greater_is_better,
            alpha=settings.alpha,
            equivalence=settings.equivalence,
            correction=settings.correction,
            contrasts=self.study.design.contrasts,
        )

    def _recommended(self) -> Configuration | None:
        results = self._results()
        if not results.values:
            return None
        winner = self.study.design.winner(results) or self.study.strategy.winner(results)
        if winner is not None:
            found = next(c for c in self.configurations if c.name == winner)
            return None if found is self.configurations[0] else found
        contest = self.study.strategy.contest(results, self.study.settings.seeds)
        return recommended(level_effects(contest), self.study)


def at_most(study: Study, make: CellMaker) -> list[Cell]:
    """The cells of a study whose strategy drops none, without those that confirm what it recommends.

    Of an adaptive design only the configurations that are known before it begins.
    """
    tuning = study.settings.tune_learning_rate
    rates = tuning.values if tuning else ()
    tuned = [make(c, seed, rate) for c in study.configurations for rate in rates for seed in study.tuning_seeds]
    return tuned + [make(c, seed) for seed in study.settings.seeds for c in study.configurations]
