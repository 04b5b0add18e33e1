"""Tests and measures of seed-wise differences: by hand, from papers, or by scipy where ours is put together."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from finetricks_tuning.expected_maximum import expected_maximum
from finetricks_tuning.samples import (
    almost_stochastic_order,
    interquartile_mean,
    permutation_p,
    probability_of_improvement,
    samples_of,
)


def test_with_five_seeds_no_test_of_signs_can_reach_a_twentieth() -> None:
    found = samples_of([1, 2, 3, 4, 5], [2, 3, 4, 5, 6], [1, 1, 1, 1, 1], greater_is_better=True, alpha=0.05)
    assert found.smallest_p == 0.0625
    assert found.p_permutation is found.p_wilcoxon is found.ci_bca is None


def test_with_six_they_can() -> None:
    found = samples_of([1, 2, 3, 4, 5, 6], [2] * 6, [1] * 6, greater_is_better=True, alpha=0.05)
    assert found.smallest_p == found.p_permutation == found.p_wilcoxon == 1 / 32
    loose = samples_of([1, 2, 3], [2] * 3, [1] * 3, greater_is_better=True, alpha=0.5)
    assert loose.p_permutation == 0.25


def test_the_permutation_test_goes_through_all_flips_of_signs() -> None:
    differences = np.array([0.3, -0.1, 0.2, 0.4, 0.05, -0.02, 0.1])
    flips = np.array(list(itertools.product([1, -1], repeat=7)))
    extreme = np.abs((flips * differences).mean(axis=1)) >= abs(differences.mean()) - 1e-12
    assert permutation_p(differences) == pytest.approx(extreme.mean())


def test_a_permutation_test_of_many_seeds_is_drawn_the_same_each_time() -> None:
    differences = np.random.default_rng(1).normal(0.5, 1, 40)
    assert permutation_p(differences) == permutation_p(differences)
    assert permutation_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)


def test_the_interquartile_mean_leaves_a_quarter_out_at_either_end() -> None:
    assert interquartile_mean([100, 1, 2, 3, 4, 5, 6, -50]) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert interquartile_mean([1, 2, 6]) == 3  # a quarter of three is none


def test_the_bootstrap_interval_is_scipys_and_starts_at_ten_seeds() -> None:
    differences = list(np.random.default_rng(0).exponential(1, 12))
    found = samples_of(differences, differences, [0.0] * 12, greater_is_better=True, alpha=0.1).ci_bca
    assert found is not None
    reference = stats.bootstrap((differences,), np.mean, confidence_level=0.9, n_resamples=50_000, rng=3)
    assert found == pytest.approx(tuple(reference.confidence_interval), abs=0.06)
    assert samples_of(differences[:9], [1.0], [0.0], greater_is_better=True, alpha=0.1).ci_bca is None
    assert samples_of([1.0] * 12, [1.0], [0.0], greater_is_better=True, alpha=0.1).ci_bca is None


def test_the_probability_of_improvement_counts_pairs_and_ties_half() -> None:
    """3 > 1, 3 > 2, 2 > 1, 2 = 2: three and a half of four."""
    assert probability_of_improvement(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == 3.5 / 4
    losses = samples_of([-1, -1], [0.1, 0.2], [1.1, 1.2], greater_is_better=False, alpha=0.05)
    assert losses.probability_of_improvement == 1


def test_stochastic_order_is_none_of_it_or_all_of_it_where_the_samples_do_not_overlap() -> None:
    low, high = np.arange(10.0), np.arange(10.0) + 20
    assert almost_stochastic_order(high, low, 0.05) == 0
    assert almost_stochastic_order(low, high, 0.05) == 1


def test_the_violation_is_the_share_of_the_squared_distance_of_the_quantiles() -> None:
    """Quantiles 0, 4 against 1, 2: behind by 1 in one half, ahead by 2 in the other, so 1 / (1 + 4)."""
    better, worse = np.array([0.0, 4.0] * 50), np.array([1.0, 2.0] * 50)
    bound = almost_stochastic_order(better, worse, 0.5)  # at 1/2 the bound is the estimate
    assert bound == pytest.approx(0.2)
    assert 0.2 < almost_stochastic_order(better, worse, 0.05) < 0.5


def test_equal_normals_are_seldom_said_to_be_ordered_at_a_fifth() -> None:
    """The threshold of one half, which the bound is named for, says it far too often (Ulmer et al. 2022, section 4)."""
    generator = np.random.default_rng(0)
    bounds = [almost_stochastic_order(generator.normal(size=20), generator.normal(size=20), 0.05) for _ in range(200)]
    assert np.mean(np.array(bounds) < 0.2) <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / 200)


def test_almost_stochastic_order_needs_five_runs_of_a_side() -> None:
    four = samples_of([1, 1], [2.0] * 4, [1.0] * 9, greater_is_better=True, alpha=0.05)
    assert four.almost_stochastic_order is None
    assert samples_of([1, 1], [2.0] * 5, [1.0] * 9, greater_is_better=True, alpha=0.05).almost_stochastic_order == 0


def test_the_expected_maximum_by_hand() -> None:
    """Of 1, 2, 6 drawn twice: the largest is 1 in 1/9, 2 in 3/9, 6 in 5/9 of the cases."""
    found = expected_maximum([6, 1, 2], greater_is_better=True)
    assert found[:2] == pytest.approx((3, (1 + 6 + 30) / 9))
    assert expected_maximum([6, 1, 2], greater_is_better=False)[:2] == pytest.approx((3, (6 + 6 + 5) / 9))
    assert expected_maximum([], greater_is_better=True) == ()


def test_the_expected_maximum_is_that_of_draws() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.02, 7)
    draws = np.random.default_rng(1).choice(values, (100_000, 5)).max(axis=1).mean()
    assert expected_maximum(list(values), greater_is_better=True)[4] == pytest.approx(draws, abs=2e-4)
