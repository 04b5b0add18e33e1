"""Metrics, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from finetricks.errors import InputError
from finetricks.tasks.metrics import METRICS, compute_metrics, greater_is_better


def test_classification() -> None:
    # Truth 0 0 1 1, predicted 0 1 1 1.
    scores = np.array([[0.75, 0.25], [0.5 - 0.125, 0.5 + 0.125], [0.25, 0.75], [0.0, 1.0]])
    metrics = compute_metrics("classification", scores, [0, 0, 1, 1])
    assert metrics == pytest.approx(
        {
            "accuracy": 3 / 4,
            "macro_f1": (2 / 3 + 4 / 5) / 2,  # class 0: P 1, R 1/2; class 1: P 2/3, R 1
            "mcc": (2 * 1 - 1 * 0) / math.sqrt(3 * 2 * 2 * 1),  # TP 2, TN 1, FP 1, FN 0
            "log_loss": -(math.log(0.75) + math.log(0.375) + math.log(0.75) + 0) / 4,
        }
    )


def test_a_certain_mistake_costs_much_and_not_infinity() -> None:
    metrics = compute_metrics("classification", np.array([[1.0, 0.0], [0.0, 1.0]]), [1, 1])
    assert math.isfinite(metrics["log_loss"])
    assert metrics["log_loss"] > 300


def test_regression() -> None:
    metrics = compute_metrics("regression", np.array([[1.0], [2.0], [4.0]]), [1.0, 3.0, 2.0])
    # Deviations -4/3 -1/3 5/3 and -1 1 0: covariance 1, variances 14/3 and 2. Ranks 1 2 3 and 1 3 2: 1 - 6·2/(3·8).
    assert metrics == pytest.approx({"pearson": 1 / math.sqrt(28 / 3), "spearman": 0.5, "mse": (0 + 1 + 4) / 3})


def test_multi_label() -> None:
    scores = np.array([[0.9, 0.2], [0.5, 0.6], [0.1, 0.4]])
    metrics = compute_metrics("multi_label", scores, [[1, 0], [1, 0], [0, 1]])
    # Predicted 10 11 00. Label 0: TP 2, F1 1. Label 1: TP 0, FP 1, FN 1, F1 0. All: TP 2, FP 1, FN 1.
    assert metrics == pytest.approx(
        {
            "micro_f1": 4 / 6,
            "macro_f1": 1 / 2,
            "exact_match": 1 / 3,
            "log_loss": -sum(math.log(p) for p in (0.9, 0.8, 0.5, 0.4, 0.9, 0.4)) / 6,
        }
    )


@pytest.mark.filterwarnings("error")
def test_degenerate_cases_are_finite_and_silent() -> None:
    constant = compute_metrics("regression", np.ones((3, 1)), [1.0, 2.0, 3.0])
    assert (constant["pearson"], constant["spearman"]) == (0.0, 0.0)
    assert compute_metrics("regression", np.array([[1.0], [2.0]]), [5.0, 5.0])["pearson"] == 0.0
    assert compute_metrics("classification", np.array([[1.0, 0.0]] * 3), [0, 1, 1])["mcc"] == 0.0
    none = compute_metrics("multi_label", np.zeros((2, 2)), [[0, 0], [0, 0]])
    assert (none["micro_f1"], none["macro_f1"], none["exact_match"]) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("kind", METRICS)
def test_the_metrics_of_a_kind_are_those_that_are_computed(kind) -> None:
    scores, labels = {
        "classification": ([[0.3, 0.7], [0.6, 0.4]], [0, 1]),
        "regression": ([[0.3], [0.6]], [0.0, 1.0]),
        "multi_label": ([[0.3, 0.7], [0.6, 0.4]], [[0, 1], [1, 1]]),
    }[kind]
    assert tuple(compute_metrics(kind, np.array(scores), labels)) == METRICS[kind]


def test_direction() -> None:
    assert greater_is_better("accuracy")
    assert greater_is_better("pearson", "regression")
    assert not greater_is_better("log_loss", "multi_label")
    assert not greater_is_better("mse")


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^no metric 'acuracy' \(did you mean 'accuracy'\?\); the metrics are accuracy, "
    ):
        greater_is_better("acuracy")
    with pytest.raises(
        InputError, match=r"^no metric 'accuracy' for regression; the metrics are pearson, spearman, mse$"
    ):
        greater_is_better("accuracy", "regression")
