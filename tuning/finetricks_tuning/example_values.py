"""What each example contributes to a metric: values whose mean is the metric, and whose spread is its error.

Of a metric that is a mean over examples they are its terms. Of another they are the jackknife's pseudo-values,
n M - (n - 1) M without the example, which for a mean are the same (Tukey 1958, Ann. Math. Statist. 29, 614); of a
correlation those of the infinitesimal jackknife (Devlin, Gnanadesikan and Kettenring 1975, Biometrika 62, 531-545).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from finetricks.tasks.metrics import THRESHOLD, compute_metrics
from finetricks.tasks.predictions import read_predictions

Values = npt.NDArray[np.float64]
SCORE = "score:"
TINY = float(np.finfo(np.float64).tiny)


def example_values(path: Path, metric: str) -> tuple[tuple[int, ...], Values]:
    """The ids of the examples of a predictions file, in ascending order, and the contribution of each to `metric`.

    Raises:
        OSError, ValueError, KeyError: the file is not there, or is no predictions file with labels.
    """
    table = read_predictions(path).sort_values("example_id")
    ids = tuple(int(example) for example in table["example_id"])
    columns = [column for column in table.columns if column.startswith(SCORE)]
    if not columns:
        truth, predicted = (np.array([float(text) for text in table[name]]) for name in ("label", "prediction"))
        return ids, _of_regression(metric, predicted, truth)
    scores = table[columns].to_numpy(dtype=float)
    classes = [column.removeprefix(SCORE) for column in columns]
    if set(table["label"]) <= set(classes):
        return ids, _of_classification(metric, scores, np.array([classes.index(label) for label in table["label"]]))
    return ids, _of_multi_label(metric, scores, _indicators(table["label"], classes))


def _indicators(labels: pd.Series[str], classes: list[str]) -> Values:
    rows = [set(json.loads(text)) for text in labels]
    return np.array([[float(name in row) for name in classes] for row in rows])


def _of_regression(metric: str, predicted: Values, truth: Values) -> Values:
    if metric == "mse":
        return (predicted - truth) ** 2
    if metric == "spearman":
        predicted, truth = _ranks(predicted), _ranks(truth)
    if np.ptp(predicted) == 0 or np.ptp(truth) == 0:
        return np.zeros(len(truth))
    x, y = (predicted - predicted.mean()) / predicted.std(), (truth - truth.mean()) / truth.std()
    correlation = float(np.mean(x * y))
    contributions: Values = correlation + x * y - correlation * (x**2 + y**2) / 2
    return contributions


def _ranks(values: Values) -> Values:
    return np.asarray(stats.rankdata(values), dtype=np.float64)


def _of_classification(metric: str, scores: Values, truth: npt.NDArray[np.int_]) -> Values:
    predicted = scores.argmax(axis=1)
    if metric == "accuracy":
        right: Values = (predicted == truth).astype(np.float64)
        return right
    if metric == "log_loss":
        losses: Values = -np.log(np.maximum(scores[np.arange(len(truth)), truth], TINY))
        return losses
    decided: Values = np.eye(scores.shape[1])[predicted]
    return _pseudo_values(
        np.column_stack([predicted, truth]),
        lambda kept: compute_metrics("classification", decided[kept], truth[kept])[metric],
    )


def _of_multi_label(metric: str, scores: Values, truth: Values) -> Values:
    decided: Values = (scores >= THRESHOLD).astype(np.float64)
    if metric == "exact_match":
        right: Values = (decided == truth).all(axis=1).astype(np.float64)
        return right
    if metric == "log_loss":
        of_truth = np.where(truth >= THRESHOLD, scores, 1 - scores)
        losses: Values = -np.log(np.maximum(of_truth, TINY)).mean(axis=1)
        return losses
    return _pseudo_values(
        np.column_stack([decided, truth]),
        lambda kept: compute_metrics("multi_label", decided[kept], truth[kept])[metric],
    )


def _pseudo_values(rows: npt.NDArray[Any], value_of: Callable[[npt.NDArray[np.bool_]], float]) -> Values:
    """Of a metric that rests on decisions: examples of equal `rows`, prediction and label, have equal values."""
    kinds = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
    count = len(kinds)
    every = np.ones(count, dtype=bool)
    whole = value_of(every)
    by_kind = []
    for kind in range(int(kinds.max()) + 1):
        without = every.copy()
        without[int(np.argmax(kinds == kind))] = False
        by_kind.append(count * whole - (count - 1) * value_of(without))
    values: Values = np.array(by_kind, dtype=np.float64)[kinds]
    return values
