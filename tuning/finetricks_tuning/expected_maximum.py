"""What the habit of running several seeds and keeping the best one buys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


def expected_maximum(values: Sequence[float], *, greater_is_better: bool) -> tuple[float, ...]:
    """The expected best value of 1, 2, ... runs, up to as many as there are.

    The best of n values that are drawn from `values` with replacement: it is the i-th smallest of N with probability
    (i/N)^n - ((i-1)/N)^n. Source: Dodge et al. 2019, EMNLP (arXiv 1909.03004), section 3.1.

    Args:
        values: the metric of each run.
        greater_is_better: else the best is the smallest.

    Returns:
        In units of the metric, by n from 1; nothing for no values.
    """
    ordered, chances = _best_of(values, greater_is_better)
    return tuple(float(mean) for mean in chances @ ordered)


def expected_maximum_deviation(values: Sequence[float], *, greater_is_better: bool) -> tuple[float, ...]:
    """The standard deviation of that best value, by n as in `expected_maximum`: what to expect of one more try.

    It says how much the best of n runs varies, not how well its mean is known.
    """
    ordered, chances = _best_of(values, greater_is_better)
    means = chances @ ordered
    return tuple(float(row @ (ordered - mean) ** 2) ** 0.5 for row, mean in zip(chances, means, strict=True))


def _best_of(values: Sequence[float], greater_is_better: bool) -> tuple[Values, Values]:
    """The values from worst to best, N, and the chance of each to be the best of n = 1..N, N x N."""
    ordered = np.sort(np.asarray(values, dtype=float))
    if not greater_is_better:
        ordered = ordered[::-1]
    count = len(ordered)
    shares = np.arange(count + 1) / max(count, 1)
    return ordered, np.diff(shares ** np.arange(1, count + 1)[:, None], axis=1)
