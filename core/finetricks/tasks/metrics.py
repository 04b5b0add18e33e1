"""How good predictions are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetricks.errors import InputError, suggest
from finetricks.tasks.labels import Kind

METRICS: Mapping[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "mcc", "log_loss"),
    "regression": ("pearson", "spearman", "mse"),
    "multi_label": ("micro_f1", "macro_f1", "exact_match", "log_loss"),
}
"""The metrics of each kind of task, the customary one first."""

LOWER_IS_BETTER = frozenset({"log_loss", "mse"})
THRESHOLD = 0.5
"""The probability from which a label of a multi-label task is predicted."""

_TINY = float(np.finfo(np.float64).tiny)


def greater_is_better(name: str, kind: Kind | None = None) -> bool:
    """Whether more of a metric is better.

    Raises:
        InputError: there is no metric of that name; or none for tasks of that `kind`, if it is given.
    """
    known = METRICS[kind] if kind else tuple(dict.fromkeys(name for names in METRICS.values() for name in names))
    if name not in known:
        of = f" for {kind}" if kind else ""
        raise InputError(f"no metric {name!r}{of}{suggest(name, known)}; the metrics are {', '.join(known)}")
    return name not in LOWER_IS_BETTER


def compute_metrics(kind: Kind, scores: NDArray[Any], labels: Sequence[Any] | NDArray[Any]) -> dict[str, float]:
    """All metrics of a task.

    Degenerate cases have a value that can be ranked: correlations are 0 when one side is constant (nothing varies
    together), and so is MCC; an F1 without any true or predicted example is 0. `macro_f1` of a classification averages
    over the classes that occur among the labels or the predictions.

    Args:
        scores: as `finetricks.tasks.predictions.score` gives them: [examples, classes] probabilities, or [examples, 1]
            values for a regression.
        labels: class numbers, values, or [examples, labels] of 0 and 1.
    """
    scores, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if kind == "classification":
        return _classification(scores, truth)
    if kind == "regression":
        return _regression(scores[:, 0], truth)
    return _multi_label(scores, truth)


def _classification(scores: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    from sklearn.metrics import f1_score, matthews_corrcoef

    predicted = scores.argmax(axis=1)
    of_truth = scores[np.arange(len(truth)), truth]
    return {
        "accuracy": float(np.mean(predicted == truth)),
        "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0.0)),
        "mcc": float(matthews_corrcoef(truth, predicted)),
        "log_loss": float(-np.log(np.maximum(of_truth, _TINY)).mean()),
    }


def _regression(values: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr

    constant = np.ptp(values) == 0 or np.ptp(truth) == 0
    return {
        "pearson": 0.0 if constant else float(pearsonr(values, truth).statistic),
        "spearman": 0.0 if constant else float(spearmanr(values, truth).statistic),
        "mse": float(np.mean((values - truth) ** 2)),
    }


def _multi_label(scores: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    from sklearn.metrics import f1_score

    predicted, true = scores >= THRESHOLD, truth >= THRESHOLD
    of_truth = np.where(true, scores, 1 - scores)
    return {
        "micro_f1": float(f1_score(true, predicted, average="micro", zero_division=0.0)),
        "macro_f1": float(f1_score(true, predicted, average="macro", zero_division=0.0)),
        "exact_match": float(np.mean((predicted == true).all(axis=1))),
        "log_loss": float(-np.log(np.maximum(of_truth, _TINY)).mean()),
    }
