"""Configurations race one another, seed by seed; the clearly worse drop out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from scipy import stats

from finetricks_tuning.statistics import BlockModel, holm
from finetricks_tuning.strategies.base import Results, Round, Strategy
from finetricks_tuning.strategies.looks import shares


class Race(Strategy):
    """All configurations on the first seeds; then seed by seed those that are not clearly worse than the best.

    After each seed the configurations in the race are compared with the best of them, seed by seed on the same seeds:
    one-sided tests on the residual pooled over them, with Holm's correction over the configurations and a share of
    alpha for each look. The baseline stays: every result is told against it. Source: Birattari et al. 2002, GECCO,
    11-18 (F-race); Lopez-Ibanez et al. 2016, Operations Research Perspectives 3, 43-58 (irace, with a paired t).
    """

    name: ClassVar[str] = "race"
    picks_winner: ClassVar[bool] = True

    first: int = Field(default=3, ge=2, description="Seeds before any configuration can drop out.")

    def next_round(self, results: Results, seeds: Sequence[int]) -> Round:
        count, racing, told = self._replay(results, seeds)
        if count == 0:
            return Round(tuple((name, seed) for seed in seeds[: self.first] for name in results.levels))
        if count == len(seeds):
            return Round((), told)
        return Round(tuple((name, seeds[count]) for name in racing), told)

    def winner(self, results: Results) -> str | None:
        seeds = tuple(dict.fromkeys(seed for _, seed in results.values))
        counts = {name: sum((name, seed) in results.values for seed in seeds) for name in results.levels}
        return best({name for name, count in counts.items() if count == max(counts.values())}, results)

    def _replay(self, results: Results, seeds: Sequence[int]) -> tuple[int, list[str], tuple[str, ...]]:
        """How many seeds are done, who is still racing, and what the latest look decided."""
        racing = list(results.levels)
        baseline = racing[0]
        first = min(self.first, len(seeds))
        told: tuple[str, ...] = ()
        done = 0
        for count, share in zip(
            range(first, len(seeds) + 1), shares(results.alpha, len(seeds) - first + 1), strict=True
        ):
            if any(
                (name, seed) not in results.values and (name, seed) not in results.lost
                for name in racing
                for seed in seeds[:count]
            ):
                break
            worse = _worse(racing, results, seeds[:count], share)
            racing = [name for name in racing if name not in worse or name == baseline]
            told = tuple(
                f"After {count} seeds {name} drops out (p = {p:.2g} against {leader})."
                for name, (p, leader) in worse.items()
                if name != baseline
            )
            done = count
        return done, racing, told


def _worse(racing: Sequence[str], results: Results, seeds: Sequence[int], alpha: float) -> dict[str, tuple[float, str]]:
    """Those that are clearly worse than the best, or never finish: the adjusted p, and who the best is."""
    values = {(n, s): results.values[n, s] for n in racing for s in seeds if (n, s) in results.values}
    there = list(dict.fromkeys(name for name, _ in values))
    leader = best(there, results, seeds)
    never = {name: (0.0, leader or "the others") for name in racing if name not in there}
    if leader is None:
        return {}
    model = BlockModel(values)
    sign = 1 if results.greater_is_better else -1
    p_values = {}
    for name in there:
        found = model.contrast({leader: sign, name: -sign}) if name != leader else None
        if found is not None and found.standard_error:
            p_values[name] = float(stats.t.sf(found.value / found.standard_error, model.freedom))
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return never | {name: (p, leader) for name, p in adjusted.items() if p <= alpha}


def best(names: Sequence[str] | set[str], results: Results, seeds: Sequence[int] | None = None) -> str | None:
    """The configuration of the best mean, over `seeds` if they are given; the first of equals.

    One that lost a cell comes after all that lost fewer: what is left of its cells speaks too well of it.
    """
    sign = 1 if results.greater_is_better else -1
    means = {}
    lost = Counter(name for name, seed in results.lost if seeds is None or seed in seeds)
    for name in results.levels:
        own = [v for (n, s), v in results.values.items() if n == name and (seeds is None or s in seeds)]
        if name in names and own:
            means[name] = sign * sum(own) / len(own)
    return max(means, key=lambda name: (-lost[name], means[name])) if means else None
