"""What the seed-wise differences of one comparison say by themselves, beside the linear model of the whole study.

With three to five seeds most of this decides nothing: a sign-flip test of n differences cannot give less than 2^(1-n),
and a bootstrap of five values covers too little. So each test is made only where it could reach alpha.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import stats

Values = npt.NDArray[np.float64]

BCA_FROM = 10
"""Seeds from which a bootstrap interval is given: below, it is too short (Hesterberg 2015, Am. Statistician 69)."""

ORDER_FROM = 5
"""Runs of each side from which almost stochastic order is given."""

RESAMPLES, BATCH = 2_000, 100
EXACT = 16
"""Differences up to which a test goes through all flips of signs, 65,536; of more, through half as many at random."""

DIGITS = 12  # of the largest value, to which differences are kept; what lies below is rounding of the arithmetic


@dataclass(frozen=True)
class Samples:
    """Tests and measures of one row's differences.

    Attributes:
        median: of the seed-wise differences.
        interquartile_mean: the mean of their middle half.
        smallest_p: the smallest p-value that a two-sided sign-flip test can reach with so many seeds, 2^(1-n).
        p_permutation: of that test on the mean; `None` where so many seeds cannot reach alpha.
        p_wilcoxon: of the signed ranks; `None` where so many seeds cannot reach alpha.
        ci_bca: bootstrap interval of the mean, bias-corrected and accelerated; `None` with fewer than 10 seeds, and
            where the differences are all the same.
        probability_of_improvement: that a run with the level is better than one without, over all pairs; ties half.
        almost_stochastic_order: upper bound of the violation of stochastic order; below 0.2 the level may be called
            better. `None` with fewer than five runs of a side.
    """

    median: float
    interquartile_mean: float
    smallest_p: float
    p_permutation: float | None = None
    p_wilcoxon: float | None = None
    ci_bca: tuple[float, float] | None = None
    probability_of_improvement: float | None = None
    almost_stochastic_order: float | None = None


def samples_of(
    differences: Sequence[float],
    treated: Sequence[float],
    untreated: Sequence[float],
    *,
    greater_is_better: bool,
    alpha: float,
) -> Samples:
    """Tests and measures of a row.

    Args:
        differences: level minus none, by seed; at least two, in units of the metric.
        treated: the metric of the runs with the level; at least one.
        untreated: the metric of those without; at least one, not always as many.
        greater_is_better: else the smaller value is the better one.
        alpha: the significance level; intervals and bounds are at 1 - alpha.
    """
    own = _rounded(differences, largest=max(abs(value) for value in (*differences, *treated, *untreated)))
    sign = 1.0 if greater_is_better else -1.0
    better, worse = sign * np.asarray(treated, dtype=float), sign * np.asarray(untreated, dtype=float)
    smallest = 2.0 ** (1 - len(own))
    return Samples(
        median=float(np.median(own)),
        interquartile_mean=interquartile_mean(differences),
        smallest_p=smallest,
        p_permutation=permutation_p(own) if smallest <= alpha else None,
        p_wilcoxon=wilcoxon_p(own) if smallest <= alpha else None,
        ci_bca=_bca(own, alpha) if len(own) >= BCA_FROM else None,
        probability_of_improvement=probability_of_improvement(better, worse),
        almost_stochastic_order=(
            almost_stochastic_order(better, worse, alpha) if min(len(better), len(worse)) >= ORDER_FROM else None
        ),
    )


def _rounded(differences: Sequence[float], largest: float) -> Values:
    """Without the rounding of the arithmetic, which would break ties: 0.81 - 0.80 is not 0.71 - 0.70 in floats."""
    decimals = DIGITS - math.ceil(math.log10(largest)) if largest > 0 else 0
    return np.array([round(value, decimals) for value in differences], dtype=np.float64)


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean without the lowest and the highest quarter (of the count, rounded down). Source: Agarwal et al. 2021."""
    return float(stats.trim_mean(values, 0.25))


def permutation_p(differences: Values) -> float:
    """Two-sided p of the mean under flips of signs: of all of them up to 16 differences, else of 32,768 at random.

    The signs as they are count among those at random, so that no p is 0. Source: Fisher 1935, The Design of
    Experiments, section 21; Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9(1), 39.
    """
    sums = np.abs(_flips(len(differences)) @ differences)
    as_extreme = sums >= abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    return float(as_extreme.mean())


