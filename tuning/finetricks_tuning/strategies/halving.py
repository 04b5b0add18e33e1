"""Successive halving of configurations, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from finetricks_tuning.strategies.base import Results, Round, Strategy
from finetricks_tuning.strategies.race import best


class Halving(Strategy):
    """Every configuration on one seed; the better part on twice as many; and so on, until the seeds are used.

    The means of whole runs decide: no run is cut short, and no seed stands for a configuration. The baseline stays. It
    finds the best for few cells and gives no verdicts: means that were chosen because they were good are optimistic.
    Source: Karnin, Koren and Somekh 2013, ICML, 1238-1246 (sequential halving, with seeds as pulls).
    """

    name: ClassVar[str] = "halving"
    picks_winner: ClassVar[bool] = True

    eta: int = Field(default=2, ge=2, description="One of so many goes on, on so many times the seeds.")

    def next_round(self, results: Results, seeds: Sequence[int]) -> Round:
        baseline, *others = results.levels
        count = 1
        told: tuple[str, ...] = ()
        while True:
            cells = [(name, seed) for seed in seeds[:count] for name in (baseline, *others)]
            missing = tuple(cell for cell in cells if cell not in results.values and cell not in results.lost)
            if missing or count == len(seeds):
                return Round(missing, told)
            kept = self._better(others, results, seeds[:count])
            names = ", ".join(kept)
            told = (f"After {count} seed{'s' if count > 1 else ''} {len(kept)} of {len(others)} go on: {names}.",)
            others, count = kept, min(count * self.eta, len(seeds))

    def winner(self, results: Results) -> str | None:
        seeds = tuple(dict.fromkeys(seed for _, seed in results.values))
        counts = {name: sum((name, seed) in results.values for seed in seeds) for name in results.levels}
        return best({name for name, count in counts.items() if count == max(counts.values())}, results)

    def _better(self, names: Sequence[str], results: Results, seeds: Sequence[int]) -> list[str]:
        kept: list[str] = []
        while len(kept) < max(1, len(names) // self.eta):
            found = best([name for name in names if name not in kept], results, seeds)
            if found is None:
                break
            kept.append(found)
        return [name for name in names if name in kept] or list(names[:1])
