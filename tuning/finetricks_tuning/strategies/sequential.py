"""Seeds for what is undecided, and for nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from finetricks_tuning.effects import Looked
from finetricks_tuning.power import seeds_needed
from finetricks_tuning.strategies.base import Results, Round, Strategy
from finetricks_tuning.strategies.looks import Look, looks_at


class Sequential(Strategy):
    """All configurations on the first seeds; then one seed at a time, for those that an undecided row rests on.

    A row is decided when it is off zero, or within the region of practical equivalence, at a rate of false verdicts
    that holds over all looks (`finetricks_tuning.strategies.looks`). What is decided stays so.
    """

    name: ClassVar[str] = "sequential"

    first: int = Field(default=2, ge=2, description="Seeds before the first look; with one there is no interval.")

    def next_round(self, results: Results, seeds: Sequence[int]) -> Round:
        first = min(self.first, len(seeds))
        begun = tuple((name, seed) for seed in seeds[:first] for name in results.levels)
        if missing := _missing(begun, results):
            return Round(missing)
        looks = looks_at(results, seeds, first)
        look = looks[-1]
        news = self._decisions(looks, results)
        undecided = [row for name, row in look.rows.items() if name not in look.decided(results.alpha)]
        if look.seeds == len(seeds) or not undecided:
            return Round((), news)
        needed = {name for row in undecided for name in row.contrast.weights}
        following = seeds[look.seeds]
        return Round(tuple((name, following) for name in results.levels if name in needed), news)

    def looked(self, results: Results, seeds: Sequence[int]) -> Mapping[str, Looked]:
        looks = looks_at(results, seeds, min(self.first, len(seeds)))
        return {name: Looked(row.p, row.equivalent) for name, row in looks[-1].rows.items()} if looks else {}

    def _decisions(self, looks: Sequence[Look], results: Results) -> tuple[str, ...]:
        """What the latest look decided that those before had not, and what the undecided rows need."""
        look, before = looks[-1], looks[-2].decided(results.alpha) if len(looks) > 1 else {}
        told = []
        for name, row in look.decided(results.alpha).items():
            if name in before or row.estimate is None:
                continue
            why = "makes no difference that matters" if row.equivalent else f"is decided (p = {row.p:.2g})"
            told.append(f"After {look.seeds} seeds {name} {why}, at {row.estimate.value:+.4f}.")
        for name, row in look.rows.items():
            estimate = row.estimate
            if name in look.decided(results.alpha) or estimate is None or not estimate.standard_error:
                continue
            level = results.alpha / len(look.rows)
            more = seeds_needed(estimate.value, estimate.standard_error, look.freedom, look.seeds, alpha=level)
            told.append(
                f"After {look.seeds} seeds {name} is undecided at {estimate.value:+.4f}; "
                + ("no number of seeds is likely to tell." if more is None else f"about {more} more would tell.")
            )
        return tuple(told)


def _missing(cells: Sequence[tuple[str, int]], results: Results) -> tuple[tuple[str, int], ...]:
    return tuple(cell for cell in cells if cell not in results.values and cell not in results.lost)