@lru_cache(maxsize=1)  # the rows of a report mostly have as many seeds as each other
def _flips(count: int) -> Values:
    """Signs, a row each, the first that of no flip; of two mirror images only one: their sums are equally extreme."""
    rows = 2 ** (min(count, EXACT) - 1)
    if count <= EXACT:
        flipped = (np.arange(rows)[:, None] >> np.arange(count)) & 1
    else:
        flipped = np.random.default_rng(0).integers(0, 2, (rows, count))
        flipped[0] = 0
    return 1.0 - 2.0 * flipped.astype(np.float64)


def wilcoxon_p(differences: Values) -> float:
    """Two-sided p of the signed ranks, without the differences of zero. Source: Wilcoxon 1945, Biometrics 1, 80-83.

    Exact up to 50 differences that are all of another size; with ties exact up to 16, else the normal approximation.
    """
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    ranks = stats.rankdata(np.abs(moved))
    if len(moved) <= EXACT and len(np.unique(ranks)) < len(ranks):
        # scipy's exact tables hold no ties, and its own way through the flips takes most of a second for 13 of them
        return permutation_p(np.sign(moved) * ranks)
    return float(stats.wilcoxon(moved).pvalue)


def _bca(differences: Values, alpha: float) -> tuple[float, float] | None:
    """Source: Efron 1987, J. Am. Stat. Assoc. 82, 171-185."""
    if np.ptp(differences) == 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (differences,),
            np.mean,
            confidence_level=1 - alpha,
            n_resamples=RESAMPLES,
            method="BCa",
            rng=np.random.default_rng(0),
        ).confidence_interval
    return (float(found.low), float(found.high)) if np.isfinite([found.low, found.high]).all() else None


def probability_of_improvement(better: Values, worse: Values) -> float:
    """The share of all pairs in which the one is larger; ties count half. Source: Agarwal et al. 2021, section 4.3."""
    wins = np.sign(better[:, None] - worse[None, :])
    return float((1 + wins).mean() / 2)


def almost_stochastic_order(better: Values, worse: Values, alpha: float) -> float:
    """Upper bound, at 1 - alpha, of how far `better` is from being stochastically larger than `worse`.

    0: it is larger at every quantile; 1: smaller at every one; of samples that are the same, 0.5. The violation is the
    share of the squared distance between the quantile functions where `worse` is ahead; its standard deviation comes
    from a bootstrap. Where the bound is below 0.2 `better` may be said to be larger; the threshold of 0.5 that the
    theory allows says so of equal ones far more often than alpha. Source: Del Barrio et al. 2018, arXiv 1705.01788;
    Dror et al. 2019, ACL, P19-1266; for the threshold Ulmer, Hardmeier and Frellsen 2022, arXiv 2204.06815.

    Args:
        better: values of which the greater is the better; at least one.
        worse: the same of the other side; their numbers may differ.
    """
    observed = float(_violation(better[None, :], worse[None, :])[0])
    generator = np.random.default_rng(0)
    # A batch at a time: all of them, of thousands of runs, would be gigabytes.
    again = np.concatenate(
        [
            _violation(generator.choice(better, (BATCH, len(better))), generator.choice(worse, (BATCH, len(worse))))
            for _ in range(RESAMPLES // BATCH)
        ]
    )
    n, m = len(better), len(worse)
    scale = np.sqrt(n * m / (n + m))
    deviation = float(np.std(scale * (again - observed)))
    bound = observed + float(stats.norm.isf(alpha)) * deviation / scale
    return float(np.clip(bound, 0.0, 1.0))


def _violation(better: Values, worse: Values) -> Values:
    """By row; the quantile functions are steps, so the integrals are sums over the pieces between their jumps."""
    n, m = better.shape[1], worse.shape[1]
    jumps = np.unique(np.concatenate([np.arange(n + 1) / n, np.arange(m + 1) / m]).round(12))
    middle, width = (jumps[1:] + jumps[:-1]) / 2, np.diff(jumps)
    distance = (
        np.sort(better, axis=1)[:, (middle * n).astype(int)] - np.sort(worse, axis=1)[:, (middle * m).astype(int)]
    )
    whole = (distance**2 * width).sum(axis=1)
    behind = (np.where(distance < 0, distance**2, 0.0) * width).sum(axis=1)
    shares: Values = np.divide(behind, whole, out=np.full_like(whole, 0.5), where=whole > 0)  # equal: neither is ahead
    return shares
