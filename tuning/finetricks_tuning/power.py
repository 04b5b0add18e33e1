"""How many seeds a comparison needs."""

from __future__ import annotations

import math
from bisect import bisect_left

from scipy import stats

MOST = 1_000


def seeds_needed(
    estimate: float, standard_error: float, freedom: int, seeds: int, *, alpha: float, power: float = 0.8
) -> int | None:
    """How many seeds more an undecided comparison needs, if its true effect is the one that was estimated.

    The standard error falls with the root of the seeds, the degrees of freedom grow in proportion; the power is that of
    the t test, by the noncentral t (Cohen 1988, Statistical Power Analysis, chapter 2).

    Args:
        freedom: degrees of freedom of the standard error, with the seeds so far.
        seeds: so far.
        alpha: the level at which it is tested, corrected for the family.

    Returns:
        At least 1; `None` when more than a thousand seeds in all would not be enough.
    """

    def enough(total: int) -> bool:
        degrees = max(1.0, freedom * (total - 1) / max(seeds - 1, 1))
        shift = abs(estimate) / (standard_error * math.sqrt(seeds / total))
        return float(stats.nct.sf(float(stats.t.isf(alpha / 2, degrees)), degrees, shift)) >= power

    totals = range(seeds + 1, MOST + 1)
    first = bisect_left(totals, True, key=enough)  # more seeds, more power
    return totals[first] - seeds if first < len(totals) else None
