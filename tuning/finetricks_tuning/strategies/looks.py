"""Looking at a study more than once, at a stated rate of false verdicts.

A study that looks at its results after every seed and stops at the first verdict gives more false ones than one that
looks once. So each look has a share of alpha, and Holm's correction over the rows is made at that share: the rate of
any false verdict at a look is at most its share, and over all looks at most the sum, alpha, whatever the looks have in
common and however few the seeds. The shares grow as the spending function of O'Brien and Fleming's kind does: little is
spent on the first, small looks. (Lan and DeMets 1983, Biometrika 70, 659-663, equation 4; the bound over the looks is
Bonferroni's, where they use the looks' correlation, which is only known for normal statistics.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from finetricks_tuning.contrasts import Contrast
from finetricks_tuning.statistics import BlockModel, Estimate, holm
from finetricks_tuning.strategies.base import Results


def shares(alpha: float, looks: int) -> tuple[float, ...]:
    """The share of alpha of each of `looks` equally spaced looks; their sum is alpha."""
    quantile = float(stats.norm.isf(alpha / 2))
    spent = [0.0, *(float(2 * stats.norm.sf(quantile * math.sqrt(looks / look))) for look in range(1, looks + 1))]
    return tuple(now - before for before, now in itertools.pairwise(spent))


@dataclass(frozen=True)
class Row:
    """A contrast at a look.

    Attributes:
        estimate: `None` where the finished cells do not determine it.
        p: adjusted over the rows and over the looks so far: at most alpha where it is off zero. `None` without noise.
        equivalent: whether its interval, at the look's share of alpha over the rows, lies in the region of practical
            equivalence.
    """

    contrast: Contrast
    estimate: Estimate | None
    p: float | None
    equivalent: bool


@dataclass(frozen=True)
class Look:
    """What is known after some seeds.

    Attributes:
        seeds: how many.
        freedom: degrees of freedom of the residual.
        rows: by name.
    """

    seeds: int
    freedom: int
    rows: Mapping[str, Row]

    def decided(self, alpha: float) -> dict[str, Row]:
        """The rows that need no more seeds: off zero, equivalent to it, or without any cell that could tell."""
        return {name: row for name, row in self.rows.items() if _is_decided(row, alpha)}


def _is_decided(row: Row, alpha: float) -> bool:
    return row.estimate is None or row.equivalent or (row.p is not None and row.p <= alpha)


def looks_at(results: Results, seeds: Sequence[int], first: int) -> list[Look]:
    """Every look so far: after `first` seeds, and after each further one that any configuration was run on.

    Args:
        seeds: the study's, all of them: they set how many looks there may be.
    """
    ran = {seed for _, seed in results.values} | {seed for _, seed in results.lost}
    most = len(seeds)
    portions = shares(results.alpha, most - first + 1)
    looks: list[Look] = []
    for count, share in zip(range(first, most + 1), portions, strict=True):
        if not set(seeds[:count]) <= ran:
            break
        looks.append(_look(results, seeds[:count], share, looks[-1] if looks else None))
    return looks


def _look(results: Results, seeds: Sequence[int], share: float, before: Look | None) -> Look:
    values = {place: value for place, value in results.values.items() if place[1] in seeds}
    model = BlockModel(values, share)
    contrasts = results.contrasts(results.levels, {configuration for configuration, _ in values})
    estimates = {c.name: model.contrast(c.weights) if c.weights else None for c in contrasts}
    tested = [name for name, estimate in estimates.items() if estimate is not None and estimate.p is not None]
    adjusted = dict(zip(tested, holm([estimates[name].p for name in tested]), strict=True))  # type: ignore[union-attr, misc]
    rows = {}
    for contrast in contrasts:
        estimate, p = estimates[contrast.name], adjusted.get(contrast.name)
        own = None if p is None else min(1.0, p * results.alpha / share)
        earlier = before.rows.get(contrast.name) if before else None
        known = [value for value in (own, earlier.p if earlier else None) if value is not None]
        equivalent = bool(earlier and earlier.equivalent) or _equivalent(
            results, model, estimate, share / len(contrasts)
        )
        rows[contrast.name] = Row(contrast, estimate, min(known) if known else None, equivalent)
    return Look(len(seeds), model.freedom, rows)


def _equivalent(results: Results, model: BlockModel, estimate: Estimate | None, level: float) -> bool:
    """Two one-sided tests. Source: Schuirmann 1987, J. Pharmacokinetics Biopharm. 15, 657-680."""
    if results.equivalence is None or estimate is None or estimate.standard_error is None:
        return False
    reach = float(stats.t.isf(level, model.freedom)) * estimate.standard_error
    return abs(estimate.value) + reach <= results.equivalence
